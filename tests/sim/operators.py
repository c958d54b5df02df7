"""Operators: people who start, abort, start again and look, by real signed commands over the same network.

Fault model. A command, its reply or both are lost, come late or twice. An operator sends the same bytes again until a
reply comes or the command has expired, and then either gives up or asks anew, as a person does who does not know
whether it was done. Two operators give orders that contradict each other. Which names they choose may be taken.

What a reply says is believed only if it is signed by the bridge and answers a question of this operator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from narrowboat_protocol.documents import (
    CampaignAbort,
    CampaignApprove,
    CampaignList,
    CampaignPage,
    CampaignShow,
    CampaignStart,
    DeviceList,
    Reply,
    Request,
)
from narrowboat_protocol.errors import NarrowboatError
from narrowboat_protocol.topics import EVENT_TOPIC
from tests.support.fleet import NOW, OperatorKit

from .broker import Broker, Message
from .clients import OperatorClient
from .network import Path
from .site import Site
from .uploads import Push
from .world import Handle, World

_LIFE_S = 300
_AGAIN_S = 8.0
_DAY_S = 86_400

OnReply = Callable[[Reply | None], None]


@dataclass(slots=True)
class _Question:
    """One command that waits for its reply."""

    command: bytes
    expires_s: float
    on_reply: OnReply
    timer: Handle | None = None


class SimOperator:
    """One person at a terminal."""

    def __init__(self, world: World, site: Site, broker: Broker, path: Path, kit: OperatorKit) -> None:
        self._world = world
        self._site = site
        self._kit = kit
        self._trust = site.fleet.trust()
        self._rng = world.fork(f"operator/{kit.name}")
        self._client = OperatorClient(world, broker, path, kit.name, self._take)
        self._questions: dict[bytes, _Question] = {}
        self._asked = 0
        self.name = kit.name
        self.path = path
        self.campaigns: list[str] = []
        self._push: Push | None = None
        self._client.start()

    @property
    def waits(self) -> int:
        """How many questions are open."""
        return len(self._questions)

    def ask(self, request: Request, on_reply: OnReply) -> None:
        """Send a command, and again, until it is answered or has expired: then the reply is None."""
        self._asked += 1
        request_id = self._rng.randbytes(16)
        issued_at = NOW + int(self._world.now_s)
        command = self._kit.command(request, request_id=request_id, issued_at=issued_at, expires_at=issued_at + _LIFE_S)
        self._world.note(self.name, "asks", type(request).__name__)
        question = _Question(command, self._world.now_s + _LIFE_S, on_reply)
        self._questions[request_id] = question
        self._say(request_id)

    def give_up(self) -> None:
        """Ask nothing more of what was asked."""
        for question in self._questions.values():
            if question.timer is not None:
                question.timer.cancel()
        self._questions.clear()
        self._push = None

    def start_campaign(
        self, name: str, release: bytes, devices: tuple[str, ...] | None, on_reply: OnReply, **terms: object
    ) -> None:
        """`terms`: reboot windows and a byte budget, if there are any."""
        self.campaigns.append(name)
        fields = {"campaign": name, "release": release, "devices": devices} | terms
        self.ask(CampaignStart.model_validate(fields), on_reply)

    def send_block(self, block: bytes) -> None:
        self._client.upload(block)

    def push(self) -> None:
        """Push the newest release, unless that is under way."""
        if self._push is None or self._push.is_over:
            self._push = Push(self._world, self, self._site.releases[-1])

    def be_busy(self, devices: tuple[str, ...]) -> None:
        """Do something that an operator does."""
        match self._rng.randrange(9):
            case 0 | 1 | 2:
                self._start_something(devices)
            case 3 if self.campaigns:
                self.ask(CampaignAbort(campaign=self._rng.choice(self.campaigns)), _ignore)
            case 4 | 5 if self.campaigns:
                self.ask(CampaignShow(campaign=self.campaigns[-1]), _ignore)
            case 6 | 7:
                self.ask(CampaignList(), self._approve_what_waits)
            case _:
                self.ask(DeviceList(), _ignore)

    def _approve_what_waits(self, reply: Reply | None) -> None:
        """Another one may have started it, or this one, whose approval counts for nothing."""
        if reply is None or reply.reason is not None:
            return
        for campaign in CampaignPage.from_cbor(reply.result).campaigns:
            if campaign.approval_ends_at is not None and campaign.ended is None:
                self.ask(CampaignApprove(campaign=campaign.name, content=campaign.content), _ignore)

    def _start_something(self, devices: tuple[str, ...]) -> None:
        """A new campaign, or one under a name that was used: the same again, or another one by mistake."""
        release = self._rng.choice(self._site.releases).digest
        chosen = None if self._rng.random() < 0.3 else tuple(name for name in devices if self._rng.random() < 0.7)
        name = f"{self.name}-{len(self.campaigns)}"
        if self.campaigns and self._rng.random() < 0.2:
            name = self._rng.choice(self.campaigns)
        if chosen is None or chosen:
            self.start_campaign(name, release, chosen, _ignore, **self._terms())

    def _terms(self) -> dict[str, object]:
        """Some campaigns may reboot gateways at some times only, cost so many bytes only, or wait for an approval."""
        match self._rng.randrange(6):
            case 0:
                opens = (NOW + int(self._world.now_s) + self._rng.randrange(600)) % _DAY_S
                return {"reboot_windows": ((opens, (opens + self._rng.randrange(30, 600)) % _DAY_S),)}
            case 1:
                return {"byte_budget": self._rng.randrange(5_000, 60_000)}
            case 2:
                return {"approval": True}
        return {}

    def _say(self, request_id: bytes) -> None:
        question = self._questions.get(request_id)
        if question is None:
            return
        if self._world.now_s > question.expires_s:
            del self._questions[request_id]
            question.on_reply(None)
            return
        self._client.command(question.command)
        question.timer = self._world.after(_AGAIN_S * self._rng.uniform(0.5, 1.5), lambda: self._say(request_id))

    def _take(self, message: Message) -> None:
        if message.topic == EVENT_TOPIC:
            return
        try:
            reply = self._trust.open_reply(message.payload)
        except NarrowboatError:
            return
        question = self._questions.pop(reply.request_id, None)
        if question is None:
            return
        if question.timer is not None:
            question.timer.cancel()
        self._world.note(self.name, "is answered", reply.reason.value if reply.reason else "done")
        question.on_reply(reply)


def _ignore(_reply: Reply | None) -> None:
    pass

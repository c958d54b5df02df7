"""The bridge's core and a few devices, without store, broker or signatures: tests say what happens, and look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TypeVar

from narrowboat_bridge.core.actions import (
    Action,
    Answer,
    Commit,
    Deliver,
    Emit,
    Record,
    Refusal,
    StoreAssignment,
    StoreAttempt,
    StoreCampaign,
    StoreDevice,
    StoreRelease,
    StoreReport,
)
from narrowboat_bridge.core.campaigns import Campaigns, Settings
from narrowboat_bridge.core.events import (
    CommandAccepted,
    Event,
    HelloArrived,
    Now,
    ReleaseAdded,
    ReportArrived,
    Restored,
    TimeReached,
)
from narrowboat_bridge.core.records import Release
from narrowboat_protocol.documents import (
    Assignment,
    AttemptSummary,
    CampaignAbort,
    CampaignDetail,
    CampaignShow,
    CampaignStart,
    EventKind,
    Hello,
    PayloadReference,
    Report,
    Request,
    Scope,
    SlotInfo,
)
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.keys import Algorithm, PrivateKey, PublicKey
from narrowboat_protocol.model import Document
from narrowboat_protocol.payload import Codec
from narrowboat_protocol.states import State
from tests.support.fleet import COMPONENT, HARDWARE, NOW

ActionT = TypeVar("ActionT", bound=Action)


def digest(number: int) -> bytes:
    return bytes([number]) * 32


def nonce(number: int) -> bytes:
    return bytes([number]) * 16


@cache
def key_of(name: str) -> PublicKey:
    return PrivateKey.generate(Algorithm.ED25519).public


def release(number: int = 1, **changes: object) -> Release:
    """Release `number` for the hardware of every device here."""
    fields: dict[str, object] = {
        "digest": digest(number),
        "component": COMPONENT,
        "version": f"{number}.0",
        "sequence": 1,
        "vendor_id": HARDWARE.vendor_id,
        "class_ids": (HARDWARE.class_id,),
        "image_size_bytes": 1000,
        "payload": PayloadReference(
            digest=digest(100 + number), kind=0, size=900, head_size=100, head_sha256=digest(200)
        ),
        "envelope": b"envelope %d" % number,
        "file_digest": digest(50 + number),
        "added_at": NOW,
        "codecs": (Codec.ZSTD,),
    }
    return Release(**(fields | changes))  # type: ignore[arg-type]


def slots(**releases: int | None) -> tuple[SlotInfo, ...]:
    """`slots(a=1, b=None)`: release 1 in slot a, nothing of ours in slot b."""
    return tuple(
        SlotInfo(name=name, size=4096, release=None if number is None else digest(number))
        for name, number in releases.items()
    )


@dataclass
class World:
    """One bridge. Time stands still unless a test moves it."""

    campaigns: Campaigns = field(default_factory=lambda: Campaigns(Settings(root_version=1)))
    now: Now = field(default_factory=lambda: Now(1000.0, NOW))
    requests: int = 0
    challenges: int = 0

    def __post_init__(self) -> None:
        self.feed(Restored())
        self.feed(ReleaseAdded(release(1), "anna", self.request_id()))
        self.feed(ReleaseAdded(release(2), "anna", self.request_id()))

    def feed(self, event: Event) -> list[Action]:
        return self.campaigns.handle(event, self.now)

    def sleep(self, seconds: float) -> None:
        self.now = Now(self.now.monotonic_s + seconds, self.now.wall_s + int(seconds))

    def tick(self) -> list[Action]:
        """Time is reached until the core wants nothing more now."""
        actions: list[Action] = []
        while self.campaigns.deadline is not None and self.campaigns.deadline <= self.now.monotonic_s:
            actions += self.feed(TimeReached())
        return actions

    def hello(self, name: str = "gw-1", *, key: PublicKey | None = None, **changes: object) -> list[Action]:
        """A hello from a device that runs slot a with nothing of ours, by default."""
        fields: dict[str, object] = {
            "device": name,
            "pair": (1, 1),
            "nonce": nonce(1),
            "root_version": 1,
            "assignment_counter": 0,
            "certificate": b"certificate",
            "component": COMPONENT,
            "vendor_id": HARDWARE.vendor_id.bytes,
            "class_id": HARDWARE.class_id.bytes,
            "slots": slots(a=None, b=None),
            "running_slot": "a",
            "boot_id": bytes(16),
            "codecs": (0, 1, 2),
            "formats": (1,),
            "agent_version": "1.0",
        }
        hello = Hello.model_validate(fields | changes)
        return self.feed(HelloArrived(hello, key or key_of(name), hello.encode(), self.challenge()))

    def report(
        self,
        state: State,
        name: str = "gw-1",
        *,
        attempt: int = 1,
        pair: tuple[int, int],
        about: int = 1,
        slot: str = "a",
        **changes: object,
    ) -> list[Action]:
        fields: dict[str, object] = {
            "device": name,
            "pair": pair,
            "attempt": attempt,
            "component": COMPONENT,
            "release": digest(about),
            "state": state,
            "slot": slot,
            "boot_id": bytes(16),
            "done_bytes": 0,
            "total_bytes": 1000,
            "wire_bytes": 0,
        }
        report = Report.model_validate(fields | changes)
        return self.feed(ReportArrived(report, report.encode(), self.challenge()))

    def command(
        self,
        request: Request,
        operator: str = "anna",
        scope: Scope | None = None,
        *,
        kid: bytes | None = None,
        approval_over: int | None = None,
    ) -> list[Action]:
        """A command by an operator with a key of its own, unless `kid` says which."""
        signer = kid or key_of(operator).kid
        return self.feed(CommandAccepted(operator, signer, scope, self.request_id(), request, approval_over))

    def start(self, name: str = "c1", about: int = 1, devices: Sequence[str] | None = ("gw-1",)) -> list[Action]:
        """Start a campaign and let everything that it makes due happen."""
        listed = None if devices is None else tuple(devices)
        actions = self.command(CampaignStart(campaign=name, release=digest(about), devices=listed))
        return [*actions, *self.tick()]

    def abort(self, name: str = "c1") -> list[Action]:
        return [*self.command(CampaignAbort(campaign=name)), *self.tick()]

    def show(self, name: str = "c1") -> CampaignDetail:
        detail = answer(self.command(CampaignShow(campaign=name)))
        assert isinstance(detail, CampaignDetail)
        return detail

    def attempt(self, device: str = "gw-1", campaign: str = "c1") -> AttemptSummary:
        return next(attempt for attempt in self.show(campaign).attempts if attempt.device == device)

    def request_id(self) -> bytes:
        self.requests += 1
        return self.requests.to_bytes(16, "big")

    def challenge(self) -> bytes:
        self.challenges += 1
        return self.challenges.to_bytes(16, "big")


def only(kind: type[ActionT], actions: Sequence[Action]) -> list[ActionT]:
    return [action for action in actions if isinstance(action, kind)]


def answer(actions: Sequence[Action]) -> Document | Refusal:
    (given,) = only(Answer, actions)
    return given.outcome


def issued(actions: Sequence[Action]) -> list[Assignment]:
    return [action.assignment for action in only(StoreAssignment, actions)]


def delivered(actions: Sequence[Action]) -> list[str]:
    return [action.device for action in only(Deliver, actions)]


def refusal(actions: Sequence[Action]) -> Reason:
    return reason_of(answer(actions))


def reason_of(outcome: Document | Refusal) -> Reason:
    assert isinstance(outcome, Refusal)
    return outcome.reason


def alarms(actions: list[Action]) -> list[Emit]:
    return [action for action in only(Emit, actions) if action.kind is EventKind.ALARM]


def check_order(actions: list[Action]) -> None:
    """Actions of one or more events: within each event writes, one commit, then words."""
    committed = False
    for action in actions:
        if isinstance(action, Commit):
            committed = True
        elif isinstance(
            action, (StoreDevice, StoreReport, StoreRelease, StoreCampaign, StoreAttempt, StoreAssignment, Record)
        ):
            committed = False
        else:
            assert committed, f"{type(action).__name__} was said before the commit"

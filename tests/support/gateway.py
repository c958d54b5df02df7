"""A gateway in memory: the real agent core over a disk, a boot loader and a server that are a few dictionaries.

It performs every action at once and in order, and answers worker actions with the events that the contract promises, so
a test says what happens (`gateway.assign(...)`, `gateway.power_cycle()`) and reads what became of it
(`gateway.actions`, `gateway.slots`). Faults are data: `fail_next` makes the next action of a kind fail; `hooks` says
how executables answer and `silent` which of them never do; `tamper` alters what a source sends; `fuse` is the number of
actions after which the power goes, though it be in the middle of a list. Time stands still unless a test moves it.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from narrowboat_device.core import Agent
from narrowboat_device.core import actions as ac
from narrowboat_device.core import events as ev
from narrowboat_device.core.settings import Settings, SlotSettings
from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import Ack, Delivery, Hello, Report, sign_model
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.states import State
from narrowboat_protocol.topics import Channel
from narrowboat_protocol.transfer import DIGEST_PREFIX_BYTES, Block, split_range
from narrowboat_protocol.tree import Tree, TreeBuilder, leaf_hash
from tests.support.fleet import COMPONENT, HARDWARE, NOW, FleetKit, MadeRelease

SMALL = Limits(
    log2_chunk_size=12,
    subtree_chunks=4,
    full_frame_image_bytes_max=8192,
    block_bytes_max=4096,
    block_bytes_slow=1024,
    sync_bytes=32768,
)
"""Three subtrees and a short last chunk fit into 45 kB."""

Tamper = Callable[[int, bytes], bytes | None]
"""Offset and data of a block as the source read it; what it sends instead, None for nothing."""

HOOK_OUTPUT = "\n".join(f"step {number} of 400 was well" for number in range(400)) + "\nthe sensor is gone"
"""What every hook prints: progress, more of it than fits into a report, and at the end what matters."""

_STEPS_MAX = 100_000


class Gateway:
    """One gateway of `fleet`. Switched on by `power_on`."""

    def __init__(
        self,
        fleet: FleetKit,
        name: str = "gw-1",
        slot_bytes: int = 64 * 1024,
        limits: Limits = SMALL,
        **changes: object,
    ) -> None:
        self.fleet = fleet
        self.device = fleet.device(name)
        self.limits = limits
        self.settings = replace(
            Settings(
                device=name,
                component=COMPONENT,
                hardware=HARDWARE,
                slots=(SlotSettings("a", slot_bytes), SlotSettings("b", slot_bytes)),
                certificate=self.device.certificate,
                certificate_ends_s=NOW + 365 * 86_400,
                first_root=fleet.root_data,
                agent_version="0.1.0",
                built_at_s=NOW - 1000,
                codecs=(0, 1, 2),
                memory_bytes_max=4 * 1024 * 1024,
                local_install_allowed=True,
                health_deadline_s=60.0,
                health_retry_s=10.0,
                hook_timeout_s=60.0,
                hook_retry_s=30.0,
            ),
            **changes,  # type: ignore[arg-type]  # names of fields, given by tests
        )
        self.slots = {"a": bytearray(b"old" + bytes(slot_bytes - 3)), "b": bytearray(b"\xa5" * slot_bytes)}
        self.records: dict[ac.Record, bytes | None] = dict.fromkeys(ac.Record, b"")
        self.envelopes: dict[str, bytes] = {}
        self.newer: frozenset[ac.Record] = frozenset()
        self.boot = ev.BootStatus("a", bytes(15) + b"\x01", "a", None, 0, frozenset({"a"}))
        self.payloads: dict[bytes, bytes] = {}
        self.hooks: dict[ac.Hook, list[ev.HookOutcome]] = {}
        self.silent: set[ac.Hook] = set()
        self.tamper: Tamper = lambda _, data: data
        self.fail_next: dict[type[ac.Action], Reason] = {}
        self.fuse: int | None = None
        self.dark = False
        self.fetching = True
        self.wire_bytes = self.wire_bytes_of_block = 0
        self.reading_back = True
        self.now = ev.Now(1000.0, NOW)
        self.actions: list[ac.Action] = []
        self.rebooting = False
        self.counter = 0
        self._random = random.Random(name)
        self._queue: deque[ev.Event] = deque()
        self._withheld: list[ac.Action] = []
        self.power_on()

    # What happens to it.

    def power_on(self) -> None:
        """Start the agent anew from what is durable."""
        self._queue.clear()
        self.rebooting, self.dark, self.fuse = False, False, None
        self.agent = Agent(self.settings, self.device.key, self._random.randbytes, self.limits)
        self.give(ev.Started(self.boot, dict(self.records), dict(self.envelopes), self.newer))

    def power_cycle(self, *, crashes: bool = False) -> None:
        """Boot as a boot loader does: try an armed slot while tries are left, else go back. `crashes`: a trial dies
        early.
        """
        boot = self.boot
        boot_id = (int.from_bytes(boot.boot_id, "big") + 1).to_bytes(16, "big")
        if boot.trial is not None and boot.tries_left > 0:
            self.boot = replace(boot, running=boot.trial, boot_id=boot_id, tries_left=boot.tries_left - 1)
            if crashes:
                self.power_cycle(crashes=True)
                return
        elif boot.trial is not None:
            bootable = boot.bootable - {boot.trial}
            self.boot = replace(boot, running=boot.primary, boot_id=boot_id, trial=None, bootable=bootable)
        else:
            self.boot = replace(boot, running=boot.primary, boot_id=boot_id)
        self.power_on()

    def read_back(self) -> None:
        """Let read-backs happen again, those that were withheld first."""
        self.reading_back = True
        withheld, self._withheld = self._withheld, []
        self._perform(withheld)
        self.give(ev.TimeReached())

    def linger(self) -> None:
        """The system was told to reboot and has not gone down yet."""
        self.rebooting = False

    def connect(self) -> None:
        self.give(ev.LinkOpened())

    def assign(self, *releases: MadeRelease, **changes: object) -> None:
        """Deliver an assignment, with the next counter and the newest nonce unless `changes` say otherwise."""
        self.give(ev.DeliveryArrived(self.delivery(*releases, **changes)))

    def delivery(self, *releases: MadeRelease, **changes: object) -> bytes:
        self.counter += 1
        fields: dict[str, object] = {"counter": self.counter} | changes
        if "nonce" not in fields:
            fields["nonce"] = self.nonce
        for release in releases:
            self.payloads[release.payload_digest] = release.payload
        signed = self.fleet.assignment(self.device.name, *releases, **fields)  # type: ignore[arg-type]  # fields by name
        return Delivery(assignment=signed, envelopes=tuple(release.envelope for release in releases)).encode()

    def acknowledge(self, pair: tuple[int, int], statement: bytes | None = None) -> None:
        """A bridge has stored what was said under `pair`; `statement` says that it was something else."""
        said: list[Hello | Report] = [*self.hellos, *self.reports]
        content = next((item.encode() for item in said if item.pair == pair), b"")
        digest = statement or hashlib.sha256(content).digest()
        ack = Ack(device=self.device.name, pair=pair, challenge=bytes(16), statement=digest)
        self.give(ev.AckArrived(sign_model(ack, self.fleet.fleet_id, [self.fleet.bridge])))

    def pass_time(self, seconds: float) -> None:
        self.now = ev.Now(self.now.monotonic_s + seconds, self.now.wall_s + int(seconds))
        self.give(ev.TimeReached())

    def give(self, event: ev.Event) -> None:
        """Handle an event and everything that follows from it."""
        self._queue.append(event)
        for _ in range(_STEPS_MAX):
            if self.rebooting or self.dark:
                return
            if not self._queue:
                if (deadline_s := self.agent.deadline) is None or deadline_s > self.now.monotonic_s:
                    return
                self._queue.append(ev.TimeReached())
            self._perform(self.agent.handle(self._queue.popleft(), self.now))
        raise AssertionError("expected the agent to come to rest; it goes on for ever")

    # What became of it.

    @property
    def state(self) -> State | None:
        return self.agent.state

    @property
    def nonce(self) -> bytes:
        return self.hellos[-1].nonce

    @property
    def hellos(self) -> list[Hello]:
        return [Hello.decode(content) for content in self._published(Channel.HELLO)]

    @property
    def reports(self) -> list[Report]:
        return [Report.decode(content) for content in self._published(Channel.REPORT)]

    @property
    def report(self) -> Report:
        return self.reports[-1]

    def did(self, kind: type[ac.Action]) -> list[ac.Action]:
        return [action for action in self.actions if isinstance(action, kind)]

    def fetched(self) -> list[tuple[int, int]]:
        return [span for action in self.actions if isinstance(action, ac.Fetch) for span in action.ranges]

    def _published(self, channel: Channel) -> list[bytes]:
        published = (action for action in self.actions if isinstance(action, ac.Publish))
        return [SignedDocument.decode(action.payload).content for action in published if action.channel is channel]

    # How actions are carried out.

    def _perform(self, actions: list[ac.Action]) -> None:
        for action in actions:
            if self.fuse is not None:
                self.dark = self.fuse == 0
                if self.dark:
                    return
                self.fuse -= 1
            reason = self.fail_next.pop(type(action), None)
            if isinstance(action, ac.MarkUnbootable | ac.ArmTrial) and action.slot == self.boot.primary:
                reason = Reason.BAD_USE
            if reason is not None:
                self._queue.appendleft(ev.ActionFailed(action, reason, "made to fail"))
                return
            self.actions.append(action)
            self._carry_out(action)
            if self.rebooting:
                return

    def _carry_out(self, action: ac.Action) -> None:  # noqa: C901, PLR0912  # one line for each action
        match action:
            case ac.WriteChunks(slot, offset, data):
                self.slots[slot][offset : offset + len(data)] = data
            case ac.SyncSlot(_, token):
                self._queue.append(ev.SlotSynced(token))
            case ac.HashSlot(slot, tree, first_chunk, chunk_count):
                self._queue.append(ev.SlotHashed(first_chunk, self._leaves(slot, tree, first_chunk, chunk_count)))
            case ac.ReadBackSlot() if not self.reading_back:
                self._withheld.append(action)
            case ac.ReadBackSlot(slot, tree):
                self._queue.append(self._read_back(slot, tree))
            case ac.Save(record, content):
                self.records[record] = content
            case ac.SaveEnvelope(slot, envelope):
                self.envelopes.pop(slot, None)
                self.envelopes |= {} if envelope is None else {slot: envelope}
            case ac.RunHook(hook) if hook in self.silent:
                pass
            case ac.RunHook(hook, token):
                answers = self.hooks.get(hook) or [ev.HookOutcome.GO_ON]
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                self._queue.append(ev.HookFinished(hook, token, answer, HOOK_OUTPUT))
            case ac.Fetch():
                self._answer(action)
            case ac.Reboot():
                self.rebooting = True
            case ac.CommitSlot(slot):
                self._set_boot(action)
                self._queue.append(ev.SlotCommitted(slot))
            case ac.MarkUnbootable() | ac.ArmTrial() | ac.RestoreBoot():
                self._set_boot(action)
            case ac.Publish() | ac.ShowStatus() | ac.ShowTrust() | ac.Log() | ac.UseBroker() | ac.BelieveTime():
                pass
            case _:
                assert_never(action)

    def _set_boot(self, action: ac.MarkUnbootable | ac.ArmTrial | ac.CommitSlot | ac.RestoreBoot) -> None:
        boot, slot = self.boot, action.slot
        match action:
            case ac.MarkUnbootable():
                trial = None if boot.trial == slot else boot.trial
                self.boot = replace(boot, trial=trial, bootable=boot.bootable - {slot})
            case ac.ArmTrial():
                self.boot = replace(boot, trial=slot, tries_left=3, bootable=boot.bootable | {slot})
            case ac.CommitSlot():
                self.boot = replace(boot, primary=slot, trial=None, bootable=boot.bootable | {slot})
            case ac.RestoreBoot():
                self.boot = replace(boot, primary=slot, trial=None, bootable=frozenset({slot}))

    def _answer(self, fetch: ac.Fetch) -> None:
        if not self.fetching:
            return
        payload = self.payloads[fetch.payload]
        for offset, length in fetch.ranges:
            for at, size in split_range(offset, length, fetch.block_bytes):
                data = self.tamper(at, payload[at : at + size])
                if data is not None:
                    block = Block(fetch.payload[:DIGEST_PREFIX_BYTES], at, data)
                    self.wire_bytes += self.wire_bytes_of_block
                    self._queue.append(ev.BlockArrived(block.encode(), self.wire_bytes))

    def _read_back(self, slot: str, tree: Tree) -> ev.SlotReadBack:
        builder = TreeBuilder(self.limits)
        builder.update(bytes(self.slots[slot][: tree.length]))
        built = builder.finish()
        return ev.SlotReadBack(built.layer, built.image_sha256)

    def _leaves(self, slot: str, tree: Tree, first_chunk: int, chunk_count: int) -> bytes:
        spans = (tree.chunk_span(chunk) for chunk in range(first_chunk, first_chunk + chunk_count))
        return b"".join(leaf_hash(bytes(self.slots[slot][at : at + size])) for at, size in spans)


def sha256_of_slot(gateway: Gateway, slot: str, size: int) -> bytes:
    return hashlib.sha256(gateway.slots[slot][:size]).digest()

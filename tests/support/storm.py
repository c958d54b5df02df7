"""A gateway in bad weather: `Gateway` with a disk, a network and a bridge that are nastier than reality.

    disk      a write is in the page cache until a sync that began after it has ended; a power cut keeps, loses or tears
              each write that waits; cells of the inactive slot rot
    workers   one lane for each slot, for hooks and for files; a job runs when the walk says so, and what it finds may
              be about an attempt that has ended since
    network   blocks come in any order, twice, altered or not at all; so do the bridge's messages
    bridge    hears what gets through, answers each statement with an Ack, and assigns by the rules of the real one

What must always be true is checked where it could become false: at each action, and over both slots after each event.
A breach is an `AssertionError`.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from narrowboat_device.core import actions as ac
from narrowboat_device.core import events as ev
from narrowboat_device.core.memory import Attempt, Journal, Outbox, TrustRecord, content_of
from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import Ack, Hello, Report, sign_model
from narrowboat_protocol.errors import NarrowboatError, Reason
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.states import State
from narrowboat_protocol.suit import Release
from narrowboat_protocol.topics import Channel
from narrowboat_protocol.transfer import DIGEST_PREFIX_BYTES, Block, split_range
from narrowboat_protocol.trust import Floor, Trust
from tests.support.fleet import FleetKit, MadeRelease
from tests.support.gateway import Gateway

Job = Callable[[], ev.Event]
_TURNS_MAX = 16


@dataclass(slots=True)
class _Write:
    """A write that waits for its sync, and what stood there before."""

    offset: int
    before: bytes


class Bridge:
    """What the server side knows of one gateway, and what it would send it."""

    def __init__(self) -> None:
        self.wanted: tuple[MadeRelease, ...] | None = None
        self.changes: dict[str, object] = {}
        self.counter = 0
        self.nonce = b""
        self.delivery = b""
        self.accepted = 0
        self.newest_hello = (0, 0)
        self.newest_nonce = b""
        self.said: dict[tuple[int, int], bytes] = {}
        self.heard: dict[tuple[int, int], Hello | Report] = {}

    def want(self, *releases: MadeRelease, **changes: object) -> None:
        """Assign anew, with the next counter, at the next occasion."""
        self.wanted, self.changes, self.delivery = releases, changes, b""

    def hear(self, document: Hello | Report) -> None:
        self.heard[document.pair] = document
        if isinstance(document, Report):
            self.accepted = max(self.accepted, document.attempt, document.parked or 0)
        elif document.pair > self.newest_hello:
            self.newest_hello = document.pair
            self.accepted = document.assignment_counter
            self.newest_nonce = document.nonce

    def next_delivery(self, gateway: Gateway) -> bytes | None:
        """The table of the real bridge: nothing, the same bytes again, or a new assignment."""
        if self.wanted is None or not self.newest_nonce:
            return None
        if self.delivery and self.accepted == self.counter:
            return None
        if not self.delivery or self.accepted > self.counter or self.nonce != self.newest_nonce:
            self.counter = max(self.counter, self.accepted) + 1
            self.nonce = self.newest_nonce
            changes = self.changes | {"counter": self.counter, "nonce": self.nonce}
            self.delivery = gateway.delivery(*self.wanted, **changes)
        return self.delivery

    def ended(self, attempt: int) -> bool:
        return any(isinstance(d, Report) and d.attempt == attempt and d.state.terminal for d in self.heard.values())


class Storm(Gateway):
    """One gateway, its weather drawn from `rng`."""

    def __init__(self, fleet: FleetKit, releases: Sequence[MadeRelease], rng: random.Random, limits: Limits) -> None:
        self.rng = rng
        self.releases = {release.digest: release for release in releases}
        self.contents = {content_of(release.image_sha256, release.head.tree): release for release in releases}
        self.bridge = Bridge()
        self.lanes: dict[str, deque[Job]] = {}
        self.inbound: list[ev.Event] = []
        self.link_up = False
        self.evil = 0.0
        """How likely a block is altered."""
        self.unsynced: dict[str, list[_Write]] = {"a": [], "b": []}
        self.rotten: set[tuple[str, int]] = set()
        self.health: ev.HookOutcome | None = None
        self.floor = Floor(0, 0)
        super().__init__(fleet, slot_bytes=32 * 1024, limits=limits)

    # Weather.

    def power_on(self) -> None:
        """Also a restart of the agent alone: the page cache lives on, workers and connection do not."""
        self.lanes.clear()
        self.inbound.clear()
        self.link_up = False
        self.health = None
        super().power_on()

    def cut_power(self) -> None:
        """What waits for a sync is kept, lost or torn, each write by itself."""
        for slot, writes in self.unsynced.items():
            for write in reversed(writes):
                cut = self.rng.choice((0, len(write.before), self.rng.randrange(len(write.before) + 1)))
                self.slots[slot][write.offset : write.offset + cut] = write.before[:cut]
            writes.clear()
        self.power_cycle(crashes=self.rng.random() < 0.1)

    def rot(self) -> None:
        """A cell of the inactive slot changes, as long as its proof is still to come."""
        slot = "b" if self.boot.running == "a" else "a"
        if slot in self._may_boot or self.agent.state is State.INSTALLED:
            return
        at = self.rng.randrange(24 * 1024)
        self.slots[slot][at] ^= 0x10
        self.rotten.add((slot, at >> self.limits.log2_chunk_size))

    def connect(self) -> None:
        self.link_up = True
        super().connect()

    def disconnect(self) -> None:
        self.link_up = False
        self.inbound = [event for event in self.inbound if self.rng.random() < 0.5]
        self.give(ev.LinkLost())

    def work(self) -> bool:
        """Let one worker end one job. False if all rest."""
        busy = sorted(lane for lane, jobs in self.lanes.items() if jobs)
        if not busy:
            return False
        self.give(self.lanes[self.rng.choice(busy)].popleft()())
        return True

    def receive(self, *, loss: float = 0.0, twice: float = 0.0) -> bool:
        """Let one message arrive, any of those that are on their way. False if none is."""
        if not self.inbound:
            return False
        number = self.rng.randrange(min(len(self.inbound), 8))
        event = self.inbound[number]
        if self.rng.random() >= twice:
            del self.inbound[number]
        if self.rng.random() >= loss:
            self.give(event)
        return True

    def be_assigned(self) -> None:
        delivery = self.bridge.next_delivery(self)
        if delivery is not None and self.link_up:
            self.inbound.append(ev.DeliveryArrived(delivery))

    # What is checked.

    def give(self, event: ev.Event) -> None:
        super().give(event)
        for _ in range(_TURNS_MAX):
            if not self._is_late or self.rebooting or self.dark:
                break
            super().give(ev.TimeReached())
        else:
            raise AssertionError("a deadline stands still")
        assert self.agent.refusals[Reason.BAD_USE] == 0, "the core broke a contract of its own"
        for slot in sorted(self._may_boot):
            self._check_bootable(slot)

    @property
    def _is_late(self) -> bool:
        return self.agent.deadline is not None and self.agent.deadline <= self.now.monotonic_s

    @property
    def _may_boot(self) -> frozenset[str]:
        return self.boot.bootable | {self.boot.primary} | ({self.boot.trial} if self.boot.trial else frozenset())

    def _check_bootable(self, slot: str) -> MadeRelease | None:
        """A slot that can boot holds what the factory put there or a signed image, whole and synced."""
        assert not self.unsynced[slot], f"slot {slot} can boot and has writes that are not durable"
        content = bytes(self.slots[slot])
        if content.startswith(b"old"):
            return None
        release = next((r for r in self.releases.values() if content.startswith(r.image)), None)
        assert release is not None, f"slot {slot} can boot and holds no signed image"
        return release

    def _check_journal(self, content: bytes) -> None:
        """Counted chunks are synced and right, and an attempt is forgotten only after its end is in the outbox."""
        attempt, before = Journal.decode(content).attempt, self._journal
        if attempt is None:
            assert before is None, "an attempt was forgotten"
            return
        self._check_counted(attempt)
        letters = Outbox.decode(self.records[ac.Record.OUTBOX] or Outbox().encode()).letters
        reports = [Report.decode(SignedDocument.decode(letter.report).content) for letter in letters]
        ends = {report.release for report in (*reports, *self.bridge.heard.values()) if isinstance(report, Report)}
        if attempt.state is State.SUCCEEDED:
            self._check_floor(self.releases[attempt.release])
        if not attempt.active:
            assert attempt.release in ends, "an end is in the journal and in no report"
        if before is not None and before.active and before.release != attempt.release:
            assert before.release in ends, "an attempt was forgotten without an end"

    def _check_floor(self, release: MadeRelease) -> None:
        """A success has raised the floor, unless a new root refuses the release meanwhile."""
        with suppress(NarrowboatError):
            assert self.floor >= self._floor_of(release), "a success did not raise the floor"

    def _check_counted(self, attempt: Attempt) -> None:
        if attempt.slot == self.boot.running or attempt.content is None:
            return
        release, shift = self.contents[attempt.content], self.limits.log2_chunk_size
        waiting = {write.offset >> shift for write in self.unsynced[attempt.slot]}
        for chunk in range(attempt.next_chunk):
            if chunk // self.limits.subtree_chunks in attempt.suspects or (attempt.slot, chunk) in self.rotten:
                continue
            span = slice(chunk << shift, min((chunk + 1) << shift, len(release.image)))
            assert chunk not in waiting, f"chunk {chunk} is counted and not synced"
            assert self.slots[attempt.slot][span] == release.image[span], f"chunk {chunk} is counted and not written"

    @property
    def _journal(self) -> Attempt | None:
        content = self.records[ac.Record.JOURNAL]
        return Journal.decode(content).attempt if content else None

    def _check_trust(self, content: bytes) -> None:
        floor = TrustRecord.decode(content).floor
        assert floor >= self.floor, "the floor fell"
        self.floor = floor

    def _check_armed(self, slot: str) -> None:
        release, attempt = self._check_bootable(slot), self._journal
        assert release is not None, "a trial of a slot that nothing was written to"
        assert attempt is not None
        assert release.digest == attempt.release, "a trial of another release than the one judged"
        assert self._floor_of(release) >= self.floor, "a trial of a release below the floor"

    def _floor_of(self, release: MadeRelease) -> Floor:
        trusted = self._trusted(release)
        return Floor(trusted.images[0].epoch, trusted.sequence)

    def _trusted(self, release: MadeRelease) -> Release:
        """Believe it under the root that is on the disk, or raise."""
        record = TrustRecord.decode(self.records[ac.Record.TRUST] or b"")
        return Trust(record.root, record.fleet_id, self.limits).open_release(release.envelope)

    def _check_committed(self, slot: str) -> None:
        assert slot == self.boot.running, "a commit of a slot that does not run"
        assert self.health is ev.HookOutcome.GO_ON, "a commit without health"

    # How actions are carried out.

    def _carry_out(self, action: ac.Action) -> None:  # noqa: C901, PLR0912  # one row for each action
        match action:
            case ac.WriteChunks(slot, offset, data):
                assert slot not in self._may_boot, "a slot that can boot is written to"
                self.unsynced[slot].append(_Write(offset, bytes(self.slots[slot][offset : offset + len(data)])))
                self._heal(slot, offset, len(data))
                super()._carry_out(action)
            case ac.SyncSlot(slot, token):
                covered = list(self.unsynced[slot])
                self._queue_job(slot, lambda: self._synced(slot, covered, token))
            case ac.HashSlot(slot, tree, first, count):
                self._queue_job(slot, lambda: ev.SlotHashed(first, self._leaves(slot, tree, first, count)))
            case ac.ReadBackSlot(slot, tree):
                self._queue_job(slot, lambda: self._read_back(slot, tree))
            case ac.RunHook(hook, token):
                self._queue_job("hooks", lambda: self._ask(hook, token))
            case ac.Fetch(source) if source.startswith("file:"):
                for block in self._blocks(action):
                    self._queue_job("files", [block].pop)
            case ac.Fetch():
                self.inbound += self._blocks(action) if self.link_up else []
            case ac.Publish(channel, payload):
                self._publish(channel, payload)
            case ac.Save(ac.Record.JOURNAL, content):
                self._check_journal(content)
                super()._carry_out(action)
            case ac.Save(ac.Record.TRUST, content):
                self._check_trust(content)
                super()._carry_out(action)
            case ac.ArmTrial(slot):
                super()._carry_out(action)
                self._check_armed(slot)
            case ac.CommitSlot(slot):
                self._check_committed(slot)
                super()._carry_out(action)
            case _:
                super()._carry_out(action)

    def _queue_job(self, lane: str, job: Job) -> None:
        self.lanes.setdefault(lane, deque()).append(job)

    def _synced(self, slot: str, covered: list[_Write], token: int) -> ev.Event:
        self.unsynced[slot] = [write for write in self.unsynced[slot] if all(write is not item for item in covered)]
        return ev.SlotSynced(token)

    def _ask(self, hook: ac.Hook, token: int) -> ev.Event:
        outcomes = self.hooks.get(hook, [ev.HookOutcome.GO_ON])
        outcome = self.rng.choice(outcomes)
        if hook is ac.Hook.HEALTH:
            self.health = outcome
        return ev.HookFinished(hook, token, outcome, "output")

    def _heal(self, slot: str, offset: int, size: int) -> None:
        shift = self.limits.log2_chunk_size
        written = range(offset >> shift, (offset + size - 1 >> shift) + 1)
        self.rotten -= {(slot, chunk) for chunk in written}

    def _blocks(self, fetch: ac.Fetch) -> list[ev.Event]:
        payload = self.payloads[fetch.payload]
        spans = [span for start, length in fetch.ranges for span in split_range(start, length, fetch.block_bytes)]
        return [self._block(fetch, at, payload[at : at + size]) for at, size in spans]

    def _block(self, fetch: ac.Fetch, at: int, data: bytes) -> ev.Event:
        if self.rng.random() < self.evil:
            flipped = self.rng.randrange(len(data))
            data = data[:flipped] + bytes([data[flipped] ^ 1]) + data[flipped + 1 :]
        return ev.BlockArrived(Block(fetch.payload[:DIGEST_PREFIX_BYTES], at, data).encode())

    def _publish(self, channel: Channel, payload: bytes) -> None:
        content = SignedDocument.decode(payload).content
        document = Hello.decode(content) if channel is Channel.HELLO else Report.decode(content)
        assert self.bridge.said.setdefault(document.pair, content) == content, "a pair was used twice"
        if not self.link_up or self.rng.random() < 0.2:
            return
        self.bridge.hear(document)
        digest = hashlib.sha256(content).digest()
        ack = Ack(device=self.device.name, pair=document.pair, challenge=digest[:16], statement=digest)
        self.inbound.append(ev.AckArrived(sign_model(ack, self.fleet.fleet_id, [self.fleet.bridge])))

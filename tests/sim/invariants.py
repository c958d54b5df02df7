"""What must always be true of a gateway, checked after every event against what its disk holds durably.

Everything is read from the medium by a reader of its own, so a mistake in the device's reader is not repeated here. A
breach is an `InvariantError` that names the invariant, and `mutations` breaks the code once for each of them. Over a
medium that lies about flushes nothing that rests on a sync can hold: then only what the machine survives by is checked,
a committed slot that is whole (`honest_medium=False`).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from narrowboat_device.boot.state import STATE_BYTES_MAX, BootState
from narrowboat_device.core.actions import Hook, Record
from narrowboat_device.core.events import AckArrived, Event, HookOutcome
from narrowboat_device.core.memory import (
    LETTERS_MAX,
    RECORD_FORMAT,
    Attempt,
    Journal,
    Letter,
    Outbox,
    TrustRecord,
    content_of,
)
from narrowboat_device.records import record_bytes_max, record_path
from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import Ack, Hello, Report
from narrowboat_protocol.errors import NarrowboatError
from narrowboat_protocol.states import State
from narrowboat_protocol.topics import Channel
from narrowboat_protocol.transfer import FetchRequest
from narrowboat_protocol.trust import NO_FLOOR, Floor
from tests.sim.gateway import SimGateway
from tests.sim.machine import Observer
from tests.sim.medium import PAGE_BYTES
from tests.sim.newer_agent import format_of, in_format
from tests.sim.promises import InvariantError
from tests.support.fleet import MadeRelease

Pair = tuple[int, int]
DocumentT = TypeVar("DocumentT", Journal, TrustRecord, Outbox)
_HEADER = struct.Struct(">4sIQI")
_FILES_MAX = 16
_JOBS_MAX = 16
_WAITING_BYTES_MAX = 128 * 1024
"""Two whole slots: what arrives during a sync, of one release after the other."""
_ARMED = (State.INSTALLED, State.REBOOTING, State.ON_TRIAL)


@dataclass(slots=True)
class Remembered:
    """What has been seen so far, of a gateway as a whole: a power cut does not make it untrue."""

    floor: Floor = NO_FLOOR
    earned: Floor = NO_FLOOR
    attempt: Attempt | None = None
    acked: set[Pair] = field(default_factory=set)
    letters: dict[Pair, Report] = field(default_factory=dict)
    """Every terminal report that was ever in the outbox."""
    in_outbox: frozenset[Pair] = frozenset()
    counted: tuple[bytes | None, str, int] | None = None
    """Content, slot and the most chunks of it that the journal counted, of the attempt at work."""
    primary: str | None = None
    committed: dict[str, bytes | bool | None] = field(default_factory=dict)
    """What each slot held when it was the committed one."""
    running: str | None = None
    read: set[Record] = field(default_factory=set)
    formats: dict[Record, int] = field(default_factory=dict)
    trial_boots: int = 0
    healthy: bool = False

    def fork(self) -> Remembered:
        return replace(
            self,
            acked=set(self.acked),
            letters=dict(self.letters),
            read=set(self.read),
            committed=dict(self.committed),
            formats=dict(self.formats),
        )

    @property
    def key(self) -> object:
        """Equal for pasts that forbid the same futures."""
        return (
            (self.floor, self.earned, self.counted, self.primary, self.running, self.trial_boots, self.healthy),
            (self.attempt.attempt, self.attempt.release, self.attempt.state) if self.attempt is not None else None,
            tuple(sorted((report.attempt, report.release, report.state) for report in self.letters.values())),
            self.in_outbox - self.acked,
            tuple(sorted(self.committed)),
            tuple(sorted(self.formats.items())),
            len(self.read),
        )


class DeviceInvariants(Observer):
    """Watches one gateway."""

    def __init__(
        self,
        gateway: SimGateway,
        releases: Sequence[MadeRelease],
        sequences: Mapping[bytes, int],
        remembered: Remembered | None = None,
        *,
        honest_medium: bool = True,
    ) -> None:
        """`sequences`: of each release, by its digest."""
        self.remembered = remembered or Remembered()
        self._gateway = gateway
        self._disk = gateway.disk
        self._releases = {release.digest: release for release in releases}
        self._contents_of = {_content_of(release): release for release in releases}
        self._sequences = sequences
        self._honest_medium = honest_medium
        self._slots = {slot.name: slot.path for slot in gateway.config.slots}
        self._tries = gateway.config.boot.tries
        self._versions: dict[tuple[Path, ...], tuple[tuple[int, int], ...]] = {}
        self._contents: dict[Path, tuple[tuple[int, int], bytes | None]] = {}
        self._decoded: dict[tuple[Record, bytes], Journal | TrustRecord | Outbox] = {}
        self._boot: tuple[bytes, BootState] | None = None
        self._boot_path = gateway.config.boot.state_file
        self._paths = {record: record_path(gateway.config.storage.data_dir, record) for record in Record}
        self._checked = -1
        self._read: dict[Record, tuple[int, Journal | TrustRecord | Outbox | None]] = {}
        """By record: what it said when the disk had changed so often."""

    # What can be asked.

    @property
    def name(self) -> str:
        return self._gateway.name

    @property
    def running(self) -> str | None:
        """The slot that runs; None while the power is off."""
        return self._gateway.running

    @property
    def boot(self) -> BootState:
        """What boots next, as the medium has it. The same object as long as it says the same."""
        content = self._newest(self._boot_path, STATE_BYTES_MAX)
        if not content:
            raise InvariantError("bootable", "no boot state can be read")
        if self._boot is None or self._boot[0] != content:
            self._boot = content, BootState.decode(content)
        return self._boot[1]

    def release_in(self, slot: str) -> bytes | None:
        """The release that a slot holds on the medium, if it holds a whole one."""
        release = self._gateway.release_in(slot)
        return release if isinstance(release, bytes) else None

    @property
    def attempt(self) -> Attempt | None:
        """The newest attempt, as the medium has it."""
        journal = self._record(Record.JOURNAL, Journal)
        return journal.attempt if journal is not None else None

    @property
    def letters(self) -> tuple[Letter, ...]:
        """The terminal reports that wait, as the medium has them."""
        outbox = self._record(Record.OUTBOX, Outbox)
        return outbox.letters if outbox is not None else ()

    # What is told.

    def booted(self, slot: str) -> None:
        state = self.boot
        on_trial = slot == state.trial
        may_boot = slot in (state.bootable | {state.primary}) and (self._honest_medium or not on_trial)
        if not may_boot and self._honest_medium and not self._disk.faults.read_error:
            raise InvariantError("bootable", f"slot {slot} was booted and may not be")
        if may_boot and self._gateway.release_in(slot) is False:
            raise InvariantError("bootable", f"slot {slot} was booted and holds no known image")
        remembered = self.remembered
        self._check_commit(state)
        remembered.running, remembered.healthy = slot, False
        remembered.trial_boots = remembered.trial_boots + 1 if on_trial else 0
        if remembered.trial_boots > self._tries:
            raise InvariantError("trial", f"slot {slot} was booted {remembered.trial_boots} times without a commit")
        self.check()

    def hears(self, event: Event | None) -> None:
        if isinstance(event, AckArrived):
            self.remembered.acked.add(Ack.decode(SignedDocument.decode(event.data).content).pair)

    def handled(self, event: Event | None) -> None:
        self.check()

    def asked(self, hook: Hook, outcome: HookOutcome) -> None:
        if hook is Hook.HEALTH:
            self.remembered.healthy = outcome is HookOutcome.GO_ON

    def gave_up(self, error: NarrowboatError) -> None:
        faults = self._disk.faults
        if not (faults.read_error or faults.write_error or faults.sync_error or self._disk.pages_free is not None):
            raise InvariantError("alive", f"the agent ended: {error}")

    def published(self, channel: Channel, payload: bytes) -> None:
        if not self._honest_medium:
            return
        match channel:
            case Channel.REPORT:
                self._check_report(Report.decode(SignedDocument.decode(payload).content))
            case Channel.HELLO:
                self._check_pair(Hello.decode(SignedDocument.decode(payload).content).pair)
            case _:
                self._check_fetch(FetchRequest.decode(payload))

    # What is checked.

    def check(self) -> None:
        """Everything about the state of the disk, as far as it changed."""
        if self._checked == self._disk.changes:
            return
        self._checked, paths = self._disk.changes, self._paths
        if self._changed(self._boot_path, *self._slots.values()):
            self._check_boot()
        if self._honest_medium:
            self._check_formats()
            if self._changed(paths[Record.TRUST]):
                self._check_floor()
            if self._changed(paths[Record.OUTBOX], paths[Record.JOURNAL]):
                self._check_outbox()
            if self._changed(paths[Record.JOURNAL], *self._slots.values()):
                self._check_journal()
        self._check_bounds()

    def _check_boot(self) -> None:
        state = self.boot
        if state.primary not in state.bootable:
            raise InvariantError("bootable", f"the committed slot {state.primary} may not boot")
        may_boot = {state.primary, *state.bootable} if self._honest_medium else {state.primary}
        for slot in sorted(may_boot):
            if self._honest_medium and self._disk.waits(self._slots[slot]):
                raise InvariantError("bootable", f"slot {slot} can boot and has bytes that are not on the medium")
            if self._gateway.release_in(slot) is False:
                raise InvariantError("bootable", f"slot {slot} can boot and holds no known image")
        if self._honest_medium:
            self._check_trial(state)
            self._check_commit(state)

    def _check_trial(self, state: BootState) -> None:
        attempt = self.attempt
        if state.trial is None or attempt is None or attempt.state not in _ARMED:
            return
        if self._gateway.release_in(state.trial) != attempt.release:
            raise InvariantError("trial", f"slot {state.trial} is armed with another release than the journal's")

    def _check_commit(self, state: BootState) -> None:
        remembered = self.remembered
        release = self._gateway.release_in(state.primary)
        changed = remembered.primary not in (None, state.primary)
        earned = state.primary == remembered.running and remembered.healthy
        if changed and not earned and remembered.committed.get(state.primary) != release:
            raise InvariantError("commit", f"slot {state.primary} was committed, {remembered.running} runs")
        if changed:
            remembered.trial_boots = 0
        remembered.primary = state.primary
        remembered.committed[state.primary] = release
        if isinstance(release, bytes):
            remembered.earned = max(remembered.earned, Floor(0, self._sequences[release]))

    def _check_formats(self) -> None:
        """A record is in the format of the agent in the committed slot, or was already in a newer one."""
        formats = self.remembered.formats
        for record, path in self._paths.items():
            content = self._newest(path, record_bytes_max(record, self._gateway.limits))
            if not content:
                continue
            now, before = format_of(content), formats.get(record, RECORD_FORMAT)
            if now < before:
                raise InvariantError("format", f"the {record} was in format {before} and is in format {now}")
            if now > before and self.release_in(self.boot.primary) not in self._gateway.behaviour.newer_agents:
                raise InvariantError("format", f"the {record} is in format {now} before a commit")
            formats[record] = now

    def _check_floor(self) -> None:
        trust = self._record(Record.TRUST, TrustRecord)
        if trust is None:
            return
        remembered = self.remembered
        if trust.floor < remembered.floor:
            raise InvariantError("floor", f"it was {remembered.floor} and is {trust.floor}")
        if trust.floor > remembered.earned:
            raise InvariantError("earned", f"it is {trust.floor}, committed was {remembered.earned}")
        remembered.floor = trust.floor

    def _check_journal(self) -> None:
        attempt = self.attempt
        if attempt is None:
            return
        self._count(attempt)
        self._check_envelope(attempt)
        if attempt.slot == self.remembered.running or attempt.content is None:
            return
        durable = self._disk.durable(self._slots[attempt.slot]) or b""
        for chunk in range(attempt.next_chunk):
            suspect = chunk // self._gateway.limits.subtree_chunks in attempt.suspects
            if not suspect and not self._is_there(attempt, chunk, durable):
                raise InvariantError("journal", f"chunk {chunk} of {attempt.next_chunk} is not on the medium")

    def _check_envelope(self, attempt: Attempt) -> None:
        if attempt.state not in _ARMED:
            return
        envelope = self._disk.durable(self._gateway.config.storage.data_dir / f"slot-{attempt.slot}.suit")
        if envelope != attempt.envelope:
            raise InvariantError("envelope", f"slot {attempt.slot} is {attempt.state} without it")

    def _count(self, attempt: Attempt) -> None:
        """An end may give up what was counted; nothing else may."""
        counted = self.remembered.counted
        same = attempt.active and counted is not None and counted[:2] == (attempt.content, attempt.slot)
        before = counted[2] if same and counted is not None else 0
        self.remembered.counted = attempt.content, attempt.slot, max(before, attempt.next_chunk)

    def _is_there(self, attempt: Attempt, chunk: int, durable: bytes) -> bool:
        """The slot holds the chunk on the medium, or held it and rotted."""
        shift = self._gateway.limits.log2_chunk_size
        assert attempt.content is not None
        path, image = self._slots[attempt.slot], self._contents_of[attempt.content].image
        start, end = chunk << shift, min((chunk + 1) << shift, len(image))
        pages = range(start // PAGE_BYTES, -(-end // PAGE_BYTES))
        if not self._disk.rotten(path).isdisjoint(pages):
            return True
        return durable[start:end] == image[start:end]

    def _check_outbox(self) -> None:
        letters, remembered = self.letters, self.remembered
        for letter in letters:
            if letter.pair not in remembered.letters:
                report = Report.decode(SignedDocument.decode(letter.report).content)
                remembered.letters[letter.pair] = report
                if report.state is State.SUCCEEDED and self.boot.primary != report.slot:
                    raise InvariantError("said", "a success without a commit on the medium")
        now = frozenset(letter.pair for letter in letters)
        if lost := remembered.in_outbox - now - remembered.acked:
            raise InvariantError("outbox", f"{sorted(lost)} is gone without an Ack")
        remembered.in_outbox = now
        attempt, before = self.attempt, remembered.attempt
        if attempt is None:
            return
        if not attempt.active and not self._has_end(attempt, attempt.state):
            raise InvariantError("outbox", f"the journal says {attempt.state}, and no report does")
        if before is not None and before.active and before.release != attempt.release and not self._has_end(before):
            raise InvariantError("outbox", "an attempt is gone without an end")
        remembered.attempt = attempt

    def _has_end(self, attempt: Attempt, state: State | None = None) -> bool:
        return any(
            report.release == attempt.release and report.attempt == attempt.attempt and state in (None, report.state)
            for report in self.remembered.letters.values()
        )

    def _check_report(self, report: Report) -> None:
        self._check_pair(report.pair)
        if not report.state.terminal or report.parked is not None:
            return
        # One that was answered may be said again, if the outbox was read from its older copy.
        if report.pair not in {letter.pair for letter in self.letters} | self.remembered.acked:
            raise InvariantError("said", f"{report.state} is not in the outbox on the medium")

    def _check_pair(self, pair: Pair) -> None:
        trust = self._record(Record.TRUST, TrustRecord)
        if trust is None or pair[0] > trust.boot_number:
            raise InvariantError("said", f"boot number {pair[0]} is not on the medium")

    def _check_fetch(self, request: FetchRequest) -> None:
        attempt = self.attempt
        release = self._releases.get(attempt.release) if attempt is not None else None
        if attempt is None or release is None or request.payload != release.payload_digest:
            return
        subtree_chunks = self._gateway.limits.subtree_chunks
        content, _, counted = self.remembered.counted or (None, "", 0)
        if content != _content_of(release):
            return
        if self._disk.rotten(self._slots[attempt.slot]):
            return
        for number in range(release.head.frame_count):
            frame = release.head.frame(number)
            chunks = range(frame.first_chunk, frame.first_chunk + frame.chunk_count)
            if chunks[-1] >= counted:
                return
            if any(chunk // subtree_chunks in attempt.suspects for chunk in chunks):
                continue
            start, end = frame.offset, frame.offset + frame.encoded_length
            if any(offset < end and start < offset + length for offset, length in request.ranges):
                raise InvariantError("again", f"frame {number} is asked for, {counted} chunks are counted")

    def _check_bounds(self) -> None:
        gateway = self._gateway
        sizes = {
            "letters in the outbox": (len(self.letters), LETTERS_MAX),
            "files": (len(self._disk.files), _FILES_MAX),
            "jobs": (len(gateway.lanes) if gateway.lanes is not None else 0, _JOBS_MAX),
            "bytes that wait for a sync": (self._disk.waiting_bytes, _WAITING_BYTES_MAX),
        }
        for what, (size, size_max) in sizes.items():
            if size > size_max:
                raise InvariantError("bounded", f"{size} {what}, at most {size_max}")

    # What the medium says.

    def _changed(self, *paths: Path) -> bool:
        """Whether any of these files may have changed since this was asked last."""
        versions = tuple(self._disk.version(path) for path in paths)
        if self._versions.get(paths) == versions:
            return False
        self._versions[paths] = versions
        return True

    def _record(self, record: Record, kind: type[DocumentT]) -> DocumentT | None:
        """What a record says; None before it was ever written."""
        changes, value = self._read.get(record, (-1, None))
        if changes != self._disk.changes:
            value = self._read_record(record, kind)
            self._read[record] = self._disk.changes, value
        assert isinstance(value, kind | None)
        return value

    def _read_record(self, record: Record, kind: type[DocumentT]) -> DocumentT | None:
        content = self._newest(self._paths[record], record_bytes_max(record, self._gateway.limits))
        if content is None:
            if record in self.remembered.read:
                raise InvariantError("readable", f"no copy of the {record} is intact")
            return None
        self.remembered.read.add(record)
        key = (record, content)
        if key not in self._decoded:
            self._decoded = {known: value for known, value in self._decoded.items() if known[0] is not record}
            readable = in_format(content, RECORD_FORMAT) or b""
            self._decoded[key] = kind.decode(readable, max_bytes=len(readable))
        value = self._decoded[key]
        assert isinstance(value, kind)
        return value

    def _newest(self, path: Path, bytes_max: int) -> bytes | None:
        version = self._disk.version(path)
        if path not in self._contents or self._contents[path][0] != version:
            self._contents[path] = version, _newest_copy(self._disk.durable(path) or b"", bytes_max)
        return self._contents[path][1]


def _content_of(release: MadeRelease) -> bytes:
    return content_of(release.image_sha256, release.head.tree)


def _newest_copy(data: bytes, bytes_max: int) -> bytes | None:
    """The content of the newest intact copy in a record file."""
    half_bytes = -(-(_HEADER.size + 32 + bytes_max) // PAGE_BYTES) * PAGE_BYTES
    best: tuple[int, bytes] | None = None
    for half in (data[:half_bytes], data[half_bytes : 2 * half_bytes]):
        if len(half) < half_bytes or half[:4] != b"NBRC":
            continue
        _, _, generation, length = _HEADER.unpack_from(half)
        content = half[_HEADER.size + 32 :][:length]
        if hashlib.sha256(half[: _HEADER.size] + content).digest() == half[_HEADER.size :][:32]:
            best = max(best, (generation, content)) if best is not None else (generation, content)
    return best[1] if best is not None else None

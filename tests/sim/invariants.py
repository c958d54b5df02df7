"""What must always be true of a gateway, checked after every event against what its disk holds durably.

Everything is read from the medium by a reader of its own (`durable`). A breach is an `InvariantError` that names the
invariant, and `mutations` breaks the code once for each of them. Over a medium that lies about flushes nothing that
rests on a sync can hold: then only what the machine survives by is checked, a committed slot that is whole
(`honest_medium=False`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from narrowboat_device.boot.state import BootState
from narrowboat_device.core.actions import Hook, Record
from narrowboat_device.core.events import AckArrived, Event, HookOutcome
from narrowboat_device.core.memory import (
    LETTERS_MAX,
    RECORD_FORMAT,
    Attempt,
    TrustRecord,
    content_of,
)
from narrowboat_device.records import record_bytes_max
from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import Ack, Hello, Report
from narrowboat_protocol.errors import NarrowboatError
from narrowboat_protocol.payload import Frame, Head
from narrowboat_protocol.states import State
from narrowboat_protocol.topics import Channel
from narrowboat_protocol.transfer import FetchRequest
from narrowboat_protocol.trust import Floor
from tests.sim.durable import DurableGateway
from tests.sim.gateway import SimGateway
from tests.sim.machine import Observer
from tests.sim.medium import PAGE_BYTES
from tests.sim.newer_agent import format_of
from tests.sim.promises import InvariantError
from tests.sim.remembered import Pair, Remembered
from tests.support.fleet import MadeRelease

_FILES_MAX = 16
_JOBS_MAX = 16
_DAY_S = 86_400
_HEADS_KEPT = 64
_WAITING_BYTES_MAX = 128 * 1024
"""Two whole slots: what arrives during a sync, of one release after the other."""
_ARMED = (State.INSTALLED, State.REBOOTING, State.ON_TRIAL)


class DeviceInvariants(DurableGateway, Observer):
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
        super().__init__(gateway, remembered or Remembered())
        self._releases = {release.digest: release for release in releases}
        self._content_by_digest = {release.digest: _content_of(release) for release in releases}
        self._contents_of = {self._content_by_digest[release.digest]: release for release in releases}
        self._sequences = sequences
        self._honest_medium = honest_medium
        self._tries = gateway.config.boot.tries
        slots = {str(path) for path in self._slots.values()}
        journal, trust, outbox = (
            {str(self._paths[record])} for record in (Record.JOURNAL, Record.TRUST, Record.OUTBOX)
        )
        always = ((slots | {str(self._boot_path)}, self._check_boot),)
        if_honest = (
            (journal | trust | outbox, self._check_formats),
            (trust, self._check_floor),
            (outbox | journal, self._check_outbox),
            (journal | slots, self._check_journal),
        )
        self._checks = always + if_honest if honest_medium else always
        """Each with the files that its verdict rests on."""
        self._checked = -1
        self._was_armed = False
        """Before the event at hand. What is armed boots at any time, so asking for it again changes nothing."""

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
        self._was_armed = self.boot.trial is not None
        if isinstance(event, AckArrived):
            self.remembered.acked.add(Ack.decode(SignedDocument.decode(event.data).content).pair)

    def handled(self, event: Event | None) -> None:
        self.check()

    def asked(self, hook: Hook, outcome: HookOutcome) -> None:
        if hook is Hook.HEALTH:
            self.remembered.healthy = outcome is HookOutcome.GO_ON

    def reboots(self) -> None:
        attempt, second = self.attempt, self._gateway.clock().wall_s % _DAY_S
        if attempt is None or attempt.state is not State.REBOOTING or not attempt.reboot_windows or self._was_armed:
            return
        if not any(
            opens <= second < closes or closes <= opens <= second or second < closes <= opens
            for opens, closes in attempt.reboot_windows
        ):
            raise InvariantError("window", f"a reboot at second {second} of the day, not in {attempt.reboot_windows}")

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
        self._checked, changed = self._disk.changes, self._changed()
        if changed:
            for files, check in self._checks:
                if not changed.isdisjoint(files):
                    check()
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
        gone = remembered.in_outbox - now - remembered.acked
        if lost := {pair for pair in gone if not self._is_replaced(pair, now)}:
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

    def _is_replaced(self, pair: Pair, now: frozenset[Pair]) -> bool:
        """Installations from files have no number: of those of one release the newest of equal ends alone is kept."""
        letters = self.remembered.letters
        end = _end_of(letters[pair])
        return end[0] == 0 and any(other > pair and _end_of(letters[other]) == end for other in now)

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
        if attempt.byte_budget is not None and attempt.wire_bytes > attempt.byte_budget:
            raise InvariantError("budget", f"{attempt.wire_bytes} bytes came of {attempt.byte_budget}")
        subtree_chunks = self._gateway.limits.subtree_chunks
        content, _, counted = self.remembered.counted or (None, "", 0)
        if not counted or content != self._content_by_digest[release.digest]:
            return
        if self._disk.rotten(self._slots[attempt.slot]):
            return
        suspects = attempt.suspects
        for number, frame in enumerate(_frames_of(release.head)):
            chunks = range(frame.first_chunk, frame.first_chunk + frame.chunk_count)
            if chunks[-1] >= counted:
                return
            if suspects and any(chunk // subtree_chunks in suspects for chunk in chunks):
                continue
            start, end = frame.offset, frame.offset + frame.encoded_length
            if any(offset < end and start < offset + length for offset, length in request.ranges):
                raise InvariantError("again", f"frame {number} is asked for, {counted} chunks are counted")

    def _check_bounds(self) -> None:
        lanes, disk = self._gateway.lanes, self._disk
        for what, size, size_max in (
            ("letters in the outbox", len(self.letters), LETTERS_MAX),
            ("files", disk.file_count, _FILES_MAX),
            ("jobs", len(lanes) if lanes is not None else 0, _JOBS_MAX),
            ("bytes that wait for a sync", disk.waiting_bytes, _WAITING_BYTES_MAX),
        ):
            if size > size_max:
                raise InvariantError("bounded", f"{size} {what}, at most {size_max}")


def _end_of(report: Report) -> tuple[int, bytes, State]:
    return report.attempt, report.release, report.state


def _content_of(release: MadeRelease) -> bytes:
    return content_of(release.image_sha256, release.head.tree)


@lru_cache(maxsize=_HEADS_KEPT)
def _frames_of(head: Head) -> tuple[Frame, ...]:
    return tuple(map(head.frame, range(head.frame_count)))

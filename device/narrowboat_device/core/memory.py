"""What an agent remembers over a power cut: three records, each a closed document that the shell keeps in a file of
fixed size.

The *journal* holds the attempt: which release, how far, in which state, why. The *trust* record holds what must never
go back: root, floor, counters, boot number, time floor. The *outbox* holds terminal reports until a signed Ack covers
them. Each begins with its format number, so that an agent can tell a record of a newer agent from a damaged one. The
state of the resumable hash is a count: `next_chunk` chunks are synced, and every full subtree below it that is not in
`suspects` was equal to the layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import Field

from narrowboat_protocol.cbor import decode, encode
from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import BootPair, PayloadReference, Report
from narrowboat_protocol.documents.director import Window
from narrowboat_protocol.documents.fields import Counter, Digest, Name, Nonce, Seconds, Size, Text, Uuid
from narrowboat_protocol.errors import NarrowboatError, Reason
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.model import AS_TUPLE, Document, as_enum, key
from narrowboat_protocol.states import State
from narrowboat_protocol.tree import Tree
from narrowboat_protocol.trust import Floor

from .actions import Action, Log, Record, Save

RECORD_FORMAT = 1
ASSIGNMENT_BYTES_MAX = DEFAULT_LIMITS.document_bytes_max // 8
"""The longest assignment that this device accepts. It is stored up to three times, and records have a fixed size."""
PARKED_BYTES_MAX = ASSIGNMENT_BYTES_MAX + DEFAULT_LIMITS.envelope_bytes_max + 64
PATH_LENGTH_MAX = 1024
SUSPECTS_MAX = 1024
BOOT_NUMBER_MAX = 1 << 48
"""No device ever starts so often. A number above it is a lie that would use up what comes after it."""
LETTERS_MAX = 8


class Attempt(Document):
    """One attempt to bring one release into one slot."""

    attempt: Counter = key(1)
    """The counter of the assignment that began it or continued it last; 0 for a local installation."""
    component: Name = key(2)
    release: Digest = key(3)
    envelope: bytes = key(4, max_length=DEFAULT_LIMITS.envelope_bytes_max)
    state: Annotated[State, as_enum(State)] = key(5)
    slot: Name = key(6)
    """The slot that is written."""
    payloads: Annotated[tuple[PayloadReference, ...], AS_TUPLE] = key(7, max_length=8)
    payload_index: int = key(8, 0, ge=0, le=8)
    reboot_windows: Annotated[tuple[Window, ...], AS_TUPLE] = key(9, (), max_length=8)
    byte_budget: Size | None = key(10, None)
    wire_bytes: Size = key(11, 0)
    next_chunk: Counter = key(12, 0)
    suspects: Annotated[tuple[Counter, ...], AS_TUPLE] = key(13, (), max_length=SUSPECTS_MAX)
    """Subtrees below `next_chunk` that differ from the layer and are to be repaired."""
    boot_id: Uuid | None = key(14, None)
    """The boot in which the reboot was asked for."""
    reboots: int = key(15, 0, ge=0, le=255)
    reason: Annotated[Reason, as_enum(Reason)] | None = key(16, None)
    detail: Text | None = key(17, None)
    path: Annotated[str, Field(min_length=1, max_length=PATH_LENGTH_MAX)] | None = key(18, None)
    """The release file of a local installation."""
    content: Digest | None = key(20, None)
    """What the `next_chunk` chunks in the slot belong to, by `content_of`. Progress outlives releases and attempts."""
    trial_starts: int = key(19, 0, ge=0, le=255)
    """How often an agent has started while the slot was on trial."""

    @property
    def active(self) -> bool:
        return not self.state.terminal

    @property
    def budget_is_spent(self) -> bool:
        return self.byte_budget is not None and self.wire_bytes > self.byte_budget


class Journal(Document):
    format: int = key(1, RECORD_FORMAT, ge=1, le=RECORD_FORMAT)
    attempt: Attempt | None = key(2, None)
    parked: bytes | None = key(3, None, max_length=PARKED_BYTES_MAX)
    """The newest delivery that came too late; acted on after the end."""


class TrustRecord(Document):
    format: int = key(1, RECORD_FORMAT, ge=1, le=RECORD_FORMAT)
    root: bytes = key(2, max_length=DEFAULT_LIMITS.root_bytes_max)
    fleet_id: Digest = key(3)
    boot_number: Counter = key(4, 0)
    assignment_counter: Counter = key(5, 0)
    assignment: bytes | None = key(6, None, max_length=ASSIGNMENT_BYTES_MAX)
    """The assignment with that counter, as it came."""
    floor_sequence: Counter = key(7, 0)
    """With `floor_epoch` the lowest release that may be installed."""
    time_floor: Seconds = key(8, 0)
    """The time at which the newest assignment was issued, as far as it can be true; the clock is never below it."""
    challenge: Nonce | None = key(9, None)
    floor_epoch: Counter = key(10, 0)

    @property
    def floor(self) -> Floor:
        return Floor(self.floor_epoch, self.floor_sequence)


class Letter(Document):
    """A terminal report that waits for its Ack."""

    pair: BootPair = key(1)
    report: bytes = key(2, max_length=4096)


class Outbox(Document):
    format: int = key(1, RECORD_FORMAT, ge=1, le=RECORD_FORMAT)
    letters: Annotated[tuple[Letter, ...], AS_TUPLE] = key(2, (), max_length=LETTERS_MAX)


class Memory:
    """The three records as they are now. A change returns the `Save` that makes it durable; the caller orders it.

    `note_attempt` and `note_parked` change what the next save of the journal says.
    """

    __slots__ = ("journal", "outbox", "trust")

    def __init__(self, journal: Journal, trust: TrustRecord, outbox: Outbox) -> None:
        self.journal = journal
        self.trust = trust
        self.outbox = outbox

    def recall(self, records: Mapping[Record, bytes | None]) -> list[Action]:
        """Take up the records of an earlier start; what cannot be read is said, and the agent goes on without it."""
        journal = read_record(Journal, records[Record.JOURNAL])
        trust = read_record(TrustRecord, records[Record.TRUST])
        outbox = read_record(Outbox, records[Record.OUTBOX])
        self.journal, self.trust, self.outbox = journal or self.journal, trust or self.trust, outbox or self.outbox
        found = {Record.JOURNAL: journal, Record.TRUST: trust, Record.OUTBOX: outbox}
        return [
            Log(f"{record}: expected a record, found none that can be read; going on without it", warning=True)
            for record, value in found.items()
            if value is None and records[record] != b""
        ]

    def save(self, record: Record) -> Save:
        """What is in the trust record never goes back, and no attempt that ended begins to work again: not even where
        the newest copy cannot be read and the one before counts. Any other save is one step, which can be made again.
        """
        contents = {Record.JOURNAL: self.journal, Record.TRUST: self.trust, Record.OUTBOX: self.outbox}
        attempt = self.journal.attempt
        is_end = record is Record.JOURNAL and attempt is not None and not attempt.active
        return Save(record, contents[record].encode(), both=is_end or record is Record.TRUST)

    def save_trust(self, **changes: object) -> Save:
        self.trust = self.trust.model_copy(update=changes)
        return self.save(Record.TRUST)

    def raise_floor(self, floor: Floor) -> Save:
        """Never lowers it."""
        floor = max(self.trust.floor, floor)
        return self.save_trust(floor_epoch=floor.epoch, floor_sequence=floor.sequence)

    def save_attempt(self, attempt: Attempt) -> Save:
        self.note_attempt(attempt)
        return self.save(Record.JOURNAL)

    def save_outbox(self, letters: tuple[Letter, ...]) -> Save:
        self.outbox = self.outbox.model_copy(update={"letters": letters})
        return self.save(Record.OUTBOX)

    def end_from_outbox(self) -> list[Action]:
        """A power cut between the save of an end's report and that of the journal leaves an attempt that goes on though
        its end may have been heard. The report counts: make the journal say so. A local installation has no number by
        which its reports could be told from those of an earlier one; it ends once more.
        """
        attempt = self.journal.attempt
        if attempt is None or not attempt.active or not attempt.attempt:
            return []
        for letter in self.outbox.letters:
            report = Report.decode(SignedDocument.decode(letter.report).content)
            if (report.attempt, report.component, report.release) == (
                attempt.attempt,
                attempt.component,
                attempt.release,
            ):
                changes = {"state": report.state, "reason": report.reason, "detail": report.detail}
                return [self.save_attempt(attempt.model_copy(update=changes))]
        return []

    def begin_journal(self) -> list[Action]:
        """There is no journal. If one was lost, it is not known what the newest assignment asked for, which must not be
        taken for done: it is forgotten, so that it comes again. From now on a journal that is missing was lost.
        """
        self.trust = self._unaccepting_trust()
        return [self.save(Record.JOURNAL)]

    def save_unaccepting(self) -> Save:
        """The trust record as it would be if the newest assignment were still to come."""
        return Save(Record.TRUST, self._unaccepting_trust().encode())

    def _unaccepting_trust(self) -> TrustRecord:
        counter = max(self.trust.assignment_counter - 1, 0)
        return self.trust.model_copy(update={"assignment": None, "assignment_counter": counter})

    def note_attempt(self, attempt: Attempt) -> None:
        self.journal = self.journal.model_copy(update={"attempt": attempt})

    def note_parked(self, delivery: bytes | None) -> None:
        self.journal = self.journal.model_copy(update={"parked": delivery})


def content_of(image_sha256: bytes, tree: Tree) -> bytes:
    """A name for the bytes of an image and the tree that proves them, whichever release brings them."""
    return hashlib.sha256(encode([image_sha256, tree.to_cbor()])).digest()


RecordT = TypeVar("RecordT", Journal, TrustRecord, Outbox)


def is_newer(content: bytes | None) -> bool:
    """Whether a record is in a format above ours: intact, and not for this agent to read or to replace."""
    try:
        fields = decode(content or b"", max_bytes=DEFAULT_LIMITS.journal_bytes)
    except NarrowboatError:
        return False
    form = fields.get(1) if isinstance(fields, dict) else None
    return isinstance(form, int) and form > RECORD_FORMAT


def read_record(kind: type[RecordT], content: bytes | None) -> RecordT | None:
    """The record in `content`, or None if there is none or it cannot be read; the caller says what was lost."""
    if not content:
        return None
    try:
        return kind.decode(content, max_bytes=DEFAULT_LIMITS.journal_bytes)
    except NarrowboatError:
        return None

"""What holds of a gateway at any moment, whatever happened to it: it is in its old state or in its new one, never in a
third.

    slots      what may boot holds a known image, byte for byte
    boot       its state can be read, and the slot that it leads to is one of those
    envelopes  a release that is believed lies beside a slot only if the slot holds it, and one does beside the
               committed slot
    records    each can be read; the floor is that of the old release, or the new one's if that was committed
    journal    no chunk is counted that is not in the slot, or whose bytes nobody synced

`violations` says in one line each what does not hold, so that nothing found is all that is well.
"""

from __future__ import annotations

from collections.abc import Iterator

from narrowboat_device.assembly import open_record
from narrowboat_device.boot.loader import choose
from narrowboat_device.boot.state import read_state
from narrowboat_device.core.actions import Record
from narrowboat_device.core.memory import Journal, Outbox, TrustRecord, read_record
from narrowboat_device.envelopes import EnvelopeFolder
from narrowboat_device.records import record_path
from narrowboat_protocol.errors import NarrowboatError
from narrowboat_protocol.states import State
from tests.device.kit import DISK

from .station import LIMITS, NEW_SEQUENCE, OLD_SEQUENCE, Station
from .strace import Span


def violations(station: Station, synced: list[Span] | None = None) -> list[str]:
    """What does not hold. `synced`: the spans of slot b that are known to have been synced; None if it is not known."""
    try:
        return [
            *_wrong_slots(station),
            *_wrong_envelopes(station),
            *_wrong_records(station),
            *_wrong_claims(station, synced),
        ]
    except (NarrowboatError, OSError) as error:
        return [f"the state cannot be read: {error}"]


def wrong_end(station: Station) -> list[str]:
    """What is missing, when the update is said to be done."""
    state = read_state(DISK, station.config.boot.state_file)
    done = state is not None and state.trial is None and holds(station, state.primary) == station.new.digest
    wrong = [] if done else [f"expected the new release to be committed, got {state}"]
    journal = _journal(station)
    ended = journal.attempt.state if journal is not None and journal.attempt is not None else None
    if ended is not State.SUCCEEDED:
        wrong.append(f"expected the attempt to have succeeded, got {ended}")
    return wrong


def unfinished(station: Station) -> list[str]:
    """What is wrong, when the new release is committed and the agent thinks that it wrote so."""
    journal = _journal(station)
    attempt = journal.attempt if journal is not None else None
    return [f"the journal says {attempt.state}, and the release is committed"] if attempt and attempt.active else []


def holds(station: Station, slot: str) -> bytes | None:
    """The digest of the release that a slot holds, byte for byte; None if it holds none of ours."""
    data = next(item.path for item in station.config.slots if item.name == slot).read_bytes()
    for release in (station.old, station.new):
        if data[: len(release.image)] == release.image:
            return release.digest
    return None


def _wrong_slots(station: Station) -> Iterator[str]:
    state = read_state(DISK, station.config.boot.state_file)
    if state is None:
        yield "the boot state cannot be read"
        return
    slots = {*state.bootable, state.primary, choose(state).slot, *([state.trial] if state.trial else [])}
    for slot in sorted(slots):
        if holds(station, slot) is None:
            yield f"slot {slot} may boot and holds no known image; {state}"


def _wrong_envelopes(station: Station) -> Iterator[str]:
    folder = EnvelopeFolder(DISK, station.config.storage.data_dir, LIMITS)
    state = read_state(DISK, station.config.boot.state_file)
    for slot in station.config.slot_names:
        envelope = folder.load(slot)
        if state is not None and slot == state.primary and envelope != station.envelope_of(holds(station, slot)):
            yield f"no release lies beside slot {slot}, which was committed"
        believed = envelope in (station.old.envelope, station.new.envelope)
        if believed and envelope != station.envelope_of(holds(station, slot)):
            yield f"slot {slot} does not hold the release that lies beside it"


def _wrong_records(station: Station) -> Iterator[str]:
    contents = {record: _content(station, record) for record in Record}
    trust = read_record(TrustRecord, contents[Record.TRUST])
    found = {
        Record.JOURNAL: read_record(Journal, contents[Record.JOURNAL]),
        Record.TRUST: trust,
        Record.OUTBOX: read_record(Outbox, contents[Record.OUTBOX]),
    }
    for record in Record:
        if found[record] is None and contents[record] != b"" and not _was_cut_in_its_first_save(station, record):
            yield f"the {record} cannot be read"
    floor = trust.floor.sequence if trust is not None else 0
    if floor not in (0, OLD_SEQUENCE, NEW_SEQUENCE):
        yield f"the floor is {floor}"
    state = read_state(DISK, station.config.boot.state_file)
    if floor == NEW_SEQUENCE and (state is None or holds(station, state.primary) != station.new.digest):
        yield "the floor was raised before the commit"


def _wrong_claims(station: Station, synced: list[Span] | None) -> Iterator[str]:
    """Chunks that the journal counts, and that are not there."""
    journal = _journal(station)
    attempt = journal.attempt if journal is not None else None
    if attempt is None:
        return
    tree, image = station.new.head.tree, station.new.image
    data = (station.folder / f"slot-{attempt.slot}.img").read_bytes()
    for chunk in range(attempt.next_chunk):
        start, length = tree.chunk_span(chunk)
        if chunk // LIMITS.subtree_chunks in attempt.suspects:
            continue
        if data[start : start + length] != image[start : start + length]:
            yield f"the journal counts chunk {chunk} of {attempt.next_chunk}, which is not in the slot"
        if synced is not None and not any(span.start <= start and start + length <= span.end for span in synced):
            yield f"the journal counts chunk {chunk} of {attempt.next_chunk}, which was not synced"


def _was_cut_in_its_first_save(station: Station, record: Record) -> bool:
    """One half is torn and the other one still blank: nothing was ever said to be kept."""
    content = record_path(station.config.storage.data_dir, record).read_bytes()
    return not content[len(content) // 2 :].strip(b"\0")


def _journal(station: Station) -> Journal | None:
    return read_record(Journal, _content(station, Record.JOURNAL))


def _content(station: Station, record: Record) -> bytes | None:
    with open_record(DISK, station.config, record, LIMITS) as file:
        return file.load()

"""The audit log: what was commanded and what changed, in a chain that shows any later alteration.

Each entry is deterministic CBOR, and its hash is

    SHA-256(hash of the entry before || entry)

with the fleet id in the place of the hash before the first. Whoever notes a hash, on paper or in another
machine's log, can prove later that everything up to it is as it was, and is still there. The chain does not stop
someone who may write the file from writing another chain; it stops a change, or an end that was cut off, from going
unnoticed by those who kept a hash.

The entry is a map: 1 sequence, 2 time, 3 what, 4 who, 5 facts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from narrowboat_protocol.cbor import decode, encode
from narrowboat_protocol.errors import EncodingError, MediumError, Reason

ENTRY_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One link of the chain."""

    sequence: int
    content: bytes
    hash: bytes


class Head(NamedTuple):
    """Where a log stands: what one notes to prove later that nothing before it was changed or cut off."""

    sequence: int
    hash: bytes


class AuditChain:
    """Makes entries, each chained to the one before."""

    def __init__(self, fleet_id: bytes, newest: AuditEntry | None = None) -> None:
        """Go on after `newest`, or begin the chain of this fleet."""
        self._sequence = newest.sequence if newest else 0
        self._hash = newest.hash if newest else fleet_id

    def append(self, at_s: int, what: str, who: str, facts: Mapping[str, str | int]) -> AuditEntry:
        self._sequence += 1
        content = encode({1: self._sequence, 2: at_s, 3: what, 4: who, 5: dict(facts)})
        self._hash = _chain(self._hash, content)
        return AuditEntry(self._sequence, content, self._hash)


def verify_chain(fleet_id: bytes, entries: Iterable[AuditEntry], noted: Head | None = None) -> Head:
    """Check a whole log, first entry first; return where it ends.

    Raises `MediumError` at the first wrong entry, and if the log does not lead through the head that was `noted`.
    """
    end = Head(0, fleet_id)
    for end in walk_chain(fleet_id, entries):
        if noted is not None and end.sequence == noted.sequence and end.hash != noted.hash:
            raise _broken(end.sequence, "or one before it is not the one whose hash was noted")
    if noted is not None and end.sequence < noted.sequence:
        raise _broken(end.sequence + 1, f"and all up to the noted head {noted.sequence} are missing")
    return end


def walk_chain(fleet_id: bytes, entries: Iterable[AuditEntry]) -> Iterator[Head]:
    """Check one entry after the other; each step is the head after it."""
    before, expected = fleet_id, 1
    for entry in entries:
        if entry.sequence != expected or _number_in(entry.content) != expected:
            raise _broken(expected, "is missing or out of place")
        before = _chain(before, entry.content)
        if before != entry.hash:
            raise _broken(expected, "or one before it was altered")
        yield Head(expected, before)
        expected += 1


def _chain(before: bytes, content: bytes) -> bytes:
    return hashlib.sha256(before + content).digest()


def _number_in(content: bytes) -> object:
    try:
        entry = decode(content, max_bytes=ENTRY_BYTES_MAX)
    except EncodingError:
        return None
    return entry.get(1) if isinstance(entry, dict) else None


def _broken(sequence: int, what: str) -> MediumError:
    return MediumError(
        Reason.STATE_UNREADABLE, f"audit log: expected an unbroken chain; entry {sequence} {what}; compare a backup"
    )

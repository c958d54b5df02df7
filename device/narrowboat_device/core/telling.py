"""What the agent tells its own machine: where the attempt stands, what is trusted and how fresh it is, whom to connect
to under the newest root, and which times are believable.

All of it follows from what other parts know, so it is looked at after every event and said when it has changed. Nothing
rests on it. What was told in vain, because an action before it failed, is told again.
"""

from __future__ import annotations

from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import Assignment

from .actions import Action, BelieveTime, ShowStatus, ShowTrust, UseBroker
from .lifecycle import Lifecycle
from .memory import Memory, TrustRecord
from .roots import Roots, time_of
from .settings import Settings
from .voice import Voice


class Telling:
    """Compares what is to be told with what was told last."""

    def __init__(self, settings: Settings, memory: Memory, voice: Voice, roots: Roots, lifecycle: Lifecycle) -> None:
        self._settings = settings
        self._memory = memory
        self._voice = voice
        self._roots = roots
        self._lifecycle = lifecycle
        self._status: ShowStatus | None = None
        self._broker: UseBroker | None = None
        self._time: BelieveTime | None = None
        self._trust: ShowTrust | None = None
        self._basis: tuple[TrustRecord, int | None] | None = None
        self._issued: tuple[bytes | None, int | None] = (None, None)
        """The newest assignment, and when it was signed."""

    def failed(self) -> None:
        """The rest of a list was dropped, and perhaps what it told."""
        self._status = self._broker = self._time = self._trust = self._basis = None

    def changes(self) -> list[Action]:
        """What has changed since it was told."""
        return [*self._trust_changes(), *self._status_changes()]

    def _trust_changes(self) -> list[Action]:
        """A record is replaced when anything in it changes, which it seldom does."""
        basis = (self._memory.trust, self._voice.nonce_made_at)
        if self._basis is not None and basis[0] is self._basis[0] and basis[1] == self._basis[1]:
            return []
        self._basis = basis
        record, root = self._memory.trust, self._roots.trust.root
        time = time_of(self._settings, root, record.time_floor)
        shown = ShowTrust(
            fleet_id=record.fleet_id,
            root_version=root.version,
            root_expires_at=root.expires_at,
            certificate_ends_at=self._settings.certificate_ends_s,
            assignment_counter=record.assignment_counter,
            assignment_issued_at=self._issued_at(record.assignment),
            nonce_made_at=self._voice.nonce_made_at,
            floor_epoch=record.floor_epoch,
            floor_sequence=record.floor_sequence,
            time_floor=time.floor_s,
            time_latest=time.latest_s,
        )
        broker = self._roots.broker()
        pairs = ((broker, self._broker), (time, self._time), (shown, self._trust))
        changes: list[Action] = [new for new, told in pairs if new != told]
        self._broker, self._time, self._trust = broker, time, shown
        return changes

    def _issued_at(self, assignment: bytes | None) -> int | None:
        """When a stored assignment was signed, by the director's clock. It was believed before it was stored."""
        if assignment != self._issued[0]:
            issued = None if assignment is None else Assignment.decode(SignedDocument.decode(assignment).content)
            self._issued = (assignment, None if issued is None else issued.issued_at)
        return self._issued[1]

    def _status_changes(self) -> list[Action]:
        life = self._lifecycle
        attempt, hold = life.attempt, life.hold
        status = ShowStatus(
            state=attempt.state if attempt is not None else None,
            hold=hold.reason if hold is not None else None,
            hold_since=hold.since if hold is not None else None,
            hold_next_check=hold.next_check if hold is not None else None,
            release=attempt.release if attempt is not None else None,
            done_bytes=life.done_bytes,
            total_bytes=life.total_bytes,
            wire_bytes=attempt.wire_bytes if attempt is not None else 0,
            reason=attempt.reason if attempt is not None else None,
            detail=attempt.detail if attempt is not None else None,
        )
        if status == self._status:
            return []
        self._status = status
        return [status]

"""What the invariants remember of a gateway, from one event to the next and over every power cut."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from narrowboat_device.core.actions import Record
from narrowboat_device.core.memory import Attempt
from narrowboat_protocol.documents import Report
from narrowboat_protocol.trust import NO_FLOOR, Floor

Pair = tuple[int, int]


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

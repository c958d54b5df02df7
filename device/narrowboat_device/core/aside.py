"""An agent beside records that only a newer agent can read.

That happens when an update brings an older agent, and the newer one had committed before: the records are in its format
by then. What they say (root, floor, counters, an attempt) binds the older agent and cannot be read by it, and writing
them anew would lower what must never go back. So it writes nothing and says nothing to anybody but the people at this
machine. If its system is on trial, it goes back to the one that can read them; else that system runs on.
"""

from __future__ import annotations

from collections.abc import Iterable

from narrowboat_protocol.errors import Reason

from .actions import Action, Log, Reboot, Record, RestoreBoot, ShowStatus
from .events import ActionFailed, BootStatus, Event, Now, Started, TimeReached
from .memory import is_newer

_RETRY_S = 30.0


def newer_records(started: Started) -> frozenset[Record]:
    """The records that a newer agent wrote in a format of its own."""
    return started.newer | {record for record, content in started.records.items() if is_newer(content)}


class Aside:
    """The agent's whole behaviour from such a start on."""

    __slots__ = ("_boot", "_newer", "_retry_s")

    def __init__(self, boot: BootStatus, newer: Iterable[Record]) -> None:
        self._boot = boot
        self._newer = sorted(newer)
        self._retry_s: float | None = None

    @property
    def deadline_s(self) -> float | None:
        return self._retry_s

    def begin(self) -> list[Action]:
        detail = f"a newer agent wrote {', '.join(self._newer)}; boot its system, or install it again"
        shown = ShowStatus(None, None, None, 0, 0, 0, Reason.STATE_UNREADABLE, detail)
        return [Log(f"standing aside: {detail}", warning=True), shown, *self._go_back()]

    def handle(self, event: Event, now: Now) -> list[Action]:
        """Only the way back matters; it is tried again until the machine reboots."""
        match event:
            case ActionFailed(RestoreBoot() | Reboot()):
                self._retry_s = now.monotonic_s + _RETRY_S
            case TimeReached() if self._retry_s is not None and now.monotonic_s >= self._retry_s:
                self._retry_s = None
                return self._go_back()
        return []

    def _go_back(self) -> list[Action]:
        boot = self._boot
        on_trial = boot.trial == boot.running != boot.primary
        return [RestoreBoot(boot.primary), Reboot()] if on_trial else []

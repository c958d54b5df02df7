"""When each device is looked at again, and each campaign that waits for an approval.

The broker drops messages in silence when a device's queue is full, a link may break while one is on its way, and the
bridge may die between the commit of an assignment and its delivery, so an assignment that was not answered is delivered
again, each time after twice as long, until the device says hello or is given something else. A campaign over thousands
of devices uses the same way: it makes them all due, and a bounded number is served in one turn, so that hellos and
reports never wait behind it.
"""

from __future__ import annotations

import heapq

FIRST_INTERVAL_S = 5.0
INTERVAL_MAX_S = 3600.0
TAKEN_AT_ONCE_MAX = 50
RESTORED_PER_S = 50
_OUTDATED_MAX = 1000


class Schedule:
    """Names by the time at which they are due. A heap whose outdated entries are skipped when they surface."""

    def __init__(self) -> None:
        self._due_s: dict[str, float] = {}
        self._interval_s: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def at(self, name: str, due_s: float) -> None:
        """Make a name due, instead of when it was."""
        self._due_s[name] = due_s
        heapq.heappush(self._heap, (due_s, name))
        if len(self._heap) > 2 * len(self._due_s) + _OUTDATED_MAX:
            self._heap = [(due, other) for other, due in self._due_s.items()]
            heapq.heapify(self._heap)

    def calm(self, name: str) -> None:
        """Let the next interval of a name be the first again: it is there, or something new waits for it."""
        self._interval_s.pop(name, None)

    def again(self, name: str, now_s: float) -> None:
        """Make it due after its interval, which doubles."""
        interval_s = self._interval_s.get(name, FIRST_INTERVAL_S)
        self._interval_s[name] = min(2 * interval_s, INTERVAL_MAX_S)
        self.at(name, now_s + interval_s)

    def drop(self, name: str) -> None:
        self._due_s.pop(name, None)
        self._interval_s.pop(name, None)

    @property
    def next_due_s(self) -> float | None:
        self._skip_outdated()
        return self._heap[0][0] if self._heap else None

    def take(self, now_s: float) -> list[str]:
        """Remove and return names that are due, the longest due first, no more than a turn may serve."""
        taken: list[str] = []
        self._skip_outdated()
        while self._heap and self._heap[0][0] <= now_s and len(taken) < TAKEN_AT_ONCE_MAX:
            _, name = heapq.heappop(self._heap)
            del self._due_s[name]
            taken.append(name)
            self._skip_outdated()
        return taken

    def _skip_outdated(self) -> None:
        while self._heap and self._due_s.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)

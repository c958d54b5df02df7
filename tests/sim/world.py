"""One virtual time, one heap of what is to happen, one source of chance: the same seed brings the same world.

Ties are broken by the order in which things were put on the heap. Nothing else in the simulator knows a time or draws
a number.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush


@dataclass(slots=True)
class Handle:
    """Something that is to happen."""

    act: Callable[[], None] | None

    def cancel(self) -> None:
        self.act = None


class World:
    """A time that jumps from one event to the next."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now_s = 0.0
        self._heap: list[tuple[float, int, Handle]] = []
        self._count = 0
        self._log = hashlib.sha256()

    def at(self, when_s: float, act: Callable[[], None]) -> Handle:
        """Let something happen, not before now."""
        handle = Handle(act)
        self._count += 1
        heappush(self._heap, (max(when_s, self.now_s), self._count, handle))
        return handle

    def note(self, *words: object) -> None:
        """Append a line to the log of what happened."""
        self._log.update(f"{self.now_s:.6f} {' '.join(map(str, words))}\n".encode())

    def log_digest(self) -> str:
        return self._log.hexdigest()

    def step(self) -> bool:
        """Let the next thing happen. False if nothing is to come."""
        while self._heap:
            when_s, _, handle = heappop(self._heap)
            if handle.act is not None:
                self.now_s = when_s
                handle.act()
                return True
        return False

    def run(self, until_s: float) -> None:
        """Let everything happen up to a time."""
        while self._heap and self._heap[0][0] <= until_s:
            self.step()
        self.now_s = max(self.now_s, until_s)

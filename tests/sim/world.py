"""One virtual time, one source of randomness, one heap of what will happen.

Everything in a simulated world happens because an entry of the heap comes up, so a run is a function of its seed: no
thread, no clock, no environment. Entries of one time come up in the order in which they were made. Whatever may become
of a message or a write is drawn from `rng`, which the seed alone feeds; `fork` gives a part a source of its own, so
that one part's drawing does not shift another's.

Each thing that happens is noted, and `log_digest` sums it up: two runs of one seed are the same run if, and only if,
their digests are the same. Notes may hold words, numbers and bytes, whose text does not depend on the process; a set
or an object would bring in the order of hashes or an address, and is refused. The newest notes are kept as text, to
show what led to a failure.

The model is TigerBeetle's VOPR: the seed replays everything.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

Word = str | int | float | bytes | None

_WORDS = (str, int, float, bytes, type(None))
_PLAIN_WORDS = frozenset({*_WORDS, bool})
_RECENT_MAX = 2000


@dataclass(slots=True)
class Handle:
    """One thing that will happen. May be cancelled until it does."""

    due_s: float
    act: Callable[[], None] | None

    def cancel(self) -> None:
        self.act = None


class World:
    """Begins at virtual time 0 and moves only by `step` and `run`."""

    def __init__(self, seed: int, start_s: float = 0.0) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.now_s = start_s
        self.steps = 0
        self.recent: deque[tuple[float, tuple[Word, ...]]] = deque(maxlen=_RECENT_MAX)
        self._heap: list[tuple[float, int, Handle]] = []
        self._numbers = count()
        self._log = hashlib.sha256()

    def fork(self, name: str) -> random.Random:
        """A source of randomness that belongs to `name` and to this seed."""
        return random.Random(f"{self.seed}/{name}")

    def at(self, when_s: float, act: Callable[[], None]) -> Handle:
        """Have `act` called at a time, which is now if it has passed."""
        handle = Handle(max(when_s, self.now_s), act)
        heapq.heappush(self._heap, (handle.due_s, next(self._numbers), handle))
        return handle

    def after(self, wait_s: float, act: Callable[[], None]) -> Handle:
        return self.at(self.now_s + wait_s, act)

    def note(self, *words: Word) -> None:
        """Append to the event log."""
        for word in words:
            if type(word) not in _PLAIN_WORDS and not isinstance(word, _WORDS):
                raise TypeError(f"expected words, numbers or bytes in the event log, got {type(word).__name__}")
        self._log.update(repr((self.now_s, words)).encode())
        self.recent.append((self.now_s, words))

    def log_digest(self) -> str:
        return self._log.hexdigest()

    def tail(self, lines: int) -> str:
        """The newest notes, one a line."""
        newest = list(self.recent)[-lines:]
        return "\n".join(f"{at_s:12.3f}  {' '.join(map(_shown, words))}" for at_s, words in newest)

    def step(self, until_s: float = math.inf) -> bool:
        """Let the next thing happen; False if nothing will, by a time."""
        heap = self._heap
        while heap and heap[0][0] <= until_s:
            due_s, _, handle = heapq.heappop(heap)
            if handle.act is None:
                continue
            self.now_s = due_s
            self.steps += 1
            handle.act()
            return True
        return False

    @property
    def next_due_s(self) -> float | None:
        while self._heap and self._heap[0][2].act is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def run(self, until_s: float) -> None:
        """Let everything happen that is due up to a time, and stand at that time."""
        while self.step(until_s):
            pass
        self.now_s = max(self.now_s, until_s)


def _shown(word: Word) -> str:
    return word.hex()[:16] if isinstance(word, bytes) else str(word)

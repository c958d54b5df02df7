"""When what nobody answered is said again.

A bridge that is there answers within seconds, and what got lost should be said again soon. One that is not there may be
away for days, and on a metered link each word that nobody hears is paid for; nor may a fleet that waits for the same
bridge speak in step. So waits are drawn with full jitter, between a hard floor and a bound that doubles with each
repetition (Brooker, "Exponential Backoff and Jitter", 2015). It also ends what a fixed interval does on a path that is
slower than it is: to say anew what is being answered, so that no answer ever fits. Whatever shows that somebody may
listen now (a link that opens, a bridge that starts or answers) begins the series anew.
"""

from __future__ import annotations

from collections.abc import Callable

_JITTER_BYTES = 2


def draw_part(random: Callable[[int], bytes]) -> float:
    """A random part of one, below one."""
    return int.from_bytes(random(_JITTER_BYTES), "big") / (1 << 8 * _JITTER_BYTES)


class Repeats:
    """One series. `due_s` is the monotonic time of the next repetition, if one is to come."""

    __slots__ = ("_bound_s", "_bound_s_max", "_floor_s", "_random", "due_s")

    def __init__(self, floor_s: float, bound_s_max: float, random: Callable[[int], bytes]) -> None:
        self._floor_s = floor_s
        self._bound_s_max = bound_s_max
        self._random = random
        self._bound_s = floor_s
        self.due_s: float | None = None

    def begin(self, now_s: float) -> None:
        """Something was said that is worth an answer soon."""
        self._bound_s = self._floor_s
        self.go_on(now_s)

    def begin_earlier(self, now_s: float) -> None:
        """Somebody is there: what waits shall not wait longer than at the beginning, nor begin to wait anew."""
        due_s = self.due_s
        self.begin(now_s)
        self.due_s = self.due_s if due_s is None else min(due_s, self.due_s or due_s)

    def begin_if_none(self, now_s: float) -> None:
        """Something was said that may wait for what waits already."""
        if self.due_s is None:
            self.begin(now_s)

    def go_on(self, now_s: float) -> None:
        """It was said again."""
        self._bound_s = min(2 * self._bound_s, self._bound_s_max)
        self.due_s = now_s + self._floor_s + draw_part(self._random) * (self._bound_s - self._floor_s)

    def end(self) -> None:
        """Everything is answered."""
        self.due_s = None

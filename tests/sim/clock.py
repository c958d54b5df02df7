"""A gateway's two clocks.

Fault model: the monotonic clock starts anew with each boot, and may run too fast or too slow, by up to a few hundred
parts in a million. The wall clock is 1970 at boot until something sets it, and is then right, or off by any step, also
backwards. Neither decides anything about trust.
"""

from __future__ import annotations

from narrowboat_device.core.events import Now
from tests.sim.world import World
from tests.support.fleet import NOW

_NEVER = -1.0, Now(0.0, 0)


class Clock:
    """The clocks of one gateway."""

    def __init__(self, world: World, drift: float = 0.0) -> None:
        self._world = world
        self._rate = 1.0 + drift
        self._booted_s = 0.0
        self._offset_s: float | None = None
        """From right to shown; None: it was never set in this boot."""
        self._shown = _NEVER
        """At which time of the world it showed what."""

    def drift(self, rate: float) -> None:
        """Run so much too fast from the next boot on; 0.0 is right."""
        self._rate, self._shown = 1.0 + rate, _NEVER

    def boot(self) -> None:
        self._booted_s, self._offset_s = self._world.now_s, None
        self._shown = _NEVER

    def set_wall(self, off_by_s: float | None = 0.0) -> None:
        """Something (NTP, an operator) sets the wall clock, more or less right; None: nothing does."""
        self._offset_s = off_by_s
        self._shown = _NEVER

    def __call__(self) -> Now:
        if self._shown[0] == self._world.now_s:
            return self._shown[1]
        up_s = (self._world.now_s - self._booted_s) * self._rate
        wall_s = up_s if self._offset_s is None else NOW + self._world.now_s + self._offset_s
        now = Now(up_s, int(wall_s))
        self._shown = self._world.now_s, now
        return now

    def world_time(self, monotonic_s: float) -> float:
        """When the monotonic clock shows this."""
        return self._booted_s + monotonic_s / self._rate

"""A gateway's two clocks.

Fault model: the monotonic clock starts anew with each boot, and may run too fast or too slow, by up to a few hundred
parts in a million. The wall clock is 1970 at boot until something sets it, and is then right, or off by any step, also
backwards. Neither decides anything about trust.
"""

from __future__ import annotations

from narrowboat_device.core.events import Now
from tests.sim.world import World
from tests.support.fleet import NOW


class Clock:
    """The clocks of one gateway."""

    def __init__(self, world: World, drift: float = 0.0) -> None:
        self._world = world
        self._rate = 1.0 + drift
        self._booted_s = 0.0
        self._offset_s: float | None = None
        """From right to shown; None: it was never set in this boot."""

    def drift(self, rate: float) -> None:
        """Run so much too fast from the next boot on; 0.0 is right."""
        self._rate = 1.0 + rate

    def boot(self) -> None:
        self._booted_s, self._offset_s = self._world.now_s, None

    def set_wall(self, off_by_s: float | None = 0.0) -> None:
        """Something (NTP, an operator) sets the wall clock, more or less right; None: nothing does."""
        self._offset_s = off_by_s

    def __call__(self) -> Now:
        up_s = (self._world.now_s - self._booted_s) * self._rate
        wall_s = up_s if self._offset_s is None else NOW + self._world.now_s + self._offset_s
        return Now(up_s, int(wall_s))

    def world_time(self, monotonic_s: float) -> float:
        """When the monotonic clock shows this."""
        return self._booted_s + monotonic_s / self._rate

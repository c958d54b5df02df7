"""A gateway of a fleet: a simulated machine at one end of a simulated link, and what the weather does to it.

Fault model. Power goes at any time, or at one of the next operations of the disk, in the middle of whatever is written;
each write that waits is kept, lost or torn, unless the weather leaves storage alone, when all of it is kept. It comes
back after a while. A boot panics, and an orderly reboot hangs. Some machines have no clock of their own, and begin in
1970. A trial finds its system unfit, and hooks say not now. Somebody stops the agent and installs a release file in its
place. Calls of the disk fail with EIO or do a part of what was asked, its file system fills up and empties, and bits of
what is not proved yet rot. What each of these means is `disk`'s fault model. A medium may lie about flushes: nothing is
promised of such a gateway, and it is not watched; what is seen there is that the others do not suffer from it. The
newest release may bring an agent of the next version.
"""

from __future__ import annotations

from functools import cache

from narrowboat_device.core.actions import Hook
from narrowboat_device.core.events import Event, HookOutcome
from narrowboat_device.core.memory import RECORD_FORMAT
from narrowboat_protocol.states import State

from .clients import DeviceClient
from .disk import SimDisk
from .factory import make_disk
from .gateway import SimGateway
from .invariants import DeviceInvariants
from .invariants_server import ServerInvariants
from .machine import Behaviour
from .medium import Faults, Outcome
from .site import FACTORY_IMAGE, LIMITS, Site, site
from .weather import Weather
from .world import World

_FUSE_MAX = 60
_PAGES_FREE = (0, 1, 20)


class Mooring(DeviceInvariants):
    """One gateway, seen by its own invariants and those of the server after each of its events."""

    def __init__(
        self,
        world: World,
        place: Site,
        weather: Weather,
        link: DeviceClient,
        eyes: ServerInvariants,
        *,
        lies: float = 0.0,
    ) -> None:
        """`lies`: how often its medium acknowledges a flush and loses it."""
        self._world = world
        self._lies = lies
        self._files = [release.file for release in place.releases]
        self._weather = weather
        self._link = link
        self._eyes = eyes
        self._rng = world.fork(f"gateway/{link.client_id}")
        self.gateway = SimGateway(
            world,
            place.fleet,
            link.client_id,
            LIMITS,
            link,
            disk=_factory_disk().fork(),
            images=place.images,
            behaviour=Behaviour(
                hook=self._answer,
                hangs_at_reboot=lambda: weather.strikes(weather.panics, self._rng),
                panics=lambda: weather.strikes(weather.panics, self._rng),
                wall_off_s=self._wall_off_s,
                newer_agents=frozenset({place.releases[-1].digest} if weather.newer_agents else ()),
            ),
        )
        self.gateway.disk.rng = self._rng
        super().__init__(self.gateway, place.releases, place.sequences)
        if not lies:
            self.gateway.observer = self
        link.hear = self.gateway.hear
        self.heed_weather()

    @property
    def talks(self) -> bool:
        """Its agent runs and may say something, and the connection carries."""
        return self.gateway.is_up and self._link.hears and not self.stands_aside

    @property
    def stands_aside(self) -> bool:
        """Its agent is older than what it finds, and waits for somebody to boot the newer one."""
        is_older = self.running is not None and self.release_in(self.running) not in self.gateway.behaviour.newer_agents
        return is_older and max(self.remembered.formats.values(), default=RECORD_FORMAT) > RECORD_FORMAT

    @property
    def waits_for_answer(self) -> bool:
        return self.gateway.agent is not None and self.gateway.agent._voice._unanswered  # noqa: SLF001

    @property
    def state(self) -> State | None:
        """Of the newest attempt."""
        return self.attempt.state if self.attempt is not None else None

    def handled(self, event: Event | None) -> None:
        super().handled(event)
        self._eyes.look_at(self.name)

    # What the weather does.

    def heed_weather(self) -> None:
        """The weather has turned to calm, or to storm again."""
        weather, disk = self._weather, self.gateway.disk
        if weather.calm:
            disk.faults, disk.pages_free, disk.fuse = Faults(), None, None
            return
        disk.faults = Faults(
            short=weather.disk_shorts,
            read_error=weather.disk_read_errors,
            write_error=weather.disk_write_errors,
            sync_error=weather.disk_sync_errors,
            lie=self._lies,
        )

    def cut_power(self, off_s: float) -> None:
        """The power goes between two events, for a while."""
        is_torn = self._weather.strikes(self._weather.tearing, self._rng)
        self.gateway.power_cut(Outcome.MIXED if is_torn else Outcome.KEPT)
        self._world.after(off_s, self.gateway.power_on)

    def light_fuse(self) -> None:
        """The power will go at one of the disk's next operations."""
        self.gateway.disk.fuse = self._rng.randrange(_FUSE_MAX)

    def install(self) -> None:
        """Somebody installs a release file, and gives up if that takes too long."""
        self.gateway.install(self._rng.choice(self._files), self._rng.uniform(30.0, 300.0))

    def fill(self) -> None:
        """Somebody else's files take the room, or give it back."""
        self.gateway.disk.pages_free = self._rng.choice((None, *_PAGES_FREE))

    def rot(self) -> None:
        """A bit of a slot that is still to be proved."""
        attempt, gateway = self.attempt, self.gateway
        if attempt is not None and attempt.state is State.DOWNLOADING and attempt.slot != gateway.running:
            path = next(slot.path for slot in gateway.config.slots if slot.name == attempt.slot)
            gateway.disk.rot(path, self._rng.randrange(len(FACTORY_IMAGE)))

    def _answer(self, _hook: Hook) -> HookOutcome:
        if self._weather.strikes(self._weather.unfit, self._rng):
            return self._rng.choice((HookOutcome.NOT_NOW, HookOutcome.FAILED))
        return HookOutcome.GO_ON

    def _wall_off_s(self) -> float | None:
        is_unset = self._weather.clock_s > 0.0 and not self._weather.calm and self._rng.random() < 0.5
        return None if is_unset else 0.0


@cache
def _factory_disk() -> SimDisk:
    """As every gateway leaves the factory."""
    return make_disk(World(7), site().fleet, LIMITS, FACTORY_IMAGE)

"""What strikes a fleet while its tempest lasts: each fault of the weather, again and again, at random times."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from .bridge import SimBridge
from .broker import AUTOSAVE_S, Broker
from .clients import DeadMember, DeviceClient, Stranger
from .mooring import Mooring
from .network import Path
from .operators import SimOperator
from .weather import Weather
from .world import World

_PARTITION_S = 80.0
_OPERATOR_S = 120.0


class Fleet(Protocol):
    """What a tempest strikes."""

    world: World
    weather: Weather
    broker: Broker
    bridge: SimBridge
    moorings: dict[str, Mooring]
    links: dict[str, DeviceClient]
    paths: dict[str, Path]
    operators: list[SimOperator]
    names: tuple[str, ...]


class Tempest:
    """Strikes from its making until `end`."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._world = fleet.world
        self._rng = random.Random(fleet.world.rng.random())
        self._ended = False
        self._dead: list[DeadMember] = []
        weather = fleet.weather
        for path in self._paths:
            self._strike(weather.partitions_s, lambda path=path: self._cut(path))  # type: ignore[misc]
            self._strike(weather.resets_s, lambda path=path: self._reset(path))  # type: ignore[misc]
        for name, mooring in fleet.moorings.items():
            self._strike(weather.power_cuts_s, lambda m=mooring: m.cut_power(self._some_s(60.0)))  # type: ignore[misc]
            self._strike(weather.fuses_s, mooring.light_fuse)
            self._strike(weather.disk_fills_s, mooring.fill)
            self._strike(weather.rot_s, mooring.rot)
            self._strike(weather.agent_restarts_s, mooring.gateway.restart_agent)
            self._strike(weather.fallbacks_s, mooring.gateway.switch_slot)
            self._strike(weather.installs_s, mooring.install)
            self._strike(weather.takeovers_s, lambda name=name: self._take_over(name))  # type: ignore[misc]
        self._strike(weather.broker_restarts_s, self._restart_broker)
        self._strike(weather.bridge_hangs_s, lambda: fleet.bridge.die(silently=True, start_after_s=self._some_s(20.0)))
        self._strike(weather.bridge_restores_s, fleet.bridge.restore)
        self._strike(weather.clock_s, self._turn_clock)
        self._strike(weather.roots_s, fleet.bridge.add_root)
        self._strike(weather.dead_members_s, self._add_dead_member)
        self._repeat(AUTOSAVE_S, fleet.broker.autosave)
        if weather.bridge_restores_s:
            self._repeat(weather.bridge_restores_s / 2, fleet.bridge.copy)
        for operator in fleet.operators:
            self._repeat(_OPERATOR_S, lambda operator=operator: operator.be_busy(fleet.names))  # type: ignore[misc]
            if weather.uploads:
                self._repeat(_OPERATOR_S, operator.push)

    @property
    def _paths(self) -> list[Path]:
        fleet = self._fleet
        return [*fleet.paths.values(), *fleet.bridge.paths, *(operator.path for operator in fleet.operators)]

    def end(self) -> None:
        """Heal everything that does not heal by itself."""
        self._ended = True
        self.set_calm(calm=True)
        for path in self._paths:
            path.mend()
        self._fleet.broker.start()
        self._fleet.bridge.clock_off_s = 0

    def set_calm(self, *, calm: bool) -> None:
        """Suspend every fault, or let them strike again."""
        self._fleet.weather.calm = calm
        if calm:
            self._remove_dead_members()
        for mooring in self._fleet.moorings.values():
            mooring.heed_weather()

    def _some_s(self, mean_s: float) -> float:
        return self._rng.expovariate(1.0 / mean_s)

    def _strike(self, mean_s: float, act: Callable[[], object]) -> None:
        """Do something again and again, but not while it is calm."""
        if mean_s:
            self._repeat(mean_s, lambda: None if self._fleet.weather.calm else act())

    def _repeat(self, mean_s: float, act: Callable[[], object]) -> None:
        def again() -> None:
            if not self._ended:
                act()
                self._world.after(self._some_s(mean_s), again)

        self._world.after(self._some_s(mean_s), again)

    # Faults.

    def _cut(self, path: Path) -> None:
        up, down = self._rng.choice(((True, True), (True, False), (False, True)))
        self._world.note(path.name, "cut", up, down)
        path.cut(up=up, down=down)
        self._world.after(self._some_s(_PARTITION_S), path.mend)

    def _reset(self, path: Path) -> None:
        if path.connection is not None:
            path.connection.reset()

    def _take_over(self, name: str) -> None:
        """Somebody connects as this gateway, from a place of their own, and goes after a while."""
        self._world.note(name, "taken over")
        path = Path(self._world, self._fleet.weather, f"stranger-{name}")
        stranger = Stranger(self._world, self._fleet.broker, path, name)
        stranger.start()
        self._world.after(self._some_s(20.0), lambda: stranger.stop(silently=False))

    def _add_dead_member(self) -> None:
        """It stays for a while, or until somebody looks after it."""
        self._remove_dead_members()
        path = Path(self._world, self._fleet.weather, f"dead-{self._world.steps}")
        self._world.note(path.name, "joins")
        self._dead.append(DeadMember(self._world, self._fleet.broker, path))
        self._dead[0].start()

    def _remove_dead_members(self) -> None:
        for member in self._dead:
            member.stop(silently=False)
        self._dead.clear()

    def _restart_broker(self) -> None:
        crash = self._rng.random() < 0.5
        self._world.note("broker stops", crash)
        self._fleet.broker.stop(crash=crash)
        self._world.after(self._some_s(20.0), self._fleet.broker.start)

    def _turn_clock(self) -> None:
        """Forward, back, or right again."""
        clock_s = self._fleet.weather.clock_s
        self._fleet.bridge.clock_off_s = self._rng.choice((0, int(self._rng.uniform(-clock_s, clock_s))))

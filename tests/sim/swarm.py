"""A whole fleet in its weather: campaigns over two to four gateways, and then the clearing up.

storm     faults of the seed's weather strike, operators give orders, for some minutes of virtual time; now
          and then it is calm for some minutes, and what must be true in calm weather is checked
clear     all faults heal at once; what is half-open stays so until somebody notices. What failing storage left for a
          person to decide, the person decides by switching off and on; and where an older agent stands aside before
          the records of a newer one, the person boots the newer one
converge  an operator starts a last campaign for every gateway, with the newest release. Within `CONVERGENCE_S` every
          gateway must run it from a committed slot, the server must say so, and every end must have been delivered
silence   then nobody may say anything more
"""

from __future__ import annotations

from dataclasses import dataclass

from narrowboat_protocol.documents import CampaignAbort, CampaignDetail, CampaignShow, Reply
from narrowboat_protocol.states import State

from .bridge import SimBridge
from .bridge_disk import BridgeDisk, MemoryDisk
from .broker import Broker
from .clients import DeviceClient
from .invariants_server import BrokenError, ServerInvariants
from .mooring import Mooring
from .network import Path
from .operators import SimOperator
from .shortcuts import remembering
from .site import GATEWAYS_MAX, site
from .tempest import Tempest
from .weather import Weather
from .world import World

CONVERGENCE_S = 2 * 3600.0
RESTORED_CONVERGENCE_S = 27 * 3600.0
"""A store that was put back may know nothing of a gateway that has nothing to say before its next daily hello."""
SILENCE_S = 300.0
_STORM_S = (200.0, 700.0)
_CALM_S = (130.0, 200.0)
_STRAGGLERS_S = 120.0
"""By then every command that was on its way has arrived or is lost."""
_LOOK_S = 20.0
_HEALED_BOOTS = 4
_PATIENCE = 4
"""So often somebody looks for agents that stand aside: one may be installing from a file until its person gives up."""
_OFF_S = 2.0
_BOOT_S = 120.0
_ANSWERS_S = 800.0
"""Within this time a gateway says hello to a bridge that has started."""
_TOLD = "told"
_NOTES_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one seed came to."""

    seed: int
    digest: str
    steps: int
    virtual_s: float


class Fleet:
    """One world with everything in it."""

    def __init__(self, seed: int, disk: BridgeDisk | None, weather: Weather | None) -> None:
        self.world = world = World(seed)
        self.site = site()
        self.weather = weather or Weather.drawn(world.rng)
        self.disk = disk or MemoryDisk()
        self.broker = Broker(world, self.weather)
        self.invariants = ServerInvariants(world, self.site, self.weather, self.disk.rows)
        self.bridge = SimBridge(world, self.site, self.broker, self.weather, self.disk, self.invariants)
        self.names = tuple(f"gw-{number}" for number in range(1, world.rng.randint(2, GATEWAYS_MAX) + 1))
        self.paths = {name: Path(world, self.weather, name, is_slow=True) for name in self.names}
        self.links = {name: DeviceClient(world, self.broker, self.paths[name], name) for name in self.names}
        self.moorings = {name: self._moor(name) for name in self.names}
        self.watched = self.names[1:] if self.weather.disk_lies else self.names
        """Those of whom something is promised."""
        for name in self.watched:
            self._watch(self.moorings[name])
        self.operators = [
            SimOperator(world, self.site, self.broker, Path(world, self.weather, kit.name), kit)
            for kit in self.site.operators
        ]
        self.bridge.start()

    @property
    def said(self) -> int:
        """How much the watched gateways have said."""
        return sum(self.links[name].said for name in self.watched)

    def _moor(self, name: str) -> Mooring:
        lies = self.weather.disk_lies if name == self.names[0] else 0.0
        return Mooring(self.world, self.site, self.weather, self.links[name], self.invariants, lies=lies)

    def _watch(self, mooring: Mooring) -> None:
        self.invariants.add(mooring, lambda: mooring.talks and self.bridge.hears)


class Clearing:
    """The last campaign, and how far the fleet is from what it wants."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._operator = fleet.operators[0]
        self._release = fleet.site.releases[-1].digest
        self._tries = 0
        self._campaign = ""
        self._is_started = False
        self._told = False
        for operator in fleet.operators:
            operator.give_up()
        fleet.world.after(_STRAGGLERS_S, self._begin)

    def missing(self) -> BrokenError | None:
        """What is still to come, of all that must."""
        fleet = self._fleet
        if not self._is_started:
            return BrokenError("convergence", "the last campaign was not started")
        for name in fleet.watched:
            if (text := self._missing_of(name)) != "":
                return BrokenError("convergence", f"{name}: {text}")
            if (undelivered := fleet.invariants.undelivered(name)) != []:
                return BrokenError("delivered", f"{name}: the bridge never stored the ends under {undelivered}")
        if fleet.bridge.has_plans and fleet.watched == fleet.names:
            return BrokenError("convergence", "the bridge still wants to look at a device")
        return None if self._told else BrokenError(_TOLD, "no operator was told that the campaign is through")

    def _missing_of(self, name: str) -> str:
        fleet, mooring = self._fleet, self._fleet.moorings[name]
        if not mooring.talks:
            return "it is not back"
        if fleet.invariants.runs(name) != self._release:
            return f"it does not run the last release, its state is {mooring.state}"
        known = fleet.invariants.attempts.get((name, self._campaign))
        if known is None or known.state is not State.SUCCEEDED:
            return "the server does not know that it succeeded"
        if mooring.letters:
            return "ends wait in its outbox"
        if mooring.root != fleet.bridge.root:
            return "it does not trust the newest root"
        return ""

    def look(self) -> None:
        """Ask whether the campaign is through, as an operator who waits for it."""
        if not self._told and self._operator.waits == 0:
            self._operator.ask(CampaignShow(campaign=self._campaign), self._shown)

    def _begin(self) -> None:
        """Make room, then start; a start that is refused is tried again under another name."""
        self._tries += 1
        if self._fleet.weather.uploads:
            self._operator.push()
        self._campaign = f"last-{self._tries}"
        self._abort_next([*{name: None for other in self._fleet.operators for name in other.campaigns}])

    def _abort_next(self, names: list[str]) -> None:
        if not names:
            self._operator.start_campaign(self._campaign, self._release, self._fleet.watched, self._started)
            return
        self._operator.ask(CampaignAbort(campaign=names[0]), lambda _: self._abort_next(names[1:]))

    def _started(self, reply: Reply | None) -> None:
        if reply is not None and reply.reason is None:
            self._is_started = True
        else:
            self._fleet.world.after(min(60.0 * 2.0**self._tries, 3600.0), self._begin)

    def _shown(self, reply: Reply | None) -> None:
        if reply is None or reply.reason is not None:
            return
        detail = CampaignDetail.from_cbor(reply.result)
        counts = detail.summary.counts
        all_of_them = {State.SUCCEEDED.value: len(self._fleet.watched)}
        self._told = counts == all_of_them and detail.summary.ended == "completed"


def sail(seed: int, disk: BridgeDisk | None = None, weather: Weather | None = None) -> Outcome:
    """Simulate one seed, in the weather that it draws or another one. Raises `BrokenError` if an invariant does not
    hold; its notes say how to replay it and what happened last.
    """
    fleet = Fleet(seed, disk, weather)
    try:
        _weather_the_storm(fleet)
        _converge(fleet)
    except Exception as error:
        error.add_note(f"replay: python -m tests.sim --seed {seed}")
        error.add_note(f"weather: {fleet.weather.words()}\n{fleet.world.tail(_NOTES_SHOWN)}")
        raise
    finally:
        fleet.bridge.end()
    return Outcome(seed, fleet.world.log_digest(), fleet.world.steps, fleet.world.now_s)


def sail_fast(seed: int) -> Outcome:
    """The same, in a fraction of the time."""
    with remembering():
        return sail(seed)


def _weather_the_storm(fleet: Fleet) -> None:
    world = fleet.world
    tempest = Tempest(fleet)
    for mooring in fleet.moorings.values():
        mooring.gateway.power_on()
    storm_s = world.rng.uniform(*_STORM_S)
    calm_at_s, calm_s = storm_s * world.rng.random(), world.rng.uniform(*_CALM_S)
    world.run(calm_at_s)
    tempest.set_calm(calm=True)
    world.run(calm_at_s + calm_s)
    tempest.set_calm(calm=False)
    world.run(storm_s + calm_s)
    tempest.end()
    world.note("clear")
    for _ in range(_HEALED_BOOTS if fleet.weather.storage_fails else 0):
        for mooring in fleet.moorings.values():
            mooring.cut_power(_OFF_S)
        world.run(world.now_s + _BOOT_S)
    for _ in range(_PATIENCE if fleet.weather.newer_agents else 0):
        world.run(world.now_s + _BOOT_S)
        for mooring in fleet.moorings.values():
            if mooring.stands_aside:
                mooring.gateway.switch_slot()


def _converge(fleet: Fleet) -> None:
    world, clearing = fleet.world, Clearing(fleet)
    was_restored = fleet.weather.bridge_restores_s > 0.0
    until_s = world.now_s + (RESTORED_CONVERGENCE_S if was_restored else CONVERGENCE_S)
    while (missing := clearing.missing()) is not None:
        if world.now_s > until_s:
            raise missing
        if missing.invariant == _TOLD:
            clearing.look()
        world.run(world.now_s + _LOOK_S)
    world.run(world.now_s + _ANSWERS_S)
    if (missing := clearing.missing()) is not None:
        raise missing
    said = fleet.said
    world.run(world.now_s + SILENCE_S)
    if (more := fleet.said - said) != 0:
        raise BrokenError("silence", f"settled gateways said {more} more things")

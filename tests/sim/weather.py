"""The weather of one seed: which faults there are, and how bad each is.

Each seed draws a swarm (Groce et al., "Swarm Testing", ISSTA 2012): every fault is on or off by a coin, and one that is
on gets a rate of its own. Faults that are always on together hide each other: a link that never stands for a minute
never shows what a full queue does to a link that stands for an hour. So some seeds have one fault at its worst, some
have nearly all, and some have none, which shows that the world itself is sound.

`calm` suspends every fault without forgetting its rate. What has happened already stays: a partition lasts until
`Partitions` heals it, a dead bridge until its service manager starts it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields, replace

Bounds = tuple[float, float]


@dataclass(slots=True)
class Weather:
    """Rates of one seed; 0 means that the fault is off. `_s` are mean times between two faults of one party."""

    loss: float = 0.0
    """How likely a message is lost on its way, though the connection stands."""
    duplication: float = 0.0
    """How likely a message comes twice."""
    reordering_s: float = 0.0
    """Messages of different topics overtake each other by up to this."""
    delay_s: float = 0.0
    """The worst time that a path takes."""
    slow_bytes_per_s: float = 0.0
    """The rate of a gateway's downlink; 0 is a fast one."""
    forgery: float = 0.0
    """How likely the broker alters a data block."""
    resets_s: float = 0.0
    """Connections that end at once, for both sides."""
    partitions_s: float = 0.0
    """Paths that carry nothing, in one direction or both, for a while; whoever waits at the end of one sees nothing."""
    takeovers_s: float = 0.0
    """A stranger with a gateway's certificate takes its session over for a moment, and what waits in it."""
    broker_restarts_s: float = 0.0
    queue_messages: float = 0.0
    """What the broker keeps for one client; beyond it, messages are dropped silently. 0 is a long queue."""
    bridge_kills: float = 0.0
    """How likely the bridge dies in a turn: before its commit, after it, or while it says what it committed."""
    bridge_hangs_s: float = 0.0
    """The bridge's machine loses power: its connections stay half-open, and its share of requests is swallowed."""
    bridge_restores_s: float = 0.0
    """The bridge's database is put back to an older copy."""
    clock_s: float = 0.0
    """How far the bridge's clock may be off; gateways then boot in 1970 now and then."""
    power_cuts_s: float = 0.0
    """Gateways lose power."""
    agent_restarts_s: float = 0.0
    """The agent alone is started anew."""
    fallbacks_s: float = 0.0
    """A gateway goes back to its other slot, though it had committed: somebody switched it."""
    unfit: float = 0.0
    """How likely a trial finds its system unfit, or a hook says not now."""
    panics: float = 0.0
    """How likely a boot ends before its agent runs, and a reboot in a cut."""
    tearing: float = 0.0
    """How likely a power cut loses or tears what waits for a sync."""
    fuses_s: float = 0.0
    """Gateways lose power at one of the next operations of their disk."""
    disk_shorts: float = 0.0
    """How likely a call of a gateway's disk does a part of what was asked,"""
    disk_read_errors: float = 0.0
    """or fails with EIO: a read,"""
    disk_write_errors: float = 0.0
    """a write"""
    disk_sync_errors: float = 0.0
    """or a sync."""
    disk_fills_s: float = 0.0
    """The file systems of gateways fill up, or get room again."""
    rot_s: float = 0.0
    """A bit of a gateway's slot changes before it is proved."""
    installs_s: float = 0.0
    """Somebody installs a release file on a gateway, whatever campaigns say."""
    dead_members_s: float = 0.0
    """A second bridge joins the shared subscription and hangs: its part of the requests is lost."""
    roots_s: float = 0.0
    """The owner publishes the next root."""
    uploads: float = 0.0
    """Above 0 if the newest release is not there from the beginning: operators push it."""
    disk_lies: float = 0.0
    """How likely the first gateway's medium acknowledges a flush and loses it. Of that gateway nothing is expected."""
    newer_agents: float = 0.0
    """Above 0 if the newest release brings an agent of the next version, which the others do not."""

    calm: bool = False

    @classmethod
    def drawn(cls, rng: random.Random) -> Weather:
        chance = rng.choice((0.15, 0.35, 0.6))
        drawn = cls()
        bounds_of = _BOUNDS | (_BOUNDS_OF_STORAGE if rng.random() < _STORAGE_SHARE else {})
        for name, bounds in bounds_of.items():
            if rng.random() < chance:
                setattr(drawn, name, _between(rng, *bounds))
        return drawn

    def copy(self) -> Weather:
        """The same weather for another world."""
        return replace(self)

    @property
    def storage_fails(self) -> bool:
        """Whether calls of a gateway's disk may fail."""
        return any((self.disk_read_errors, self.disk_write_errors, self.disk_sync_errors, self.disk_fills_s))

    def strikes(self, rate: float, rng: random.Random) -> bool:
        """Whether a fault of this probability happens now."""
        return rate > 0.0 and not self.calm and rng.random() < rate

    def words(self) -> str:
        """The faults that are on, for a person."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self) if field.name != "calm")
        return " ".join(f"{name}={value:.3g}" for name, value in values if value) or "no faults"


_BOUNDS: dict[str, Bounds] = {
    "loss": (0.01, 0.4),
    "duplication": (0.01, 0.4),
    "reordering_s": (0.1, 60.0),
    "delay_s": (0.1, 20.0),
    "slow_bytes_per_s": (200.0, 50_000.0),
    "forgery": (0.01, 0.3),
    "resets_s": (10.0, 600.0),
    "partitions_s": (60.0, 600.0),
    "takeovers_s": (60.0, 600.0),
    "broker_restarts_s": (60.0, 600.0),
    "queue_messages": (4.0, 40.0),
    "bridge_kills": (0.01, 0.4),
    "bridge_hangs_s": (100.0, 600.0),
    "bridge_restores_s": (200.0, 600.0),
    "clock_s": (10.0, 100_000.0),
    "power_cuts_s": (20.0, 600.0),
    "agent_restarts_s": (20.0, 600.0),
    "fallbacks_s": (60.0, 600.0),
    "unfit": (0.05, 0.9),
    "panics": (0.02, 0.3),
    "newer_agents": (1.0, 1.0),
    "dead_members_s": (60.0, 600.0),
    "installs_s": (100.0, 600.0),
    "roots_s": (30.0, 400.0),
    "uploads": (1.0, 1.0),
}
_STORAGE_SHARE = 0.4
"""So many seeds may have storage that fails, which costs the most to simulate."""
_BOUNDS_OF_STORAGE: dict[str, Bounds] = {
    "tearing": (0.2, 1.0),
    "fuses_s": (60.0, 600.0),
    "disk_shorts": (0.03, 0.3),
    "disk_read_errors": (0.001, 0.01),
    "disk_write_errors": (0.002, 0.02),
    "disk_sync_errors": (0.005, 0.05),
    "disk_fills_s": (60.0, 600.0),
    "rot_s": (5.0, 100.0),
    "disk_lies": (0.01, 0.5),
}


def _between(rng: random.Random, low: float, high: float) -> float:
    """Drawn so that every order of magnitude is as likely."""
    return float(low * (high / low) ** rng.random())

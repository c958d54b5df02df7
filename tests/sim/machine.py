"""What stands around a simulated gateway: the port to its network, whoever watches it, and how the rest of the machine
behaves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from narrowboat_device.core.actions import Hook
from narrowboat_device.core.events import Event, HookOutcome
from narrowboat_protocol.errors import NarrowboatError
from narrowboat_protocol.topics import Channel


class LinkPort(Protocol):
    """The network, as one gateway's link sees it."""

    def publish(self, channel: Channel, payload: bytes, qos: int) -> None:
        """Send a message if the connection stands."""
        ...

    def up(self) -> None:
        """An agent started and wants a connection."""
        ...

    def down(self) -> None:
        """The agent's process is dead, and the connection with it."""
        ...


class Observer:
    """Is told of everything that can be checked. This one checks nothing."""

    def booted(self, slot: str) -> None:
        """The loader chose a slot."""

    def hears(self, event: Event | None) -> None:
        """An event is about to be handled."""

    def handled(self, event: Event | None) -> None:
        """An event was handled and its actions were performed."""

    def asked(self, hook: Hook, outcome: HookOutcome) -> None:
        """One of the integrator's programs answered."""

    def reboots(self) -> None:
        """The agent has the machine reboot, now."""

    def gave_up(self, error: NarrowboatError) -> None:
        """The agent's process ended with an error."""

    def published(self, channel: Channel, payload: bytes) -> None:
        """The agent said something, whether a link stands or not."""


def _go_on(_hook: Hook) -> HookOutcome:
    return HookOutcome.GO_ON


def _never() -> bool:
    return False


def _unset() -> float | None:
    return None


@dataclass(slots=True)
class Behaviour:
    """What the rest of the machine does. Times are (least, most), in seconds."""

    off_s: tuple[float, float] = (1.0, 5.0)
    boot_s: tuple[float, float] = (5.0, 20.0)
    job_s: tuple[float, float] = (0.01, 0.5)
    hook: Callable[[Hook], HookOutcome] = _go_on
    hangs_at_reboot: Callable[[], bool] = _never
    """Whether an orderly reboot ends in a cut."""
    panics: Callable[[], bool] = _never
    """Whether a boot ends before its agent runs, whatever the slot holds."""
    wall_off_s: Callable[[], float | None] = _unset
    """How far the wall clock is off from a boot on; None if it is not set and begins in 1970."""
    drift: float = 0.0
    crashing: set[bytes] = field(default_factory=set)
    """Releases that panic before their agent runs."""
    newer_agents: frozenset[bytes] = frozenset()
    """Releases that bring an agent of the next version, with a record format of its own."""

"""A gateway whose storage never fails: the real agent core on a disk that keeps every write at once.

Fault model. Power goes at any time and comes back after a while; a boot loader then tries an armed slot or goes back.
Somebody boots the other slot, though the one that runs was committed.
The agent alone is started anew. A trial finds its system unfit, and hooks say not now. Nothing else fails here: what
storage does under a power cut is another simulation's concern.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from narrowboat_device.core import actions as ac
from narrowboat_device.core import events as ev
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.topics import Channel
from narrowboat_protocol.transfer import FetchRequest
from tests.support.fleet import NOW, FleetKit
from tests.support.gateway import Gateway

from .weather import Weather
from .world import Handle, World

_REBOOT_S = 20.0
_TICK_S = 0.001


class LinkPort(Protocol):
    """What a gateway asks of its link."""

    def publish(self, channel: Channel, payload: bytes, qos: int) -> None:
        """Send if the link is up; else the message is lost."""
        ...

    def up(self) -> None:
        """The agent began and wants a connection."""
        ...

    def down(self) -> None:
        """The agent is gone."""
        ...


class PlainGateway(Gateway):
    """One gateway in a world, on from the beginning."""

    def __init__(
        self, world: World, fleet: FleetKit, name: str, limits: Limits, link: LinkPort, weather: Weather
    ) -> None:
        self._world = world
        self._link = link
        self._weather = weather
        self._rng = world.fork(f"gateway/{name}")
        self._timer: Handle | None = None
        self._booted_s = world.now_s
        self._clock_off_s = 0
        self.is_on = True
        self.observer: Callable[[ev.Event], None] = _ignore
        super().__init__(fleet, name, 64 * 1024, limits)
        self._link.up()

    @property
    def name(self) -> str:
        return self.device.name

    # What happens to it.

    def hear(self, event: ev.Event) -> None:
        if self.is_on:
            self.give(event)

    def power_cut(self, off_s: float) -> None:
        """Lose power, for a while."""
        if self.is_on:
            self._world.note(self.name, "power cut")
            self._go_down(off_s)

    def restart_agent(self) -> None:
        """The service manager starts the agent anew; the system runs on."""
        if self.is_on:
            self._world.note(self.name, "agent restarts")
            self._link.down()
            self.power_on()
            self._connect()

    def fall_back(self) -> None:
        """Somebody boots the other slot, if it still holds a system and no update is on."""
        boot = self.boot
        other = next(slot for slot in self.slots if slot != boot.running)
        is_at_rest = self.agent.state is None or self.agent.state.terminal
        if self.is_on and is_at_rest and boot.trial is None and other in boot.bootable:
            self._world.note(self.name, "falls back")
            self.boot = replace(boot, primary=other)
            self._go_down(_REBOOT_S)

    def give(self, event: ev.Event) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wall_s = NOW + int(self._world.now_s) + self._clock_off_s
        self.now = ev.Now(10.0 + self._world.now_s - self._booted_s, wall_s)
        super().give(event)
        self.actions.clear()
        if self.rebooting:
            self.rebooting = False
            self._world.note(self.name, "reboots", self.agent.state)
            self._go_down(_REBOOT_S)
        elif (deadline_s := self.agent.deadline) is not None:
            wait_s = deadline_s - self.now.monotonic_s + _TICK_S
            self._timer = self._world.after(wait_s, lambda: self.give(ev.TimeReached()))
        self.observer(event)

    def _go_down(self, off_s: float) -> None:
        self.is_on = False
        self._link.down()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._world.after(off_s, self._boot)

    def _boot(self) -> None:
        """Some machines have no clock of their own, and begin in 1970."""
        self.is_on = True
        self._booted_s = self._world.now_s
        is_wrong = self._weather.clock_s > 0.0 and not self._weather.calm and self._rng.random() < 0.5
        self._clock_off_s = -NOW if is_wrong else 0
        self.power_cycle()
        self._world.note(self.name, "runs", self.boot.running, self.agent.state)
        self._connect()

    def _connect(self) -> None:
        """An agent that began; some reboot at once."""
        if self.is_on:
            self._link.up()

    # What the world is asked for.

    def _carry_out(self, action: ac.Action) -> None:
        match action:
            case ac.Publish(channel, payload, qos):
                self._link.publish(channel, payload, qos)
            case ac.Fetch(_, channel, payload, ranges, block_bytes):
                request = FetchRequest(payload=payload, ranges=ranges, block_bytes=block_bytes)
                self._link.publish(channel, request.encode(), 0)
            case ac.RunHook(hook):
                self.hooks[hook] = [self._answer_of_hook()]
                super()._carry_out(action)
            case _:
                super()._carry_out(action)

    def _answer_of_hook(self) -> ev.HookOutcome:
        if self._weather.strikes(self._weather.unfit, self._rng):
            return self._rng.choice((ev.HookOutcome.NOT_NOW, ev.HookOutcome.FAILED))
        return ev.HookOutcome.GO_ON


def _ignore(_event: ev.Event) -> None:
    pass

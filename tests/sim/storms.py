"""Storms over one gateway's storage: seeded sequences of everything that its disk, clocks, power and processes can do.

Each storm draws how likely each fault is, throws power cuts, killed agents, rot, full and failing disks, clock steps
and new assignments at a gateway for some hours of its time, then lets all of it end. Then the gateway must take up a
new release within a bounded time. The server is honest and the link holds: what goes wrong is the storage's doing.

`python -m tests.sim.storms --seeds N` blows N of them, `--seed S` a single one.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from narrowboat_device.core.actions import Hook
from narrowboat_device.core.events import HookOutcome
from narrowboat_protocol.states import State
from tests.sim.medium import Faults
from tests.sim.scenes import Begun, Play, Stage, from_factory

_HOURS_S = 2 * 3600.0
_STEPS = 40
_HEALED_BOOTS = 4


def storm(stage: Stage, begun: Begun, seed: int, *, lie: float = 0.0) -> Play:
    """One storm and its end; `lie` is how often a flush is acknowledged and lost. A failure says which seed brings it
    back.
    """
    try:
        play = Play(stage, begun.fork(), seed, _do_nothing, honest_medium=not lie)
        _Storm(play, lie).blow()
        _heal(play)
    except Exception as error:
        error.add_note(f"replay: python -m tests.sim.storms --seed {seed}")
        raise
    return play


class _Storm:
    """What befalls one gateway."""

    def __init__(self, play: Play, lie: float) -> None:
        self._play = play
        self._calm = Faults(lie=lie)
        self._rng = play.world.rng
        behaviour = play.gateway.behaviour
        hangs = self._rng.choice((0.0, 0.5))
        behaviour.hangs_at_reboot = lambda: self._rng.random() < hangs
        behaviour.hook = self._answer
        if self._rng.random() < 0.5:
            behaviour.newer_agents = frozenset({play.stage.newest.digest})
        play.gateway.clock.drift(self._rng.uniform(-3e-4, 3e-4))
        self._unwilling = self._rng.choice((0.0, 0.1, 0.4))
        self._wild = Faults(
            short=self._rng.choice((0.0, 0.3)),
            read_error=self._rng.choice((0.0, 0.0, 0.01)),
            write_error=self._rng.choice((0.0, 0.0, 0.02)),
            sync_error=self._rng.choice((0.0, 0.0, 0.05)),
            lie=lie,
        )
        play.disk.faults = replace(self._calm)

    def blow(self) -> None:
        play = self._play
        play.gateway.power_on()
        for _ in range(_STEPS):
            self._rng.choice(
                (
                    self._cut,
                    self._set_fuse,
                    play.gateway.restart_agent,
                    self._rot,
                    self._fill,
                    self._set_faults,
                    self._set_clock,
                    self._assign,
                    self._assign,
                )
            )()
            play.world.run(play.world.now_s + self._rng.expovariate(_STEPS / _HOURS_S))

    def _answer(self, hook: Hook) -> HookOutcome:
        if self._rng.random() >= self._unwilling:
            return HookOutcome.GO_ON
        return self._rng.choice((HookOutcome.NOT_NOW, HookOutcome.FAILED))

    def _cut(self) -> None:
        gateway = self._play.gateway
        gateway.power_cut()
        gateway.power_on()

    def _set_fuse(self) -> None:
        self._play.disk.fuse = self._rng.randrange(60)

    def _rot(self) -> None:
        """A bit of a slot that is still to be proved."""
        attempt, gateway = self._play.invariants.attempt, self._play.gateway
        if attempt is not None and attempt.state is State.DOWNLOADING and attempt.slot != gateway.running:
            path = next(slot.path for slot in gateway.config.slots if slot.name == attempt.slot)
            self._play.disk.rot(path, self._rng.randrange(40_000))

    def _fill(self) -> None:
        self._play.disk.pages_free = self._rng.choice((None, 0, 1, 20))

    def _set_faults(self) -> None:
        self._play.disk.faults = replace(self._rng.choice((self._calm, self._wild)))

    def _set_clock(self) -> None:
        self._play.gateway.clock.set_wall(self._rng.choice((0.0, -86_400.0, 7e8, self._rng.uniform(-60.0, 60.0))))

    def _assign(self) -> None:
        stage = self._play.stage
        self._play.server.want(*self._rng.choice(((stage.newer,), (stage.newest,), (stage.newer,), ())))


def _heal(play: Play) -> None:
    """Every fault ends. What a fault left for a person to decide, the person decides by switching off and on."""
    gateway, disk = play.gateway, play.disk
    disk.faults, disk.pages_free, disk.fuse = Faults(), None, None
    gateway.behaviour.hook = lambda _hook: HookOutcome.GO_ON
    gateway.behaviour.hangs_at_reboot = lambda: False
    for _ in range(_HEALED_BOOTS):
        gateway.power_cut()
        gateway.power_on()
        play.world.run(play.world.now_s + 120.0)
    play.server.want(play.stage.newest)
    play.world.run(play.world.now_s + 3600.0)
    play.invariants.check()
    known = play.server.knowledge
    end = known.ends.get(known.counter)
    assert play.is_at_rest, f"expected rest within an hour of honest storage, got {play.invariants.attempt}"
    assert (end.state if end is not None else None, play.runs) == (State.SUCCEEDED, play.stage.newest.digest)


def _do_nothing(_play: Play) -> None:
    """The storm itself says what happens."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.storms", description=__doc__.partition("\n")[0])
    seeds = parser.add_mutually_exclusive_group(required=True)
    seeds.add_argument("--seeds", type=int, help="so many storms, from seed 0 on")
    seeds.add_argument("--seed", type=int, help="the storm of this seed")
    parser.add_argument("--lie", type=float, default=0.0, help="how often a flush is lied about; breaks the promises")
    options = parser.parse_args(arguments)
    logging.disable()
    stage = Stage()
    begun, begun_s = from_factory(stage), time.perf_counter()
    chosen = range(options.seeds) if options.seed is None else (options.seed,)
    broken = 0
    for seed in chosen:
        try:
            digest = storm(stage, begun, seed, lie=options.lie).world.log_digest()
        except AssertionError:
            if not options.lie:
                raise
            broken += 1
            continue
        if options.seed is not None:
            print(f"log {digest}")
    print(f"{len(chosen)} storms, {broken} violations, {time.perf_counter() - begun_s:.0f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

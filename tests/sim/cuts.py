"""Power cuts at every operation, and again at every operation of the recovery: `python -m tests.sim.cuts`.

After MCUboot's simulator and littlefs's power-loss runner: play a scene once and keep the whole world at each operation
of the disk that changes anything, before it takes effect. Then, for each of these moments and each outcome (everything
that waits is kept; all of it is dropped; a seeded mixture of kept, dropped and torn), go back to the moment, cut the
power, switch on again and play to the end. All invariants are checked on the way, and at the end the gateway must run
what the scene says, with its terminal report delivered. For depth 2 the recovery is cut in the same way at each of its
own operations.

What outlives a cut is the disk, what the server knows, and what the invariants remember; a play is a function of these
and of a seed. So a state that was recovered from once need not be again: many cuts leave equal states, and the table
shows both numbers.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from tests.sim.disk import SimDisk
from tests.sim.enrolment import Enrolment
from tests.sim.medium import Outcome
from tests.sim.provisioning import Provisioning
from tests.sim.scenes import SCENES, Begun, Scene, Stage
from tests.sim.shortcuts import remembering

_NOTHING = "the end"

Watch = Callable[[str, Callable[[], "State"]], None]


class State(Protocol):
    """All that outlives a power cut."""

    @property
    def disk(self) -> SimDisk: ...

    @property
    def key(self) -> object: ...

    def fork(self) -> Self: ...


class Subject(Protocol):
    """What can be played from a state to its end."""

    @property
    def name(self) -> str: ...

    def begin(self) -> State: ...

    def play(self, state: State, seed: int, watch: Watch) -> None:
        """Play and check the end. `watch` is told of each operation before it is done, with a way to keep the state."""
        ...


@dataclass(frozen=True, slots=True)
class ScenePlay:
    """A scene of one gateway as a subject."""

    stage: Stage
    scene: Scene

    @property
    def name(self) -> str:
        return self.scene.name

    def begin(self) -> State:
        return self.scene.start(self.stage)

    def play(self, state: State, seed: int, watch: Watch) -> None:
        assert isinstance(state, Begun)
        play = self.scene.play(self.stage, state, seed, lambda what, playing: watch(what, playing.state))
        watch(_NOTHING, play.state)


@dataclass(frozen=True, slots=True)
class Moment:
    """A state, and the operation before which it was kept."""

    number: int
    operation: str
    state: State


@dataclass(slots=True)
class Tally:
    """One line of the table."""

    name: str
    operations: int = 0
    cuts: int = 0
    distinct_cuts: int = 0
    pairs: int = 0
    distinct_pairs: int = 0
    seconds: float = 0.0
    recovered: set[object] = field(default_factory=set)

    def row(self) -> str:
        counts = (self.operations, self.cuts, self.distinct_cuts, self.pairs, self.distinct_pairs)
        return f"{self.name:14}" + "".join(f"{count:>12,}" for count in counts) + f"{self.seconds:>10.1f}"


HEADER = (
    f"{'scene':14}"
    + "".join(f"{title:>12}" for title in ("operations", "cuts", "(distinct)", "pairs", "(distinct)"))
    + f"{'seconds':>10}"
)


class Explorer:
    """Cuts one subject everywhere."""

    def __init__(self, subject: Subject, *, mixtures: int = 2, pairs: float = 0.0, seed: int = 0) -> None:
        """`mixtures`: how many outcomes beside all and nothing; `pairs`: which share of the moments of the recoveries
        is cut again, drawn by `seed`.
        """
        self._subject = subject
        self._outcomes = [Outcome.KEPT, Outcome.DROPPED, *[Outcome.MIXED] * mixtures]
        self._pairs = pairs
        self._rng = random.Random(seed)
        self.tally = Tally(subject.name)

    def explore(self) -> Tally:
        begun_s = time.perf_counter()
        firsts = self._moments(self._subject.begin(), depth=0, path=())
        self.tally.operations = len(firsts) - 1
        for first in firsts:
            for cut, path in self._cuts(first, ()):
                self._recover(cut, path)
        self.tally.seconds = time.perf_counter() - begun_s
        return self.tally

    def _recover(self, cut: State, path: tuple[str, ...]) -> None:
        """From a first cut, unless the same was done before; then cut the recovery."""
        self.tally.cuts += 1
        if not self._is_new(cut, 1):
            return
        self.tally.distinct_cuts += 1
        for second in self._moments(cut, depth=1, path=path):
            for again, longer in self._cuts(second, path):
                self.tally.pairs += 1
                if self._is_new(again, 2):
                    self.tally.distinct_pairs += 1
                    self._moments(again, depth=2, path=longer)

    def _is_new(self, cut: State, depth: int) -> bool:
        key = hash((depth, cut.key))
        if key in self.tally.recovered:
            return False
        self.tally.recovered.add(key)
        return True

    def _cuts(self, moment: Moment, path: tuple[str, ...]) -> Iterator[tuple[State, tuple[str, ...]]]:
        """The moment after a cut, by each outcome, and the way to it in words."""
        for number, outcome in enumerate(self._outcomes):
            state = moment.state.fork()
            state.disk.rng = random.Random(f"{path} {moment.number} {number}")
            state.disk.cut(outcome)
            yield state, (*path, f"{moment.number}:{moment.operation}:{outcome.name.lower()}-{number}")

    def _moments(self, state: State, depth: int, path: tuple[str, ...]) -> list[Moment]:
        """Play from a state to the end; the moments to be cut. A failure says by which cuts it is reached."""
        moments: list[Moment] = []
        share = (1.0, self._pairs, 0.0)[depth]
        count = 0

        def watch(what: str, keep: Callable[[], State]) -> None:
            nonlocal count
            count += 1
            if share == 1.0 or (share and self._rng.random() < share):
                moments.append(Moment(count - 1, what, keep()))

        try:
            # Every boot of a machine has its own random numbers, so each depth has a seed of its own.
            self._subject.play(state, depth, watch)
        except Exception as error:
            error.add_note(f"scene {self._subject.name!r}, cuts {path}")
            raise
        return moments


def subjects(stage: Stage) -> list[Subject]:
    return [*(ScenePlay(stage, scene) for scene in SCENES), Provisioning(stage.fleet), Enrolment(stage.fleet)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.cuts", description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=float, default=1.0, help="share of the recoveries' operations to cut again")
    parser.add_argument("--mixtures", type=int, default=2, help="outcomes of each cut beside all and nothing")
    parser.add_argument("--seed", type=int, default=0, help="which pairs, if not all")
    parser.add_argument("scene", nargs="*", help="default: every scene")
    options = parser.parse_args(arguments)
    logging.disable()
    print(HEADER, flush=True)
    tallies: list[Tally] = []
    chosen = [subject for subject in subjects(Stage()) if not options.scene or subject.name in options.scene]
    with remembering():
        for subject in chosen:
            explorer = Explorer(subject, mixtures=options.mixtures, pairs=options.pairs, seed=options.seed)
            tallies.append(explorer.explore())
            print(tallies[-1].row(), flush=True)
    cuts, pairs = sum(tally.cuts for tally in tallies), sum(tally.pairs for tally in tallies)
    print(f"{len(tallies)} scenes, {cuts:,} cuts and {pairs:,} cuts after a cut: all recover")
    return 0


if __name__ == "__main__":
    sys.exit(main())

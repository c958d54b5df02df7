"""`make soak`: everything that is too long for the suite, and one table at the end.

Each part is a command of its own that ends with a line saying what it tried and what did not hold; the table is made of
these lines. The fleets take every core and go first, alone, since their time is promised; what is left is shared out
among `--at-once` lanes, the longest first. A part that fails does not keep the others from running, but the exit status
says so.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.sim.scenes import SCENES

_DEVICES_AT_ONCE = 1000
_FLEETS_TO_A_STORM = 10
"""Gateways of fleets go through storms of their own."""


@dataclass(frozen=True, slots=True)
class Part:
    """One command."""

    what: str
    module: str
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.module, *self.options))


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a part: its last line, and how long it took."""

    part: Part
    line: str
    seconds: float
    holds: bool


def fleets(seeds: int, at_once: int) -> Part:
    return Part("fleets in bad weather, simulated", "tests.sim", ("--seeds", f"0:{seeds}", "--workers", str(at_once)))


def others(seeds: int) -> Iterator[Part]:
    """The rest, roughly from the longest to the shortest."""
    for scene in sorted(SCENES, key=lambda scene: not scene.is_long):
        yield Part(_cut_everywhere(scene.name), "tests.sim.cuts", (scene.name,))
    yield Part("each system call of an update fails, on ext4", "tests.faults.syscalls", ("--ext4",))
    yield Part("each system call of an update fails, on plain files", "tests.faults.syscalls")
    yield Part(
        "storms over a gateway's storage, simulated",
        "tests.sim.storms",
        ("--seeds", str(seeds // _FLEETS_TO_A_STORM or 1)),
    )
    yield Part("each file of a gateway damaged", "tests.faults.corruption")
    for subject in ("provision", "enrol"):
        yield Part(_cut_everywhere(subject), "tests.sim.cuts", (subject,))
    yield Part(
        "power cuts under the real agent, on a file system that forgets", "tests.faults.amnesia", ("--seeds", "0:100")
    )
    yield Part("floods over a real broker", "tests.fuzz.floods", ("--devices", str(_DEVICES_AT_ONCE)))


def _cut_everywhere(scene: str) -> str:
    return f"{scene}: power cut at each operation, and at each of the recovery"


def run(part: Part) -> Result:
    """Run a part to its end, showing what it prints."""
    print(f"== {part.what}: python -m {part}", flush=True)
    began_s = time.monotonic()
    last = ""
    with subprocess.Popen(
        [sys.executable, "-m", part.module, *part.options], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            print(f"[{part}] {line}", end="", flush=True)
            last = line.strip() or last
    return Result(part, last, time.monotonic() - began_s, child.returncode == 0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=1000, help="simulated fleets, and a tenth as many storms")
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1, help="parts that run side by side")
    options = parser.parse_args()
    results = [run(fleets(options.seeds, options.at_once))]
    with ThreadPoolExecutor(options.at_once) as lanes:
        results += lanes.map(run, others(options.seeds))
    width = max(len(result.part.what) for result in results)
    print()
    for result in results:
        print(
            f"{'ok  ' if result.holds else 'FAIL'} {result.part.what:<{width}} {result.seconds:6.0f} s  {result.line}"
        )
    return 0 if all(result.holds for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())

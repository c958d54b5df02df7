"""`make soak`: everything that is too long for the suite, one part after the other, and one table at the end.

Each part is a command of its own that ends with a line saying what it tried and what did not hold; the table is made of
these lines. A part that fails does not keep the others from running, but the exit status says so.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass

_DEVICES_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Part:
    """One command."""

    what: str
    module: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a part: its last line, and how long it took."""

    part: Part
    line: str
    seconds: float
    holds: bool


def parts(seeds: int) -> list[Part]:
    """Everything, from the shortest to the longest."""
    return [
        Part(
            "power cuts under the real agent, on a file system that forgets",
            "tests.faults.amnesia",
            ("--seeds", "0:100"),
        ),
        Part("floods over a real broker", "tests.fuzz.floods", ("--devices", str(_DEVICES_AT_ONCE))),
        Part("fleets in bad weather, simulated", "tests.sim", ("--seeds", f"0:{seeds}", "--workers", "2")),
        Part("storms over a gateway's storage, simulated", "tests.sim.storms", ("--seeds", str(seeds))),
        Part("each file of a gateway damaged", "tests.faults.corruption"),
        Part("each system call of an update fails, on ext4", "tests.faults.syscalls", ("--ext4",)),
        Part("each system call of an update fails, on plain files", "tests.faults.syscalls"),
        Part("power cuts at each operation, and at each of the recovery", "tests.sim.cuts"),
    ]


def run(part: Part) -> Result:
    """Run a part to its end, showing what it prints."""
    print(f"== {part.what}: python -m {' '.join((part.module, *part.options))}", flush=True)
    began_s = time.monotonic()
    last = ""
    with subprocess.Popen(
        [sys.executable, "-m", part.module, *part.options], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return Result(part, last, time.monotonic() - began_s, child.returncode == 0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=1000, help="simulated fleets and storms, each")
    results = [run(part) for part in parts(parser.parse_args().seeds)]
    width = max(len(result.part.what) for result in results)
    print()
    for result in results:
        print(
            f"{'ok  ' if result.holds else 'FAIL'} {result.part.what:<{width}} {result.seconds:6.0f} s  {result.line}"
        )
    return 0 if all(result.holds for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())

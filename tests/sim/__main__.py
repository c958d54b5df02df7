"""The swarm from the command line.

python -m tests.sim --seed 7                         one seed; a failure shows what happened last
python -m tests.sim --seeds 0:10000 --workers 2      many, with a line for each that fails and a table at the end
"""

from __future__ import annotations

import argparse
import gc
import logging
import multiprocessing
import sys
import time
import traceback
from collections.abc import Iterator

from .swarm import Outcome, sail, sail_fast

_CHUNK = 8
_YOUNG_MAX = 2_000_000
"""So many new objects before a search for cycles, which are some worlds that have ended."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description="Simulated fleets in bad weather.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="replay one seed")
    which.add_argument("--seeds", help="A:B, from A up to and without B")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)  # what the product logs about a hostile network would hide what is found
    gc.freeze()  # what was imported stays; without this every search would walk it again
    gc.set_threshold(_YOUNG_MAX)
    if arguments.seed is not None:
        print(sail(arguments.seed))
        return 0
    first, last = map(int, arguments.seeds.split(":"))
    return run_many(range(first, last), arguments.workers)


def run_many(seeds: range, workers: int) -> int:
    """Run seeds; 1 if any of them failed."""
    began_s = time.perf_counter()
    failures: list[str] = []
    steps, virtual_s = 0, 0.0
    for result in _results(seeds, workers):
        if isinstance(result, Outcome):
            steps += result.steps
            virtual_s += result.virtual_s
        else:
            failures.append(result)
            print(result, flush=True)
    took_s = time.perf_counter() - began_s
    print(
        f"{len(seeds):,} seeds, {len(failures)} violations: {steps:,} events in {virtual_s / 86_400:.0f} virtual days; "
        f"{took_s:.0f} s on {workers} workers, {1000 * took_s / max(1, len(seeds)):.0f} ms a seed"
    )
    return 1 if failures else 0


def _results(seeds: range, workers: int) -> Iterator[Outcome | str]:
    if workers == 1:
        yield from map(_try, seeds)
        return
    with multiprocessing.Pool(workers) as pool:
        yield from pool.imap_unordered(_try, seeds, chunksize=_CHUNK)


def _try(seed: int) -> Outcome | str:
    """The outcome, or what failed and how to see it again. Whatever a seed raises is a finding."""
    try:
        return sail_fast(seed)
    except Exception as error:  # noqa: BLE001
        text = traceback.format_exception_only(error)[0].strip()
        return f"seed {seed}: {text}\n    python -m tests.sim --seed {seed}"


if __name__ == "__main__":
    sys.exit(main())

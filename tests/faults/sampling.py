"""Which cases a run tries: all, some that a seed chooses, or the one that a failure named. The options are the same
everywhere.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from typing import TypeVar

CaseT = TypeVar("CaseT")


def add_options(parser: argparse.ArgumentParser, cases: str) -> None:
    """`--CASES`, `--seed` and `--only`."""
    parser.add_argument(f"--{cases}", dest="cases_max", type=int, help="so many of them; default: all")
    parser.add_argument("--seed", type=int, default=1, help="which of them")
    parser.add_argument("--only", metavar="CASE", help="one, as a failure names it")


def chosen(cases: Sequence[CaseT], options: argparse.Namespace) -> list[CaseT]:
    """The cases to try."""
    if options.only is not None:
        return [case for case in cases if str(case) == options.only]
    if options.cases_max is None:
        return list(cases)
    return random.Random(options.seed).sample(cases, min(options.cases_max, len(cases)))


def tell_failure(case: object, wrong: Sequence[str]) -> None:
    """Print what did not hold, and the option that tries it again."""
    print(f"--only {str(case)!r}", *wrong, sep="\n  ", flush=True)

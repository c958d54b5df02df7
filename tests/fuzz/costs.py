"""What an input costs, measured in a way that gives the same answer every time.

*Steps* are calls, of Python functions and of C functions by Python ones, as the interpreter's profiler counts them: a
loop over hostile input calls something. What one C call does inside is not seen; CPU time shows it, and only the fuzz
run looks at that. *Memory* is the peak of what is allocated through Python's allocators, liblzma's state included;
libzstd allocates by itself, and only the fuzz run sees that, as resident memory.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType


@dataclass(frozen=True, slots=True)
class Cost:
    """What one input took."""

    steps: int
    peak_bytes: int


def measure(read: Callable[[], object]) -> Cost:
    """Run `read`; count its calls and see what it allocates."""
    steps = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal steps
        steps += event in ("call", "c_call")

    before = sys.getprofile()
    tracemalloc.start()
    base, _ = tracemalloc.get_traced_memory()
    sys.setprofile(count)
    try:
        read()
    finally:
        sys.setprofile(before)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return Cost(steps, peak - base)

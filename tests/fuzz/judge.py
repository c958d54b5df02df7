"""What must hold of one input, and what is a find.

Cost is measured from outside the target. CPU time is that of the thread, so that a busy machine changes nothing but the
noise of caches; an input that seems too slow is measured again before it counts, and the limit is widened by
`CPU_FACTOR`, since coverage counters run along. Memory is resident memory, C libraries and all: the rise of the
process's high-water mark over what was resident before. It shows the first input that passes a mark, not a second one
below it; the tests, which need the same answer every time, count Python's own allocations instead (`test_costs`).
"""

from __future__ import annotations

import hashlib
import os
import resource
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from narrowboat_protocol.errors import NarrowboatError
from narrowboat_protocol.limits import KIB, MIB

from .targets import Target

MESSAGE_CHARACTERS_MAX = 4096
_TRIES = 3
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PRODUCT = "narrowboat_"


@dataclass(frozen=True, slots=True)
class Budget:
    """What one input may cost."""

    cpu_s: float = 0.1
    memory_bytes: int = 64 * MIB


BUDGET = Budget()
CPU_FACTOR = 5


@dataclass(frozen=True, slots=True)
class Find:
    """A property that does not hold. `cause` is the same for all inputs that show the same fault."""

    target: str
    cause: str
    data: bytes
    trace: str = ""

    @property
    def name(self) -> str:
        return hashlib.sha256(self.data).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of an input. `ending` tells inputs apart that ended in different places."""

    accepted: bool
    ending: str
    find: Find | None = None


def judge(target: Target, data: bytes, budget: Budget = BUDGET) -> Verdict:
    """Read one input and check every property."""
    resident, peak, began_s = _resident_bytes(), _peak_bytes(), time.thread_time()
    verdict = _read(target, data)
    if verdict.find is not None:
        return verdict
    cpu_s = budget.cpu_s * CPU_FACTOR
    if time.thread_time() - began_s > cpu_s and _fastest_s(target, data) > cpu_s:
        return _found(target, data, f"costs more than {cpu_s:.2f} s of CPU time")
    if _peak_bytes() > peak and _peak_bytes() - resident > budget.memory_bytes:
        return _found(target, data, f"costs more than {budget.memory_bytes // MIB} MiB of memory")
    return verdict


def _read(target: Target, data: bytes) -> Verdict:
    try:
        again = target.read(data)
    except target.refusals as error:
        if len(str(error)) > MESSAGE_CHARACTERS_MAX:
            return _found(target, data, f"says {len(str(error)) // 1000} thousand characters", error)
        return Verdict(accepted=False, ending=f"{error.reason} at {_place(error.__traceback__)}")
    except MemoryError as error:
        return _found(target, data, f"MemoryError at {_place(error.__traceback__)}", error)
    except Exception as error:  # noqa: BLE001  # this is what is looked for
        kind = "another error of ours" if isinstance(error, NarrowboatError) else "a foreign error"
        return _found(target, data, f"{kind}, {type(error).__name__}, at {_place(error.__traceback__)}", error)
    if again is not None and again != data:
        return _found(target, data, "is accepted and encodes again to other bytes")
    return Verdict(accepted=True, ending="accepted")


def _found(target: Target, data: bytes, cause: str, error: BaseException | None = None) -> Verdict:
    trace = "".join(traceback.format_exception(error)) if error is not None else ""
    return Verdict(accepted=False, ending=cause, find=Find(target.name, cause, data, trace))


def _place(trace: TracebackType | None) -> str:
    """The innermost line of ours that an error passed."""
    frames = traceback.extract_tb(trace)
    ours = [frame for frame in frames if _PRODUCT in frame.filename] or list(frames)
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"


def _fastest_s(target: Target, data: bytes) -> float:
    times = []
    for _ in range(_TRIES):
        began_s = time.thread_time()
        _read(target, data)
        times.append(time.thread_time() - began_s)
    return min(times)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb", buffering=0) as file:  # noqa: PTH123  # the cheapest way, for every input
        return int(file.read().split()[1]) * _PAGE_BYTES

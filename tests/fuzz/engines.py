"""Who chooses the inputs.

Both engines mutate what they have by `Mutator`: most of the time a value is taken apart, changed and put together
again, so that what stands behind hashes and signatures is reached; else bytes are changed. An input that ends somewhere
new is kept and mutated further.

`walk` needs nothing but a seed and gives the same inputs for the same one: what it takes for new is where an input
ended. `fuzz_with_atheris` is libFuzzer: what it takes for new is coverage of the Python code. It never returns, so it
runs in a process of its own and counts in memory that it shares with its parent.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from types import ModuleType

from .judge import Find, judge
from .mutation import INPUT_BYTES_MAX, mutate_bytes, mutate_value
from .targets import Target

_STRUCTURED_SHARE = 0.7
_ACCEPTED_KEPT_SHARE = 0.2
_KEPT_MAX = 200
_TIMEOUT_S = 10
_RSS_MIB_MAX = 1024
_COUNTS = struct.Struct("=QQ")


class Mutator:
    """Changes inputs of one target."""

    def __init__(self, target: Target) -> None:
        self._shape = target.shape

    def change(self, data: bytes, rng: Random, by_bytes: Callable[[bytes], bytes]) -> bytes:
        """One or a few changes of the value, or what `by_bytes` makes of the bytes."""
        if self._shape is not None and rng.random() < _STRUCTURED_SHARE:
            # Whatever it is that a shape cannot take apart or put together, its bytes can be changed.
            with suppress(Exception):
                value = self._shape.take_apart(data)
                for _ in range(rng.choice((1, 1, 1, 2, 3))):
                    value = mutate_value(value, rng)
                return self._shape.put_together(value)[:INPUT_BYTES_MAX]
        return by_bytes(data)[:INPUT_BYTES_MAX]


class Counts:
    """How many inputs were read and how many accepted; a child's are seen by its parent."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _COUNTS.size)

    @property
    def executions(self) -> int:
        return int(_COUNTS.unpack_from(self._memory)[0])

    @property
    def accepted(self) -> int:
        return int(_COUNTS.unpack_from(self._memory)[1])

    def add(self, *, accepted: bool) -> None:
        _COUNTS.pack_into(self._memory, 0, self.executions + 1, self.accepted + accepted)


def walk(
    target: Target, seed: str, goes_on: Callable[[int], bool], on_find: Callable[[Find], None], counts: Counts
) -> None:
    """Read the seeds and then what grows out of them, for as long as `goes_on` says of the number read so far."""
    rng, mutator = Random(f"{target.name} {seed}"), Mutator(target)
    kept: list[bytes] = []
    endings: set[str] = set()
    fresh = [data[:INPUT_BYTES_MAX] for data in (*target.seeds, b"")]
    while goes_on(counts.executions):
        data = fresh.pop() if fresh else mutator.change(rng.choice(kept or target.seeds), rng, _byte_changes(rng, kept))
        verdict = judge(target, data)
        counts.add(accepted=verdict.accepted)
        new = verdict.ending not in endings
        if new or (verdict.accepted and rng.random() < _ACCEPTED_KEPT_SHARE):
            endings.add(verdict.ending)
            kept = [*kept[-_KEPT_MAX:], data]
        if new and verdict.find is not None:
            on_find(verdict.find)


def fuzz_with_atheris(
    atheris: ModuleType,
    target: Target,
    seconds: int,
    seed: int,
    folder: Path,
    on_find: Callable[[Find], None],
    counts: Counts,
) -> None:
    """Run libFuzzer over one target; it ends this process. What ends the process early lies in `folder` then."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(data[:INPUT_BYTES_MAX])
    causes: set[str] = set()
    mutator = Mutator(target)

    def read(data: bytes) -> None:
        verdict = judge(target, data)
        counts.add(accepted=verdict.accepted)
        if verdict.find is not None and verdict.find.cause not in causes:
            causes.add(verdict.find.cause)
            on_find(verdict.find)

    def change(data: bytes, max_size: int, number: int) -> bytes:
        return mutator.change(data, Random(number), lambda each: atheris.Mutate(each, max_size))

    options = {
        "max_total_time": seconds,
        "max_len": INPUT_BYTES_MAX,
        "seed": seed,
        "timeout": _TIMEOUT_S,
        "rss_limit_mb": _RSS_MIB_MAX,
        "verbosity": 0,
        "print_final_stats": 0,
        "artifact_prefix": f"{folder}/stopped-",
    }
    arguments = ["fuzz", *(f"-{name}={value}" for name, value in options.items()), str(corpus)]
    atheris.Setup(arguments, read, custom_mutator=change)
    atheris.Fuzz()


def _byte_changes(rng: Random, others: Sequence[bytes]) -> Callable[[bytes], bytes]:
    return lambda data: mutate_bytes(data, rng, others)

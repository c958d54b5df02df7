"""No decoder breaks on hostile bytes: a bounded, seeded part of `make fuzz`, and everything that it ever found."""

from __future__ import annotations

import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from narrowboat_protocol.errors import EncodingError, NarrowboatError, PeerError, Reason, UsageError
from narrowboat_protocol.limits import KIB

from .bombs import bombs_for
from .costs import measure
from .engines import Counts, walk
from .judge import BUDGET, Budget, Find, judge
from .mutation import INPUT_BYTES_MAX
from .targets import Target, all_targets

TARGETS = all_targets()
EXECUTIONS = 100
STEPS_MAX = 400_000
"""Calls for one input. The scanner takes up to nine for a byte where each byte is an item."""
FINDS = sorted((Path(__file__).parent / "finds").glob("*/*"))


def told(find: Find) -> str:
    return f"{find.target}: {find.cause}\n{find.data.hex()}\n{find.trace}"


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_leaves_with_a_foreign_error_costs_too_much_or_has_two_encodings(name: str) -> None:
    finds: list[Find] = []
    counts = Counts()
    walk(TARGETS[name], "suite", lambda done: done < EXECUTIONS, finds.append, counts)
    assert not finds, told(finds[0])
    assert counts.executions == EXECUTIONS


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_reach_what_stands_behind_the_checks(name: str) -> None:
    """One of them at least is accepted, and still is when its shape took it apart and put it together."""
    target = TARGETS[name]
    accepted = [seed for seed in target.seeds if judge(target, seed).accepted]
    if name != "signature":  # where being accepted is what must never happen
        assert accepted
    if target.shape is not None and accepted:
        assert judge(target, target.shape.put_together(target.shape.take_apart(accepted[0]))).accepted


@pytest.mark.parametrize("path", FINDS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_once_is_not_found_again(path: Path) -> None:
    find = judge(TARGETS[path.parent.name], path.read_bytes()).find
    assert find is None, told(find)


@pytest.mark.parametrize("name", TARGETS)
def test_a_bomb_costs_no_more_than_its_bytes(name: str) -> None:
    """Steps and allocated memory, which are the same on every run; CPU time is for the fuzz run."""
    target = TARGETS[name]

    for bomb, data in bombs_for(target):
        assert len(data) <= INPUT_BYTES_MAX, bomb

        def read(data: bytes = data) -> None:
            with suppress(NarrowboatError):
                target.read(data)

        cost = measure(read)
        assert cost.steps <= STEPS_MAX, f"{bomb}: {cost}"
        assert cost.peak_bytes <= BUDGET.memory_bytes, f"{bomb}: {cost}"


# Whether the judge sees what it is there to see.


def leave_with(error: Exception) -> Callable[[bytes], bytes]:
    def read(_: bytes) -> bytes:
        raise error

    return read


def take_memory(data: bytes) -> bytes:
    """More than the process ever had, which may be much after other tests: only a new peak is seen."""
    unused_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB
    return data if b"\0" * (unused_bytes + BUDGET.memory_bytes) else b""


def take_time(data: bytes) -> bytes:
    return data if sum(range(3_000_000)) else b""


FAULTY: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "a foreign error": (leave_with(ValueError("no")), "a foreign error, ValueError"),
    "an error that blames us": (leave_with(UsageError(Reason.BAD_USE, "no")), "another error of ours, UsageError"),
    "a failed assertion": (leave_with(AssertionError("no")), "a foreign error, AssertionError"),
    "endless words": (leave_with(PeerError(Reason.BAD_DOCUMENT, "x" * 5000)), "says 5 thousand characters"),
    "a second encoding": (lambda data: data + b"\0", "encodes again to other bytes"),
    "much memory": (take_memory, "more than 64 MiB of memory"),
    "much time": (take_time, "more than 0.01 s of CPU time"),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_the_judge_finds_each_kind_of_fault(fault: str) -> None:
    read, cause = FAULTY[fault]
    cpu_s = {"much time": 0.002, "much memory": 60.0}.get(fault, BUDGET.cpu_s)
    verdict = judge(Target("faulty", read, (b"",)), b"data", Budget(cpu_s=cpu_s))
    assert verdict.find is not None
    assert cause in verdict.find.cause


def test_the_judge_finds_nothing_in_a_decoder_that_keeps_the_rules() -> None:
    for read in (leave_with(EncodingError(Reason.TOO_LARGE, "expected less")), bytes, lambda _: None):
        assert judge(Target("good", read, (b"",)), b"data").find is None


def test_the_same_seed_gives_the_same_inputs_and_another_gives_others() -> None:
    def inputs(seed: str) -> list[bytes]:
        read: list[bytes] = []
        target = Target("any", read.append, TARGETS["report"].seeds)
        walk(target, seed, lambda done: done < 50, lambda _: None, Counts())
        return read

    assert inputs("1") == inputs("1")
    assert inputs("1") != inputs("2")

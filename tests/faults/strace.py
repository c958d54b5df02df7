"""A forked child under strace: what it asked of its storage, and one of those calls failing.

The child is a fork of this process, so nothing is imported anew for each of hundreds of runs; it waits until strace has
seized it. Two facts about strace (6.1) decide how a call is named. It injects only into calls that it also traces, so
both options get the same names. And it counts calls for each thread by itself, after its filter on paths (`-P`): so a
call is (name, path, n). Where two threads read one file, as they do the release file, it is the n-th call of each.

A log line may be cut in two where threads interleave; the result then stands in the second part.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.tools import require_tool

CRASHED = 70
"""The exit status of a child that met what is not an error of ours."""
_PATIENCE_S = 60
_ATTACH_S = 10.0

_LINE = re.compile(r"^(?P<thread>\d+) +(?P<rest>.*)$")
_CALL = re.compile(r"^(?P<name>\w+)\((?P<arguments>.*?)(?:\) += (?P<result>-?\d+|\?).*| <unfinished \.\.\.>)$")
_RESUMED = re.compile(r"^<\.\.\. (?P<name>\w+) resumed>.*\) += (?P<result>-?\d+|\?)")
_FD_PATH = re.compile(r"^(?:AT_FDCWD<[^>]*>, )?(?:\d+<(?P<fd>[^>]*)>|\"(?P<name>[^\"]*)\")")


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a file."""

    start: int
    end: int


@dataclass(slots=True)
class Traced:
    """A call in a log: when it began and when it ended count, in lines."""

    thread: int
    name: str
    arguments: str
    begun: int
    ended: int | None = None
    result: int | None = None

    @property
    def path(self) -> str | None:
        found = _FD_PATH.match(self.arguments)
        return found and (found["fd"] or found["name"])


@dataclass(frozen=True, slots=True)
class Call:
    """The n-th call of one name on one path."""

    name: str
    path: Path
    n: int


@dataclass(frozen=True, slots=True)
class Ran:
    """How a child ended: its exit status, or the signal that ended it, negative; and what it printed."""

    status: int
    output: str


def run_child(work: Callable[[], int], output: Path, strace: Sequence[str] | None = None) -> Ran:
    """Fork, and do `work` in the child, whose exit status it returns; under strace with these options, if any."""
    ready, go = os.pipe()
    child = os.fork()
    if not child:
        os.close(go)
        _be_child(work, ready, output)
    os.close(ready)
    tracer = None
    try:
        if strace is not None:
            tracer = subprocess.Popen([require_tool("strace"), "-f", "-qq", "-p", str(child), *strace])
            _wait_for_tracer(child)
    finally:
        os.close(go)
    _, status = os.waitpid(child, 0)
    if tracer is not None:
        tracer.wait(_PATIENCE_S)
    return Ran(os.waitstatus_to_exitcode(status), output.read_text(errors="replace"))


def _be_child(work: Callable[[], int], ready: int, output: Path) -> None:
    status = CRASHED
    try:
        signal.alarm(_PATIENCE_S)
        fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        logging.basicConfig(level=logging.INFO)
        os.read(ready, 1)  # nothing comes; the parent closes the other end
        status = work()
    except BaseException:  # noqa: BLE001  # it must not run on as a second parent
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _wait_for_tracer(child: int) -> None:
    give_up_s = time.monotonic() + _ATTACH_S
    while "TracerPid:\t0" in Path(f"/proc/{child}/status").read_text():
        if time.monotonic() > give_up_s:
            raise TimeoutError("expected strace to seize the child; may this user trace its own children?")
        time.sleep(0.001)


def tracing(names: Iterable[str], log: Path, *more: str) -> list[str]:
    """Options of strace that log these calls."""
    return ["-y", "-s", "0", "-o", str(log), "-e", f"trace={','.join(names)}", *more]


def read_log(log: Path) -> list[Traced]:
    """The calls in a log, in the order in which they began."""
    calls: list[Traced] = []
    unfinished: dict[int, Traced] = {}
    for number, line in enumerate(log.read_text(errors="replace").splitlines()):
        parts = _LINE.match(line)
        if parts is None:
            continue
        thread, rest = int(parts["thread"]), parts["rest"]
        if (call := _CALL.match(rest)) is not None:
            traced = Traced(thread, call["name"], call["arguments"], number)
            calls.append(traced)
            if call["result"] is None:
                unfinished[thread] = traced
            else:
                _end(traced, number, call["result"])
        elif (resumed := _RESUMED.match(rest)) is not None and thread in unfinished:
            _end(unfinished.pop(thread), number, resumed["result"])
    return calls


def _end(call: Traced, number: int, result: str) -> None:
    if result != "?":
        call.ended, call.result = number, int(result)


def calls_of(traced: Iterable[Traced], folder: Path) -> Iterator[Call]:
    """Every call on a path in `folder`, by name, path and number."""
    numbers: Counter[tuple[str, str, int]] = Counter()
    seen: set[Call] = set()
    for item in traced:
        path = item.path
        if path is None or not Path(path).is_relative_to(folder):
            continue
        numbers[item.name, path, item.thread] += 1
        call = Call(item.name, Path(path), numbers[item.name, path, item.thread])
        if call not in seen:
            seen.add(call)
            yield call


def synced_spans(traced: Iterable[Traced], path: Path) -> list[Span]:
    """What of a file was synced: written before a sync that succeeded began. Spans that touch are one."""
    mine = [item for item in traced if item.path == str(path) and item.ended is not None and (item.result or 0) >= 0]
    syncs = [item.begun for item in mine if item.name in ("fsync", "fdatasync")]
    last = max(syncs, default=-1)
    spans = []
    for item in mine:
        if item.name == "pwrite64" and item.ended is not None and item.ended < last and item.result is not None:
            start = int(item.arguments.rsplit(", ", 1)[1])
            spans.append(Span(start, start + item.result))
    return _merged(spans)


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for span in sorted(spans, key=lambda span: span.start):
        if merged and span.start <= merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged

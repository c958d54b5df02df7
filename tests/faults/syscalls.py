r"""Every system call of an update that touches storage, failing one at a time.

    python -m tests.faults.syscalls                      # every point, on plain files
    python -m tests.faults.syscalls --ext4               # the same on a small ext4, mounted for this process alone
    python -m tests.faults.syscalls --points 40 --seed 7 # some of them
    python -m tests.faults.syscalls --only "fdatasync slot-b.img 2 EIO"

A good update is run once under strace, and its calls on the gateway's own files are counted: openings, reads, writes,
syncs, renames, removals and allocations of the boot loader and of the agent, from the offer to the boot after the
commit. Then, for each call and each fault, the same gateway updates itself while that call fails with EIO, ENOSPC or
EINTR, or it and all that follow on the same file do (EIO+, ENOSPC+), or it is not carried out because the process was
killed in front of it. What that leaves is judged by `verdict`; then the machine is switched on without a fault, and
must come to the committed new release by itself.

A call that is interrupted (EINTR) is made again by Python, save a rename or a removal: so there nothing may be noticed
at all. What of the slot was synced is known from the log, when the fault is in a call on the slot. Killing a process is
not a power cut, since the kernel keeps what was written: `amnesia` is for that.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.tools import require_tool

from .mounts import keep_mounts_to_ourselves
from .sampling import add_options, chosen, tell_failure
from .station import DONE, NOT_DONE, Station, live, make_station
from .strace import Call, Ran, calls_of, read_log, run_child, synced_spans, tracing
from .verdict import unfinished, violations, wrong_end

CHANGING = ("openat", "pwrite64", "write", "fsync", "fdatasync", "rename", "unlink", "fallocate", "ftruncate")
READING = ("read", "pread64", "preadv", "preadv2")
FAULTS = {
    "EIO": "error=EIO:when={n}",
    "EIO+": "error=EIO:when={n}+",
    "ENOSPC": "error=ENOSPC:when={n}",
    "ENOSPC+": "error=ENOSPC:when={n}+",
    "EINTR": "error=EINTR:when={n}",
    "SIGKILL": "signal=KILL:when={n}",
}
"""As strace is told. A plus: that call and all that follow."""
_READING_FAULTS = ("EIO", "EIO+", "EINTR")
_NOT_REPEATED = ("rename", "unlink")
_KILLED = -9
_MEDIUM_MIB = 32


@dataclass(frozen=True, slots=True)
class Point:
    """One call and its fault."""

    call: Call
    fault: str

    def __str__(self) -> str:
        return f"{self.call.name} {self.call.path} {self.call.n} {self.fault}"


class Bench:
    """A gateway that is made anew, in the same place, for each point."""

    def __init__(self, folder: Path, medium: Path) -> None:
        """`folder` holds logs and the gateway as it is at first; it is put to work in `medium`."""
        self._log, self._output = folder / "calls.log", folder / "output.log"
        self._template = folder / "template"
        self._template.mkdir()
        self._original = make_station(self._template)
        self._station = self._original.moved_to(medium / "gateway")

    def count(self) -> list[Call]:
        """The calls of an update to which nothing happens, with paths within the gateway's folder."""
        station = self._renew()
        log = tracing([*CHANGING, *READING], self._log)
        ran = run_child(lambda: live(station), self._output, log)
        faults = [*violations(station), *wrong_end(station)]
        if ran.status != DONE or faults:
            raise RuntimeError(f"expected a good update, got status {ran.status}, {faults}:\n{ran.output}")
        calls = calls_of(read_log(self._log), station.folder)
        return [Call(call.name, call.path.relative_to(station.folder), call.n) for call in calls]

    def suffer(self, point: Point) -> list[str]:
        """What does not hold after a fault, or after the recovery from it."""
        station, call = self._renew(), point.call
        path = station.folder / call.path
        inject = ("-P", str(path), "-e", f"inject={call.name}:{FAULTS[point.fault].format(n=call.n)}")
        names = {call.name, "pwrite64", "fdatasync", "fsync"}
        ran = run_child(lambda: live(station), self._output, tracing(sorted(names), self._log, *inject))
        wrong = self._unexpected(point, ran)
        synced = synced_spans(read_log(self._log), path) if path.name == "slot-b.img" else None
        wrong += violations(station, synced)
        if ran.status == DONE and not point.fault.endswith("+"):
            wrong += unfinished(station)
        if wrong:
            return [*wrong, ran.output]
        recovered = run_child(lambda: live(station), self._output)
        wrong = [*violations(station), *wrong_end(station)]
        if recovered.status != DONE:
            wrong.append(f"expected a clean start to finish the update, got status {recovered.status}")
        return [*wrong, ran.output, recovered.output] if wrong else []

    def _unexpected(self, point: Point, ran: Ran) -> list[str]:
        """What the fault did to the process that it should not do."""
        if "INJECTED" not in self._log.read_text() and ran.status != _KILLED:
            return ["the call was not reached"]
        if point.fault == "SIGKILL":
            return [] if ran.status == _KILLED else [f"expected it to be killed, got status {ran.status}"]
        if point.fault == "EINTR" and point.call.name not in _NOT_REPEATED:
            return [] if ran.status == DONE else [f"expected nothing to be noticed, got status {ran.status}"]
        return [] if DONE <= ran.status <= NOT_DONE else [f"expected an error of ours, got status {ran.status}"]

    def _renew(self) -> Station:
        shutil.rmtree(self._station.folder, ignore_errors=True)
        shutil.copytree(self._template, self._station.folder)
        return self._station


def points_of(calls: Sequence[Call]) -> list[Point]:
    """Each call with each fault that it can have."""
    return [
        Point(call, fault) for call in calls for fault in FAULTS if call.name in CHANGING or fault in _READING_FAULTS
    ]


@contextmanager
def mounted_ext4(folder: Path) -> Iterator[Path]:
    """A small ext4 in a file, mounted where only this process and its children see it, so that it goes with them. Needs
    root.
    """
    keep_mounts_to_ourselves()
    image, medium = folder / "medium.ext4", folder / "medium"
    medium.mkdir()
    with image.open("wb") as file:
        file.truncate(_MEDIUM_MIB << 20)
    _run("mke2fs", "-q", "-t", "ext4", str(image))
    _run("mount", "-o", "loop", str(image), str(medium))
    try:
        yield medium
    finally:
        _run("umount", str(medium))


def explore(bench: Bench, points: Sequence[Point]) -> int:
    """Try the points; print what does not hold, and a table. Returns how many third states there were."""
    begun_s = time.monotonic()
    tried: Counter[tuple[str, str]] = Counter()
    third = 0
    for point in points:
        tried[point.call.name, point.fault] += 1
        if wrong := bench.suffer(point):
            third += 1
            tell_failure(point, wrong)
    width = max(len(name) for name in (*CHANGING, *READING))
    print(" " * width, *(f"{fault:>8}" for fault in FAULTS))
    for name in (*CHANGING, *READING):
        if any(tried[name, fault] for fault in FAULTS):
            print(f"{name:{width}}", *(f"{tried[name, fault]:8}" for fault in FAULTS))
    print(f"{len(points)} points, {third} third states, {time.monotonic() - begun_s:.0f} s")
    return third


def _run(*command: str) -> None:
    subprocess.run([require_tool(command[0]), *command[1:]], check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.syscalls")
    parser.add_argument("--ext4", action="store_true", help="on an ext4 of its own; needs root")
    add_options(parser, "points")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="narrowboat-") as name:
        folder = Path(name)
        if not options.ext4:
            medium = folder / "medium"
            medium.mkdir()
            return _explore(folder, medium, options)
        with mounted_ext4(folder) as medium:
            return _explore(folder, medium, options)


def _explore(folder: Path, medium: Path, options: argparse.Namespace) -> int:
    bench = Bench(folder, medium)
    points = points_of(bench.count())
    print(f"an update makes {len(points)} points")
    points = chosen(points, options)
    return 1 if explore(bench, points) or not points else 0


if __name__ == "__main__":
    sys.exit(main())

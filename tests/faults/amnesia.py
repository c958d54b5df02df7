r"""Power cuts under the real agent, on a file system that forgets what was not synced (`forgetful`).

    python -m tests.faults.amnesia                        # a hundred gateways
    python -m tests.faults.amnesia --seeds 40:50
    python -m tests.faults.amnesia --seeds 17             # the one that a failure names

Each seed is one gateway: its whole folder, slots and all, lies on the file system. It updates itself, and the power
goes at a random operation; then it is switched on, and the power goes again, up to three times, so that recoveries are
cut as well. After each cut `verdict` is asked; at last the power stays, and the new release must come to be committed.
Every other write is short all the while.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.paths import REPOSITORY
from tests.support.processes import wait_for
from tests.support.tools import require_tool

from .mounts import keep_mounts_to_ourselves
from .station import DONE, live, make_station
from .strace import run_child
from .verdict import violations, wrong_end

SEEDS = range(100)
_CUTS_MAX = 3
_KILLED = -9
_MOUNT_S = 10.0


class Medium:
    """The mounted file system and the gateway on it."""

    def __init__(self, folder: Path, mount: Path) -> None:
        (folder / "template").mkdir()
        self._original = make_station(folder / "template")
        self._control = mount / ".control"
        self._output = folder / "output.log"
        self.station = self._original.moved_to(mount / "gateway")
        self.operations = self._count()

    def _count(self) -> int:
        """How many operations of an update change something."""
        self.renew()
        before = int(self._control.read_text())
        ran = run_child(lambda: live(self.station), self._output)
        wrong = [*violations(self.station), *wrong_end(self.station)]
        if ran.status != DONE or wrong:
            raise RuntimeError(f"expected a good update, got status {ran.status}, {wrong}:\n{ran.output}")
        return int(self._control.read_text()) - before

    def renew(self) -> None:
        """Make the gateway what it was at first, durably."""
        shutil.rmtree(self.station.folder, ignore_errors=True)
        shutil.copytree(self._original.folder, self.station.folder)
        self._control.write_text("sync")

    def suffer(self, seed: int) -> list[str]:
        """What does not hold in one gateway's life; cuts are counted by the caller."""
        chance = random.Random(seed)
        self.renew()
        story: list[str] = []
        for _ in range(chance.randint(1, _CUTS_MAX)):
            after, inner = chance.randrange(self.operations), chance.randrange(1 << 30)
            ran = run_child(lambda after=after, inner=inner: self._doomed(after, inner), self._output)  # type: ignore[misc]
            self._control.write_text("stay")
            story += [f"a cut after {after} operations", ran.output]
            if ran.status not in (_KILLED, DONE):
                return [f"expected the power to go, got status {ran.status}", *story]
            if wrong := violations(self.station):
                return [*wrong, *story]
        ran = run_child(lambda: live(self.station), self._output)
        wrong = [*violations(self.station), *wrong_end(self.station)]
        if ran.status != DONE:
            wrong.append(f"expected the update to be finished, got status {ran.status}")
        return [*wrong, *story, ran.output] if wrong else []

    def _doomed(self, after: int, seed: int) -> int:
        self._control.write_text(f"cut {after} {seed} {os.getpid()}")
        return live(self.station)


@contextmanager
def mounted(folder: Path) -> Iterator[Path]:
    """The file system, mounted where only this process and its children see it. Needs root."""
    mount = folder / "mount"
    mount.mkdir()
    keep_mounts_to_ourselves()
    command = [sys.executable, "-m", "tests.faults.forgetful", str(mount)]
    with subprocess.Popen(command, cwd=REPOSITORY) as server:
        try:
            wait_for(lambda: (mount / ".control").exists() or server.poll() is not None, _MOUNT_S, "a mount")
            yield mount
        finally:
            subprocess.run([require_tool("umount"), "--lazy", str(mount)], check=False)
            server.terminate()


def explore(medium: Medium, seeds: range) -> int:
    """Live through seeds; print what does not hold. Returns how many third states there were."""
    begun_s, third = time.monotonic(), 0
    for seed in seeds:
        if wrong := medium.suffer(seed):
            third += 1
            print(f"--seeds {seed}", *wrong, sep="\n  ", flush=True)
    spent_s = time.monotonic() - begun_s
    print(f"{len(seeds)} gateways, {medium.operations} operations an update, {third} third states, {spent_s:.0f} s")
    return third


def _seeds(text: str) -> range:
    first, _, end = text.partition(":")
    return range(int(first), int(end) if end else int(first) + 1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.amnesia")
    parser.add_argument("--seeds", type=_seeds, default=SEEDS, metavar="FIRST[:END]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="narrowboat-") as name, mounted(Path(name)) as mount:
        return 1 if explore(Medium(Path(name), mount), options.seeds) else 0


if __name__ == "__main__":
    sys.exit(main())

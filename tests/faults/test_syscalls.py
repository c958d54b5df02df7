"""A disk that fails, or a process that dies, at any call of an update leaves the old state or the new one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from narrowboat_device.records import RecordFile
from tests.device.kit import DISK
from tests.support.paths import REPOSITORY
from tests.support.tools import require_tool

from .strace import tracing

POINTS = 30
SEED = 1
_READ_AND_SAVE = """
import sys
from pathlib import Path
from narrowboat_device.disk import SystemDisk
from narrowboat_device.records import RecordFile
with RecordFile(SystemDisk(), Path(sys.argv[1]), 100) as record:
    print(record.load().decode())
    record.save(b"newest")
"""


@pytest.mark.parametrize("medium", ["plain", "ext4"])
def test_no_failing_call_leaves_a_third_state(medium: str) -> None:
    """A sample; the module run by itself tries every call."""
    options = ["--points", str(POINTS), "--seed", str(SEED), *(["--ext4"] if medium == "ext4" else [])]
    command = [sys.executable, "-m", "tests.faults.syscalls", *options]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{POINTS} points, 0 third states" in ran.stdout


@pytest.mark.parametrize(("half", "left"), [(1, "older"), (2, "newer")])
def test_a_bad_sector_in_one_half_of_a_record_costs_no_more_than_that_half(
    tmp_path: Path, half: int, left: str
) -> None:
    path = tmp_path / "a.record"
    RecordFile.allocate(DISK, path, 100)
    with RecordFile(DISK, path, 100) as record:
        record.save(b"older")
        record.save(b"newer")
    each_try = f"{half}..{half + 2}"
    fails = tracing(["pread64"], tmp_path / "log", "-P", str(path), "-e", f"inject=pread64:error=EIO:when={each_try}")
    command = [require_tool("strace"), "-qq", *fails, sys.executable, "-c", _READ_AND_SAVE, str(path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{left}\n"
    with RecordFile(DISK, path, 100) as record:
        assert record.load() == b"newest"

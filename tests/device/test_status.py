"""The status file: what the agent showed last, seldom enough for the storage, and never late for good."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from narrowboat_device.core.events import Now
from narrowboat_device.status import StatusFile, read_status
from tests.device.shell_kit import DISK, STATUS


def test_the_status_file_is_written_five_times_a_second_at_most(tmp_path: Path) -> None:
    path = tmp_path / "status"
    status = StatusFile(DISK, path, {"device": "gw-1"})
    written = 0
    for tick in range(100):
        before = path.stat().st_mtime_ns if path.exists() else None
        inode = path.stat().st_ino if path.exists() else None
        status.show(STATUS)
        status.flush(Now(tick / 100, tick))
        written += path.stat().st_ino != inode or path.stat().st_mtime_ns != before
    assert 4 <= written <= 6


def test_the_last_status_is_never_held_back_for_good(tmp_path: Path) -> None:
    status = StatusFile(DISK, tmp_path / "status", {})
    status.flush(Now(0.0, 1))
    status.count_link()
    status.flush(Now(0.1, 1))
    deadline = status.deadline
    assert deadline is not None
    status.flush(Now(deadline, 2))
    assert read_status(DISK, tmp_path / "status")["links_opened"] == 1
    assert status.deadline is None


def test_a_status_file_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    status = StatusFile(DISK, tmp_path / "absent" / "status", {})
    for second in range(3):
        status.show(STATUS)
        status.flush(Now(float(second), second))
    assert len(caplog.records) == 1


def test_the_status_says_what_the_agent_showed(tmp_path: Path) -> None:
    status = StatusFile(DISK, tmp_path / "status", {"device": "gw-1"})
    status.show(STATUS)
    status.flush(Now(0.0, 1_800_000_000))
    assert json.loads((tmp_path / "status").read_text()) == {
        "device": "gw-1",
        "state": "downloading",
        "hold": None,
        "release": "00" * 32,
        "done_bytes": 1,
        "total_bytes": 2,
        "wire_bytes": 3,
        "reason": None,
        "detail": None,
        "hold_since": None,
        "hold_next_check": None,
        "links_opened": 0,
        "updated_at": 1_800_000_000,
    }

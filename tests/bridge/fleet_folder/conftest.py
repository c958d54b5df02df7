"""A fleet folder as `narrowboat init` makes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bridge.cli_kit import run
from tests.bridge.fleet_folder.kit import Made


@pytest.fixture
def fleet(tmp_path: Path) -> Made:
    path = tmp_path / "fleet"
    outcome = run(
        "init", path, "--operator", "alice", "--host", "broker.test", "--host", "192.0.2.7", "--staff-port", 9885
    )
    assert outcome.status == 0, outcome.err
    return Made(path)

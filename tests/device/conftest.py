"""What the tests of the device share: a fleet, its releases and a gateway in memory, and a shell over files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.device.agent_kit import IMAGE, OTHER_IMAGE
from tests.device.shell_kit import Rig, build_rig
from tests.support.fleet import FleetKit, MadeRelease
from tests.support.gateway import SMALL, Gateway


@pytest.fixture(scope="module")
def fleet() -> FleetKit:
    return FleetKit.create(limits=SMALL)


@pytest.fixture(scope="module")
def release(fleet: FleetKit) -> MadeRelease:
    return fleet.make_release(IMAGE, version="2.0.0", sequence=5)


@pytest.fixture(scope="module")
def other(fleet: FleetKit) -> MadeRelease:
    return fleet.make_release(OTHER_IMAGE, version="3.0.0", sequence=5)


@pytest.fixture
def gateway(fleet: FleetKit) -> Gateway:
    made = Gateway(fleet)
    made.connect()
    return made


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    yield from build_rig(tmp_path)

"""The fleet, releases and gateway in memory of the tests of the agent core."""

from __future__ import annotations

import pytest

from tests.device.agent_kit import IMAGE, OTHER_IMAGE
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

"""What the tests of the commands share: a fleet with two of three release keys, a release and a gateway on disk."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.device.commands.kit import IMAGE
from tests.device.kit import GatewayFolder, make_gateway
from tests.support.fleet import FleetKit, MadeRelease


@pytest.fixture(scope="module")
def fleet() -> FleetKit:
    return FleetKit.create(release_threshold=2, release_keys=3)


@pytest.fixture(scope="module")
def release(fleet: FleetKit) -> MadeRelease:
    return fleet.make_release(IMAGE, version="2.0.0", sequence=5)


@pytest.fixture
def gateway(tmp_path: Path, fleet: FleetKit) -> GatewayFolder:
    return make_gateway(tmp_path, fleet)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Take back what the command line did to the log."""
    yield
    logging.getLogger("narrowboat_device").handlers.clear()

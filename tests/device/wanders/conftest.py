"""What the walks of the agent core share: a small world, and a gateway in it."""

from __future__ import annotations

import pytest

from tests.support.gateway import Gateway
from tests.support.walk import LIMITS, World


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture
def gateway(world: World) -> Gateway:
    made = Gateway(world.fleet, slot_bytes=32 * 1024, limits=LIMITS)
    made.connect()
    return made

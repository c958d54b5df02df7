"""Whatever storage, power and clocks do to a gateway, nothing is broken, and it comes to rest when they stop."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.sim.scenes import Begun, Stage, from_factory
from tests.sim.storms import storm

SEEDS = 24
BANDS = 4


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage()


@pytest.fixture(scope="module")
def begun(stage: Stage) -> Begun:
    return from_factory(stage)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("band", range(BANDS))
def test_a_storm_breaks_nothing_and_ends_in_an_update(stage: Stage, begun: Begun, band: int) -> None:
    for seed in range(band, SEEDS, BANDS):
        storm(stage, begun, seed)


def test_a_storm_comes_back_by_its_seed(stage: Stage, begun: Begun) -> None:
    assert storm(stage, begun, 3).world.log_digest() == storm(stage, begun, 3).world.log_digest()

"""Whole fleets in bad weather: what an operator is told stays true, and everything comes right when the weather clears.

`make soak` runs many more seeds.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim.bridge_disk import SqliteDisk
from tests.sim.invariants_server import BrokenError
from tests.sim.mutations_server import MUTATIONS
from tests.sim.shortcuts import remembering
from tests.sim.swarm import sail, sail_fast
from tests.sim.weather import Weather

BATCHES = range(0, 32, 8)
RESTORING = Weather(bridge_kills=0.2, bridge_restores_s=100.0, duplication=0.2)
SEEDS_PER_MUTATION = 24


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("first", BATCHES)
def test_no_weather_makes_the_server_say_what_is_not_true_or_keeps_a_fleet_from_converging(first: int) -> None:
    for seed in range(first, first + BATCHES.step):
        sail_fast(seed)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mistake_is_noticed_by_the_invariant_that_is_for_it(name: str) -> None:
    mutation = MUTATIONS[name]
    with mutation.breaks(), remembering(), pytest.raises(BrokenError) as caught:
        _sail_many(mutation.weather)
    assert caught.value.invariant == mutation.invariant


def _sail_many(weather: Weather) -> None:
    for seed in range(SEEDS_PER_MUTATION):
        sail(seed, weather=weather.copy())


def test_a_seed_is_the_same_world_in_every_process() -> None:
    command = [sys.executable, "-m", "tests.sim", "--seed", "3"]
    told = {
        subprocess.run(
            command, env=os.environ | {"PYTHONHASHSEED": salt}, capture_output=True, text=True, check=True
        ).stdout
        for salt in ("1", "2")
    }
    assert told == {f"{sail_fast(3)}\n"}


def test_what_is_remembered_changes_nothing() -> None:
    assert sail(5) == sail_fast(5)


def test_a_store_in_memory_makes_the_same_world_as_the_real_one(tmp_path: Path) -> None:
    assert sail(1, SqliteDisk(tmp_path), RESTORING.copy()) == sail(1, weather=RESTORING.copy())

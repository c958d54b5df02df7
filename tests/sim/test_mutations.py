"""Each invariant catches the mistake that it is there for."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.sim.cuts import ScenePlay
from tests.sim.mutations import MUTATIONS, Mutation, explore, mutated
from tests.sim.promises import INVARIANTS, InvariantError
from tests.sim.scenes import SCENES, Stage


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_trips_its_invariant_and_no_other(stage: Stage, mutation: Mutation) -> None:
    scene = next(scene for scene in SCENES if scene.name == mutation.scene)
    with mutated(mutation), pytest.raises(InvariantError) as caught:
        explore(ScenePlay(stage, scene))
    assert caught.value.name == mutation.invariant


def test_every_invariant_has_a_mutation() -> None:
    assert {mutation.invariant for mutation in MUTATIONS} == set(INVARIANTS)

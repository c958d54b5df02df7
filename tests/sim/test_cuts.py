"""A power cut at every operation of the disk, and a drawn part of the cuts after a cut: everything recovers."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.sim.cuts import Explorer, ScenePlay
from tests.sim.enrolment import Enrolment
from tests.sim.provisioning import Provisioning
from tests.sim.scenes import LIMITS, SCENES, UPDATE, Scene, Stage, from_factory
from tests.sim.shortcuts import remembering


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage()


@pytest.fixture(autouse=True)
def quiet_and_quick() -> Iterator[None]:
    logging.disable()
    with remembering():
        yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("scene", [scene for scene in SCENES if not scene.is_long], ids=lambda scene: scene.name)
def test_a_power_cut_at_any_operation_leaves_a_gateway_that_ends_as_it_should(stage: Stage, scene: Scene) -> None:
    tally = Explorer(ScenePlay(stage, scene), mixtures=1).explore()
    assert tally.cuts == 3 * (tally.operations + 1)


def test_a_power_cut_in_the_recovery_from_a_power_cut_is_survived_too(stage: Stage) -> None:
    tally = Explorer(ScenePlay(stage, UPDATE), mixtures=1, pairs=0.005, seed=1).explore()
    assert tally.pairs > 100


def test_provisioning_can_be_cut_anywhere_and_twice_and_repeated(stage: Stage) -> None:
    tally = Explorer(Provisioning(stage.fleet), pairs=1.0).explore()
    assert tally.pairs > tally.cuts > tally.operations > 20


def test_enrolment_can_be_cut_anywhere_and_twice_and_leaves_one_certificate_for_one_key(stage: Stage) -> None:
    tally = Explorer(Enrolment(stage.fleet), pairs=1.0).explore()
    assert tally.pairs > tally.cuts > tally.operations > 20


def test_an_update_is_as_large_as_the_exhaustive_run_needs(stage: Stage) -> None:
    tree = stage.fleet.trust().open_release(stage.newer.envelope).images[0].tree
    assert tree.subtree_count(LIMITS) >= 3
    assert tree.length % LIMITS.chunk_size_bytes != 0
    assert tree.length // LIMITS.sync_bytes >= 5


def test_the_same_seed_brings_the_same_log(stage: Stage) -> None:
    begun = from_factory(stage)
    first, second, other = (UPDATE.play(stage, begun.fork(), seed).world.log_digest() for seed in (5, 5, 6))
    assert first == second != other

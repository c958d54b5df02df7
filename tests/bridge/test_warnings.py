"""An operator reads at the start of a campaign which devices will refuse it, and that it closes the way back."""

from __future__ import annotations

import pytest

from narrowboat_bridge.core.events import ReleaseAdded
from narrowboat_protocol.documents import CampaignDetail, CampaignShow, CampaignStart, CampaignSummary

from .test_codecs import WITHOUT_ZSTD
from .world import World, answer, issued, release, slots


def world_of(**sequences: int) -> World:
    """Releases 1 and 2 are at the bridge with these sequences; gw-1 runs release 1, gw-2 one that the bridge lacks."""
    world = World()
    for number, sequence in enumerate(sequences.values(), 1):
        world.feed(ReleaseAdded(release(number, sequence=sequence), "anna", b"request"))
    world.hello("gw-1", slots=slots(a=1, b=None))
    world.hello("gw-2", slots=slots(a=77, b=None))
    return world


def start(world: World) -> str | None:
    outcome = answer(world.command(CampaignStart(campaign="c1", release=release(2).digest, devices=("gw-1", "gw-2"))))
    assert isinstance(outcome, CampaignSummary)
    return outcome.warning


def show(world: World) -> str | None:
    outcome = answer(world.command(CampaignShow(campaign="c1")))
    assert isinstance(outcome, CampaignDetail)
    return outcome.summary.warning


def test_a_downgrade_within_a_sequence_is_started_without_a_word() -> None:
    world = world_of(runs=5, wanted=5)
    assert start(world) is None
    assert show(world) is None


def test_a_downgrade_across_a_raised_sequence_is_said_to_be_refused() -> None:
    world = world_of(runs=5, wanted=4)
    warning = start(world)
    assert warning is not None
    assert warning.startswith("1 of its devices run a release of a higher sequence than 4 and will refuse it")
    assert "gw-1" in warning
    assert "gw-2" not in warning
    assert show(world) == warning


def test_a_release_that_raises_the_sequence_is_said_to_close_the_way_back() -> None:
    world = world_of(runs=5, wanted=6)
    assert start(world) == (
        "it raises the sequence to 6 on 1 of its devices, which then take nothing lower:"
        " the way back to what they run closes"
    )
    assert show(world) is None, "nothing will fail"


@pytest.mark.parametrize("formats", [(2,), (7, 255)])
def test_a_device_gets_nothing_in_a_format_that_it_does_not_read(formats: tuple[int, ...]) -> None:
    world = world_of(runs=5, wanted=5)
    world.hello("gw-1", pair=(2, 1), slots=slots(a=1, b=None), formats=formats)
    assert "1 of its devices do not read assignments in format 1 and get none: gw-1" in (start(world) or "")
    assert [assignment.device for assignment in issued(world.tick())] == ["gw-2"]
    [assignment] = issued(world.hello("gw-1", pair=(3, 1), slots=slots(a=1, b=None), formats=(1, 2)))
    assert assignment.device == "gw-1"
    assert show(world) is None


def test_as_much_is_said_as_there_is_room_for_and_the_weightiest_first() -> None:
    world = world_of(runs=5, wanted=4)
    for number in range(20):
        world.hello(f"{number:02}" + "n" * 62, slots=slots(a=1, b=None), codecs=WITHOUT_ZSTD, formats=(9,))
    outcome = answer(world.command(CampaignStart(campaign="c1", release=release(2).digest)))
    assert isinstance(outcome, CampaignSummary)
    assert outcome.warning is not None
    assert outcome.warning.startswith("21 of its devices run a release of a higher sequence")
    assert len(outcome.warning) <= 500

"""A bridge keeps a bounded number of campaigns: what it forgets is over, and is not taken for what comes later."""

from __future__ import annotations

import pytest

from narrowboat_bridge.core.campaigns import Campaigns, Settings
from narrowboat_protocol.documents import CampaignDetail, CampaignShow, CampaignStart
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.states import State
from tests.bridge.world import World, answer, delivered, digest, issued, nonce, refusal


@pytest.fixture
def world() -> World:
    """A bridge that keeps two campaigns, and two devices."""
    world = World(Campaigns(Settings(root_version=1, campaigns_max=2)))
    world.hello("gw-1")
    world.hello("gw-2")
    return world


def test_a_device_is_left_alone_when_the_campaign_that_had_it_last_is_forgotten(world: World) -> None:
    world.start("c1", 1, None)
    world.start("c2", 2)
    world.report(State.FAILED, attempt=2, about=2, pair=(1, 2))
    world.start("c3", 2, ("gw-2",))
    assert refusal(world.command(CampaignShow(campaign="c2"))) is Reason.UNKNOWN_CAMPAIGN
    assert not delivered(world.hello(pair=(1, 3), assignment_counter=2))


def test_the_oldest_ended_campaign_gives_way_and_running_ones_do_not(world: World) -> None:
    world.start("c1", 1)
    world.abort("c1")
    world.start("c2", 2, None)
    world.start("c3", 1, None)
    assert refusal(world.command(CampaignShow(campaign="c1"))) is Reason.UNKNOWN_CAMPAIGN
    assert refusal(world.command(CampaignStart(campaign="c4", release=digest(1)))) is Reason.BUSY
    assert isinstance(answer(world.command(CampaignShow(campaign="c2"))), CampaignDetail)


def test_a_campaign_under_the_name_of_a_forgotten_one_is_assigned_like_any_other(world: World) -> None:
    world.start("weekly", 1, ("gw-1",))
    world.report(State.FAILED, attempt=1, pair=(1, 2))
    for name, attempt in (("b", 1), ("c", 2)):
        world.start(name, 1, ("gw-2",))
        world.report(State.FAILED, "gw-2", attempt=attempt, pair=(1, 1 + attempt))
    assert refusal(world.command(CampaignShow(campaign="weekly"))) is Reason.UNKNOWN_CAMPAIGN
    (assignment,) = issued(world.start("weekly", 2, ("gw-1",)))
    assert [target.release for target in assignment.targets] == [digest(2)]
    assert assignment.counter == 2


def test_a_campaign_that_was_aborted_in_the_middle_of_its_work_is_kept_until_its_device_knows(world: World) -> None:
    world.start("bad", 1, ("gw-1",))
    world.report(State.DOWNLOADING, pair=(1, 2))
    world.abort("bad")
    world.start("c2", 2, ("gw-2",))
    start = CampaignStart(campaign="c3", release=digest(1), devices=("gw-2",))
    assert refusal(world.command(start)) is Reason.BUSY
    assert delivered(world.hello("gw-1", pair=(2, 1), nonce=nonce(2), assignment_counter=1)) == ["gw-1"]
    world.report(State.ABORTED, attempt=1, pair=(2, 2))
    assert issued(world.start("c3", 1, ("gw-2",)))


def test_a_withdrawal_is_sent_under_a_name_that_another_withdrawal_had(world: World) -> None:
    for counter in (1, 3):
        world.start("weekly", 1, ("gw-1",))
        world.report(State.DOWNLOADING, attempt=counter, pair=(counter, 2))
        (withdrawal,) = issued(world.abort("weekly"))
        assert (withdrawal.counter, withdrawal.targets) == (counter + 1, ())
        world.report(State.ABORTED, attempt=counter, pair=(counter, 3))
        for name in ("b", "c"):
            world.start(name, 2, ("gw-2",))
            world.abort(name)

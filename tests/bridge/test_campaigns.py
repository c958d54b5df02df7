"""The bridge's decisions about campaigns: what starts, whom it takes, when it has ended, and what of it is shown.

Given, when, then: each test or row of a table sets a scene in words of the protocol and looks at what follows.
"""

from __future__ import annotations

from uuid import UUID

import pytest

from narrowboat_bridge.core.actions import Emit, StoreAttempt, StoreCampaign
from narrowboat_bridge.core.campaigns import Campaigns, Settings
from narrowboat_bridge.core.events import ReleaseAdded
from narrowboat_protocol.documents import (
    CampaignDetail,
    CampaignList,
    CampaignPage,
    CampaignShow,
    CampaignStart,
    CampaignSummary,
    DeviceDetail,
    DeviceList,
    DevicePage,
    DeviceShow,
    EventKind,
    UploadFinish,
    UploadState,
)
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.states import State
from tests.bridge.world import World, answer, delivered, digest, issued, only, refusal, release

# Campaigns.


def test_a_start_that_is_repeated_changes_nothing() -> None:
    world = World()
    world.hello()
    world.start()
    actions = world.start()
    assert isinstance(answer(actions), CampaignSummary)
    assert not only(StoreCampaign, actions)
    assert not issued(actions)


def test_a_start_that_is_repeated_after_the_end_is_still_the_same_campaign() -> None:
    world = World()
    world.hello()
    world.start()
    world.report(State.FAILED, pair=(1, 2))
    summary = answer(world.start())
    assert isinstance(summary, CampaignSummary)
    assert summary.ended == "completed"


STARTS: dict[str, tuple[CampaignStart, Reason]] = {
    "a release that nobody pushed": (
        CampaignStart(campaign="c2", release=digest(9)), Reason.UNKNOWN_RELEASE,
    ),
    "a device that never said hello": (
        CampaignStart(campaign="c2", release=digest(1), devices=("gw-1", "gw-9")), Reason.UNKNOWN_DEVICE,
    ),
    "a device of other hardware": (
        CampaignStart(campaign="c2", release=digest(1), devices=("gw-1", "other")), Reason.WRONG_CLASS,
    ),
    "a name that is taken by other content": (
        CampaignStart(campaign="c1", release=digest(2), devices=("gw-1",)), Reason.CONFLICT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STARTS)
def test_a_start_that_makes_no_sense_is_refused_and_changes_nothing(case: str) -> None:
    request, reason = STARTS[case]
    world = World()
    world.hello()
    world.hello("other", class_id=UUID(int=9).bytes)
    world.start("c1", 1, ("gw-1",))
    actions = world.command(request)
    assert refusal(actions) is reason
    assert not only(StoreCampaign, actions)
    assert not only(StoreAttempt, actions)


def test_a_campaign_for_all_takes_the_devices_of_its_hardware_and_no_others() -> None:
    world = World()
    world.hello("gw-1")
    world.hello("other", class_id=UUID(int=9).bytes)
    actions = world.start(devices=None)
    assert delivered(actions) == ["gw-1"]


def test_a_campaign_for_all_takes_a_device_that_comes_later() -> None:
    world = World()
    world.start(devices=None)
    assert delivered(world.hello("gw-2")) == ["gw-2"]
    assert world.show().summary.devices == 1


def test_a_campaign_for_all_does_not_end_by_itself() -> None:
    world = World()
    world.hello()
    world.start(devices=None)
    world.report(State.SUCCEEDED, pair=(2, 1), slot="b")
    summary = world.show().summary
    assert (summary.ended, summary.counts, summary.devices) == (None, {"succeeded": 1}, 1)


def test_a_campaign_is_completed_by_the_end_of_its_last_device() -> None:
    world = World()
    world.hello("gw-1")
    world.hello("gw-2")
    world.start(devices=("gw-1", "gw-2"))
    world.report(State.FAILED, "gw-1", pair=(1, 2))
    assert world.show().summary.ended is None
    actions = world.report(State.SUCCEEDED, "gw-2", pair=(2, 1), slot="b")
    assert world.show().summary.ended == "completed"
    assert [emit.detail for emit in only(Emit, actions) if emit.kind is EventKind.CAMPAIGN_ENDED] == ["completed"]


def test_a_roll_back_after_the_end_changes_the_counts_of_the_campaign() -> None:
    world = World()
    world.hello()
    world.start()
    world.report(State.SUCCEEDED, pair=(2, 1), slot="b")
    world.report(State.ROLLED_BACK, pair=(3, 1), slot="a")
    assert world.show().summary.counts == {"rolled_back": 1}


def test_an_abort_is_an_assignment_without_targets() -> None:
    world = World()
    world.hello()
    world.start()
    (assignment,) = issued(world.abort())
    assert (assignment.counter, assignment.targets, assignment.campaign) == (2, (), "c1")


def test_an_abort_is_repeated_until_the_device_holds_it() -> None:
    world = World()
    world.hello()
    world.start()
    world.hello(pair=(1, 2), assignment_counter=1)
    world.abort()
    assert delivered(world.hello(pair=(1, 3), assignment_counter=1)) == ["gw-1"]
    assert not delivered(world.hello(pair=(1, 4), assignment_counter=2))


def test_the_bridge_does_not_write_aborted_by_itself() -> None:
    world = World()
    world.hello()
    world.start()
    world.report(State.DOWNLOADING, pair=(1, 2))
    world.abort()
    assert world.attempt().state is State.DOWNLOADING
    world.report(State.ABORTED, pair=(1, 3))
    assert world.attempt().state is State.ABORTED


def test_a_device_that_was_not_assigned_yet_is_not_bothered_by_an_abort() -> None:
    world = World()
    world.hello()
    world.command(CampaignStart(campaign="c1", release=digest(1), devices=("gw-1",)))
    assert not delivered(world.abort())
    assert world.show().summary.counts == {"withdrawn": 1}


def test_an_abort_leaves_ended_devices_as_they_are() -> None:
    world = World()
    world.hello("gw-1")
    world.hello("gw-2")
    world.start(devices=("gw-1", "gw-2"))
    world.report(State.SUCCEEDED, "gw-1", pair=(2, 1), slot="b")
    assert [assignment.device for assignment in issued(world.abort())] == ["gw-2"]


def test_an_abort_of_what_is_aborted_or_completed() -> None:
    world = World()
    world.hello()
    world.start("c1")
    world.abort("c1")
    assert isinstance(answer(world.abort("c1")), CampaignSummary)
    world.start("c2", 2)
    world.report(State.FAILED, attempt=3, about=2, pair=(1, 9))
    assert refusal(world.abort("c2")) is Reason.CONFLICT
    assert refusal(world.abort("c9")) is Reason.UNKNOWN_CAMPAIGN


def test_the_newest_campaign_that_wants_a_device_has_it() -> None:
    world = World()
    world.hello()
    world.start("c1", 1)
    world.report(State.DOWNLOADING, attempt=1, pair=(1, 2))
    (assignment,) = issued(world.start("c2", 2))
    assert (assignment.counter, assignment.targets[0].release) == (2, digest(2))
    world.report(State.ABORTED, attempt=1, pair=(1, 3), reason=Reason.SUPERSEDED)
    assert world.attempt(campaign="c1").reason is Reason.SUPERSEDED
    assert world.show("c1").summary.ended == "completed"


def test_a_campaign_that_lost_its_device_before_it_began_waits_for_nothing() -> None:
    world = World()
    world.hello()
    world.start("c1", 1)
    world.start("c2", 2)
    summary = world.show("c1").summary
    assert (summary.ended, summary.counts) == ("completed", {"withdrawn": 1})


def test_work_does_not_come_back_to_life_when_the_campaign_that_took_its_device_is_aborted() -> None:
    world = World()
    world.hello()
    world.start("c1", 1, None)
    world.start("c2", 2, None)
    (withdrawal,) = issued(world.abort("c2"))
    assert withdrawal.targets == ()
    assert not delivered(world.hello(pair=(1, 2), assignment_counter=withdrawal.counter))


# Releases and looks.


def test_a_release_that_is_pushed_again_is_answered_and_announced_once() -> None:
    world = World()
    actions = world.feed(ReleaseAdded(release(1), "anna", world.request_id()))
    state = answer(actions)
    assert isinstance(state, UploadState)
    assert state.release is not None
    assert state.release.release == digest(1)
    assert not only(Emit, actions)


def test_a_bridge_takes_a_bounded_number_of_releases() -> None:
    world = World(Campaigns(Settings(root_version=1, releases_max=2)))
    assert refusal(world.feed(ReleaseAdded(release(3), "anna", world.request_id()))) is Reason.BUSY


def test_devices_are_shown_in_pages() -> None:
    world = World()
    for name in ("c", "a", "b"):
        world.hello(name)
    page = answer(world.command(DeviceList(limit=2)))
    assert isinstance(page, DevicePage)
    assert ([device.name for device in page.devices], page.more) == (["a", "b"], True)
    rest = answer(world.command(DeviceList(after="b", limit=2)))
    assert isinstance(rest, DevicePage)
    assert ([device.name for device in rest.devices], rest.more) == (["c"], False)


def test_a_page_of_long_attempts_fits_in_a_reply() -> None:
    world = World()
    names = tuple(f"gw-{number}" for number in range(200))
    for name in names:
        world.hello(name)
    world.start(devices=names)
    for name in names:
        world.report(State.DOWNLOADING, name, pair=(1, 2), detail="x" * 500)
    seen: list[str] = []
    more, after = True, None
    while more:
        detail = answer(world.command(CampaignShow(campaign="c1", after=after, limit=200)))
        assert isinstance(detail, CampaignDetail)
        assert len(detail.encode()) < 60_000
        seen += [attempt.device for attempt in detail.attempts]
        more, after = detail.more, seen[-1]
    assert sorted(names) == seen


def test_a_device_is_shown_with_its_attempts_newest_first() -> None:
    world = World()
    world.hello()
    world.start("c1", 1)
    world.report(State.FAILED, pair=(1, 2))
    world.start("c2", 2)
    detail = answer(world.command(DeviceShow(device="gw-1")))
    assert isinstance(detail, DeviceDetail)
    assert [attempt.attempt for attempt in detail.attempts] == [2, 1]
    assert detail.summary.campaign == "c2"
    assert refusal(world.command(DeviceShow(device="gw-9"))) is Reason.UNKNOWN_DEVICE


def test_campaigns_are_listed_newest_first() -> None:
    world = World()
    world.start("c1", 1, None)
    world.start("c2", 2, None)
    page = answer(world.command(CampaignList()))
    assert isinstance(page, CampaignPage)
    assert [campaign.name for campaign in page.campaigns] == ["c2", "c1"]


def test_a_request_that_is_not_the_core_s_is_refused() -> None:
    assert refusal(World().command(UploadFinish(digest=digest(1)))) is Reason.BAD_USE

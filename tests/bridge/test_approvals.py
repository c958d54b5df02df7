"""A campaign that needs a second person gives no device anything before that person agrees to exactly this content."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from narrowboat_bridge.cli.campaign_view import CampaignView
from narrowboat_bridge.core.actions import Action, Record, StoreAttempt, StoreCampaign
from narrowboat_bridge.core.approvals import APPROVAL_LIFE_S
from narrowboat_bridge.core.campaigns import Campaigns, Settings
from narrowboat_bridge.core.events import Restored
from narrowboat_protocol.documents import (
    CampaignApprove,
    CampaignStart,
    CampaignSummary,
    Scope,
)
from narrowboat_protocol.errors import Reason
from tests.bridge.world import World, answer, delivered, digest, issued, key_of, only, refusal, release

DEVICES = ("gw-1", "gw-2")


@pytest.fixture
def world() -> World:
    world = World()
    for name in DEVICES:
        world.hello(name)
    return world


def start(
    world: World,
    name: str = "c1",
    *,
    devices: Sequence[str] | None = DEVICES,
    approval: bool = True,
    approval_over: int | None = None,
) -> CampaignSummary:
    """Anna starts a campaign; nothing is due that was not before."""
    listed = None if devices is None else tuple(devices)
    request = CampaignStart(campaign=name, release=digest(1), devices=listed, approval=approval)
    summary = answer(world.command(request, approval_over=approval_over))
    assert isinstance(summary, CampaignSummary)
    return summary


def approve(
    world: World,
    summary: CampaignSummary,
    operator: str = "eve",
    *,
    scope: Scope | None = None,
    content: bytes | None = None,
    kid: bytes | None = None,
) -> list[Action]:
    request = CampaignApprove(campaign=summary.name, content=content or summary.content)
    return world.command(request, operator, scope, kid=kid)


@pytest.mark.parametrize("devices", [DEVICES, None], ids=["a list", "all of the hardware"])
def test_no_device_gets_anything_before_the_approval_and_each_does_after_it(
    world: World, devices: Sequence[str] | None
) -> None:
    summary = start(world, devices=devices)
    assert (summary.counts, summary.devices) == ({"awaiting_approval": 2}, 2)
    assert not issued([*world.tick(), *world.hello("gw-1", pair=(1, 2)), *world.hello("gw-3"), *world.tick()])
    assert [attempt.device for attempt in world.show().attempts][:2] == list(DEVICES)
    actions = approve(world, summary)
    approved = answer(actions)
    assert isinstance(approved, CampaignSummary)
    assert (approved.approved_by, approved.approval_ends_at) == ("eve", None)
    assert [record.what for record in only(Record, actions)] == ["campaign approved"]
    expected = {*DEVICES} if devices else {*DEVICES, "gw-3"}
    assert {assignment.device for assignment in issued(world.tick())} == expected


@pytest.mark.parametrize("devices", [("gw-2", "gw-1"), None], ids=["a list", "all of the hardware"])
@pytest.mark.parametrize("approval", [True, False], ids=["by wish", "by policy"])
def test_whoever_looks_at_what_waits_is_told_all_that_the_digest_covers(
    world: World, devices: tuple[str, ...] | None, approval: bool
) -> None:
    request = CampaignStart(
        campaign="c1",
        release=digest(1),
        devices=devices,
        reboot_windows=((0, 3600), (79_200, 16_200)),
        byte_budget=1_000_000,
        approval=approval,
    )
    answer(world.command(request, approval_over=0))
    shown = world.show()
    assert shown.terms.reboot_windows == request.reboot_windows
    assert shown.terms.byte_budget == request.byte_budget
    assert CampaignView(shown.summary, shown.attempts, shown.terms).is_what_the_digest_covers


REFUSED: dict[str, tuple[str, bytes | None, bytes | None, Reason]] = {
    "who started it": ("anna", None, None, Reason.NOT_PERMITTED),
    "who started it, with a new key": ("anna", digest(9), None, Reason.NOT_PERMITTED),
    "who started it, under another name": ("eve", key_of("anna").kid, None, Reason.NOT_PERMITTED),
    "another, for other content": ("eve", None, digest(9), Reason.CONFLICT),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_approval_of_the_same_person_or_of_something_else_lets_nothing_begin(world: World, case: str) -> None:
    operator, kid, content, reason = REFUSED[case]
    summary = start(world)
    assert refusal(approve(world, summary, operator, kid=kid, content=content)) is reason
    assert not issued(world.tick())
    assert world.show().summary.counts == {"awaiting_approval": 2}


def test_an_approval_of_one_campaign_is_none_of_another_with_the_same_release_and_devices(world: World) -> None:
    first, second = start(world, "c1"), start(world, "c2")
    assert first.content != second.content
    assert refusal(approve(world, second, content=first.content)) is Reason.CONFLICT


def test_an_approver_who_does_not_see_every_device_approves_nothing(world: World) -> None:
    summary = start(world)
    assert refusal(approve(world, summary, scope=Scope(devices=("gw-1",)))) is Reason.NOT_PERMITTED
    assert refusal(approve(world, summary, scope=Scope(devices=("gw-9",)))) is Reason.UNKNOWN_CAMPAIGN
    assert isinstance(answer(approve(world, summary, scope=Scope(devices=DEVICES))), CampaignSummary)


POLICY: dict[str, tuple[Sequence[str] | None, int | None, bool]] = {
    "no policy": (None, None, False),
    "as many as one may decide on": (DEVICES, 2, False),
    "one more": (DEVICES, 1, True),
    "one named twice": (("gw-1", "gw-1"), 1, False),
    "none without approval": (("gw-1",), 0, True),
    "all devices, of which there are few": (None, 1000, True),
}


@pytest.mark.parametrize("case", POLICY)
def test_the_fleet_s_policy_makes_large_campaigns_wait_though_they_do_not_ask_for_it(world: World, case: str) -> None:
    devices, approval_over, waits = POLICY[case]
    summary = start(world, devices=devices, approval=False, approval_over=approval_over)
    assert (summary.approval_ends_at is not None) is waits
    assert bool(issued(world.tick())) is not waits


def test_what_nobody_approves_in_time_expires_and_can_be_approved_no_more(world: World) -> None:
    summary = start(world)
    world.sleep(APPROVAL_LIFE_S - 1)
    assert not only(StoreCampaign, world.tick())
    world.sleep(1)
    (ended,) = only(StoreCampaign, world.tick())
    assert ended.campaign.ended == "expired"
    assert refusal(approve(world, summary)) is Reason.EXPIRED
    assert not issued(world.tick())


def test_an_approval_that_comes_at_the_deadline_is_late_though_time_was_not_looked_at_yet(world: World) -> None:
    summary = start(world)
    world.sleep(APPROVAL_LIFE_S)
    assert refusal(approve(world, summary)) is Reason.EXPIRED


def test_an_aborted_campaign_cannot_be_approved(world: World) -> None:
    summary = start(world)
    assert not issued(world.abort())
    assert refusal(approve(world, summary)) is Reason.CONFLICT
    assert not issued(world.tick())


def test_a_campaign_that_needs_nobody_is_not_approved(world: World) -> None:
    assert refusal(approve(world, start(world, approval=False))) is Reason.CONFLICT


def test_an_approval_that_is_repeated_changes_nothing(world: World) -> None:
    summary = start(world)
    approve(world, summary)
    world.tick()
    again = approve(world, summary, "ben")
    assert not only(StoreCampaign, again)
    outcome = answer(again)
    assert isinstance(outcome, CampaignSummary)
    assert outcome.approved_by == "eve"


def test_a_campaign_that_is_approved_late_takes_devices_from_one_that_was_started_meanwhile(world: World) -> None:
    summary = start(world)
    world.start("c2", 2)
    serials = {action.campaign.name: action.campaign.serial for action in only(StoreCampaign, approve(world, summary))}
    assert serials["c1"] > serials["c2"], "which is how a bridge that starts again knows"
    (assignment,) = [each for each in issued(world.tick()) if each.device == "gw-1"]
    assert (assignment.campaign, assignment.targets[0].release) == ("c1", digest(1))
    assert world.attempt(campaign="c2").state is None
    assert delivered(world.hello(pair=(1, 2))) == ["gw-1"]


def test_a_bridge_that_starts_again_waits_on_and_expires_what_nobody_approves(world: World) -> None:
    request = CampaignStart(campaign="c1", release=digest(1), devices=DEVICES, approval=True)
    (stored,) = only(StoreCampaign, world.command(request))
    again = World(Campaigns(Settings(root_version=1)))
    devices = tuple(filter(None, map(world.campaigns.device, DEVICES)))
    again.feed(Restored(devices=devices, releases=(release(1),), campaigns=(stored.campaign,)))
    assert not only(StoreAttempt, [*again.tick(), *again.hello("gw-1", pair=(1, 3))])
    again.sleep(APPROVAL_LIFE_S)
    (ended,) = only(StoreCampaign, again.tick())
    assert ended.campaign.ended == "expired"

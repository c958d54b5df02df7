"""Scopes: an operator neither sees nor steers a device that its scope does not cover."""

from __future__ import annotations

import pytest

from narrowboat_bridge.core.actions import Refusal, StoreAttempt, StoreCampaign
from narrowboat_protocol.documents import (
    CampaignAbort,
    CampaignDetail,
    CampaignList,
    CampaignPage,
    CampaignShow,
    CampaignStart,
    DeviceDetail,
    DeviceList,
    DevicePage,
    DeviceShow,
    Request,
    Scope,
)
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.model import Document
from tests.bridge.world import World, answer, digest, reason_of, refusal
from tests.support.fleet import COMPONENT, HARDWARE

ELSEWHERE = bytes(16)
HERE = HARDWARE.class_id.bytes
BERLIN = Scope(name_prefix="berlin-")

COVERED: dict[str, tuple[Scope, bool]] = {
    "its prefix": (Scope(name_prefix="berlin-"), True),
    "another prefix": (Scope(name_prefix="berlin-2"), False),
    "a list with it": (Scope(devices=("bern-1", "berlin-1")), True),
    "a list without it": (Scope(devices=("bern-1",)), False),
    "its class": (Scope(class_ids=(ELSEWHERE, HERE)), True),
    "another class": (Scope(class_ids=(ELSEWHERE,)), False),
    "its component": (Scope(component=COMPONENT), True),
    "another component": (Scope(component="modem"), False),
    "all that is said": (
        Scope(name_prefix="b", devices=("berlin-1",), class_ids=(HERE,), component=COMPONENT), True,
    ),
    "all but the prefix": (Scope(name_prefix="bern", class_ids=(HERE,), component=COMPONENT), False),
    "all but the class": (Scope(name_prefix="berlin-", class_ids=(ELSEWHERE,), component=COMPONENT), False),
}  # fmt: skip


@pytest.fixture
def world() -> World:
    """Two devices in two towns, and a campaign on each and one on both."""
    world = World()
    for name in ("berlin-1", "bern-1"):
        world.hello(name)
    world.start("both", devices=("berlin-1", "bern-1"))
    world.start("bern", about=2, devices=("bern-1",))
    return world


def ask(world: World, request: Request, scope: Scope | None = BERLIN, operator: str = "ben") -> Document | Refusal:
    return answer(world.command(request, operator, scope))


@pytest.mark.parametrize("name", COVERED)
def test_a_device_is_covered_if_it_fits_all_that_a_scope_says(world: World, name: str) -> None:
    scope, covered = COVERED[name]
    page = ask(world, DeviceList(), scope)
    assert isinstance(page, DevicePage)
    assert ("berlin-1" in [device.name for device in page.devices]) is covered
    shown = ask(world, DeviceShow(device="berlin-1"), scope)
    assert isinstance(shown, DeviceDetail if covered else Refusal)


def test_a_device_out_of_scope_is_answered_like_one_that_nobody_has(world: World) -> None:
    for request in (DeviceShow(device="bern-1"), start("bern-1")):
        hidden = ask(world, request)
        assert reason_of(hidden) is Reason.UNKNOWN_DEVICE
        nobody = ask(world, DeviceShow(device="mars-1") if isinstance(request, DeviceShow) else start("mars-1"))
        assert isinstance(hidden, Refusal)
        assert isinstance(nobody, Refusal)
        assert hidden.message.replace("bern-1", "mars-1") == nobody.message


def start(*devices: str, name: str = "mine") -> CampaignStart:
    return CampaignStart(campaign=name, release=digest(1), devices=devices or None)


def test_a_page_counts_only_what_it_may_show(world: World) -> None:
    page = ask(world, DeviceList(limit=1))
    assert isinstance(page, DevicePage)
    assert ([device.name for device in page.devices], page.more) == (["berlin-1"], False)


def test_a_campaign_shows_and_counts_only_the_devices_in_scope(world: World) -> None:
    detail = ask(world, CampaignShow(campaign="both"))
    assert isinstance(detail, CampaignDetail)
    assert [attempt.device for attempt in detail.attempts] == ["berlin-1"]
    assert (detail.summary.devices, sum(detail.summary.counts.values()), detail.more) == (1, 1, False)
    page = ask(world, CampaignList())
    assert isinstance(page, CampaignPage)
    assert [(campaign.name, campaign.devices) for campaign in page.campaigns] == [("both", 1)]


def test_a_campaign_of_other_devices_is_unknown(world: World) -> None:
    for request in (CampaignShow(campaign="bern"), CampaignAbort(campaign="bern")):
        assert reason_of(ask(world, request)) is Reason.UNKNOWN_CAMPAIGN


STEERING: dict[str, tuple[Request, Reason]] = {
    "start for one's own and another's device": (start("berlin-1", "bern-1"), Reason.UNKNOWN_DEVICE),
    "start for all devices": (start(), Reason.NOT_PERMITTED),
    "repeat another's start": (start("berlin-1", "bern-1", name="both"), Reason.CONFLICT),
    "abort a campaign that has another's device": (CampaignAbort(campaign="both"), Reason.NOT_PERMITTED),
}


@pytest.mark.parametrize("name", STEERING)
def test_nothing_of_a_command_that_reaches_beyond_the_scope_is_done(world: World, name: str) -> None:
    request, reason = STEERING[name]
    actions = world.command(request, "ben", BERLIN)
    assert refusal(actions) is reason
    assert not [action for action in actions if isinstance(action, (StoreCampaign, StoreAttempt))]


def test_a_campaign_for_all_devices_is_not_aborted_from_a_scope(world: World) -> None:
    world.start("everyone", devices=None)
    assert reason_of(ask(world, CampaignAbort(campaign="everyone"))) is Reason.NOT_PERMITTED
    assert not isinstance(ask(world, CampaignAbort(campaign="everyone"), None), Refusal)


def test_a_device_in_scope_is_steered(world: World) -> None:
    for request in (start("berlin-1"), start("berlin-1"), CampaignAbort(campaign="mine")):
        assert not isinstance(ask(world, request), Refusal)


def test_a_device_that_left_the_scope_takes_its_campaign_along(world: World) -> None:
    scope = Scope(class_ids=(HERE,))
    assert not isinstance(ask(world, start("berlin-1"), scope), Refusal)
    world.hello("berlin-1", class_id=ELSEWHERE, pair=(2, 1))
    assert reason_of(ask(world, DeviceShow(device="berlin-1"), scope)) is Reason.UNKNOWN_DEVICE
    detail = ask(world, CampaignShow(campaign="mine"), scope)
    assert isinstance(detail, CampaignDetail)
    assert (detail.attempts, detail.summary.devices) == ((), 0)
    assert reason_of(ask(world, CampaignAbort(campaign="mine"), scope)) is Reason.NOT_PERMITTED

"""A campaign as it is watched: when it is over, what its exit status is, and what a log says of it."""

from __future__ import annotations

import pytest

from narrowboat_bridge.cli.campaign_view import CampaignView, attempt_line
from narrowboat_bridge.cli.exits import ExitCode
from narrowboat_bridge.cli.results import as_json
from narrowboat_protocol.documents import AttemptSummary, CampaignStart, CampaignSummary, CampaignTerms
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.states import HoldReason, State

MIB = 1 << 20
TERMS = CampaignTerms(everybody=False, reboot_windows=((79_200, 16_200),), byte_budget=5 * MIB)


def summary(counts: dict[str, int], ended: str | None = None) -> CampaignSummary:
    return CampaignSummary(
        name="spring",
        release=bytes(32),
        version="2.0.0",
        started_at=1_800_000_000,
        started_by="alice",
        ended=ended,
        counts=counts,
        devices=sum(counts.values()),
        content=bytes(32),
    )


def attempt(**changes: object) -> AttemptSummary:
    return AttemptSummary.model_validate({"device": "gw-1", "attempt": 1} | changes)


ASKED = CampaignStart(
    campaign="spring",
    release=bytes(32),
    devices=("gw-1",),
    reboot_windows=TERMS.reboot_windows,
    byte_budget=TERMS.byte_budget,
)


def awaiting(asked: CampaignStart) -> CampaignSummary:
    """A campaign of that name, whatever its digest covers, that waits."""
    waits = {"approval_ends_at": 1_800_000_000, "content": asked.content}
    return summary({"awaiting_approval": 2}).model_copy(update=waits)


def test_a_campaign_that_waits_is_not_over_and_says_how_it_is_approved() -> None:
    waiting = awaiting(ASKED)
    shown = CampaignView(waiting, (attempt(),), TERMS)
    assert not shown.over
    assert "awaiting_approval until 2027-01-15" in shown.heading()
    assert f"campaign approve spring {waiting.content.hex()}" in shown.table()[-1]
    told = "\n".join(shown.table())
    assert "for these devices" in told
    assert f"devices reboot at 22:00-04:30 UTC, and receive at most {5 * MIB} bytes each" in told
    assert shown.approval_changed_since(None)
    assert not shown.approval_changed_since(shown)


@pytest.mark.parametrize(
    "changes",
    [{"campaign": "autumn"}, {"release": bytes([1]) * 32}, {"devices": ("gw-1", "gw-2")}, {"devices": None},
     {"reboot_windows": ()}, {"byte_budget": None}],
)  # fmt: skip
def test_a_digest_of_something_else_than_what_is_shown_is_not_to_be_approved(changes: dict[str, object]) -> None:
    shown = CampaignView(awaiting(ASKED.model_copy(update=changes)), (attempt(),), TERMS)
    assert not shown.is_what_the_digest_covers
    assert shown.table()[-1].startswith("do not approve it")


@pytest.mark.parametrize("approval", [False, True], ids=["by policy", "by wish"])
def test_what_waits_for_all_devices_is_known_by_its_digest_too(approval: bool) -> None:
    asked = ASKED.model_copy(update={"devices": None, "approval": approval})
    shown = CampaignView(awaiting(asked), (attempt(),), TERMS.model_copy(update={"everybody": True}))
    assert shown.is_what_the_digest_covers


def view(*attempts: AttemptSummary) -> CampaignView:
    return CampaignView(summary({"downloading": len(attempts)}), attempts, TERMS)


@pytest.mark.parametrize(
    ("counts", "ended", "over"),
    [
        ({}, None, False),
        ({"waiting": 1}, None, False),
        ({"succeeded": 2, "on_trial": 1}, None, False),
        ({"succeeded": 2, "waiting": 0}, None, True),
        ({"succeeded": 1, "rolled_back": 1, "withdrawn": 1}, None, True),
        ({"succeeded": 2}, "completed", True),
        ({"downloading": 2}, "aborted", True),
        *(({state.value: 1}, None, state.terminal) for state in State),
    ],
)
def test_a_campaign_is_over_when_no_device_has_anything_left_to_do(
    counts: dict[str, int], ended: str | None, over: bool
) -> None:
    assert CampaignView(summary(counts, ended), (), TERMS).over is over


@pytest.mark.parametrize(
    ("counts", "ended", "status"),
    [
        ({"succeeded": 3}, "completed", ExitCode.OK),
        ({"succeeded": 3, "failed": 0}, None, ExitCode.OK),
        ({"succeeded": 2, "rolled_back": 1}, "completed", ExitCode.CAMPAIGN_FAILED),
        ({"succeeded": 2, "withdrawn": 1}, "aborted", ExitCode.CAMPAIGN_FAILED),
        ({"aborted": 1}, "aborted", ExitCode.CAMPAIGN_FAILED),
        ({}, "aborted", ExitCode.CAMPAIGN_FAILED),
    ],
)
def test_only_a_campaign_that_every_device_followed_is_a_success(
    counts: dict[str, int], ended: str | None, status: ExitCode
) -> None:
    assert CampaignView(summary(counts, ended), (), TERMS).exit_code is status


def test_a_log_hears_of_each_change_once_and_of_progress_in_tenths() -> None:
    lines: list[str] = []
    last: CampaignView | None = None
    for done in range(0, 64 * MIB + 1, MIB // 2):
        now = view(attempt(state=State.DOWNLOADING, done_bytes=done, total_bytes=64 * MIB), attempt(device="gw-2"))
        lines += map(attempt_line, now.changed_since(last))
        last = now
    assert len(lines) == 12
    assert lines[1] == "gw-2: waiting"
    assert lines[-1] == "gw-1: downloading, 100%, 64.0 MiB of 64.0 MiB, wire -"


@pytest.mark.parametrize(
    "change",
    [
        {"state": State.VERIFYING},
        {"hold": HoldReason.WINDOW},
        {"reason": Reason.HOOK_FAILED},
        {"detail": "exit status 21"},
        {"attempt": 2},
    ],
)
def test_whatever_an_operator_must_know_is_a_change(change: dict[str, object]) -> None:
    before = view(attempt(state=State.DOWNLOADING))
    after = view(attempt(**({"state": State.DOWNLOADING} | change)))
    assert len(after.changed_since(before)) == 1
    assert not before.changed_since(before)


def test_a_line_says_why() -> None:
    told = attempt_line(
        attempt(state=State.ROLLED_BACK, reason=Reason.HEALTH_CHECK_FAILED, detail="exit status 1", wire_bytes=3 * MIB)
    )
    assert told == "gw-1: rolled_back, health_check_failed: exit status 1"


def test_a_hold_stands_beside_the_state() -> None:
    table = view(attempt(state=State.INSTALLED, hold=HoldReason.WINDOW, done_bytes=MIB, total_bytes=MIB)).table()
    assert "installed (hold: window)" in table[-1]
    assert "[####################]" in table[-1]


def test_what_will_fail_is_told_below_the_devices() -> None:
    warned = summary({"waiting": 1}).model_copy(update={"warning": "1 of its devices cannot decode zstd"})
    assert CampaignView(warned, (attempt(),), TERMS).table()[-1] == "warning: 1 of its devices cannot decode zstd"


def test_machines_read_the_names_of_the_documents() -> None:
    value = as_json(attempt(state=State.FAILED, reason=Reason.STORAGE_FULL, reported_at=0))
    assert (value["state"], value["reason"], value["reported_at"]) == ("failed", "storage_full", "1970-01-01T00:00:00Z")
    assert as_json(summary({"failed": 1}))["release"] == "00" * 32

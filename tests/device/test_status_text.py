"""What a person reads of a gateway's status."""

from __future__ import annotations

import dataclasses

import pytest

from narrowboat_device.core import actions as ac
from narrowboat_device.core import events as ev
from narrowboat_device.status_text import status_lines
from tests.support.fleet import NOW, FleetKit, MadeRelease
from tests.support.gateway import Gateway

DAY_S = 86_400


def shown(gateway: Gateway) -> dict[str, object]:
    """What the agent told last, of both parts."""
    parts = [*gateway.did(ac.ShowStatus)[-1:], *gateway.did(ac.ShowTrust)[-1:]]
    return {
        field.name: value.hex() if isinstance(value := getattr(part, field.name), bytes) else value
        for part in parts
        for field in dataclasses.fields(part)
    }


def lines(gateway: Gateway, now_s: int = NOW) -> dict[str, str]:
    told = status_lines({"device": "gw-1", "slot": "a", "links_opened": 1, "updated_at": NOW} | shown(gateway), now_s)
    return {name: text.strip() for name, _, text in (line.partition(":") for line in told)}


def test_the_status_says_what_is_trusted_and_how_fresh_it_is(
    gateway: Gateway, fleet: FleetKit, release: MadeRelease
) -> None:
    before = lines(gateway)
    assert before["order"].startswith("none was accepted yet")
    gateway.hooks[ac.Hook.DOWNLOAD] = [ev.HookOutcome.NOT_NOW]
    gateway.assign(release, counter=7, issued_at=NOW + 10)
    gateway.give(ev.RootArrived(fleet.next_root(minimum_sequence=1)))
    after = lines(gateway, NOW + 3600)
    assert after["trusts"].startswith(f"root 2 of fleet {fleet.fleet_id.hex()[:16]}, to be renewed by 20")
    assert "days)" in after["certificate"]
    assert after["order"].startswith("number 7, signed ")
    assert after["order"].count("ago)") == 2
    assert after["floor"].endswith("of epoch 0 are refused")
    assert after["waits"].startswith("hook: a hook of the integrator said not now")
    assert "looks again 20" in after["waits"]


@pytest.mark.parametrize(
    ("now_s", "text"),
    [(0, "says 1970-01-01 00:00:00Z, but it is"), (NOW, "can be right"), (NOW + 70 * 365 * DAY_S, "has ended")],
)
def test_the_status_says_whether_the_clock_can_be_right(gateway: Gateway, now_s: int, text: str) -> None:
    assert text in lines(gateway, now_s)["clock"]


def test_an_agent_that_has_told_nothing_yet_is_shown_all_the_same() -> None:
    told = status_lines({"device": "gw-1", "slot": "a", "links_opened": 0, "updated_at": 1 << 60}, NOW)
    assert [line.partition(":")[0] for line in told] == ["gateway", "state", "link", "written"]

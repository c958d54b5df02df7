"""An update from the operator's desk to a committed slot, and what the operator's scripts learn of it by exit status.

Broker, bridge, command line and agent are the product's; only the machine around the agent is simulated.
"""

from __future__ import annotations

import json

from narrowboat_protocol.limits import MIB
from narrowboat_protocol.states import State
from tests.support.images import small_image
from tests.support.processes import wait_for
from tests.support.rogue import PATIENCE_S

from .lab import Lab, Pushed


def test_a_release_travels_from_the_desk_to_a_committed_slot_and_the_operator_knows(lab: Lab) -> None:
    image = small_image(20, 3 * MIB + 4321)
    pushed = lab.push(image, "2.0.0")
    with lab.gateway("gw-full") as gateway:
        lab.wait_until_known("gw-full")
        started = lab.type(
            "campaign", "start", pushed.file, "--name", "full", "--device", "gw-full", "--wait", "--json"
        )
        assert started.status == 0, started.err
        assert gateway.boot.primary == "b"
        assert gateway.boot.trial is None
        assert gateway.slot("b")[: len(image)] == image
        assert gateway.warnings == []
        wait_for(lambda: _runs(lab, "gw-full", pushed), PATIENCE_S, "the bridge to hear the hello of the new system")
        wait_for(lambda: not gateway.outbox, PATIENCE_S, "the Ack of the end")
    attempt = lab.attempt("full", "gw-full")
    assert (attempt["state"], attempt["done_bytes"], attempt["total_bytes"]) == ("succeeded", len(image), len(image))


def _runs(lab: Lab, device: str, pushed: Pushed) -> bool:
    shown = lab.device(device)
    assert shown is not None
    summary = shown["summary"]
    return bool(summary["running_slot"] == "b" and summary["release"] == pushed.made.digest.hex())


def test_a_campaign_that_starts_while_the_gateway_is_off_reaches_it_when_it_comes_back(lab: Lab) -> None:
    pushed = lab.push(small_image(23, MIB), "2.3.0")
    with lab.gateway("gw-off") as gateway:
        lab.wait_until_known("gw-off")
        gateway.switch_off()
        lab.start(pushed, "off", "gw-off")
        gateway.switch_on()
        assert lab.wait_for_end("off", "gw-off")["state"] == "succeeded"


def test_waiting_for_a_campaign_tells_a_script_that_a_gateway_fell_back(lab: Lab) -> None:
    pushed = lab.push(small_image(21, MIB), "2.1.0")
    sick = lab.folder / "sick.sh"
    sick.write_text("#!/bin/sh\necho no uplink\nexit 1\n")
    sick.chmod(0o755)
    health = f'\n[health]\ncommand = ["{sick}"]\ndeadline_s = 0.2\nretry_s = 0.1\n'
    with lab.gateway("gw-sick", extra_toml=health) as gateway:
        lab.wait_until_known("gw-sick")
        waited = lab.type("campaign", "start", pushed.file, "--name", "sick", "--device", "gw-sick", "--wait", "--json")
        assert waited.status == 4, waited.err
        assert (gateway.boot.primary, gateway.boot.bootable) == ("a", frozenset({"a"}))
        assert gateway.state is State.ROLLED_BACK
    attempt = lab.attempt("sick", "gw-sick")
    assert (attempt["state"], attempt["reason"], attempt["detail"]) == (
        "rolled_back",
        "health_check_failed",
        "no uplink",
    )


def test_waiting_with_a_deadline_tells_a_script_that_it_is_not_over(lab: Lab) -> None:
    pushed = lab.push(small_image(22, MIB), "2.2.0")
    with lab.gateway("gw-asleep"):
        lab.wait_until_known("gw-asleep")
    command = ("campaign", "start", pushed.file, "--name", "asleep", "--device", "gw-asleep", "--wait")
    waited = lab.type(*command, "--deadline", 1)
    assert waited.status == 3
    assert "it goes on" in waited.error_line
    summary = json.loads(lab.type("campaign", "show", "asleep", "--json").out)
    assert summary.get("ended") is None

"""Releases that an honest bridge sends and a gateway cannot take, since it knows more of itself than the bridge."""

from __future__ import annotations

from narrowboat_protocol.limits import MIB
from narrowboat_protocol.topics import Channel
from tests.support.images import small_image

from .lab import BASE_SEQUENCE, Lab


def test_an_image_larger_than_the_slot_costs_no_byte_and_the_operator_reads_why(lab: Lab) -> None:
    pushed = lab.push(small_image(43, 2 * MIB), "4.2.0")
    with lab.rogue() as listener, lab.gateway("gw-small", slot_bytes=MIB) as gateway:
        before = gateway.slot("b")
        lab.start(pushed, "too-large", "gw-small")
        attempt = lab.wait_for_end("too-large", "gw-small")
        assert (attempt["state"], attempt["reason"]) == ("rejected", "image_too_large")
        assert listener.count("gw-small", Channel.GET) == 0
        assert gateway.slot("b") == before
    assert lab.type("campaign", "watch", "too-large").status == 4


def test_a_release_that_would_lower_the_sequence_is_rejected_by_the_gateway_and_the_operator_reads_why(
    lab: Lab,
) -> None:
    pushed = lab.push(small_image(44, MIB), "4.3.0", sequence=BASE_SEQUENCE - 1)
    with lab.gateway("gw-floor") as gateway:
        lab.start(pushed, "way-back", "gw-floor")
        attempt = lab.wait_for_end("way-back", "gw-floor")
        assert (attempt["state"], attempt["reason"]) == ("rejected", "below_floor")
        assert gateway.boot.bootable == {"a"}


def test_a_campaign_for_other_hardware_is_refused_at_the_desk(lab: Lab) -> None:
    made = lab.kit.make_release(small_image(45, MIB), sequence=BASE_SEQUENCE, classes=["gateway-b"])
    file = lab.save(made, "other-hardware")
    assert lab.type("release", "push", file, "--wait").status == 0
    with lab.gateway("gw-class"):
        lab.wait_until_known("gw-class")
        started = lab.type("campaign", "start", file, "--name", "other-class", "--device", "gw-class")
    assert started.status == 1
    assert "expected devices of the hardware that the release is made for" in started.error_line

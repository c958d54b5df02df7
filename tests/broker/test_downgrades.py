"""The way back: open within a sequence, closed across a raised one, and said beforehand."""

from __future__ import annotations

from narrowboat_protocol.limits import MIB
from tests.support.images import small_image

from .lab import BASE_SEQUENCE, Lab, Pushed

DEVICE = "gw-back"


def start(lab: Lab, pushed: Pushed, campaign: str) -> tuple[str, str | None, str]:
    """Bring a release to the gateway: how that ended, why, and what was said at the start."""
    started = lab.type("campaign", "start", pushed.file, "--name", campaign, "--device", DEVICE)
    assert started.status == 0, started.err
    end = lab.wait_for_end(campaign, DEVICE)
    return end["state"], end["reason"], started.err


def test_a_downgrade_on_purpose_works_until_a_release_raises_the_sequence(lab: Lab) -> None:
    older, newer = (lab.push(small_image(120 + n, MIB), f"12.{n}.0") for n in range(2))
    final = lab.push(small_image(122, MIB), "12.2.0", sequence=BASE_SEQUENCE + 1)
    with lab.gateway(DEVICE) as gateway:
        lab.wait_until_known(DEVICE)
        assert start(lab, newer, "back-newer") == ("succeeded", None, "")
        assert start(lab, older, "back-older") == ("succeeded", None, "")
        state, _, said = start(lab, final, "back-final")
        assert state == "succeeded"
        assert "the way back to what they run closes" in said
        state, reason, said = start(lab, older, "back-refused")
        assert (state, reason) == ("rejected", "below_floor")
        assert f"and will refuse it (below_floor): {DEVICE}" in said
        assert gateway.slot(gateway.boot.primary)[:MIB] == final.made.image

"""A sequence ran away, by a mistake or by a thief of release keys: a new epoch begins a new count."""

from __future__ import annotations

from tests.support.images import small_image

from .kit import Owner


def test_a_sequence_that_ran_away_is_healed_by_a_new_epoch(owner: Owner) -> None:
    lab, key = owner.lab, owner.keys / "release-1.pub.pem"
    with lab.gateway("gw-ahead") as gateway:
        last = owner.release("9.9.9", small_image(6, 200_000), key=key, sequence=(1 << 53) - 1)
        assert owner.roll_out(last, "ahead", "gw-ahead") == "succeeded"
        stuck = owner.release("10.0.0", small_image(7, 200_000), key=key, sequence=6)
        assert owner.roll_out(stuck, "stuck", "gw-ahead") == "rejected"
        meaning = owner.change_root("set", "--epoch", "rootfs=1")
        assert "closes the way back" in meaning
        owner.tell_bridge()
        owner.wait_until_trusted(gateway, 2)
        healed = owner.release("10.0.1", small_image(8, 200_000), key=key, sequence=6, epoch=1)
        assert owner.roll_out(healed, "healed", "gw-ahead") == "succeeded"
        back = lab.type("campaign", "start", last, "--name", "back", "--device", "gw-ahead")
        assert back.status != 0 or lab.wait_for_end("back", "gw-ahead")["state"] == "rejected"

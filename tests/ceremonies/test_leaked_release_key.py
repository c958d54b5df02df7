"""A release key leaked: what it signed counts no more, and what the new one signs does."""

from __future__ import annotations

import json

from tests.support.images import small_image

from .kit import Owner, done, kid_of


def test_what_a_leaked_key_signed_is_refused_once_the_root_has_replaced_it(owner: Owner) -> None:
    lab, leaked = owner.lab, owner.keys / "release-1.pub.pem"
    with lab.gateway("gw-leak") as gateway:
        evil = owner.release("6.6.6", small_image(3, 200_000), key=leaked, sequence=5)
        pushed = lab.type("release", "push", evil, "--wait")
        assert pushed.status == 0, pushed.err
        new = owner.make_key("release-2")
        assert "sign it anew" in owner.change_root("rotate", kid_of(leaked), new)
        owner.tell_bridge()
        owner.wait_until_trusted(gateway, 2)
        assert lab.type("campaign", "start", evil, "--name", "evil", "--device", "gw-leak").status != 0
        digest = json.loads(done("release", "inspect", evil, "--json").out)["release"]
        started = lab.type("campaign", "start", digest, "--name", "evil", "--device", "gw-leak")
        assert started.status == 0, started.err
        attempt = lab.wait_for_end("evil", "gw-leak")
        assert (attempt["state"], attempt["reason"]) == ("rejected", "unknown_key")
        later = owner.release("6.6.7", small_image(4, 200_000), key=leaked, sequence=5)
        assert lab.type("release", "push", later, "--wait").status != 0
        good = owner.release("7.0.0", small_image(5, 200_000), key=new, sequence=5)
        assert owner.roll_out(good, "good", "gw-leak") == "succeeded"

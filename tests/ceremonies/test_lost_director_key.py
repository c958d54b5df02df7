"""The director's key is lost, or stolen: the owner puts a new one in its place, and the fleet goes on."""

from __future__ import annotations

import shutil

from tests.support.images import small_image
from tests.support.processes import Child

from .kit import Owner, kid_of


def test_a_new_director_key_takes_over_and_the_fleet_goes_on(owner: Owner) -> None:
    lab = owner.lab
    release_key = owner.keys / "release-1.pub.pem"
    with lab.gateway("gw-director") as gateway:
        first = owner.release("2.0.0", small_image(1, 200_000), key=release_key, sequence=5)
        assert owner.roll_out(first, "before", "gw-director") == "succeeded"
        new = owner.make_key("director-2")
        meaning = owner.change_root("rotate", kid_of(owner.keys / "director.pub.pem"), new)
        assert "give every bridge the new director key" in meaning
        shutil.copyfile(owner.keys / "director-2.pem", owner.fleet / "bridge" / "director.pem")
        lab.restart_bridge(Child.stop)
        lab.wait_until_served()
        owner.wait_until_trusted(gateway, 2)
        second = owner.release("2.1.0", small_image(2, 200_000), key=release_key, sequence=5)
        assert owner.roll_out(second, "after", "gw-director") == "succeeded"

"""Of two gateways with one key, neither is given anything until an operator has looked; honest ones never wait."""

from __future__ import annotations

from narrowboat_bridge.core.changes import ALARM_INTERVAL_S
from narrowboat_protocol.documents import DeviceResolve, DeviceRevoke
from tests.bridge.world import World, delivered, digest, key_of, nonce


def cloned() -> World:
    """Two cards with one data partition have said hello at the same boot number."""
    world = World()
    world.hello(pair=(5, 1), nonce=nonce(1))
    world.hello(pair=(5, 1), nonce=nonce(2), boot_id=digest(2)[:16])
    return world


def test_a_cloned_card_stops_assignments_to_both() -> None:
    world = cloned()
    assert not delivered(world.start())
    assert not delivered(world.hello(pair=(6, 1), nonce=nonce(3)))
    world.sleep(10 * ALARM_INTERVAL_S)
    assert not delivered(world.tick())


def test_an_operator_who_keeps_the_device_has_its_work_go_on() -> None:
    world = cloned()
    world.start()
    world.command(DeviceResolve(device="gw-1"))
    assert delivered(world.tick()) == ["gw-1"]


def test_a_stopped_device_is_stopped_again_if_the_clone_is_still_there() -> None:
    world = cloned()
    world.command(DeviceResolve(device="gw-1"))
    world.hello(pair=(5, 1), nonce=nonce(4))
    assert not delivered(world.start())


def test_a_revoked_device_is_given_nothing_and_cannot_be_kept() -> None:
    world = World()
    world.hello()
    world.command(DeviceRevoke(device="gw-1"))
    world.command(DeviceResolve(device="gw-1"))
    assert not delivered(world.start())


def test_another_device_is_not_stopped_by_the_alarm_of_one() -> None:
    world = cloned()
    world.hello("gw-2", key=key_of("gw-2"))
    assert delivered(world.start(devices=("gw-1", "gw-2"))) == ["gw-2"]

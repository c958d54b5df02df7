"""What walks and readers have found of boots and trials, each in its smallest form."""

from __future__ import annotations

from dataclasses import replace

from narrowboat_device.core import actions as ac
from narrowboat_device.core import events as ev
from narrowboat_device.core.judge import REBOOTS_MAX
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.states import State
from narrowboat_protocol.trust import Floor
from tests.device.agent_kit import attempt, trust
from tests.device.wanders.kit import NOT_NOW, go_on_trial
from tests.support.gateway import Gateway
from tests.support.walk import World


def test_a_release_that_a_new_root_refuses_is_disarmed_though_its_reboot_was_asked_for(
    gateway: Gateway, world: World
) -> None:
    gateway.assign(world.one)
    gateway.linger()
    gateway.give(ev.RootArrived(world.fleet.next_root(minimum_sequence=6)))
    gateway.power_on()
    assert (gateway.state, gateway.boot.trial) == (State.FAILED, None)
    gateway.power_cycle()
    assert gateway.boot.running == "a"


def test_a_boot_loader_that_never_tries_the_new_slot_ends_the_attempt_and_the_arming(
    gateway: Gateway, world: World
) -> None:
    gateway.assign(world.one)
    for number in range(2, 2 + REBOOTS_MAX):
        assert gateway.boot.trial == "b"
        gateway.boot = replace(gateway.boot, boot_id=number.to_bytes(16, "big"))
        gateway.power_on()
    assert (gateway.state, gateway.boot.trial) == (State.FAILED, None)
    assert attempt(gateway).reason is Reason.BOOT_CONTROL_FAILED
    assert gateway.boot.bootable == frozenset({"a"})


def test_an_agent_that_starts_often_before_the_reboot_comes_is_no_failed_boot(gateway: Gateway, world: World) -> None:
    gateway.assign(world.one)
    for _ in range(10):
        gateway.power_on()
    assert (gateway.state, gateway.boot.trial) == (State.REBOOTING, "b")
    gateway.power_cycle()
    assert gateway.state is State.SUCCEEDED


def test_a_trial_does_not_raise_the_floor_before_its_commit(gateway: Gateway, world: World) -> None:
    go_on_trial(gateway, world.one)
    assert trust(gateway).floor == Floor(0, 0)
    gateway.hooks[ac.Hook.HEALTH] = [ev.HookOutcome.FAILED]
    gateway.pass_time(61)
    gateway.power_cycle()
    gateway.connect()
    gateway.assign(world.oldest)
    assert gateway.state is State.REBOOTING


def test_a_release_whose_way_back_failed_is_not_called_a_success(gateway: Gateway, world: World) -> None:
    gateway.assign(world.one)
    gateway.fail_next = {ac.CommitSlot: Reason.BOOT_CONTROL_FAILED, ac.RestoreBoot: Reason.BOOT_CONTROL_FAILED}
    gateway.power_cycle()
    gateway.connect()
    assert gateway.state is State.ROLLBACK_FAILED
    for release in (world.one, world.other):
        gateway.assign(release)
        assert (gateway.report.state, gateway.report.reason) == (State.FAILED, Reason.BOOT_CONTROL_FAILED)
    assert gateway.boot.primary == "a"
    assert gateway.slots["a"].startswith(b"old")


def test_a_slot_that_boots_before_its_download_began_is_not_judged_as_the_new_release(
    gateway: Gateway, world: World
) -> None:
    gateway.hooks[ac.Hook.DOWNLOAD] = NOT_NOW
    gateway.assign(world.one)
    gateway.boot = replace(gateway.boot, trial="b", tries_left=3, bootable=frozenset({"a", "b"}))
    gateway.power_cycle()
    assert (gateway.state, gateway.did(ac.CommitSlot)) == (State.FAILED, [])

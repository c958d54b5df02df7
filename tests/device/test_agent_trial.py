"""The agent core as given-when-then: how a trial ends, and the way back when a step cannot be done."""

from __future__ import annotations

import pytest

from narrowboat_device.core import actions as ac
from narrowboat_device.core import events as ev
from narrowboat_device.core.trial import TRIAL_STARTS_MAX
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.states import State
from tests.support.fleet import MadeRelease
from tests.support.gateway import HOOK_OUTPUT, Gateway


def test_a_trial_that_never_reaches_the_agent_is_reported_as_rolled_back(
    gateway: Gateway, release: MadeRelease
) -> None:
    gateway.assign(release)
    gateway.power_cycle(crashes=True)
    gateway.connect()
    assert (gateway.report.state, gateway.report.reason) == (State.ROLLED_BACK, Reason.BOOT_FAILED)
    assert gateway.report.slot == "a"
    assert gateway.boot.bootable == {"a"}


def test_an_unhealthy_system_goes_back_after_its_deadline_and_says_why(gateway: Gateway, release: MadeRelease) -> None:
    gateway.assign(release)
    gateway.hooks[ac.Hook.HEALTH] = [ev.HookOutcome.FAILED]
    gateway.power_cycle()
    gateway.connect()
    assert (gateway.state, gateway.rebooting) == (State.ON_TRIAL, False)
    for _ in range(7):
        gateway.pass_time(10)
    assert gateway.rebooting
    gateway.power_cycle()
    gateway.connect()
    assert (gateway.report.state, gateway.report.reason) == (State.ROLLED_BACK, Reason.HEALTH_CHECK_FAILED)
    assert gateway.report.detail == HOOK_OUTPUT[-500:]
    assert gateway.boot.running == "a"
    assert gateway.boot.bootable == frozenset({"a"})


def test_a_health_check_that_hangs_does_not_keep_a_gateway_in_a_system_that_failed(
    gateway: Gateway, release: MadeRelease
) -> None:
    gateway.silent.add(ac.Hook.HEALTH)
    gateway.assign(release)
    gateway.power_cycle()
    assert gateway.agent.deadline is not None
    gateway.pass_time(gateway.settings.health_deadline_s + gateway.settings.hook_timeout_s - 1)
    assert (gateway.state, gateway.rebooting) == (State.ON_TRIAL, False)
    gateway.pass_time(1)
    assert gateway.rebooting
    gateway.power_cycle()
    gateway.connect()
    assert (gateway.report.state, gateway.report.reason) == (State.ROLLED_BACK, Reason.HEALTH_CHECK_FAILED)


def test_an_agent_that_dies_again_and_again_on_trial_does_not_keep_its_system(
    gateway: Gateway, release: MadeRelease
) -> None:
    gateway.hooks[ac.Hook.HEALTH] = [ev.HookOutcome.NOT_NOW]
    gateway.assign(release)
    gateway.power_cycle()
    for _ in range(TRIAL_STARTS_MAX):
        assert not gateway.rebooting
        gateway.pass_time(gateway.settings.health_deadline_s - 10)
        gateway.power_on()
    assert gateway.rebooting
    gateway.power_cycle()
    assert (gateway.state, gateway.boot.running) == (State.ROLLED_BACK, "a")


def test_a_way_back_whose_reboot_fails_is_taken_later_and_not_in_a_burst(
    gateway: Gateway, release: MadeRelease
) -> None:
    gateway.hooks[ac.Hook.HEALTH] = [ev.HookOutcome.FAILED]
    gateway.assign(release)
    gateway.power_cycle()
    before = len(gateway.actions)
    for _ in range(40):
        gateway.fail_next[ac.Reboot] = Reason.BOOT_CONTROL_FAILED
        gateway.pass_time(10)
    tried = [action for action in gateway.actions[before:] if isinstance(action, ac.RestoreBoot)]
    assert 2 <= len(tried) <= 400 // 30
    gateway.fail_next.clear()
    gateway.pass_time(30)
    assert gateway.rebooting


def test_a_system_that_becomes_healthy_in_time_is_committed(gateway: Gateway, release: MadeRelease) -> None:
    gateway.assign(release)
    gateway.hooks[ac.Hook.HEALTH] = [ev.HookOutcome.FAILED, ev.HookOutcome.NOT_NOW, ev.HookOutcome.GO_ON]
    gateway.power_cycle()
    gateway.pass_time(10)
    gateway.pass_time(10)
    assert gateway.state is State.SUCCEEDED


def test_a_restarted_agent_does_not_take_itself_for_a_new_boot(gateway: Gateway, release: MadeRelease) -> None:
    gateway.assign(release)
    gateway.power_on()
    assert gateway.state is State.REBOOTING
    assert gateway.did(ac.CommitSlot) == []
    assert gateway.rebooting


FAILURES = [
    (ac.MarkUnbootable, State.FAILED),
    (ac.WriteChunks, State.FAILED),
    (ac.SyncSlot, State.FAILED),
    (ac.ReadBackSlot, State.FAILED),
    (ac.SaveEnvelope, State.FAILED),
    (ac.ArmTrial, State.FAILED),
    (ac.Reboot, State.FAILED),
]


@pytest.mark.parametrize(("kind", "state"), FAILURES, ids=[kind.__name__ for kind, _ in FAILURES])
def test_a_step_that_cannot_be_done_ends_the_attempt_in_the_slot_that_runs(
    gateway: Gateway, release: MadeRelease, kind: type[ac.Action], state: State
) -> None:
    gateway.fail_next[kind] = Reason.MEDIUM_FAILED
    gateway.assign(release)
    assert (gateway.report.state, gateway.report.reason) == (state, Reason.MEDIUM_FAILED)
    assert gateway.boot.trial is None
    gateway.power_cycle()
    assert gateway.boot.running == "a"


def test_a_commit_that_cannot_be_written_goes_back(gateway: Gateway, release: MadeRelease) -> None:
    gateway.assign(release)
    gateway.fail_next[ac.CommitSlot] = Reason.BOOT_CONTROL_FAILED
    gateway.power_cycle()
    gateway.connect()
    assert gateway.rebooting
    gateway.power_cycle()
    gateway.connect()
    assert (gateway.report.state, gateway.report.reason) == (State.ROLLED_BACK, Reason.BOOT_CONTROL_FAILED)


def test_a_way_back_that_cannot_be_armed_is_said_as_it_is(gateway: Gateway, release: MadeRelease) -> None:
    gateway.assign(release)
    gateway.fail_next = {
        ac.CommitSlot: Reason.BOOT_CONTROL_FAILED,
        ac.RestoreBoot: Reason.BOOT_CONTROL_FAILED,
    }
    gateway.power_cycle()
    gateway.connect()
    assert gateway.report.state is State.ROLLBACK_FAILED

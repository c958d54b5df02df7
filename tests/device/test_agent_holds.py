"""The agent core as given-when-then: byte budgets, reboot windows and hooks make an update wait and keep its place."""

from __future__ import annotations

import pytest

from narrowboat_device.core import actions as ac
from narrowboat_device.core import events as ev
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.states import HoldReason, State
from tests.device.agent_kit import brought_to
from tests.support.fleet import MadeRelease
from tests.support.gateway import HOOK_OUTPUT, Gateway


def test_bytes_beyond_the_budget_hold_the_update_and_keep_its_place(gateway: Gateway, release: MadeRelease) -> None:
    brought_to(gateway, State.DOWNLOADING, release)
    gateway.assign(release, byte_budget=10_000)
    gateway.give(ev.WireBytesCounted(10_001))
    assert gateway.report.hold is not None
    assert gateway.report.hold.reason is HoldReason.BYTE_BUDGET
    gateway.tamper = lambda _, data: data
    asked = len(gateway.fetched())
    gateway.pass_time(120)
    assert (gateway.state, len(gateway.fetched())) == (State.DOWNLOADING, asked)
    gateway.assign(release, byte_budget=1_000_000)
    gateway.pass_time(30)
    assert gateway.state is State.REBOOTING


def test_a_spent_budget_pays_for_no_block_after_a_restart(gateway: Gateway, release: MadeRelease) -> None:
    brought_to(gateway, State.DOWNLOADING, release)
    gateway.assign(release, byte_budget=10_000)
    gateway.give(ev.WireBytesCounted(10_001))
    asked = len(gateway.fetched())
    for _ in range(3):
        gateway.power_on()
        gateway.connect()
        gateway.pass_time(10)
    assert len(gateway.fetched()) == asked
    assert gateway.report.hold is not None
    assert gateway.report.hold.reason is HoldReason.BYTE_BUDGET


def test_a_budget_that_is_spent_before_the_download_begins_pays_for_no_block(
    gateway: Gateway, release: MadeRelease
) -> None:
    gateway.hooks[ac.Hook.DOWNLOAD] = [ev.HookOutcome.NOT_NOW, ev.HookOutcome.GO_ON]
    gateway.assign(release, byte_budget=10_000)
    gateway.give(ev.WireBytesCounted(10_001))
    gateway.pass_time(gateway.settings.hook_retry_s + 10)
    assert (gateway.state, gateway.fetched()) == (State.DOWNLOADING, [])
    assert gateway.report.hold is not None
    assert gateway.report.hold.reason is HoldReason.BYTE_BUDGET


def assert_held_by_budget(gateway: Gateway, asked: int) -> None:
    """No block was asked for beyond `asked`, and the report says why."""
    assert len(gateway.fetched()) == asked
    assert gateway.report.hold is not None
    assert gateway.report.hold.reason is HoldReason.BYTE_BUDGET


def test_a_spent_budget_pays_for_no_block_that_rotted_before_the_proof(gateway: Gateway, release: MadeRelease) -> None:
    brought_to(gateway, State.VERIFYING, release)
    gateway.assign(release, byte_budget=10_000)
    gateway.give(ev.WireBytesCounted(10_001))
    asked = len(gateway.fetched())
    gateway.slots["b"][100] ^= 1
    gateway.reading_back = True
    for _ in range(3):
        gateway.power_on()
        gateway.connect()
        gateway.pass_time(10)
    assert gateway.state is State.VERIFYING
    assert_held_by_budget(gateway, asked)


def test_a_budget_that_the_last_block_spends_pays_for_no_block_that_rotted(
    gateway: Gateway, release: MadeRelease
) -> None:
    def the_last_is_dear(offset: int, data: bytes) -> bytes:
        gateway.wire_bytes_of_block = 10_001 if offset + len(data) == len(release.payload) else 0
        return data

    gateway.tamper, gateway.reading_back = the_last_is_dear, False
    gateway.assign(release, byte_budget=10_000)
    assert gateway.state is State.VERIFYING
    asked = len(gateway.fetched())
    gateway.slots["b"][100] ^= 1
    gateway.read_back()
    gateway.pass_time(10)
    assert gateway.state is State.VERIFYING
    assert_held_by_budget(gateway, asked)


def test_a_spent_budget_pays_for_no_block_when_the_same_is_assigned_anew(
    gateway: Gateway, release: MadeRelease
) -> None:
    """A bridge assigns anew after each of its starts, and after each start of the device."""
    brought_to(gateway, State.DOWNLOADING, release)
    gateway.assign(release, byte_budget=10_000)
    gateway.give(ev.WireBytesCounted(10_001))
    gateway.give(ev.LinkLost())
    gateway.connect()
    asked = len(gateway.fetched())
    for _ in range(3):
        gateway.assign(release, byte_budget=10_000)
        gateway.pass_time(10)
    assert len(gateway.fetched()) == asked
    assert gateway.report.hold is not None
    assert gateway.report.hold.reason is HoldReason.BYTE_BUDGET


def test_a_budget_that_the_last_block_exceeds_holds_the_update_before_its_reboot(
    gateway: Gateway, release: MadeRelease
) -> None:
    gateway.fetching = False
    gateway.assign(release, byte_budget=100_000)
    gateway.fetching = True
    gateway.wire_bytes_of_block = 50_000
    gateway.pass_time(20)
    assert gateway.state is State.DOWNLOADING
    assert gateway.report.hold is not None
    assert gateway.report.hold.reason is HoldReason.BYTE_BUDGET


def test_a_reboot_waits_for_its_window_and_happens_in_it(gateway: Gateway, release: MadeRelease) -> None:
    second = gateway.now.wall_s % 86_400
    opens = (second + 3600) % 86_400
    gateway.assign(release, reboot_windows=((opens, (opens + 600) % 86_400),))
    assert gateway.state is State.INSTALLED
    assert gateway.report.hold is not None
    assert gateway.report.hold.reason is HoldReason.WINDOW
    states = []
    for wait_s in (3000, 700):
        gateway.pass_time(wait_s)
        states.append(gateway.state)
    assert states == [State.INSTALLED, State.REBOOTING]


def answer(gateway: Gateway, asked: ac.RunHook, outcome: ev.HookOutcome) -> None:
    gateway.give(ev.HookFinished(asked.hook, asked.token, outcome, HOOK_OUTPUT))


def asked_of(gateway: Gateway, hook: ac.Hook) -> list[ac.RunHook]:
    return [action for action in gateway.actions if isinstance(action, ac.RunHook) and action.hook is hook]


def test_a_window_that_is_assigned_while_a_hook_thinks_holds_the_reboot(gateway: Gateway, release: MadeRelease) -> None:
    gateway.silent.add(ac.Hook.REBOOT)
    gateway.assign(release)
    (asked,) = asked_of(gateway, ac.Hook.REBOOT)
    second_of_day = gateway.now.wall_s % 86_400
    later = ((second_of_day + 3600) % 86_400, (second_of_day + 7200) % 86_400)
    gateway.assign(release, reboot_windows=(later,))
    answer(gateway, asked, ev.HookOutcome.GO_ON)
    assert (gateway.state, gateway.rebooting) == (State.INSTALLED, False)


@pytest.mark.parametrize("linked", [True, False])
def test_a_hook_that_answers_after_its_window_has_closed_does_not_reboot(
    gateway: Gateway, release: MadeRelease, linked: bool
) -> None:
    gateway.silent.add(ac.Hook.REBOOT)
    second_of_day = gateway.now.wall_s % 86_400
    gateway.assign(release, reboot_windows=((second_of_day, (second_of_day + 60) % 86_400),))
    (asked,) = asked_of(gateway, ac.Hook.REBOOT)
    if not linked:
        gateway.give(ev.LinkLost())
    gateway.pass_time(90)
    answer(gateway, asked, ev.HookOutcome.GO_ON)
    assert (gateway.state, gateway.rebooting) == (State.INSTALLED, False)


def test_a_hook_that_was_asked_for_one_release_does_not_decide_on_the_next(
    gateway: Gateway, release: MadeRelease, other: MadeRelease
) -> None:
    gateway.silent.add(ac.Hook.DOWNLOAD)
    gateway.assign(release)
    gateway.assign(other)
    first, second = asked_of(gateway, ac.Hook.DOWNLOAD)
    answer(gateway, first, ev.HookOutcome.FAILED)
    answer(gateway, second, ev.HookOutcome.GO_ON)
    assert (gateway.state, gateway.report.release) == (State.REBOOTING, other.digest)


@pytest.mark.parametrize("hook", [ac.Hook.DOWNLOAD, ac.Hook.REBOOT])
def test_a_hook_that_says_no_ends_the_attempt_and_one_that_says_not_now_does_not(
    gateway: Gateway, release: MadeRelease, hook: ac.Hook
) -> None:
    gateway.hooks[hook] = [ev.HookOutcome.NOT_NOW, ev.HookOutcome.FAILED]
    gateway.assign(release)
    assert gateway.report.hold is not None
    assert gateway.report.hold.reason is HoldReason.HOOK
    gateway.pass_time(30)
    assert (gateway.report.state, gateway.report.reason) == (State.FAILED, Reason.HOOK_FAILED)
    assert gateway.report.detail == HOOK_OUTPUT[-500:]

"""The agent core as given-when-then: what a gateway does for each thing that happens to it, over a disk and a boot
loader in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowboat_device.core import actions as ac
from narrowboat_device.core import events as ev
from narrowboat_device.core.memory import Journal
from narrowboat_device.core.trial import TRIAL_STARTS_MAX
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.states import TABLE, HoldReason, State
from tests.device.agent_kit import ABORTABLE, ACTIVE, IMAGE, OTHER_IMAGE, brought_to, let_go, sha256
from tests.support.fleet import FleetKit, MadeRelease
from tests.support.gateway import HOOK_OUTPUT, SMALL, Gateway, sha256_of_slot


def test_an_update_brings_exactly_the_signed_bytes_and_commits(gateway: Gateway, release: MadeRelease) -> None:
    gateway.hooks[ac.Hook.HEALTH] = [ev.HookOutcome.NOT_NOW, ev.HookOutcome.GO_ON]
    gateway.assign(release)
    gateway.power_cycle()
    gateway.connect()
    gateway.pass_time(10)

    assert gateway.state is State.SUCCEEDED
    assert sha256_of_slot(gateway, "b", len(IMAGE)) == release.image_sha256
    assert (gateway.boot.primary, gateway.boot.trial) == ("b", None)
    reported = list(dict.fromkeys(report.state for report in gateway.reports))
    assert reported == [
        State.OFFERED,
        State.DOWNLOADING,
        State.VERIFYING,
        State.INSTALLED,
        State.REBOOTING,
        State.ON_TRIAL,
        State.SUCCEEDED,
    ]
    assert gateway.report.slot == "b"
    assert gateway.report.done_bytes == gateway.report.total_bytes == len(IMAGE)


def test_every_reported_step_is_one_that_the_table_allows(gateway: Gateway, release: MadeRelease) -> None:
    gateway.assign(release)
    gateway.power_cycle()

    states = [report.state for report in gateway.reports]
    for before, after in pairwise(states):
        assert after is before or after in TABLE[before].followers


def _position(gateway: Gateway, matches: Callable[[ac.Action], bool]) -> int:
    return next(number for number, action in enumerate(gateway.actions) if matches(action))


def _journals(action: ac.Action, state: State) -> bool:
    if not isinstance(action, ac.Save) or action.record is not ac.Record.JOURNAL:
        return False
    attempt = Journal.decode(action.content).attempt
    return attempt is not None and attempt.state is state


def test_nothing_is_called_durable_before_what_makes_it_so(gateway: Gateway, release: MadeRelease) -> None:
    gateway.assign(release)
    gateway.power_cycle()

    order = [
        _position(gateway, lambda action: isinstance(action, ac.MarkUnbootable)),
        _position(gateway, lambda action: isinstance(action, ac.WriteChunks)),
        _position(gateway, lambda action: isinstance(action, ac.ReadBackSlot)),
        _position(gateway, lambda action: isinstance(action, ac.SaveEnvelope) and action.envelope is not None),
        _position(gateway, lambda action: _journals(action, State.INSTALLED)),
        _position(gateway, lambda action: isinstance(action, ac.ArmTrial)),
        _position(gateway, lambda action: _journals(action, State.REBOOTING)),
        _position(gateway, lambda action: isinstance(action, ac.Reboot)),
        _position(gateway, lambda action: _journals(action, State.ON_TRIAL)),
        _position(gateway, lambda action: isinstance(action, ac.CommitSlot)),
        _position(gateway, lambda action: isinstance(action, ac.Save) and action.record is ac.Record.OUTBOX),
        _position(gateway, lambda action: _journals(action, State.SUCCEEDED)),
    ]
    assert order == sorted(order)


def test_the_journal_never_counts_a_chunk_that_is_not_synced(gateway: Gateway, release: MadeRelease) -> None:
    gateway.assign(release)

    written = promised = 0
    for action in gateway.actions:
        match action:
            case ac.WriteChunks(_, offset, data):
                written = offset + len(data)
            case ac.SyncSlot():
                promised = written
            case ac.Save(ac.Record.JOURNAL, content):
                attempt = Journal.decode(content).attempt
                counted = attempt.next_chunk if attempt is not None else 0
                assert min(counted << SMALL.log2_chunk_size, len(IMAGE)) <= promised


@pytest.mark.parametrize("state", ABORTABLE)
def test_an_abort_before_the_boot_switch_leaves_the_running_slot_as_the_only_one(
    gateway: Gateway, release: MadeRelease, state: State
) -> None:
    brought_to(gateway, state, release).assign()

    assert gateway.state is State.ABORTED
    assert (gateway.report.state, gateway.report.reason) == (State.ABORTED, Reason.WITHDRAWN)
    assert (gateway.boot.primary, gateway.boot.trial) == ("a", None)
    assert gateway.boot.bootable == frozenset({"a"})
    let_go(gateway)
    assert gateway.state is State.ABORTED


@pytest.mark.parametrize("state", [State.REBOOTING, State.ON_TRIAL])
def test_an_abort_after_the_boot_switch_is_answered_with_too_late_and_changes_nothing(
    gateway: Gateway, release: MadeRelease, state: State
) -> None:
    brought_to(gateway, state, release).assign()

    assert gateway.state is state
    assert gateway.report.parked == gateway.counter
    gateway.hooks.clear()
    if state is State.REBOOTING:
        gateway.power_cycle()
    gateway.pass_time(60)
    assert gateway.state is State.SUCCEEDED


@pytest.mark.parametrize("state", ACTIVE)
def test_a_second_assignment_wins_in_every_state_at_once_or_after_the_end(
    gateway: Gateway, release: MadeRelease, other: MadeRelease, state: State
) -> None:
    brought_to(gateway, state, release)
    gateway.tamper = lambda _, data: data
    gateway.reading_back = True
    gateway.assign(other)
    gateway.hooks.clear()
    for _ in range(4):
        if gateway.rebooting or gateway.state is State.REBOOTING:
            gateway.power_cycle()
            gateway.connect()
        gateway.pass_time(60)

    assert gateway.state is State.SUCCEEDED
    assert gateway.report.release == other.digest
    assert sha256_of_slot(gateway, gateway.boot.primary, len(OTHER_IMAGE)) == other.image_sha256
    first = [report.state for report in gateway.reports if report.release == release.digest]
    assert first[-1] is (State.ABORTED if TABLE[state].abortable else State.SUCCEEDED)


@pytest.mark.parametrize("state", ACTIVE)
def test_the_same_release_assigned_again_keeps_every_byte(gateway: Gateway, release: MadeRelease, state: State) -> None:
    brought_to(gateway, state, release)
    fetched = len(gateway.fetched())
    gateway.assign(release)
    assert gateway.state is state or state in (State.OFFERED, State.INSTALLED)
    let_go(gateway)
    if gateway.rebooting or state is State.REBOOTING:
        gateway.power_cycle()
    assert gateway.state is State.SUCCEEDED
    if state not in (State.OFFERED, State.DOWNLOADING):
        assert len(gateway.fetched()) == fetched


@pytest.mark.parametrize("state", ACTIVE)
def test_a_power_cut_in_any_state_ends_in_the_new_release_committed(
    gateway: Gateway, release: MadeRelease, state: State
) -> None:
    brought_to(gateway, state, release)
    gateway.hooks.clear()
    gateway.tamper = lambda _, data: data
    gateway.reading_back = True
    for _ in range(3):
        gateway.power_cycle()
        gateway.connect()

    assert gateway.state is State.SUCCEEDED
    assert sha256_of_slot(gateway, "b", len(IMAGE)) == release.image_sha256


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


def test_a_release_file_is_installed_without_any_server(gateway: Gateway, release: MadeRelease) -> None:
    gateway.give(ev.LinkLost())
    head = release.payload[: release.head_size]
    gateway.payloads[sha256(head)] = release.payload
    gateway.give(ev.LocalReleaseOffered("/media/usb/r.nbr", release.envelope, len(release.payload), head))
    assert gateway.rebooting
    gateway.power_cycle()
    assert gateway.state is State.SUCCEEDED
    gateway.connect()
    assert (gateway.report.state, gateway.report.attempt) == (State.SUCCEEDED, 0)


def test_a_hello_tells_the_trial_of_a_release_file_from_its_success(gateway: Gateway, release: MadeRelease) -> None:
    """No assignment is reported on, so nothing else tells the server what the gateway runs, and that it stays."""
    gateway.connect()
    head = release.payload[: release.head_size]
    gateway.payloads[sha256(head)] = release.payload
    gateway.hooks[ac.Hook.HEALTH] = [ev.HookOutcome.NOT_NOW, ev.HookOutcome.GO_ON]
    gateway.give(ev.LocalReleaseOffered("/media/usb/r.nbr", release.envelope, len(release.payload), head))
    gateway.power_cycle()
    gateway.connect()
    running = gateway.boot.running
    assert (gateway.hellos[-1].running_slot, gateway.hellos[-1].state) == (running, State.ON_TRIAL)
    gateway.pass_time(gateway.settings.health_retry_s + 10)
    assert (gateway.hellos[-1].running_slot, gateway.hellos[-1].state) == (running, State.SUCCEEDED)


ARRIVALS: list[Callable[[bytes], ev.Event]] = [
    ev.RootArrived,
    ev.DeliveryArrived,
    ev.AckArrived,
    ev.BlockArrived,
]


@pytest.mark.parametrize("arrival", ARRIVALS)
@given(data=st.binary(max_size=300))
def test_hostile_bytes_on_any_topic_are_counted_and_nothing_else_happens(
    arrival: Callable[[bytes], ev.Event], data: bytes
) -> None:
    gateway = _listening_gateway()
    before = len(gateway.actions)
    gateway.give(arrival(data))
    assert all(isinstance(action, ac.Log) for action in gateway.actions[before:])
    assert gateway.state is None


_LISTENING: list[Gateway] = []


def _listening_gateway() -> Gateway:
    """One gateway for all examples: nothing that hostile bytes do may change it."""
    if not _LISTENING:
        _LISTENING.append(Gateway(FleetKit.create(limits=SMALL)))
        _LISTENING[0].connect()
    return _LISTENING[0]

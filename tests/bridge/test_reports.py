"""What a report changes, and that the order in which a device is heard does not decide how its attempt ends."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowboat_bridge.core.actions import Acknowledge, Record, StoreReport
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.states import State
from tests.bridge.world import World, alarms, issued, nonce, only, slots

OLD, NEW = "a", "b"


REPORTS = {
    # name: (reports before, report, state after, alarm)
    "progress is taken": ([], (State.DOWNLOADING, (1, 5), OLD), State.DOWNLOADING, False),
    "later progress replaces it": (
        [(State.DOWNLOADING, (1, 5), OLD)], (State.VERIFYING, (1, 6), OLD), State.VERIFYING, False,
    ),
    "progress that comes late is history": (
        [(State.VERIFYING, (1, 6), OLD)], (State.DOWNLOADING, (1, 5), OLD), State.VERIFYING, False,
    ),
    "an end that comes late is still an end": (
        [(State.VERIFYING, (1, 6), OLD)], (State.FAILED, (1, 5), OLD), State.FAILED, False,
    ),
    "success from the new slot": (
        [(State.ON_TRIAL, (2, 1), NEW)], (State.SUCCEEDED, (2, 2), NEW), State.SUCCEEDED, False,
    ),
    "success from the old slot is not believed": (
        [(State.REBOOTING, (1, 9), OLD)], (State.SUCCEEDED, (2, 1), OLD), State.REBOOTING, True,
    ),
    "a second end is history": (
        [(State.FAILED, (1, 5), OLD)], (State.ABORTED, (1, 6), OLD), State.FAILED, False,
    ),
    "progress after an end is history": (
        [(State.REJECTED, (1, 5), OLD)], (State.DOWNLOADING, (1, 6), OLD), State.REJECTED, False,
    ),
    "success and then the old slot is a roll-back": (
        [(State.SUCCEEDED, (2, 2), NEW)], (State.ROLLED_BACK, (3, 1), OLD), State.ROLLED_BACK, False,
    ),
    "success claimed again from the old slot is a roll-back": (
        [(State.SUCCEEDED, (2, 2), NEW)], (State.SUCCEEDED, (3, 1), OLD), State.ROLLED_BACK, False,
    ),
    "success stands against an older word from the old slot": (
        [(State.SUCCEEDED, (2, 2), NEW)], (State.ROLLED_BACK, (1, 9), OLD), State.SUCCEEDED, False,
    ),
    "a way back that failed is kept as such": (
        [(State.SUCCEEDED, (2, 2), NEW)], (State.ROLLBACK_FAILED, (3, 1), OLD), State.ROLLBACK_FAILED, False,
    ),
    "only the device's word aborts": (
        [(State.DOWNLOADING, (1, 5), OLD)], (State.ABORTED, (1, 6), OLD), State.ABORTED, False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REPORTS)
def test_what_a_report_does_to_its_attempt(case: str) -> None:
    before, (state, pair, slot), after, alarm = REPORTS[case]
    world = World()
    world.hello()
    world.start()
    for earlier_state, earlier_pair, earlier_slot in before:
        world.report(earlier_state, pair=earlier_pair, slot=earlier_slot)
    actions = world.report(state, pair=pair, slot=slot)
    assert world.attempt().state is after
    assert bool(alarms(actions)) is alarm
    assert only(Acknowledge, actions), "whatever it does, it is stored"


def test_a_duplicate_is_acknowledged_again_and_counts_once() -> None:
    world = World()
    world.hello()
    world.start()
    world.report(State.FAILED, pair=(1, 2))
    actions = world.report(State.FAILED, pair=(1, 2))
    assert [ack.pair for ack in only(Acknowledge, actions)] == [(1, 2)]
    assert not only(StoreReport, actions)
    assert not only(Record, actions)


def test_a_report_about_another_release_contradicts_its_assignment() -> None:
    world = World()
    world.hello()
    world.start(about=1)
    assert alarms(world.report(State.SUCCEEDED, pair=(2, 1), about=2, slot="b"))
    assert world.attempt().state is None


def test_a_report_without_an_attempt_is_history_and_acknowledged() -> None:
    world = World()
    world.hello()
    actions = world.report(State.SUCCEEDED, attempt=0, pair=(1, 2))
    assert only(StoreReport, actions)
    assert only(Acknowledge, actions)


def test_a_report_of_an_unknown_device_is_not_acknowledged() -> None:
    assert World().report(State.FAILED, pair=(1, 1)) == []


def test_a_device_that_is_found_on_its_old_slot_after_success_has_rolled_back() -> None:
    world = World()
    world.hello(slots=slots(a=2, b=None))
    world.start()
    world.report(State.SUCCEEDED, pair=(2, 2), slot="b")
    world.hello(pair=(3, 1), assignment_counter=1, running_slot="a", slots=slots(a=2, b=1))
    assert world.attempt().state is State.ROLLED_BACK
    assert world.attempt().reason is Reason.BOOT_FAILED


def test_a_success_that_arrives_after_the_hello_from_the_old_slot_is_a_roll_back_too() -> None:
    world = World()
    world.hello(slots=slots(a=2, b=None))
    world.start()
    world.hello(pair=(3, 1), assignment_counter=1, running_slot="a", slots=slots(a=2, b=1))
    world.report(State.SUCCEEDED, pair=(2, 2), slot="b")
    assert world.attempt().state is State.ROLLED_BACK


INSTALLED: dict[str, tuple[dict[str, Any], State]] = {
    "another release in the old slot, and it stays": ({"state": State.SUCCEEDED}, State.ROLLED_BACK),
    "another release in the old slot, heard in the next download": ({"state": State.DOWNLOADING}, State.ROLLED_BACK),
    "another release on trial, which may still go back": ({"state": State.ON_TRIAL}, State.SUCCEEDED),
    "another release that was not fit, which goes back with the next boot": (
        {"state": State.ROLLBACK_FAILED},
        State.SUCCEEDED,
    ),
    "the release again, in the old slot": ({"slots": slots(a=1, b=1), "state": State.SUCCEEDED}, State.SUCCEEDED),
    "a slot of which the device knows nothing": ({"slots": slots(a=None, b=1)}, State.SUCCEEDED),
}


@pytest.mark.parametrize("case", INSTALLED)
@pytest.mark.parametrize("is_late", [False, True])
def test_what_is_installed_from_a_file_after_a_success_changes_what_an_operator_sees(case: str, is_late: bool) -> None:
    """The order in which success and hello arrive does not matter."""
    changes, state = INSTALLED[case]
    world = World()
    world.hello(slots=slots(a=3, b=None))
    world.start()
    said: dict[str, Any] = {"assignment_counter": 1, "running_slot": "a", "slots": slots(a=2, b=1)} | changes
    steps: list[Callable[[], object]] = [
        lambda: world.report(State.SUCCEEDED, pair=(2, 2), slot="b"),
        lambda: world.hello(pair=(4, 1), **said),
    ]
    for step in reversed(steps) if is_late else steps:
        step()
    shown = world.attempt()
    assert shown.state is state
    assert shown.reason is (Reason.SUPERSEDED if state is State.ROLLED_BACK else None)


@pytest.mark.parametrize("stays", [False, True])
def test_what_is_assigned_during_a_trial_may_succeed_from_either_slot(stays: bool) -> None:
    """The trial ends first, and leaves one slot or the other for what was assigned."""
    world = World()
    world.hello()
    world.start()
    world.hello(pair=(2, 1), assignment_counter=1, running_slot="b", slots=slots(a=None, b=1), state=State.ON_TRIAL)
    world.start("c2", 2)
    world.report(State.ON_TRIAL, pair=(2, 2), slot="b", parked=2)
    left, new = ("b", "a") if stays else ("a", "b")
    if stays:
        world.report(State.SUCCEEDED, pair=(2, 3), slot="b")
    else:
        world.hello(pair=(3, 1), assignment_counter=2, state=State.ROLLED_BACK)
    after = slots(a=2, b=1) if stays else slots(a=None, b=2)
    world.hello(pair=(4, 1), assignment_counter=2, running_slot=new, slots=after, state=State.ON_TRIAL)
    assert not alarms(world.report(State.SUCCEEDED, pair=(4, 2), slot=new, attempt=2, about=2))
    assert world.attempt(campaign="c2").state is State.SUCCEEDED
    world.hello(pair=(5, 1), assignment_counter=2, running_slot=left, slots=after, state=State.SUCCEEDED)
    assert world.attempt(campaign="c2").state is State.ROLLED_BACK


@pytest.mark.parametrize("state", [State.ON_TRIAL, State.ROLLBACK_FAILED])
def test_a_release_file_that_runs_uncommitted_does_not_fulfil_a_campaign_yet(state: State) -> None:
    world = World()
    world.hello(running_slot="b", slots=slots(a=2, b=1), state=state)
    world.start()
    assert world.attempt().state is None


def test_a_release_that_came_by_an_assignment_which_this_store_has_forgotten_undoes_no_success() -> None:
    world = World()
    world.hello(slots=slots(a=3, b=None))
    world.start()
    world.report(State.SUCCEEDED, pair=(2, 2), slot="b")
    world.hello(pair=(4, 1), assignment_counter=9, slots=slots(a=2, b=1), state=State.SUCCEEDED)
    assert world.attempt().state is State.SUCCEEDED


def test_the_next_update_may_use_the_old_slot_without_undoing_the_last_success() -> None:
    world = World()
    world.hello(slots=slots(a=2, b=None))
    world.start("c1", 1)
    world.report(State.SUCCEEDED, pair=(2, 2), slot="b")
    world.hello(pair=(2, 3), assignment_counter=1, running_slot="b", slots=slots(a=2, b=1))
    world.start("back", 2)
    world.hello(pair=(3, 1), assignment_counter=2, running_slot="a", slots=slots(a=2, b=1))
    assert world.attempt(campaign="c1").state is State.SUCCEEDED


def test_a_device_whose_hello_shows_that_it_runs_the_release_needs_no_assignment() -> None:
    world = World()
    world.start(devices=None)
    actions = world.hello(slots=slots(a=1, b=None))
    assert not issued(actions)
    assert world.attempt().state is State.SUCCEEDED


def test_a_device_whose_newest_hello_was_lost_is_not_taken_for_updated_by_what_it_said_before() -> None:
    world = World()
    world.hello(slots=slots(a=1, b=None))
    assert issued(world.start())
    assert world.attempt().state is None
    world.hello(pair=(2, 1), slots=slots(a=1, b=2), running_slot="b")
    assert world.attempt().state is None
    assert world.show().summary.ended is None


def test_a_device_on_trial_does_not_run_the_release_yet() -> None:
    world = World()
    world.hello(slots=slots(a=None, b=None))
    world.start("c1", 1)
    world.report(State.REBOOTING, pair=(1, 5))
    world.hello(pair=(2, 1), assignment_counter=1, running_slot="b", slots=slots(a=None, b=1))
    assert world.attempt().state is State.REBOOTING
    world.start("c2", 1)
    assert world.attempt(campaign="c2").state is None


def test_the_same_release_in_a_newer_campaign_goes_on_as_that() -> None:
    world = World()
    world.hello()
    world.start("c1", 1)
    world.report(State.DOWNLOADING, attempt=1, pair=(1, 2))
    world.start("c2", 1)
    world.report(State.DOWNLOADING, attempt=2, pair=(1, 3))
    world.report(State.SUCCEEDED, attempt=2, pair=(2, 1), slot="b")
    assert world.show("c2").summary.counts == {"succeeded": 1}
    assert world.show("c1").summary.counts == {"withdrawn": 1}
    assert world.show("c1").summary.ended == "completed"


def test_a_trial_that_a_newer_campaign_takes_over_may_succeed_from_the_slot_that_it_runs_in() -> None:
    world = World()
    world.hello()
    world.start("c1", 1)
    world.report(State.REBOOTING, attempt=1, pair=(1, 2))
    world.hello(pair=(2, 1), assignment_counter=1, running_slot="b", slots=slots(a=None, b=1))
    world.start("c2", 1)
    actions = world.report(State.SUCCEEDED, attempt=2, pair=(2, 2), slot="b")
    assert not alarms(actions)
    assert world.attempt(campaign="c2").state is State.SUCCEEDED


def test_a_bridge_that_forgot_an_assignment_still_knows_which_slot_is_the_old_one() -> None:
    world = World()
    world.hello(slots=slots(a=2, b=None))
    world.start()
    world.report(State.REBOOTING, pair=(1, 2))
    (again,) = issued(world.hello(pair=(2, 1), assignment_counter=5, running_slot="b", slots=slots(a=2, b=1)))
    assert again.counter == 6
    world.report(State.SUCCEEDED, attempt=1, pair=(2, 2), slot="b")
    world.hello(pair=(3, 1), assignment_counter=6, running_slot="a", slots=slots(a=2, b=1))
    assert world.attempt().state is State.ROLLED_BACK


@given(st.randoms(use_true_random=False), st.sampled_from([State.SUCCEEDED, State.ROLLED_BACK, State.FAILED]))
def test_the_order_in_which_a_device_is_heard_does_not_decide_how_its_attempt_ends(
    shuffled: random.Random, end: State
) -> None:
    world = World()
    world.hello()
    world.start()
    slot = "b" if end is State.SUCCEEDED else "a"
    seen = slots(a=None, b=1)
    steps: list[Callable[[], object]] = [
        lambda: world.report(State.OFFERED, pair=(1, 2)),
        lambda: world.report(State.DOWNLOADING, pair=(1, 3)),
        lambda: world.report(State.REBOOTING, pair=(1, 4)),
        lambda: world.hello(pair=(2, 1), nonce=nonce(2), assignment_counter=1, running_slot=slot, slots=seen),
        lambda: world.report(end, pair=(2, 2), slot=slot),
        lambda: world.hello(pair=(2, 3), nonce=nonce(2), assignment_counter=1, running_slot=slot, slots=seen),
    ]
    twice = steps * 2
    shuffled.shuffle(twice)
    for step in twice:
        step()
    assert world.attempt().state is end
    assert world.show().summary.ended == "completed"

"""The bridge's decisions: who is assigned what, what a report changes, when a campaign has ended.

Given, when, then: each test or row of a table sets a scene in words of the protocol and looks at what follows.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowboat_bridge.core.actions import (
    Acknowledge,
    Action,
    Commit,
    Emit,
    Record,
    Refusal,
    StoreAssignment,
    StoreAttempt,
    StoreCampaign,
    StoreDevice,
    StoreRelease,
    StoreReport,
)
from narrowboat_bridge.core.campaigns import Campaigns, Settings
from narrowboat_bridge.core.changes import ALARM_INTERVAL_S
from narrowboat_bridge.core.events import Event, Now, ReleaseAdded, Restored, TimeReached
from narrowboat_bridge.core.records import RECENT_PAIRS, Attempt, Campaign, Device, Release
from narrowboat_bridge.core.schedule import FIRST_INTERVAL_S, INTERVAL_MAX_S, TAKEN_AT_ONCE_MAX
from narrowboat_bridge.core.steering import COUNTER_END, VALIDITY_S
from narrowboat_protocol.documents import (
    CampaignAbort,
    CampaignDetail,
    CampaignList,
    CampaignPage,
    CampaignShow,
    CampaignStart,
    CampaignSummary,
    DeviceDetail,
    DeviceList,
    DevicePage,
    DeviceShow,
    EventKind,
    Request,
    UploadFinish,
    UploadState,
)
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.states import State
from tests.bridge.world import World, answer, delivered, digest, issued, key_of, nonce, only, release, slots


def refusal(actions: list[Action]) -> Reason:
    outcome = answer(actions)
    assert isinstance(outcome, Refusal)
    return outcome.reason


def alarms(actions: list[Action]) -> list[Emit]:
    return [action for action in only(Emit, actions) if action.kind is EventKind.ALARM]


# Order and durability.


def test_nothing_is_acknowledged_or_said_before_the_commit_of_what_was_written() -> None:
    world = World()
    steps: list[Callable[[], list[Action]]] = [
        world.hello,
        lambda: world.hello(pair=(1, 2)),
        lambda: world.start(devices=None),
        lambda: world.report(State.DOWNLOADING, pair=(1, 3)),
        lambda: world.report(State.DOWNLOADING, pair=(1, 3)),
        lambda: world.report(State.SUCCEEDED, pair=(2, 1), slot="b"),
        lambda: world.hello(pair=(2, 2), assignment_counter=1),
        world.abort,
    ]
    for step in steps:
        check_order(step())


def check_order(actions: list[Action]) -> None:
    """Actions of one or more events: within each event writes, one commit, then words."""
    committed = False
    for action in actions:
        if isinstance(action, Commit):
            committed = True
        elif isinstance(
            action, (StoreDevice, StoreReport, StoreRelease, StoreCampaign, StoreAttempt, StoreAssignment, Record)
        ):
            committed = False
        else:
            assert committed, f"{type(action).__name__} was said before the commit"


def test_an_ack_stands_behind_the_row_that_it_acknowledges() -> None:
    world = World()
    world.hello()
    actions = world.report(State.DOWNLOADING, pair=(1, 2))
    kinds = [type(action) for action in actions]
    assert kinds.index(StoreReport) < kinds.index(Commit) < kinds.index(Acknowledge)


# Hello.


def test_a_first_hello_admits_the_device_and_is_acknowledged() -> None:
    actions = World().hello()
    assert [record.what for record in only(Record, actions)] == ["device admitted"]
    (ack,) = only(Acknowledge, actions)
    assert (ack.device, ack.pair, ack.challenge) == ("gw-1", (1, 1), (1).to_bytes(16, "big"))


def test_each_ack_carries_a_challenge_of_its_own() -> None:
    world = World()
    first, second = only(Acknowledge, world.hello()), only(Acknowledge, world.hello())
    assert first[0].challenge != second[0].challenge


def test_another_key_under_a_known_name_changes_nothing_and_raises_the_alarm() -> None:
    world = World()
    world.hello()
    actions = world.hello(pair=(9, 9), key=key_of("an intruder"), running_slot="b")
    assert alarms(actions)
    assert not only(Acknowledge, actions)
    device = world.campaigns.device("gw-1")
    assert device is not None
    assert device.key == key_of("gw-1")
    assert device.hello.running_slot == "a"


def test_a_hello_that_comes_late_does_not_bring_back_an_old_nonce() -> None:
    world = World()
    world.hello(pair=(2, 1), nonce=nonce(2))
    world.hello(pair=(1, 1), nonce=nonce(1))
    (assignment,) = issued(world.start())
    assert assignment.nonce == nonce(2)


def test_a_device_that_lost_its_state_is_told_where_it_stood() -> None:
    world = World()
    world.hello(pair=(7, 3))
    (ack,) = only(Acknowledge, world.hello(pair=(1, 1)))
    assert ack.pair == (7, 3)


def test_a_hello_is_acknowledged_by_its_own_pair_when_a_report_overtook_it() -> None:
    world = World()
    world.hello(pair=(1, 1))
    world.report(State.DOWNLOADING, pair=(2, 5), attempt=0)
    (ack,) = only(Acknowledge, world.hello(pair=(2, 4), nonce=nonce(2)))
    assert ack.pair == (2, 4)
    (assignment,) = issued(world.start())
    assert assignment.nonce == nonce(2)


def test_an_ack_of_a_hello_does_not_cover_an_end_of_an_earlier_boot_that_has_not_arrived() -> None:
    world = World()
    world.hello(pair=(1, 1))
    world.start()
    (of_hello,) = only(Acknowledge, world.hello(pair=(3, 1), assignment_counter=1))
    (of_end,) = only(Acknowledge, world.report(State.FAILED, pair=(2, 10)))
    assert of_hello.pair == (3, 1)
    assert of_end.pair == (2, 10)


CLONES: dict[str, Callable[[World], list[Action]]] = {
    "a report under the pair of another report": lambda world: world.report(State.FAILED, pair=(1, 2)),
    "a report under the pair of a hello": lambda world: world.report(State.FAILED, pair=(1, 1)),
    "a hello under the pair of another hello": lambda world: world.hello(pair=(1, 1), running_slot="b"),
    "a hello below the highest pair that answers the last Ack": lambda world: world.hello(
        pair=(0, 5), challenge=world.challenges.to_bytes(16, "big")
    ),
}


@pytest.mark.parametrize("case", CLONES)
def test_a_clone_gets_no_ack_and_changes_nothing_but_the_alarm(case: str) -> None:
    world = World()
    world.hello(pair=(1, 1))
    world.start()
    world.report(State.DOWNLOADING, pair=(1, 2))
    before = world.attempt()
    actions = CLONES[case](world)
    assert len(alarms(actions)) == 1
    assert not only(Acknowledge, actions)
    assert not only(StoreReport, actions)
    assert world.attempt() == before


def test_old_hellos_that_are_said_again_do_not_hide_a_clone() -> None:
    """A broker replays more of them than pairs are remembered."""
    world = World()
    for n in range(1, 2 * RECENT_PAIRS):
        world.hello(pair=(1, n))
    world.start()
    world.report(State.DOWNLOADING, pair=(2, 1))
    for n in range(1, 2 * RECENT_PAIRS):
        world.hello(pair=(1, n))
    actions = world.report(State.FAILED, pair=(2, 1))
    assert len(alarms(actions)) == 1
    assert not only(Acknowledge, actions)
    assert world.attempt().state is State.DOWNLOADING


def test_a_clone_cannot_fill_the_audit_log() -> None:
    world = World()
    world.hello()
    entries = sum(len(only(Record, world.hello(key=key_of("an intruder")))) for _ in range(100))
    assert entries == 1
    world.sleep(ALARM_INTERVAL_S)
    assert alarms(world.hello(key=key_of("an intruder")))


# Assignments.


def test_an_assignment_names_the_release_its_payload_and_the_nonce_of_the_hello() -> None:
    world = World()
    world.hello(nonce=nonce(7))
    actions = world.start()
    (assignment,) = issued(actions)
    (target,) = assignment.targets
    assert (assignment.counter, assignment.nonce, assignment.campaign) == (1, nonce(7), "c1")
    assert assignment.expires_at == assignment.issued_at + VALIDITY_S
    assert (target.release, target.payloads) == (digest(1), (release(1).payload,))
    assert delivered(actions) == ["gw-1"]


def test_the_director_goes_on_above_a_counter_that_the_bridge_has_forgotten() -> None:
    world = World()
    world.hello(assignment_counter=41)
    (assignment,) = issued(world.start())
    assert assignment.counter == 42


def test_a_counter_beyond_which_there_is_none_is_an_alarm_and_no_crash() -> None:
    world = World()
    world.hello(assignment_counter=COUNTER_END - 1)
    actions = world.start()
    assert not issued(actions)
    assert alarms(actions)


def test_a_device_that_holds_its_assignment_is_sent_nothing() -> None:
    world = World()
    world.hello()
    world.start()
    assert not delivered(world.hello(pair=(1, 2), assignment_counter=1))
    world.sleep(10 * FIRST_INTERVAL_S)
    assert not delivered(world.tick())


def test_a_lost_delivery_is_sent_again_as_it_was() -> None:
    world = World()
    world.hello()
    world.start()
    actions = world.hello(pair=(1, 2))
    assert delivered(actions) == ["gw-1"]
    assert not issued(actions)


def test_a_device_that_restarted_before_it_accepted_gets_an_assignment_for_its_new_nonce() -> None:
    world = World()
    world.hello()
    world.start()
    (assignment,) = issued(world.hello(pair=(2, 1), nonce=nonce(2)))
    assert (assignment.counter, assignment.nonce) == (2, nonce(2))
    world.report(State.DOWNLOADING, attempt=2, pair=(2, 2))
    assert world.attempt().state is State.DOWNLOADING


def test_a_report_of_either_counter_moves_the_one_attempt_of_the_campaign() -> None:
    world = World()
    world.hello()
    world.start()
    world.hello(pair=(2, 1), nonce=nonce(2))
    world.hello(pair=(3, 1), nonce=nonce(3))
    world.report(State.DOWNLOADING, attempt=1, pair=(3, 2))
    assert world.attempt().state is State.DOWNLOADING
    assert len(world.show().attempts) == 1


def test_an_expired_assignment_is_not_sent_again() -> None:
    world = World()
    world.hello()
    world.start()
    world.sleep(VALIDITY_S)
    (assignment,) = issued(world.hello(pair=(1, 2)))
    assert assignment.counter == 2


def test_silence_is_met_with_the_same_assignment_at_growing_intervals() -> None:
    world = World()
    world.hello()
    world.start()
    for interval_s in (FIRST_INTERVAL_S, 2 * FIRST_INTERVAL_S, 4 * FIRST_INTERVAL_S):
        world.sleep(interval_s - 1)
        assert not delivered(world.tick())
        world.sleep(1)
        actions = world.tick()
        assert delivered(actions) == ["gw-1"]
        assert not issued(actions)


@pytest.mark.parametrize("command", [CampaignAbort(campaign="c1"), CampaignStart(campaign="c2", release=digest(2))])
def test_a_report_between_a_command_and_what_follows_from_it_does_not_stop_that(command: Request) -> None:
    """Both arrive in one batch. The device reports on what it has, and lacks what is new."""
    world = World()
    world.hello()
    world.start()
    world.report(State.DOWNLOADING, pair=(1, 2))
    world.command(command)
    world.report(State.DOWNLOADING, pair=(1, 3))
    assert delivered(world.tick()) == ["gw-1"]


def test_a_device_that_comes_back_from_a_long_silence_does_not_wait_as_long_for_what_is_lost() -> None:
    """The delivery that follows its hello is lost, and so is that of a campaign that follows."""
    world = World()
    world.hello()
    world.start()
    for _ in range(20):
        world.sleep(INTERVAL_MAX_S)
        world.tick()
    world.hello(pair=(1, 2))
    world.sleep(FIRST_INTERVAL_S)
    assert delivered(world.tick()) == ["gw-1"]
    for _ in range(20):
        world.sleep(INTERVAL_MAX_S)
        world.tick()
    world.start("c2", 2)
    world.sleep(FIRST_INTERVAL_S)
    assert delivered(world.tick()) == ["gw-1"]


def test_a_report_of_the_assignment_ends_the_repetitions() -> None:
    world = World()
    world.hello()
    world.start()
    world.report(State.OFFERED, pair=(1, 2))
    world.sleep(10 * FIRST_INTERVAL_S)
    assert not delivered(world.tick())


def test_a_report_that_parks_an_assignment_ends_the_repetitions() -> None:
    world = World()
    world.hello()
    world.start("c1", 1)
    world.report(State.REBOOTING, pair=(1, 2))
    world.start("c2", 2)
    world.report(State.REBOOTING, pair=(1, 3), parked=2)
    world.sleep(10 * FIRST_INTERVAL_S)
    assert not delivered(world.tick())


def test_a_hello_that_a_report_overtook_does_not_undo_what_the_report_showed() -> None:
    world = World()
    world.hello(pair=(1, 1))
    world.start()
    world.report(State.OFFERED, pair=(1, 6))
    assert not delivered(world.hello(pair=(1, 5), nonce=nonce(2), assignment_counter=0))


def test_a_device_that_does_not_read_our_format_is_sent_nothing() -> None:
    world = World()
    world.hello(formats=(2,))
    assert not issued(world.start())


def test_a_campaign_over_thousands_serves_a_bounded_number_in_one_turn() -> None:
    world = World()
    for number in range(3 * TAKEN_AT_ONCE_MAX):
        world.hello(f"gw-{number}")
    actions = world.command(CampaignStart(campaign="c1", release=digest(1)))
    assert not delivered(actions)
    served = [len(delivered(world.feed(TimeReached()))) for _ in range(4)]
    assert served == [TAKEN_AT_ONCE_MAX, TAKEN_AT_ONCE_MAX, TAKEN_AT_ONCE_MAX, 0]


# Reports and attempts.

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


def test_a_release_file_on_trial_does_not_fulfil_a_campaign_yet() -> None:
    world = World()
    world.hello(running_slot="b", slots=slots(a=2, b=1), state=State.ON_TRIAL)
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


def test_a_device_that_runs_the_release_already_needs_no_assignment() -> None:
    world = World()
    world.hello(slots=slots(a=1, b=None))
    actions = world.start()
    assert not issued(actions)
    assert world.attempt().state is State.SUCCEEDED
    assert world.show().summary.ended == "completed"


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


# Campaigns.


def test_a_start_that_is_repeated_changes_nothing() -> None:
    world = World()
    world.hello()
    world.start()
    actions = world.start()
    assert isinstance(answer(actions), CampaignSummary)
    assert not only(StoreCampaign, actions)
    assert not issued(actions)


def test_a_start_that_is_repeated_after_the_end_is_still_the_same_campaign() -> None:
    world = World()
    world.hello()
    world.start()
    world.report(State.FAILED, pair=(1, 2))
    summary = answer(world.start())
    assert isinstance(summary, CampaignSummary)
    assert summary.ended == "completed"


STARTS: dict[str, tuple[CampaignStart, Reason]] = {
    "a release that nobody pushed": (
        CampaignStart(campaign="c2", release=digest(9)), Reason.UNKNOWN_RELEASE,
    ),
    "a device that never said hello": (
        CampaignStart(campaign="c2", release=digest(1), devices=("gw-1", "gw-9")), Reason.UNKNOWN_DEVICE,
    ),
    "a device of other hardware": (
        CampaignStart(campaign="c2", release=digest(1), devices=("gw-1", "other")), Reason.WRONG_CLASS,
    ),
    "a name that is taken by other content": (
        CampaignStart(campaign="c1", release=digest(2), devices=("gw-1",)), Reason.CONFLICT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", STARTS)
def test_a_start_that_makes_no_sense_is_refused_and_changes_nothing(case: str) -> None:
    request, reason = STARTS[case]
    world = World()
    world.hello()
    world.hello("other", class_id=UUID(int=9).bytes)
    world.start("c1", 1, ("gw-1",))
    actions = world.command(request)
    assert refusal(actions) is reason
    assert not only(StoreCampaign, actions)
    assert not only(StoreAttempt, actions)


def test_a_campaign_for_all_takes_the_devices_of_its_hardware_and_no_others() -> None:
    world = World()
    world.hello("gw-1")
    world.hello("other", class_id=UUID(int=9).bytes)
    actions = world.start(devices=None)
    assert delivered(actions) == ["gw-1"]


def test_a_campaign_for_all_takes_a_device_that_comes_later() -> None:
    world = World()
    world.start(devices=None)
    assert delivered(world.hello("gw-2")) == ["gw-2"]
    assert world.show().summary.devices == 1


def test_a_campaign_for_all_does_not_end_by_itself() -> None:
    world = World()
    world.hello()
    world.start(devices=None)
    world.report(State.SUCCEEDED, pair=(2, 1), slot="b")
    summary = world.show().summary
    assert (summary.ended, summary.counts, summary.devices) == (None, {"succeeded": 1}, 1)


def test_a_campaign_is_completed_by_the_end_of_its_last_device() -> None:
    world = World()
    world.hello("gw-1")
    world.hello("gw-2")
    world.start(devices=("gw-1", "gw-2"))
    world.report(State.FAILED, "gw-1", pair=(1, 2))
    assert world.show().summary.ended is None
    actions = world.report(State.SUCCEEDED, "gw-2", pair=(2, 1), slot="b")
    assert world.show().summary.ended == "completed"
    assert [emit.detail for emit in only(Emit, actions) if emit.kind is EventKind.CAMPAIGN_ENDED] == ["completed"]


def test_a_roll_back_after_the_end_changes_the_counts_of_the_campaign() -> None:
    world = World()
    world.hello()
    world.start()
    world.report(State.SUCCEEDED, pair=(2, 1), slot="b")
    world.report(State.ROLLED_BACK, pair=(3, 1), slot="a")
    assert world.show().summary.counts == {"rolled_back": 1}


def test_an_abort_is_an_assignment_without_targets() -> None:
    world = World()
    world.hello()
    world.start()
    (assignment,) = issued(world.abort())
    assert (assignment.counter, assignment.targets, assignment.campaign) == (2, (), "c1")


def test_an_abort_is_repeated_until_the_device_holds_it() -> None:
    world = World()
    world.hello()
    world.start()
    world.hello(pair=(1, 2), assignment_counter=1)
    world.abort()
    assert delivered(world.hello(pair=(1, 3), assignment_counter=1)) == ["gw-1"]
    assert not delivered(world.hello(pair=(1, 4), assignment_counter=2))


def test_the_bridge_does_not_write_aborted_by_itself() -> None:
    world = World()
    world.hello()
    world.start()
    world.report(State.DOWNLOADING, pair=(1, 2))
    world.abort()
    assert world.attempt().state is State.DOWNLOADING
    world.report(State.ABORTED, pair=(1, 3))
    assert world.attempt().state is State.ABORTED


def test_a_device_that_was_not_assigned_yet_is_not_bothered_by_an_abort() -> None:
    world = World()
    world.hello()
    world.command(CampaignStart(campaign="c1", release=digest(1), devices=("gw-1",)))
    assert not delivered(world.abort())
    assert world.show().summary.counts == {"withdrawn": 1}


def test_an_abort_leaves_ended_devices_as_they_are() -> None:
    world = World()
    world.hello("gw-1")
    world.hello("gw-2")
    world.start(devices=("gw-1", "gw-2"))
    world.report(State.SUCCEEDED, "gw-1", pair=(2, 1), slot="b")
    assert [assignment.device for assignment in issued(world.abort())] == ["gw-2"]


def test_an_abort_of_what_is_aborted_or_completed() -> None:
    world = World()
    world.hello()
    world.start("c1")
    world.abort("c1")
    assert isinstance(answer(world.abort("c1")), CampaignSummary)
    world.start("c2", 2)
    world.report(State.FAILED, attempt=3, about=2, pair=(1, 9))
    assert refusal(world.abort("c2")) is Reason.CONFLICT
    assert refusal(world.abort("c9")) is Reason.UNKNOWN_CAMPAIGN


def test_the_newest_campaign_that_wants_a_device_has_it() -> None:
    world = World()
    world.hello()
    world.start("c1", 1)
    world.report(State.DOWNLOADING, attempt=1, pair=(1, 2))
    (assignment,) = issued(world.start("c2", 2))
    assert (assignment.counter, assignment.targets[0].release) == (2, digest(2))
    world.report(State.ABORTED, attempt=1, pair=(1, 3), reason=Reason.SUPERSEDED)
    assert world.attempt(campaign="c1").reason is Reason.SUPERSEDED
    assert world.show("c1").summary.ended == "completed"


def test_a_campaign_that_lost_its_device_before_it_began_waits_for_nothing() -> None:
    world = World()
    world.hello()
    world.start("c1", 1)
    world.start("c2", 2)
    summary = world.show("c1").summary
    assert (summary.ended, summary.counts) == ("completed", {"withdrawn": 1})


def test_work_does_not_come_back_to_life_when_the_campaign_that_took_its_device_is_aborted() -> None:
    world = World()
    world.hello()
    world.start("c1", 1, None)
    world.start("c2", 2, None)
    (withdrawal,) = issued(world.abort("c2"))
    assert withdrawal.targets == ()
    assert not delivered(world.hello(pair=(1, 2), assignment_counter=withdrawal.counter))


# Releases and looks.


def test_a_release_that_is_pushed_again_is_answered_and_announced_once() -> None:
    world = World()
    actions = world.feed(ReleaseAdded(release(1), "anna", world.request_id()))
    state = answer(actions)
    assert isinstance(state, UploadState)
    assert state.release is not None
    assert state.release.release == digest(1)
    assert not only(Emit, actions)


def test_a_bridge_takes_a_bounded_number_of_releases() -> None:
    world = World(Campaigns(Settings(root_version=1, releases_max=2)))
    assert refusal(world.feed(ReleaseAdded(release(3), "anna", world.request_id()))) is Reason.BUSY


def test_devices_are_shown_in_pages() -> None:
    world = World()
    for name in ("c", "a", "b"):
        world.hello(name)
    page = answer(world.command(DeviceList(limit=2)))
    assert isinstance(page, DevicePage)
    assert ([device.name for device in page.devices], page.more) == (["a", "b"], True)
    rest = answer(world.command(DeviceList(after="b", limit=2)))
    assert isinstance(rest, DevicePage)
    assert ([device.name for device in rest.devices], rest.more) == (["c"], False)


def test_a_page_of_long_attempts_fits_in_a_reply() -> None:
    world = World()
    names = tuple(f"gw-{number}" for number in range(200))
    for name in names:
        world.hello(name)
    world.start(devices=names)
    for name in names:
        world.report(State.DOWNLOADING, name, pair=(1, 2), detail="x" * 500)
    seen: list[str] = []
    more, after = True, None
    while more:
        detail = answer(world.command(CampaignShow(campaign="c1", after=after, limit=200)))
        assert isinstance(detail, CampaignDetail)
        assert len(detail.encode()) < 60_000
        seen += [attempt.device for attempt in detail.attempts]
        more, after = detail.more, seen[-1]
    assert sorted(names) == seen


def test_a_device_is_shown_with_its_attempts_newest_first() -> None:
    world = World()
    world.hello()
    world.start("c1", 1)
    world.report(State.FAILED, pair=(1, 2))
    world.start("c2", 2)
    detail = answer(world.command(DeviceShow(device="gw-1")))
    assert isinstance(detail, DeviceDetail)
    assert [attempt.attempt for attempt in detail.attempts] == [2, 1]
    assert detail.summary.campaign == "c2"
    assert refusal(world.command(DeviceShow(device="gw-9"))) is Reason.UNKNOWN_DEVICE


def test_campaigns_are_listed_newest_first() -> None:
    world = World()
    world.start("c1", 1, None)
    world.start("c2", 2, None)
    page = answer(world.command(CampaignList()))
    assert isinstance(page, CampaignPage)
    assert [campaign.name for campaign in page.campaigns] == ["c2", "c1"]


def test_a_request_that_is_not_the_core_s_is_refused() -> None:
    assert refusal(World().command(UploadFinish(digest=digest(1)))) is Reason.BAD_USE


# Restart.


def restored(actions: list[Action]) -> Restored:
    """What a store that carried out these actions would give back."""
    devices: dict[str, Device] = {}
    releases: dict[bytes, Release] = {}
    campaigns: dict[str, Campaign] = {}
    attempts: dict[tuple[str, str], Attempt] = {}
    assignments = {item.assignment.device: item.assignment for item in only(StoreAssignment, actions)}
    for action in actions:
        match action:
            case StoreDevice(device):
                devices[device.name] = device
            case StoreRelease(item):
                releases[item.digest] = item
            case StoreCampaign(campaign):
                campaigns[campaign.name] = campaign
            case StoreAttempt(attempt):
                attempts[attempt.campaign, attempt.device] = attempt
            case _:
                pass
    return Restored(
        tuple(devices.values()),
        tuple(releases.values()),
        tuple(campaigns.values()),
        tuple(attempts.values()),
        tuple(assignments.values()),
    )


class Recording(World):
    """A world that remembers every action, as a store would."""

    def __init__(self) -> None:
        self.log: list[Action] = []
        super().__init__()

    def feed(self, event: Event) -> list[Action]:
        actions = super().feed(event)
        self.log += actions
        return actions

    def restart(self, log: list[Action] | None = None, wall_s: int | None = None) -> None:
        """Start on what is in the store, or in an older copy of it; `wall_s` if the clock is wrong then."""
        self.campaigns = Campaigns(Settings(root_version=1))
        now = self.now if wall_s is None else Now(self.now.monotonic_s, wall_s)
        self.campaigns.handle(restored(self.log if log is None else log), now)


def test_a_bridge_that_restarts_resends_what_is_unanswered_at_the_next_hello() -> None:
    world = Recording()
    world.hello()
    world.start()
    world.restart()
    actions = world.hello(pair=(1, 2))
    assert delivered(actions) == ["gw-1"]
    assert not issued(actions), "the same assignment, not another one"


def test_a_bridge_that_died_between_commit_and_delivery_delivers_without_a_hello() -> None:
    world = Recording()
    world.hello()
    world.start()
    world.restart()
    world.sleep(FIRST_INTERVAL_S)
    assert delivered(world.tick()) == ["gw-1"]


def test_a_bridge_that_died_before_it_assigned_assigns_after_the_restart() -> None:
    world = Recording()
    world.hello()
    world.command(CampaignStart(campaign="c1", release=digest(1), devices=("gw-1",)))
    world.restart()
    world.sleep(FIRST_INTERVAL_S)
    assert len(issued(world.tick())) == 1


def test_a_bridge_on_an_older_copy_issues_no_counter_that_was_issued_before() -> None:
    world = Recording()
    world.hello()
    older = [*world.log]
    world.start("c1", about=1)
    world.sleep(60)
    world.restart(older)
    (assignment,) = issued(world.start("c2", about=2))
    assert assignment.counter > world.now.wall_s, "counter 1 is of the life that the copy does not know"


def test_a_bridge_on_an_older_copy_asks_for_the_end_that_it_has_forgotten() -> None:
    world = Recording()
    world.hello()
    world.start()
    world.report(State.DOWNLOADING, pair=(1, 2))
    older = [*world.log]
    world.report(State.FAILED, pair=(1, 3))
    world.restart(older)
    world.sleep(FIRST_INTERVAL_S)
    asked = world.tick()
    assert (delivered(asked), issued(asked)) == (["gw-1"], []), "the same bytes again: the device answers with its end"
    world.report(State.FAILED, pair=(1, 4))
    world.sleep(3600)
    assert (world.attempt().state, delivered(world.tick())) == (State.FAILED, [])


def test_what_a_device_runs_is_asked_and_not_taken_from_an_older_copy() -> None:
    world = Recording()
    world.hello(slots=slots(a=1, b=None))
    world.restart()
    assert delivered(world.start(about=1)) == ["gw-1"]
    assert world.attempt().state is None
    world.report(State.SUCCEEDED, attempt=world.attempt().attempt, pair=(1, 2))
    assert world.attempt().state is State.SUCCEEDED
    world.hello(pair=(2, 1), assignment_counter=world.attempt().attempt, slots=slots(a=1, b=None))
    assert world.attempt().state is State.SUCCEEDED, "it never left that slot"


def test_a_device_that_may_accept_another_release_is_not_said_to_run_this_one() -> None:
    world = World()
    world.hello(slots=slots(a=1, b=None))
    world.start("c2", about=2)
    assert delivered(world.start("c1", about=1)) == ["gw-1"], "what c2 sent may still arrive"
    assert world.attempt(campaign="c1").state is None


def test_a_device_at_work_on_what_the_bridge_forgot_is_assigned_anew() -> None:
    world = World()
    world.hello(slots=slots(a=1, b=None), assignment_counter=7)
    (assignment,) = issued(world.start(about=1))
    assert assignment.counter == 8


def test_work_that_begins_anew_succeeds_from_the_slot_that_did_not_run_then() -> None:
    world = World()
    world.hello()
    world.start()
    world.report(State.DOWNLOADING, pair=(1, 2))
    world.hello(pair=(2, 1), assignment_counter=5, running_slot="b", slots=slots(a=None, b=2), nonce=nonce(2))
    counter = world.attempt().attempt
    actions = world.report(State.SUCCEEDED, attempt=counter, pair=(3, 1), slot="a")
    assert (world.attempt().state, only(Record, actions)[-1].what) == (State.SUCCEEDED, "campaign ended")


def test_a_restart_over_many_devices_is_no_storm() -> None:
    world = Recording()
    names = tuple(f"gw-{number}" for number in range(200))
    for name in names:
        world.hello(name)
    world.start(devices=names)
    world.restart()
    world.sleep(FIRST_INTERVAL_S + 1)
    assert 40 <= len(delivered(world.tick())) <= 60


HISTORY = st.lists(
    st.one_of(
        st.tuples(st.just("hello"), st.integers(1, 3), st.integers(1, 4), st.integers(0, 3)),
        st.tuples(st.just("report"), st.integers(1, 3), st.integers(1, 4), st.sampled_from(list(State))),
        st.tuples(st.just("start"), st.integers(1, 2), st.booleans(), st.just(0)),
        st.tuples(st.just("abort"), st.integers(1, 2), st.just(0), st.just(0)),
        st.tuples(st.just("sleep"), st.integers(1, 10_000), st.just(0), st.just(0)),
    ),
    max_size=25,
)


def act(world: World, step: tuple[str, int, int, object]) -> list[Action]:
    match step:
        case ("hello", boot, n, int(counter)):
            return world.hello(pair=(boot, n), nonce=nonce(boot), assignment_counter=counter, slots=slots(a=None, b=1))
        case ("report", boot, n, State() as state):
            return world.report(state, pair=(boot, n), attempt=n - 1, slot="ab"[boot % 2])
        case ("start", number, for_all, _):
            return world.start(f"c{number}", number, None if for_all else ("gw-1",))
        case ("abort", number, _, _):
            return world.abort(f"c{number}")
        case (_, seconds, _, _):
            world.sleep(seconds)
            return world.tick()


@given(HISTORY)
def test_whatever_happens_in_whatever_order_is_handled_and_said_after_its_commit(
    history: list[tuple[str, int, int, object]],
) -> None:
    world = World()
    for step in history:
        check_order(act(world, step))


@given(HISTORY, HISTORY)
def test_a_restart_forgets_nothing_that_was_committed(
    before: list[tuple[str, int, int, object]], after: list[tuple[str, int, int, object]]
) -> None:
    steady, restarting = Recording(), Recording()
    for step in before:
        act(steady, step)
        act(restarting, step)
    restarting.restart(wall_s=0)
    for number in (1, 2):
        shown = [world.command(CampaignShow(campaign=f"c{number}")) for world in (steady, restarting)]
        assert answer(shown[0]) == answer(shown[1])
    for world in (steady, restarting):
        act(world, ("hello", 4, 1, 0))
    for step in after:
        hello_or_report = step[0] in ("hello", "report")
        first, second = act(steady, step), act(restarting, step)
        if hello_or_report:
            assert issued(first) == issued(second)

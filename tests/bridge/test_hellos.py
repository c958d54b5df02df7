"""What a hello changes at the bridge, what a contradiction does, and in which order all is written and said."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from narrowboat_bridge.core.actions import Acknowledge, Action, Commit, Record, StoreReport
from narrowboat_bridge.core.changes import ALARM_INTERVAL_S
from narrowboat_bridge.core.records import RECENT_PAIRS
from narrowboat_protocol.states import State
from tests.bridge.world import World, alarms, check_order, issued, key_of, nonce, only

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

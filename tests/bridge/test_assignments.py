"""Who is assigned what, and how often it is said until the device holds it."""

from __future__ import annotations

import pytest

from narrowboat_bridge.core.events import TimeReached
from narrowboat_bridge.core.schedule import FIRST_INTERVAL_S, INTERVAL_MAX_S, TAKEN_AT_ONCE_MAX
from narrowboat_bridge.core.steering import VALIDITY_S
from narrowboat_protocol.documents import CampaignAbort, CampaignStart, Request
from narrowboat_protocol.documents.fields import COUNTER_END
from narrowboat_protocol.states import State
from tests.bridge.world import World, alarms, delivered, digest, issued, nonce, release


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

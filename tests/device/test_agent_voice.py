"""The agent core as given-when-then: what a gateway says, how often, and what it makes of the answers."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from itertools import pairwise

from narrowboat_device.core import actions as ac
from narrowboat_device.core import events as ev
from narrowboat_device.core.memory import LETTERS_MAX, Outbox, read_record
from narrowboat_device.core.repeats import Repeats
from narrowboat_protocol.states import State
from tests.device.agent_kit import brought_to, letters, offer_file
from tests.support.fleet import MadeRelease
from tests.support.gateway import Gateway


def test_a_terminal_report_is_said_until_a_bridge_has_stored_it(gateway: Gateway, release: MadeRelease) -> None:
    brought_to(gateway, State.DOWNLOADING, release).assign()
    pair = gateway.report.pair
    gateway.power_cycle()
    gateway.connect()
    assert gateway.report.pair == pair
    gateway.pass_time(31)
    assert [report.pair for report in gateway.reports][-2:] == [pair, pair]

    gateway.acknowledge(pair)
    said = len(gateway.reports)
    gateway.power_cycle()
    gateway.connect()
    assert len(gateway.reports) == said


def test_an_ack_for_something_else_does_not_lose_a_terminal_report(gateway: Gateway, release: MadeRelease) -> None:
    brought_to(gateway, State.DOWNLOADING, release).assign()
    pair = gateway.report.pair
    gateway.power_cycle()
    gateway.connect()
    gateway.acknowledge(gateway.hellos[-1].pair)
    gateway.power_cycle()
    gateway.connect()
    assert gateway.report.pair == pair


def test_an_old_ack_that_a_broker_kept_deletes_no_end_of_a_device_that_lost_its_state(
    gateway: Gateway, release: MadeRelease
) -> None:
    brought_to(gateway, State.DOWNLOADING, release).assign()
    pair = gateway.report.pair
    gateway.acknowledge(pair, statement=hashlib.sha256(b"what it said under this pair in its life before").digest())
    gateway.power_cycle()
    gateway.connect()
    assert gateway.report.pair == pair
    gateway.acknowledge(pair)
    assert letters(gateway) == 0


def test_no_two_documents_of_a_device_ever_share_a_pair(gateway: Gateway, release: MadeRelease) -> None:
    brought_to(gateway, State.DOWNLOADING, release)
    gateway.power_on()
    gateway.connect()
    said = {(report.pair, report.state, report.hold) for report in gateway.reports}
    pairs = [pair for pair, *_ in said] + [hello.pair for hello in gateway.hellos]
    assert len(set(pairs)) == len(pairs)


def test_a_device_that_lost_its_counters_takes_up_above_what_the_bridge_has_stored(gateway: Gateway) -> None:
    gateway.acknowledge((41, 7))
    assert gateway.hellos[-1].pair > (41, 7)
    assert gateway.hellos[-1].challenge is None, "it may be an old one, of an Ack that a broker kept"


def test_a_device_that_lost_nothing_and_is_behind_all_the_same_gives_its_copy_away_and_goes_on(
    gateway: Gateway,
) -> None:
    gateway.acknowledge(gateway.hellos[-1].pair)
    gateway.power_cycle()
    gateway.connect()
    before = gateway.hellos[-1]
    assert before.challenge is not None, "the first one is there after a power cut"
    gateway.acknowledge((41, 7))
    evidence = gateway.hellos[-1]
    assert before.pair < evidence.pair < (41, 7)
    assert evidence.challenge is not None
    gateway.acknowledge((41, 7))
    assert gateway.hellos[-1].pair > (41, 7)
    assert gateway.hellos[-1].challenge is None


def test_a_bridge_that_lost_its_store_hears_of_every_device_soon_and_not_at_once(gateway: Gateway) -> None:
    gateway.acknowledge(gateway.hellos[-1].pair)
    gateway.pass_time(400)
    said = len(gateway.hellos)
    gateway.give(ev.RootArrived(gateway.fleet.root_data))
    assert len(gateway.hellos) == said, "the whole fleet answers in the same instant"
    gateway.pass_time(60)
    assert len(gateway.hellos) == said + 1


def test_a_bridge_on_a_bad_link_does_not_make_the_fleet_say_hello_each_time(gateway: Gateway) -> None:
    said = len(gateway.hellos)
    for _ in range(200):
        gateway.acknowledge(gateway.hellos[-1].pair)
        gateway.give(ev.RootArrived(gateway.fleet.root_data))
        gateway.pass_time(5)
    assert 2 <= len(gateway.hellos) - said <= 1000 // 300 + 1


def test_a_root_that_the_broker_kept_asks_for_no_hello(gateway: Gateway) -> None:
    gateway.acknowledge(gateway.hellos[-1].pair)
    said = len(gateway.hellos)
    for _ in range(3):
        gateway.give(ev.LinkLost())
        gateway.connect()
        gateway.give(ev.RootArrived(gateway.fleet.root_data, retained=True))
        gateway.pass_time(400)
    assert len(gateway.hellos) == said


def test_a_link_that_opens_after_hours_begins_with_a_hello(gateway: Gateway) -> None:
    gateway.acknowledge(gateway.hellos[-1].pair)
    said = len(gateway.hellos)
    gateway.give(ev.LinkLost())
    gateway.pass_time(4000)
    gateway.connect()
    assert len(gateway.hellos) == said + 1


def test_an_end_that_never_gets_into_the_journal_does_not_fill_the_outbox(
    gateway: Gateway, release: MadeRelease
) -> None:
    """The agent finds the same trial gone by with each start, and the room for reports is for ends that differ."""
    brought_to(gateway, State.REBOOTING, release)
    journal, before = gateway.records[ac.Record.JOURNAL], gateway.boot
    for start in range(2 * LETTERS_MAX):
        gateway.records[ac.Record.JOURNAL] = journal
        gateway.boot = replace(before, trial=None, boot_id=(100 + start).to_bytes(16, "big"))
        gateway.power_on()
        gateway.connect()
    assert gateway.report.state is State.ROLLED_BACK
    outbox = read_record(Outbox, gateway.records[ac.Record.OUTBOX])
    assert outbox is not None
    assert [letter.pair for letter in outbox.letters] == [gateway.report.pair]


def test_a_local_installation_that_ends_again_and_again_loses_no_other_end(
    gateway: Gateway, release: MadeRelease
) -> None:
    """It has no number by which its letters could be told from others; an outbox with too many could not be read."""
    gateway.hooks[ac.Hook.DOWNLOAD] = [ev.HookOutcome.NOT_NOW]
    for _ in range(LETTERS_MAX - 2):
        gateway.assign(release)
        gateway.assign()
    others = {report.pair for report in gateway.reports if report.state.terminal}
    gateway.hooks.clear()
    gateway.give(ev.LinkLost())
    offer_file(gateway, release)
    assert gateway.rebooting
    journal, before = gateway.records[ac.Record.JOURNAL], gateway.boot
    for start in range(2 * LETTERS_MAX):
        gateway.records[ac.Record.JOURNAL] = journal
        gateway.boot = replace(before, trial=None, boot_id=(100 + start).to_bytes(16, "big"))
        gateway.power_on()
        assert gateway.state is State.ROLLED_BACK
    gateway.connect()
    outbox = read_record(Outbox, gateway.records[ac.Record.OUTBOX])
    assert outbox is not None
    pairs = [letter.pair for letter in outbox.letters]
    assert set(pairs[: LETTERS_MAX - 2]) == others
    assert pairs[-1] == max(report.pair for report in gateway.reports)


def test_a_bridge_on_an_older_copy_of_its_store_is_told_where_the_device_stands(
    gateway: Gateway, release: MadeRelease
) -> None:
    brought_to(gateway, State.DOWNLOADING, release)
    for pair in (gateway.hellos[-1].pair, gateway.report.pair):
        gateway.acknowledge(pair)
    gateway.pass_time(400)
    said = len(gateway.hellos)
    for _ in range(20):
        gateway.assign(release, counter=1, nonce=bytes(16))
    gateway.pass_time(61)
    assert len(gateway.hellos) == said + 1


def test_a_bridge_that_forgot_an_end_is_told_again_when_it_sends_the_assignment_again(
    gateway: Gateway, release: MadeRelease
) -> None:
    gateway.hooks[ac.Hook.DOWNLOAD] = [ev.HookOutcome.FAILED]
    delivery = gateway.delivery(release)
    gateway.give(ev.DeliveryArrived(delivery))
    gateway.acknowledge(gateway.report.pair)
    gateway.give(ev.DeliveryArrived(delivery))
    first, again = [report for report in gateway.reports if report.state is State.FAILED]
    assert (again.attempt, again.reason) == (first.attempt, first.reason)
    assert again.pair > first.pair
    gateway.power_cycle()
    gateway.connect()
    assert gateway.report.pair == again.pair, "it waits for its Ack like any other end"


def test_a_success_that_was_left_since_is_not_said_again(gateway: Gateway, release: MadeRelease) -> None:
    delivery = gateway.delivery(release)
    gateway.give(ev.DeliveryArrived(delivery))
    gateway.power_cycle()
    gateway.connect()
    assert gateway.report.state is State.SUCCEEDED
    gateway.acknowledge(gateway.report.pair)
    other = next(slot for slot in gateway.slots if slot != gateway.boot.running)
    gateway.boot = replace(gateway.boot, primary=other)
    gateway.power_cycle()
    gateway.connect()
    gateway.give(ev.DeliveryArrived(delivery))
    assert (gateway.report.state, gateway.report.slot) == (State.ROLLED_BACK, other)


def test_reports_of_progress_keep_no_lost_hello_and_no_lost_end_waiting(gateway: Gateway, release: MadeRelease) -> None:
    brought_to(gateway, State.DOWNLOADING, release).assign()
    end = gateway.report
    assert end.state is State.ABORTED
    gateway.hooks[ac.Hook.DOWNLOAD] = [ev.HookOutcome.NOT_NOW] * 40
    said = len(gateway.hellos)
    for _ in range(20):
        gateway.assign(release)
        gateway.pass_time(10)
    assert len(gateway.hellos) >= said + 3
    assert [report.pair for report in gateway.reports].count(end.pair) >= 4


def test_a_bridge_that_is_away_costs_a_metered_link_little_and_a_healed_link_hears_all_at_once(
    gateway: Gateway, release: MadeRelease
) -> None:
    brought_to(gateway, State.DOWNLOADING, release).assign()
    until_s, times = gateway.now.monotonic_s + 86_400, [gateway.now.monotonic_s]
    while (due_s := gateway.agent.deadline) is not None and due_s < until_s:
        gateway.pass_time(due_s - gateway.now.monotonic_s)
        times.append(due_s)
    waits = [after - before for before, after in pairwise(times)]
    assert min(waits) >= gateway.settings.repeat_s_min
    assert max(waits) <= gateway.settings.repeat_s_max
    assert len(waits) < 300
    said = len(gateway.reports)
    gateway.give(ev.LinkLost())
    gateway.connect()
    assert gateway.reports[said].state is State.ABORTED
    gateway.pass_time(2 * gateway.settings.repeat_s_min)
    assert len(gateway.reports) > said + 1, "the series begins anew with the link"


def test_a_bridge_that_sends_what_is_stale_hears_soon_what_it_lacks(gateway: Gateway, release: MadeRelease) -> None:
    for _ in range(200):
        gateway.pass_time(60)
    said = len(gateway.hellos)
    for _ in range(4):
        gateway.assign(release, nonce=bytes(16))
        gateway.pass_time(10)
    assert len(gateway.hellos) > said


def test_a_bridge_that_starts_hears_soon_what_the_one_before_did_not_answer(gateway: Gateway) -> None:
    for _ in range(200):
        gateway.pass_time(60)
    said = len(gateway.hellos)
    gateway.give(ev.RootArrived(gateway.fleet.root_data))
    gateway.pass_time(2 * gateway.settings.repeat_s_min)
    assert len(gateway.hellos) > said


def test_a_fleet_that_waits_for_one_bridge_does_not_speak_in_step() -> None:
    times = set()
    for number in range(20):
        repeats = Repeats(15.0, 900.0, random.Random(number).randbytes)
        repeats.begin(0.0)
        times.add(repeats.due_s)
        assert repeats.due_s is not None
        assert 15.0 <= repeats.due_s < 30.0
    assert len(times) == 20


def test_an_answer_that_takes_longer_than_the_repetition_still_fits(gateway: Gateway) -> None:
    """On a path that is minutes long, each hello that is made anew makes the answer to the one before void."""
    said = list(gateway.hellos)
    delay_s, answered = 100.0, 0
    due: list[tuple[float, tuple[int, int]]] = [(gateway.now.monotonic_s + delay_s, said[-1].pair)]
    for _ in range(300):
        count_before = len(gateway.hellos)
        gateway.pass_time(5)
        due += [(gateway.now.monotonic_s + delay_s, hello.pair) for hello in gateway.hellos[count_before:]]
        while answered < len(due) and due[answered][0] <= gateway.now.monotonic_s:
            gateway.acknowledge(due[answered][1])
            answered += 1
    said_all = len(gateway.hellos)
    gateway.pass_time(2000)
    assert len(gateway.hellos) == said_all, "the hello was answered"

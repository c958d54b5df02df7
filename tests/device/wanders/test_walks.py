"""Walks of the agent core through everything that can happen, in any order; and what walks and readers have found, each
in its smallest form.
"""

from __future__ import annotations

import pytest

from narrowboat_device.core import actions as ac
from narrowboat_device.core import events as ev
from narrowboat_device.core.memory import LETTERS_MAX
from narrowboat_protocol.documents import Delivery, Target
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.keys import Algorithm, PrivateKey
from narrowboat_protocol.states import State
from tests.device.agent_kit import attempt, journal, letters, offer_file, trust
from tests.device.wanders.kit import NOT_NOW, go_on_trial, stall_in_frames
from tests.support.gateway import Gateway
from tests.support.walk import World, walk

WALKS = 300
BANDS = 12


@pytest.mark.parametrize("band", range(BANDS))
def test_whatever_happens_in_whatever_order_nothing_unproved_boots_and_every_walk_ends_well(
    world: World, band: int
) -> None:
    for seed in range(band, WALKS, BANDS):
        walk(world, seed)


# Power cuts between two actions.


@pytest.mark.parametrize("cut", range(6))
def test_a_power_cut_while_an_assignment_is_taken_up_never_leaves_it_accepted_and_forgotten(
    gateway: Gateway, world: World, cut: int
) -> None:
    gateway.fuse = cut
    gateway.assign(world.one)
    gateway.power_cycle()
    gateway.connect()
    if gateway.hellos[-1].assignment_counter == gateway.counter:
        assert gateway.state is not None


@pytest.mark.parametrize("cut", range(14))
def test_a_power_cut_while_a_parked_assignment_is_taken_up_does_not_lose_it(
    gateway: Gateway, world: World, cut: int
) -> None:
    go_on_trial(gateway, world.one)
    gateway.assign(world.other)
    gateway.hooks = {ac.Hook.DOWNLOAD: NOT_NOW}
    gateway.fuse = cut
    gateway.pass_time(10)
    gateway.power_cycle()
    for _ in range(2):
        if gateway.rebooting:
            gateway.power_cycle()
    assert attempt(gateway).release == world.other.digest
    assert journal(gateway).parked is None


def cut_in_an_abort(gateway: Gateway, world: World, cut: int) -> None:
    """An installed release is withdrawn, and the power goes after so many operations."""
    gateway.hooks[ac.Hook.REBOOT] = NOT_NOW
    gateway.assign(world.one)
    gateway.fuse = cut
    gateway.assign()
    gateway.power_cycle()


@pytest.mark.parametrize("cut", range(6))
def test_a_power_cut_in_an_abort_leaves_no_installed_slot_without_its_release(
    gateway: Gateway, world: World, cut: int
) -> None:
    cut_in_an_abort(gateway, world, cut)
    assert gateway.state is State.ABORTED or gateway.envelopes["b"] == world.one.envelope


@pytest.mark.parametrize("cut", range(8))
def test_an_end_that_a_power_cut_kept_from_the_journal_is_not_ended_once_more(
    gateway: Gateway, world: World, cut: int
) -> None:
    cut_in_an_abort(gateway, world, cut)
    ended = letters(gateway)
    assert gateway.state is (State.ABORTED if ended else State.INSTALLED)
    gateway.connect()
    gateway.assign()
    assert (gateway.state, letters(gateway)) == (State.ABORTED, 1)


# Assignments.


def test_the_newest_assignment_voids_the_one_that_was_parked_before(gateway: Gateway, world: World) -> None:
    go_on_trial(gateway, world.one)
    gateway.assign(world.other)
    gateway.assign(world.one)
    gateway.hooks.clear()
    gateway.pass_time(10)
    assert (gateway.state, gateway.report.release) == (State.SUCCEEDED, world.one.digest)
    assert journal(gateway).parked is None


def test_an_assignment_that_names_only_another_component_does_not_end_a_trial(gateway: Gateway, world: World) -> None:
    go_on_trial(gateway, world.one)
    before = gateway.boot
    gateway.assign(world.one, targets=(world.one.target("modem"),))
    assert (gateway.state, gateway.report.parked) == (State.ON_TRIAL, gateway.counter)
    assert gateway.boot == before


def test_a_withdrawal_of_nothing_is_answered_by_a_hello_that_names_it(gateway: Gateway) -> None:
    gateway.assign()
    assert gateway.hellos[-1].assignment_counter == gateway.counter


def test_no_terminal_report_is_lost_when_nothing_is_acknowledged(gateway: Gateway, world: World) -> None:
    gateway.hooks[ac.Hook.DOWNLOAD] = NOT_NOW
    for _ in range(LETTERS_MAX):
        gateway.assign(world.one)
        gateway.assign(world.other)
    assert gateway.agent.refusals[Reason.BUSY] > 0
    gateway.assign()
    assert attempt(gateway).state is State.ABORTED
    ends = {report.pair for report in gateway.reports if report.state.terminal}
    assert len(ends) == letters(gateway) <= LETTERS_MAX
    for pair in sorted(ends):
        gateway.acknowledge(pair)
    gateway.assign(world.one)
    assert gateway.state is State.OFFERED


def test_an_assignment_that_no_record_could_hold_is_refused_and_the_record_stays_readable(
    gateway: Gateway, world: World
) -> None:
    sources = tuple(f"https://{number}/" + "x" * 480 for number in range(8))
    reference = world.one.reference.model_copy(update={"sources": sources})
    target = Target(component="rootfs", release=world.one.digest, payloads=(reference,) * 3)
    gateway.assign(world.one, targets=(target,))
    assert gateway.agent.refusals[Reason.TOO_LARGE] == 1
    assert trust(gateway).assignment_counter == 0


def test_a_delivery_stuffed_with_envelopes_is_parked_without_them(gateway: Gateway, world: World) -> None:
    go_on_trial(gateway, world.one)
    whole = Delivery.decode(gateway.delivery(world.other))
    stuffed = Delivery(assignment=whole.assignment, envelopes=(*[bytes(16_000)] * 3, *whole.envelopes))
    gateway.give(ev.DeliveryArrived(stuffed.encode()))
    gateway.hooks = {ac.Hook.DOWNLOAD: NOT_NOW}
    gateway.power_on()
    assert attempt(gateway).release == world.other.digest


def test_a_director_that_a_new_root_brings_counts_anew(gateway: Gateway, world: World) -> None:
    gateway.assign(world.foreign, counter=1000)
    director = PrivateKey.generate(Algorithm.ED25519)
    gateway.give(ev.RootArrived(world.fleet.next_root(director=director)))
    gateway.assign(world.one, counter=1, signer=director)
    assert gateway.rebooting


def test_a_release_file_that_continues_an_assigned_attempt_still_answers_for_it(gateway: Gateway, world: World) -> None:
    stall_in_frames(gateway, world.one)
    gateway.tamper = lambda _, data: data
    offer_file(gateway, world.one)
    assert gateway.rebooting
    assert attempt(gateway).attempt == gateway.counter


def test_a_release_file_with_an_endless_name_is_refused(gateway: Gateway, world: World) -> None:
    offer_file(gateway, world.one, "/" + "x" * 4000)
    assert gateway.state is None


HOSTILE_PAIRS: list[tuple[int, int]] = [((1 << 53) - 1, 0), (1 << 48, 5)]


@pytest.mark.parametrize("pair", HOSTILE_PAIRS)
def test_an_ack_cannot_use_up_the_boot_numbers(gateway: Gateway, pair: tuple[int, int]) -> None:
    before = trust(gateway)
    gateway.acknowledge(pair)
    assert trust(gateway) == before
    gateway.power_on()
    assert trust(gateway).boot_number == before.boot_number + 1

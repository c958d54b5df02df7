"""Walks of the agent core through everything that can happen, in any order; and what walks and readers have found, each
in its smallest form.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from narrowboat_device.core import actions as ac
from narrowboat_device.core import events as ev
from narrowboat_device.core.judge import REBOOTS_MAX
from narrowboat_device.core.memory import LETTERS_MAX, Outbox
from narrowboat_protocol.cbor import decode, encode
from narrowboat_protocol.documents import Delivery, Target
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.keys import Algorithm, PrivateKey
from narrowboat_protocol.states import HoldReason, State
from narrowboat_protocol.trust import Floor
from tests.device.agent_kit import attempt, journal, letters, offer_file, trust
from tests.support.fleet import MadeRelease
from tests.support.gateway import SMALL, Gateway
from tests.support.walk import LIMITS, World, walk

WALKS = 300
BANDS = 12
NOT_NOW = [ev.HookOutcome.NOT_NOW]


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture
def gateway(world: World) -> Gateway:
    made = Gateway(world.fleet, slot_bytes=32 * 1024, limits=LIMITS)
    made.connect()
    return made


@pytest.mark.parametrize("band", range(BANDS))
def test_whatever_happens_in_whatever_order_nothing_unproved_boots_and_every_walk_ends_well(
    world: World, band: int
) -> None:
    for seed in range(band, WALKS, BANDS):
        walk(world, seed)


def stall_in_frames(gateway: Gateway, release: MadeRelease) -> None:
    """Bring a download so far that one frame is there and no more comes."""
    end = release.head.frame(1).offset
    gateway.tamper = lambda offset, data: data if offset < end else None
    gateway.assign(release)
    assert gateway.state is State.DOWNLOADING


def go_on_trial(gateway: Gateway, release: MadeRelease) -> None:
    gateway.hooks[ac.Hook.HEALTH] = NOT_NOW
    gateway.assign(release)
    gateway.power_cycle()
    gateway.connect()
    assert gateway.state is State.ON_TRIAL


class _Always(dict[type[ac.Action], Reason]):
    """Every action of these kinds fails, as long as they stand here."""

    def pop(self, kind: type[ac.Action], *default: object) -> Reason | None:  # type: ignore[override]
        return self.get(kind)


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


@pytest.mark.parametrize("cut", range(6))
def test_a_power_cut_in_an_abort_leaves_no_installed_slot_without_its_release(
    gateway: Gateway, world: World, cut: int
) -> None:
    gateway.hooks[ac.Hook.REBOOT] = NOT_NOW
    gateway.assign(world.one)
    gateway.fuse = cut
    gateway.assign()
    gateway.power_cycle()
    assert gateway.state is State.ABORTED or gateway.envelopes["b"] == world.one.envelope


@pytest.mark.parametrize("cut", range(8))
def test_an_end_that_a_power_cut_kept_from_the_journal_is_not_ended_once_more(
    gateway: Gateway, world: World, cut: int
) -> None:
    gateway.hooks[ac.Hook.REBOOT] = NOT_NOW
    gateway.assign(world.one)
    gateway.fuse = cut
    gateway.assign()
    gateway.power_cycle()
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


# What an action that failed leaves behind.


def test_an_end_that_could_not_be_written_is_written_before_it_is_said(gateway: Gateway, world: World) -> None:
    stall_in_frames(gateway, world.one)
    said = len(gateway.reports)
    gateway.fail_next = _Always({ac.Save: Reason.MEDIUM_FAILED})
    gateway.assign()
    assert len(gateway.reports) == said
    gateway.fail_next = {}
    gateway.pass_time(31)
    assert (attempt(gateway).state, letters(gateway)) == (State.ABORTED, 1)
    gateway.pass_time(31)
    assert gateway.report.state is State.ABORTED


def test_a_boot_number_that_could_not_be_saved_is_not_spoken_under(gateway: Gateway) -> None:
    gateway.fail_next = _Always({ac.Save: Reason.MEDIUM_FAILED})
    gateway.power_on()
    said = len(gateway.hellos)
    gateway.connect()
    gateway.pass_time(31)
    assert len(gateway.hellos) == said
    gateway.fail_next = {}
    gateway.pass_time(31)
    assert gateway.hellos[-1].pair[0] == trust(gateway).boot_number


def test_an_end_put_down_under_an_unsaved_boot_number_is_not_numbered_again(gateway: Gateway, world: World) -> None:
    stall_in_frames(gateway, world.one)
    gateway.fail_next[ac.Save] = Reason.MEDIUM_FAILED
    gateway.power_on()
    gateway.power_on()
    gateway.connect()
    pairs = {hello.pair for hello in gateway.hellos}
    assert pairs.isdisjoint(report.pair for report in gateway.reports)


def test_a_boot_switch_is_taken_back_when_the_journal_cannot_follow_it(gateway: Gateway, world: World) -> None:
    gateway.hooks[ac.Hook.REBOOT] = [ev.HookOutcome.NOT_NOW, ev.HookOutcome.GO_ON]
    gateway.assign(world.one)
    gateway.fail_next[ac.Save] = Reason.MEDIUM_FAILED
    gateway.pass_time(30)
    assert (gateway.state, gateway.boot.trial) == (State.FAILED, None)


def test_a_trial_whose_records_cannot_be_written_goes_back_all_the_same(gateway: Gateway, world: World) -> None:
    gateway.assign(world.one)
    gateway.fail_next = _Always({ac.Save: Reason.MEDIUM_FAILED})
    gateway.power_cycle()
    assert gateway.rebooting
    assert (gateway.boot.primary, gateway.boot.bootable) == ("a", frozenset({"a"}))


def test_a_worker_that_fails_at_what_was_aborted_does_not_end_what_came_after(gateway: Gateway, world: World) -> None:
    stall_in_frames(gateway, world.one)
    gateway.pass_time(6)
    stale = gateway.did(ac.SyncSlot)[-1]
    gateway.hooks[ac.Hook.DOWNLOAD] = NOT_NOW
    gateway.assign(world.other)
    gateway.give(ev.ActionFailed(stale, Reason.MEDIUM_FAILED, "too late"))
    assert gateway.state is State.OFFERED


def test_an_ack_that_cannot_be_written_down_ends_nothing(gateway: Gateway, world: World) -> None:
    stall_in_frames(gateway, world.one)
    gateway.assign()
    pair = gateway.report.pair
    stall_in_frames(gateway, world.newest)
    gateway.fail_next[ac.Save] = Reason.MEDIUM_FAILED
    gateway.acknowledge(pair)
    assert gateway.state is State.DOWNLOADING
    gateway.pass_time(31)
    assert letters(gateway) == 0


# Booting.


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


LOST_JOURNALS = [None, b"", b"\xff"]


def lose_journal(gateway: Gateway, left: bytes | None) -> None:
    """The agent starts anew and finds `left` in the journal's place."""
    gateway.records[ac.Record.JOURNAL] = left
    gateway.power_on()


@pytest.mark.parametrize("left", LOST_JOURNALS)
def test_a_journal_that_is_lost_on_trial_does_not_strand_the_gateway(
    gateway: Gateway, world: World, left: bytes | None
) -> None:
    go_on_trial(gateway, world.one)
    lose_journal(gateway, left)
    assert gateway.rebooting
    gateway.power_cycle()
    assert (gateway.boot.running, gateway.boot.trial, gateway.state) == ("a", None, None)
    gateway.connect()
    gateway.assign(world.one)
    assert gateway.state is State.REBOOTING


@pytest.mark.parametrize("left", LOST_JOURNALS)
def test_a_journal_that_is_lost_in_mid_download_does_not_make_the_campaign_wait_for_ever(
    gateway: Gateway, world: World, left: bytes | None
) -> None:
    stall_in_frames(gateway, world.one)
    lose_journal(gateway, left)
    gateway.connect()
    assert gateway.hellos[-1].assignment_counter < gateway.counter


def _of_a_newer_agent(content: bytes) -> bytes:
    """The same record, in the format after ours."""
    fields = decode(content, max_bytes=1 << 16)
    assert isinstance(fields, dict)
    return encode(fields | {1: 2})


@pytest.mark.parametrize("record", list(ac.Record))
@pytest.mark.parametrize("in_file", [True, False])
def test_an_older_agent_on_trial_goes_back_and_leaves_the_records_of_the_newer_one_alone(
    gateway: Gateway, world: World, record: ac.Record, in_file: bool
) -> None:
    go_on_trial(gateway, world.one)
    if in_file:
        gateway.records[record], gateway.newer = None, frozenset({record})
    else:
        gateway.records[record] = _of_a_newer_agent(gateway.records[record] or Outbox().encode())
    before, heard = dict(gateway.records), len(gateway.hellos) + len(gateway.reports)
    gateway.fail_next[ac.Reboot] = Reason.BOOT_CONTROL_FAILED
    gateway.power_on()
    gateway.connect()
    gateway.assign(world.other, nonce=bytes(16))
    gateway.pass_time(30)
    assert gateway.rebooting
    assert (gateway.records, len(gateway.hellos) + len(gateway.reports)) == (before, heard)
    shown = gateway.did(ac.ShowStatus)[-1]
    assert isinstance(shown, ac.ShowStatus)
    assert shown.reason is Reason.STATE_UNREADABLE
    assert record in (shown.detail or "")


@pytest.mark.parametrize("record", list(ac.Record))
def test_an_older_agent_that_was_committed_keeps_running_beside_newer_records(
    gateway: Gateway, world: World, record: ac.Record
) -> None:
    gateway.newer = frozenset({record})
    before = dict(gateway.records)
    gateway.power_on()
    gateway.connect()
    gateway.assign(world.one, nonce=bytes(16))
    gateway.pass_time(100_000)
    assert (gateway.rebooting, gateway.records) == (False, before)


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


# Downloading.


def test_good_frames_before_a_forged_one_in_the_same_block_are_written(gateway: Gateway, world: World) -> None:
    release = world.other
    last = release.head.frame(release.head.frame_count - 1)
    assert last.offset + last.encoded_length - release.head.frames_offset < LIMITS.block_bytes_slow
    forged = [True]

    def tamper(offset: int, data: bytes) -> bytes:
        if forged and offset + len(data) == release.head.payload_length:
            forged.clear()
            return data[:-1] + bytes([data[-1] ^ 1])
        return data

    gateway.tamper = tamper
    gateway.assign(release)
    assert gateway.state is State.REBOOTING
    assert gateway.did(ac.HashSlot) == []


def test_frames_that_came_before_the_head_are_not_fetched_twice(gateway: Gateway, world: World) -> None:
    lost = [True]

    def tamper(offset: int, data: bytes) -> bytes | None:
        return None if offset == 0 and lost and lost.pop() else data

    gateway.tamper = tamper
    gateway.assign(world.other)
    gateway.pass_time(30)
    assert gateway.state is State.REBOOTING
    fetched = [span for span in gateway.fetched() if span[0] >= world.other.head.frames_offset]
    assert len(fetched) == len(set(fetched))


def test_no_two_syncs_share_a_token_though_the_download_begins_anew(gateway: Gateway, world: World) -> None:
    stall_in_frames(gateway, world.one)
    gateway.pass_time(6)
    gateway.tamper = lambda _, data: data
    gateway.payloads[world.other.payload_digest] = world.other.payload
    two = world.one.target().model_copy(update={"payloads": (world.other.reference, world.one.reference)})
    gateway.assign(world.one, targets=(two,))
    tokens = [action.token for action in gateway.actions if isinstance(action, ac.SyncSlot)]
    assert len(tokens) == len(set(tokens)) > 1


def test_what_has_arrived_is_synced_though_the_link_is_gone(world: World) -> None:
    gateway = Gateway(world.fleet, slot_bytes=32 * 1024, limits=SMALL)
    gateway.connect()
    stall_in_frames(gateway, world.one)
    assert gateway.did(ac.SyncSlot) == []
    gateway.give(ev.LinkLost())
    gateway.pass_time(6)
    assert attempt(gateway).next_chunk == 2
    assert gateway.agent.deadline is not None
    assert gateway.agent.deadline > gateway.now.monotonic_s


def test_a_deadline_that_is_met_to_the_instant_moves_on(gateway: Gateway, world: World) -> None:
    gateway.now = replace(gateway.now, monotonic_s=0.1)
    gateway.fetching = False
    gateway.assign(world.one)
    for _ in range(200):
        deadline = gateway.agent.deadline
        assert deadline is not None
        assert deadline > gateway.now.monotonic_s
        gateway.now = replace(gateway.now, monotonic_s=deadline)
        gateway.give(ev.TimeReached())


def test_an_attempt_without_a_usable_source_keeps_saying_so(gateway: Gateway, world: World) -> None:
    reference = world.one.reference.model_copy(update={"sources": ("https://elsewhere/",)})
    target = Target(component="rootfs", release=world.one.digest, payloads=(reference,))
    gateway.assign(world.one, targets=(target,))
    for _ in range(3):
        gateway.pass_time(4000)
        shown = [action.hold for action in gateway.actions if isinstance(action, ac.ShowStatus)]
        assert shown[-1] is HoldReason.NO_SOURCE
    gateway.assign(world.one)
    assert gateway.state is State.REBOOTING


HOSTILE_PAIRS: list[tuple[int, int]] = [((1 << 53) - 1, 0), (1 << 48, 5)]


@pytest.mark.parametrize("pair", HOSTILE_PAIRS)
def test_an_ack_cannot_use_up_the_boot_numbers(gateway: Gateway, pair: tuple[int, int]) -> None:
    before = trust(gateway)
    gateway.acknowledge(pair)
    assert trust(gateway) == before
    gateway.power_on()
    assert trust(gateway).boot_number == before.boot_number + 1

"""What walks and readers have found of records that are lost, newer, or could not be written."""

from __future__ import annotations

import pytest

from narrowboat_device.core import actions as ac
from narrowboat_device.core import events as ev
from narrowboat_device.core.memory import Outbox
from narrowboat_protocol.cbor import decode, encode
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.states import State
from tests.device.agent_kit import attempt, letters, trust
from tests.device.wanders.kit import NOT_NOW, go_on_trial, stall_in_frames
from tests.support.gateway import Gateway
from tests.support.walk import World


class _Always(dict[type[ac.Action], Reason]):
    """Every action of these kinds fails, as long as they stand here."""

    def pop(self, kind: type[ac.Action], *default: object) -> Reason | None:  # type: ignore[override]
        return self.get(kind)


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

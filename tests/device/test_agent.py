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
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.states import TABLE, State
from tests.device.agent_kit import ABORTABLE, ACTIVE, IMAGE, OTHER_IMAGE, brought_to, let_go, sha256
from tests.support.fleet import FleetKit, MadeRelease
from tests.support.gateway import SMALL, Gateway, sha256_of_slot


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

"""The agent core as given-when-then: what it believes, what it installs, and how that ends when somebody was wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from narrowboat_device.core import actions as ac
from narrowboat_device.core import events as ev
from narrowboat_protocol.documents import Delivery
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.keys import Algorithm, PrivateKey
from narrowboat_protocol.states import State
from narrowboat_protocol.trust import Floor
from tests.device.agent_kit import IMAGE, OTHER_IMAGE, attempt, trust
from tests.support.fleet import NOW, FleetKit, MadeRelease
from tests.support.gateway import SMALL, Gateway


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda fleet: fleet.make_release(IMAGE, classes=("another-board",)), Reason.WRONG_CLASS),
        (lambda fleet: fleet.make_release(IMAGE, epoch=7), Reason.WRONG_EPOCH),
        (lambda fleet: fleet.make_release(bytes(70_000)), Reason.IMAGE_TOO_LARGE),
        (lambda fleet: FleetKit.create(limits=SMALL).make_release(IMAGE), Reason.UNKNOWN_KEY),
        (lambda fleet: fleet.make_release(IMAGE, component="modem"), Reason.NOT_PERMITTED),
    ],
    ids=["wrong class", "wrong epoch", "larger than the slot", "unknown signer", "unknown component"],
)
def test_a_release_that_must_not_run_here_is_rejected_before_the_first_byte(
    gateway: Gateway, make: Callable[[FleetKit], MadeRelease], reason: Reason
) -> None:
    refused = make(gateway.fleet)
    gateway.assign(refused)
    assert (gateway.state, gateway.report.reason) == (State.REJECTED, reason)
    assert gateway.fetched() == []
    assert gateway.did(ac.MarkUnbootable) == []


def test_a_release_below_the_committed_one_is_rejected_and_an_equal_one_is_not(
    gateway: Gateway, release: MadeRelease
) -> None:
    gateway.assign(release)
    gateway.power_cycle()
    gateway.connect()
    gateway.assign(gateway.fleet.make_release(OTHER_IMAGE, sequence=4))
    assert (gateway.state, gateway.report.reason) == (State.REJECTED, Reason.BELOW_FLOOR)
    gateway.assign(gateway.fleet.make_release(OTHER_IMAGE, sequence=5))
    assert gateway.state is State.REBOOTING


def test_a_lost_data_partition_does_not_lower_the_floor(gateway: Gateway, release: MadeRelease) -> None:
    gateway.assign(release)
    gateway.power_cycle()
    gateway.records = dict.fromkeys(ac.Record)
    gateway.power_cycle()
    gateway.connect()
    gateway.assign(gateway.fleet.make_release(OTHER_IMAGE, sequence=4))
    assert gateway.report.reason is Reason.BELOW_FLOOR


def test_a_missing_envelope_is_rejected_by_its_own_reason(gateway: Gateway, release: MadeRelease) -> None:
    whole = Delivery.decode(gateway.delivery(release))
    gateway.give(ev.DeliveryArrived(Delivery(assignment=whole.assignment).encode()))
    assert gateway.report.reason is Reason.MISSING_RELEASE


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"counter": 0}, Reason.STALE),
        ({"nonce": b"\xff" * 16}, Reason.STALE),
        ({"expires_at": 1}, Reason.EXPIRED),
        ({"device": "gw-2"}, Reason.WRONG_DEVICE),
        ({"root_version": 2}, Reason.STALE),
    ],
)
def test_an_assignment_that_is_not_fresh_or_not_for_this_device_changes_nothing(
    gateway: Gateway, release: MadeRelease, changes: dict[str, object], reason: Reason
) -> None:
    device = changes.pop("device", gateway.device.name)
    signed = gateway.fleet.assignment(
        str(device),
        release,
        **{"counter": 9, "nonce": gateway.nonce} | changes,  # type: ignore[arg-type]
    )
    gateway.give(ev.DeliveryArrived(Delivery(assignment=signed, envelopes=(release.envelope,)).encode()))
    assert gateway.state is None
    assert gateway.agent.refusals[reason] == 1


def test_an_assignment_signed_by_another_role_changes_nothing(gateway: Gateway, release: MadeRelease) -> None:
    gateway.assign(release, signer=gateway.fleet.bridge)
    assert gateway.state is None
    assert gateway.agent.refusals[Reason.UNKNOWN_KEY] == 1


def test_the_same_assignment_again_is_not_a_second_attempt(gateway: Gateway, release: MadeRelease) -> None:
    gateway.hooks[ac.Hook.DOWNLOAD] = [ev.HookOutcome.NOT_NOW]
    delivery = gateway.delivery(release)
    gateway.give(ev.DeliveryArrived(delivery))
    reports = len(gateway.reports)
    gateway.give(ev.DeliveryArrived(delivery))
    assert len(gateway.reports) == reports
    assert gateway.agent.refusals == {}


def test_a_release_file_of_strangers_is_refused(gateway: Gateway) -> None:
    stranger = FleetKit.create(limits=SMALL).make_release(IMAGE)
    head = stranger.payload[: stranger.head_size]
    gateway.give(ev.LocalReleaseOffered("/media/usb/r.nbr", stranger.envelope, len(stranger.payload), head))
    assert gateway.state is None
    assert gateway.agent.refusals[Reason.UNKNOWN_KEY] == 1


def commit(gateway: Gateway, release: MadeRelease) -> None:
    gateway.assign(release)
    gateway.power_cycle()
    gateway.connect()
    assert gateway.state is State.SUCCEEDED


def test_a_sequence_that_ran_away_is_healed_by_a_new_epoch(gateway: Gateway, fleet: FleetKit) -> None:
    commit(gateway, fleet.make_release(IMAGE, sequence=(1 << 53) - 1))
    gateway.give(ev.RootArrived(fleet.next_root(epoch=1)))
    commit(gateway, fleet.make_release(OTHER_IMAGE, sequence=1, epoch=1))
    assert trust(gateway).floor == Floor(1, 1)
    gateway.assign(fleet.make_release(IMAGE, sequence=(1 << 53) - 1))
    assert gateway.report.reason is Reason.WRONG_EPOCH
    assert trust(gateway).floor == Floor(1, 1)


def test_what_runs_is_named_though_a_new_root_retires_it(
    gateway: Gateway, fleet: FleetKit, release: MadeRelease
) -> None:
    commit(gateway, release)
    gateway.give(ev.RootArrived(fleet.next_root(epoch=1)))
    gateway.power_on()
    gateway.connect()
    assert [slot.release for slot in gateway.hellos[-1].slots] == [None, release.digest]


DIRECTOR_CLOCKS = [
    # What the director's clock says, and what the gateway's clock may be lifted to.
    (NOW + 10, NOW + 10),
    (NOW - 10_000_000, NOW - 1000),
    (NOW + 65 * 365 * 86_400, NOW + 365 * 86_400),
]


@pytest.mark.parametrize(("issued_at", "time_floor"), DIRECTOR_CLOCKS)
def test_a_director_whose_clock_was_wrong_once_does_not_lock_the_gateway_out(
    gateway: Gateway, release: MadeRelease, other: MadeRelease, issued_at: int, time_floor: int
) -> None:
    assert gateway.settings.built_at_s == NOW - 1000
    assert gateway.settings.certificate_ends_s == NOW + 365 * 86_400
    gateway.hooks[ac.Hook.DOWNLOAD] = [ev.HookOutcome.NOT_NOW]
    gateway.assign(release, issued_at=issued_at, expires_at=max(issued_at, NOW) + 60)
    assert trust(gateway).time_floor == time_floor
    gateway.assign(other, issued_at=NOW + 20, expires_at=NOW + 80)
    assert gateway.report.release == other.digest
    assert trust(gateway).time_floor == NOW + 20


def test_a_director_that_a_new_root_brings_is_not_bound_by_the_clock_of_the_one_before(
    gateway: Gateway, fleet: FleetKit, release: MadeRelease
) -> None:
    gateway.hooks[ac.Hook.DOWNLOAD] = [ev.HookOutcome.NOT_NOW]
    gateway.assign(release, issued_at=NOW + 300 * 86_400)
    gateway.give(ev.RootArrived(fleet.next_root(director=PrivateKey.generate(Algorithm.ED25519))))
    assert trust(gateway).time_floor == gateway.settings.built_at_s


@pytest.mark.parametrize("saved", range(4))
def test_an_assignment_counts_as_accepted_only_once_the_journal_has_what_it_led_to(
    gateway: Gateway, saved: int
) -> None:
    """Its records could not be written at first, and the power fails while they are written later."""
    foreign = FleetKit.create(limits=SMALL)
    gateway.assign(foreign.make_release(IMAGE), counter=1)
    gateway.fail_next[ac.Save] = Reason.MEDIUM_FAILED
    gateway.assign(foreign.make_release(OTHER_IMAGE), counter=2)
    owed = [action for action in gateway.agent.handle(ev.LinkOpened(), gateway.now) if isinstance(action, ac.Save)]
    assert {save.record for save in owed} == set(ac.Record)
    for save in owed[:saved]:
        gateway.records[save.record] = save.content
    gateway.power_on()
    attempted = attempt(gateway)
    assert attempted.attempt == 2 or trust(gateway).assignment_counter < 2


def test_the_link_hears_what_is_known_of_the_time_at_the_start_and_whenever_it_changes(
    gateway: Gateway, fleet: FleetKit, release: MadeRelease
) -> None:
    built, latest = gateway.settings.built_at_s, gateway.settings.certificate_ends_s
    gateway.hooks[ac.Hook.DOWNLOAD] = [ev.HookOutcome.NOT_NOW]
    gateway.assign(release, issued_at=NOW + 300 * 86_400)
    gateway.power_on()
    gateway.connect()
    gateway.give(ev.RootArrived(fleet.next_root(director=PrivateKey.generate(Algorithm.ED25519))))
    lifted, fallen = ac.BelieveTime(NOW + 300 * 86_400, latest), ac.BelieveTime(built, latest)
    assert gateway.did(ac.BelieveTime) == [fallen, lifted, lifted, fallen]


def test_a_root_that_cannot_be_stored_at_first_ends_no_update_and_is_told_to_the_link_all_the_same(
    gateway: Gateway, fleet: FleetKit, release: MadeRelease
) -> None:
    gateway.hooks[ac.Hook.DOWNLOAD] = [ev.HookOutcome.NOT_NOW]
    gateway.assign(release, issued_at=NOW + 300 * 86_400)
    gateway.actions.clear()
    gateway.fail_next[ac.Save] = Reason.MEDIUM_FAILED
    gateway.give(ev.RootArrived(fleet.next_root(director=PrivateKey.generate(Algorithm.ED25519))))
    assert gateway.state is State.OFFERED
    assert gateway.did(ac.BelieveTime)
    assert gateway.did(ac.UseBroker) == [ac.UseBroker(2)]

"""A gateway that missed roots: how it catches up, and what it does with a chain that is not what it should be."""

from __future__ import annotations

import pytest

from narrowboat_device.core import actions as ac
from narrowboat_device.core import events as ev
from narrowboat_device.core.memory import TrustRecord
from narrowboat_protocol.documents import RootChain
from narrowboat_protocol.errors import Reason
from tests.device.agent_kit import trust
from tests.support.fleet import FleetKit, root_version
from tests.support.gateway import SMALL, Gateway


def chain(*roots: bytes) -> ev.RootChainArrived:
    return ev.RootChainArrived(RootChain(roots=roots).encode())


def stored_version(gateway: Gateway) -> int:
    return root_version(trust(gateway).root)


def saved_versions(gateway: Gateway) -> list[int]:
    """The versions that were stored, in order."""
    saves = [action for action in gateway.actions if isinstance(action, ac.Save) and action.record is ac.Record.TRUST]
    versions = [root_version(TrustRecord.decode(save.content).root) for save in saves]
    return [version for at, version in enumerate(versions) if at == 0 or version != versions[at - 1]]


def test_a_gateway_that_slept_for_thirty_years_catches_up_by_as_many_hellos_as_it_takes(
    gateway: Gateway, fleet: FleetKit
) -> None:
    roots = fleet.root_chain(30)
    gateway.connect()
    gateway.give(ev.RootArrived(roots[-1], retained=True))
    assert gateway.agent.refusals[Reason.STALE] == 1
    hellos = len(gateway.hellos)
    while stored_version(gateway) < 30:
        gateway.pass_time(400)
        version = gateway.hellos[-1].root_version
        assert version == stored_version(gateway)
        gateway.give(chain(*roots[version - 1 : version + 3]))
        hellos += 1
        assert len(gateway.hellos) <= hellos
    assert saved_versions(gateway) == list(range(1, 31))
    gateway.power_on()
    gateway.connect()
    assert gateway.hellos[-1].root_version == 30


def test_each_step_is_stored_before_the_next_is_looked_at(gateway: Gateway, fleet: FleetKit) -> None:
    gateway.connect()
    first = gateway.agent.handle(chain(*fleet.root_chain(3)), gateway.now)
    saves = [action for action in first if isinstance(action, ac.Save)]
    assert [root_version(TrustRecord.decode(save.content).root) for save in saves] == [2]
    assert gateway.agent.deadline == gateway.now.monotonic_s


def test_a_step_that_cannot_be_stored_ends_the_walk(gateway: Gateway, fleet: FleetKit) -> None:
    gateway.connect()
    gateway.fail_next[ac.Save] = Reason.MEDIUM_FAILED
    gateway.give(chain(*fleet.root_chain(4)))
    gateway.pass_time(60)
    assert stored_version(gateway) == 2


def stranger(fleet: FleetKit) -> bytes:
    return FleetKit.create(limits=SMALL).root_chain(2)[0]


@pytest.mark.parametrize(
    ("pick", "reached", "reason"),
    [
        (lambda fleet: fleet.root_chain(5)[1:], 1, Reason.STALE),
        (lambda fleet: [*fleet.root_chain(2), *fleet.root_chain(4)[2:]], 2, Reason.STALE),
        (lambda fleet: [stranger(fleet), *fleet.root_chain(2)], 1, Reason.UNKNOWN_KEY),
        (lambda fleet: [*fleet.root_chain(2), b"\x00"], 2, Reason.BAD_DOCUMENT),
        (lambda fleet: [fleet.root_data, *fleet.root_chain(3)], 3, None),
        (lambda fleet: [*reversed(fleet.root_chain(3))], 1, Reason.STALE),
    ],
    ids=["a gap at once", "a gap later", "of strangers", "garbage behind", "one that is known", "newest first"],
)
def test_a_chain_counts_as_far_as_it_is_one(
    gateway: Gateway, fleet: FleetKit, pick: object, reached: int, reason: Reason | None
) -> None:
    assert callable(pick)
    gateway.connect()
    gateway.give(chain(*pick(fleet)))
    assert stored_version(gateway) == reached
    assert set(gateway.agent.refusals) == ({reason} if reason else set())

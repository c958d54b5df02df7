"""What an agent remembers when its records are not what it left."""

from __future__ import annotations

from narrowboat_device.core import actions as ac
from narrowboat_device.core.memory import Journal, TrustRecord, read_record
from narrowboat_protocol.states import State
from tests.support.fleet import FleetKit, MadeRelease
from tests.support.gateway import SMALL, Gateway


def test_what_must_never_go_back_stands_in_both_copies(gateway: Gateway, release: MadeRelease) -> None:
    """Else a copy that rots, or a read that fails, leads to a boot number that was used, and to the alarm that a clone
    raises; to an older floor, root or assignment; to an attempt that ended and works again.
    """
    gateway.connect()
    gateway.assign(release)
    gateway.power_cycle()
    gateway.connect()
    assert gateway.state is State.SUCCEEDED
    first = next(action for action in gateway.actions if isinstance(action, ac.Save | ac.Publish))
    assert isinstance(first, ac.Save)
    assert first.record is ac.Record.TRUST
    saves = [action for action in gateway.actions if isinstance(action, ac.Save)]
    for save in saves:
        attempt = Journal.decode(save.content).attempt if save.record is ac.Record.JOURNAL else None
        is_end = attempt is not None and not attempt.active
        assert save.both == (is_end or save.record is ac.Record.TRUST), save.record
    kinds = {(save.record, save.both) for save in saves}
    assert {(ac.Record.TRUST, True), (ac.Record.JOURNAL, True), (ac.Record.JOURNAL, False)} <= kinds


def test_the_trust_of_another_fleet_is_not_taken_up() -> None:
    own, other = Gateway(FleetKit.create(limits=SMALL)), Gateway(FleetKit.create(limits=SMALL))
    own.records[ac.Record.TRUST] = other.records[ac.Record.TRUST]
    own.power_on()
    trust = read_record(TrustRecord, own.records[ac.Record.TRUST])
    assert trust is not None
    assert trust.fleet_id == own.fleet.fleet_id
    warnings = [action.text for action in own.actions if isinstance(action, ac.Log) and action.warning]
    assert any("trust" in line for line in warnings)

"""What an agent remembers when its records are not what it left."""

from __future__ import annotations

from narrowboat_device.core import actions as ac
from narrowboat_device.core.memory import TrustRecord, read_record
from tests.support.fleet import FleetKit
from tests.support.gateway import SMALL, Gateway


def test_a_boot_number_stands_in_both_copies_before_anything_is_said() -> None:
    """Else a copy that rots leads to a number that was used, and to the alarm that a clone raises."""
    gateway = Gateway(FleetKit.create(limits=SMALL))
    gateway.connect()
    kinds = [action for action in gateway.actions if isinstance(action, ac.Save | ac.Publish)]
    first, second = kinds[:2]
    assert isinstance(first, ac.Save)
    assert first.record is ac.Record.TRUST
    assert second == first


def test_the_trust_of_another_fleet_is_not_taken_up() -> None:
    own, other = Gateway(FleetKit.create(limits=SMALL)), Gateway(FleetKit.create(limits=SMALL))
    own.records[ac.Record.TRUST] = other.records[ac.Record.TRUST]
    own.power_on()
    trust = read_record(TrustRecord, own.records[ac.Record.TRUST])
    assert trust is not None
    assert trust.fleet_id == own.fleet.fleet_id
    warnings = [action.text for action in own.actions if isinstance(action, ac.Log) and action.warning]
    assert any("trust" in line for line in warnings)

"""The bridge's roots: what it has of them, whom it sends them to, and how a new one comes in."""

from __future__ import annotations

from pathlib import Path

import pytest

from narrowboat_bridge.server.root_shelf import RootShelf, roots_in
from narrowboat_protocol.documents import RootChain
from narrowboat_protocol.errors import TrustError, UsageError
from tests.bridge.kit import BridgeKit, running_bridge
from tests.support.fleet import FleetKit, root_version


def put(folder: Path, fleet: FleetKit, versions: int) -> None:
    folder.mkdir(exist_ok=True)
    for version, root in enumerate([fleet.root_data, *fleet.root_chain(versions)], 1):
        (folder / f"{version}.root").write_bytes(root)


def sent_to(bridge: BridgeKit, device: str) -> list[list[int]]:
    """The versions in each chain that a device was sent."""
    messages = [data for topic, data in bridge.wire.messages if topic == f"nb/d/{device}/root"]
    return [[root_version(root) for root in RootChain.decode(message).roots] for message in messages]


def test_a_device_that_missed_roots_is_sent_the_next_four_and_no_assignment(tmp_path: Path) -> None:
    fleet = FleetKit.create()
    put(tmp_path / "root", fleet, 9)
    with running_bridge(tmp_path, fleet) as bridge:
        device = fleet.device("gw-1")
        for n, (version, expected) in enumerate([(1, [2, 3, 4, 5]), (5, [6, 7, 8, 9]), (8, [9])], 1):
            bridge.take("nb/d/gw-1/hello", device.hello(pair=(1, n), root_version=version))
            assert sent_to(bridge, "gw-1")[-1] == expected
        count = len(sent_to(bridge, "gw-1"))
        bridge.take("nb/d/gw-1/hello", device.hello(pair=(1, 9), root_version=9))
        assert len(sent_to(bridge, "gw-1")) == count


def test_a_root_that_is_put_into_the_folder_is_in_force_without_a_restart(tmp_path: Path) -> None:
    fleet = FleetKit.create()
    with running_bridge(tmp_path, fleet) as bridge:
        put(tmp_path / "root", fleet, 2)
        bridge.workshop.loop.reload()
        bridge.workshop.loop.turn()
        assert bridge.wire.retained == {"nb/root": fleet.root_chain(2)[0]}
        bridge.take("nb/d/gw-1/hello", fleet.device("gw-1").hello())
        assert sent_to(bridge, "gw-1") == [[2]]


def test_what_a_device_would_not_believe_stays_off_the_shelf(tmp_path: Path) -> None:
    fleet = FleetKit.create()
    put(tmp_path, fleet, 4)
    (tmp_path / "3.root").write_bytes(FleetKit.create().root_chain(3)[1])
    shelf = RootShelf(roots_in(tmp_path), fleet.fleet_id)
    assert shelf.trust.root.version == 2
    assert not shelf.read_newer()
    put(tmp_path, fleet, 4)
    assert shelf.read_newer()
    assert shelf.trust.root.version == 4


def test_a_shelf_without_its_first_root_or_of_another_fleet_is_none(tmp_path: Path) -> None:
    fleet = FleetKit.create()
    with pytest.raises(UsageError, match=r"1\.root"):
        RootShelf(roots_in(tmp_path), fleet.fleet_id)
    put(tmp_path, FleetKit.create(), 1)
    with pytest.raises(TrustError):
        RootShelf(roots_in(tmp_path), fleet.fleet_id)

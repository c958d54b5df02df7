"""No thread of a bridge dies alone: what it did not expect ends the process, which is started again."""

from __future__ import annotations

from pathlib import Path

import pytest

from narrowboat_bridge.server.crew import Crew
from narrowboat_protocol.documents import CampaignStart
from narrowboat_protocol.topics import parse_topic
from narrowboat_protocol.transfer import FetchRequest
from tests.bridge.kit import BridgeKit, running_bridge
from tests.support.fleet import FleetKit

TURNS = 20
"""More than it takes: a turn without work waits for half a second."""


def turn_often(bridge: BridgeKit) -> None:
    for _ in range(TURNS):
        bridge.workshop.loop.turn()


def fail() -> None:
    raise ArithmeticError


def test_a_thread_that_fails_is_told_of_at_the_next_check_and_one_that_ends_is_not() -> None:
    crew = Crew()
    crew.start("well", lambda: None).join()
    crew.check()
    crew.start("ill", fail).join()
    with pytest.raises(RuntimeError, match="the thread ill failed") as caught:
        crew.check()
    assert isinstance(caught.value.__cause__, ArithmeticError)


def test_a_bridge_whose_payload_thread_fails_ends(tmp_path: Path) -> None:
    fleet = FleetKit.create()
    anna, device, release = fleet.operator("anna"), fleet.device("gw-1"), fleet.make_release(b"image" * 100)
    with running_bridge(tmp_path, fleet, anna) as bridge:
        bridge.take("nb/d/gw-1/hello", device.hello())
        bridge.push(anna, release)
        start = CampaignStart(campaign="c1", release=release.digest, devices=("gw-1",))
        bridge.take("nb/o/anna/command", anna.command(start, request_id=bytes(16)))
        bridge.workshop.loop.turn()
        bridge.wire.breaks = True
        request = FetchRequest(payload=release.payload_digest, ranges=((0, 10),), block_bytes=1024)
        bridge.workshop.payloads.offer(parse_topic("nb/d/gw-1/get"), request.encode())
        with pytest.raises(RuntimeError, match="the thread payloads failed"):
            turn_often(bridge)

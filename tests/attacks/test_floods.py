"""Devices that ask for too much take nothing from the others, and the bridge says what it stopped.

The larger versions are `python -m tests.fuzz.floods`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from narrowboat_protocol.limits import MIB
from tests.broker.lab import Lab, running_lab
from tests.fuzz.floods import Outcome, flood, reconnect, slow_reader

BRIDGE_MIB_MAX = 192
"""A bridge that has nothing to do has about 70 MiB."""
WIRE_SHARE_MAX = 1.3
"""TLS, documents, and what a gateway fetches again because it came late."""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with running_lab(tmp_path) as lab:
        yield lab


def check(outcome: Outcome) -> None:
    """The healthy gateway was served, and memory was bounded."""
    print("\n".join(outcome.lines()))
    assert outcome.healthy_state == "succeeded"
    assert outcome.healthy_wire_bytes <= WIRE_SHARE_MAX * outcome.payload_bytes
    assert outcome.bridge_peak_mib <= BRIDGE_MIB_MAX
    assert len(outcome.limits_told) == len(set(outcome.limits_told)), "each limit is told once"
    assert outcome.counts.keys() >= set(outcome.limits_told)


def test_a_device_that_floods_is_held_to_its_share_and_the_others_update(lab: Lab) -> None:
    outcome = flood(lab, rate_per_s=1000, messages_min=6000)
    check(outcome)
    assert outcome.messages >= 6000
    assert {"limited.hello", "limited.report", "limited.get_queue"} <= set(outcome.limits_told)
    assert outcome.counts["limited.hello"] > 1000
    assert outcome.counts["limited.report"] > 1000


def test_a_device_that_does_not_read_what_it_asks_for_delays_nobody(lab: Lab) -> None:
    outcome = slow_reader(lab, messages_min=100)
    check(outcome)
    assert outcome.counts["served.bytes"] >= 50 * MIB


def test_a_fleet_that_reconnects_at_once_is_acknowledged_to_the_last_device(lab: Lab) -> None:
    outcome = reconnect(lab, devices=200)
    check(outcome)
    assert outcome.counts["messages.hello"] >= 200

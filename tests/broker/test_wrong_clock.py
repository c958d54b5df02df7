"""An agent whose machine has no idea what day it is: the process, its OpenSSL and all, against a real broker.

What it has to go by is its certificate, and a section [enrolment], by which it can ask for another one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from narrowboat_device import BUILT_AT_S
from narrowboat_device.boot.loader import power_on
from narrowboat_device.cli import REBOOT_STATUS
from narrowboat_device.known import read_known
from narrowboat_protocol.limits import DEFAULT_LIMITS
from tests.support.images import small_image
from tests.support.odd_agent import odd_agent
from tests.support.processes import Child, wait_for
from tests.support.rogue import PATIENCE_S, Rogue

from .lab import DISK, Lab
from .test_renewal import OVER_DAYS, Aged, aged, certificates_said

ISSUED_DAYS_AGO = 1
NOBODYS_PORT = 1


@pytest.fixture
def rogue(lab: Lab) -> Iterator[Rogue]:
    with lab.rogue() as rogue:
        yield rogue


def boot(gateway: Aged, day: str) -> Child:
    config = gateway.config
    power_on(DISK, config.boot.state_file, config.boot.booted_path, config.slot_names)
    return gateway.lab.children.start(f"agent-{gateway.name}", odd_agent(gateway.path, day=day))


@pytest.mark.parametrize("day", ["1970-01-02", "2090-01-02"])
def test_an_agent_whose_clock_is_wrong_connects_is_told_the_time_and_updates(lab: Lab, day: str) -> None:
    """Nobody renews its certificate, which is good."""
    name, begun_s = f"clock-{day}", int(time.time())
    gateway = aged(lab, name, ISSUED_DAYS_AGO, enrol_port=NOBODYS_PORT)
    agent = boot(gateway, day)
    lab.start(lab.push(small_image(51, 200_000), "5.1.0"), name, name)
    wait_for(lambda: not agent.running, PATIENCE_S, "the reboot into the new release")
    assert agent.status == REBOOT_STATUS
    lab.children.forget(agent)
    agent = boot(gateway, day)
    assert lab.wait_for_end(name, name)["state"] == "succeeded"
    floor_s = read_known(DISK, gateway.config, DEFAULT_LIMITS).time.floor_s
    assert max(begun_s, BUILT_AT_S) <= floor_s <= max(int(time.time()), BUILT_AT_S)
    gateway.switch_off(agent)
    assert agent.status == 0


@pytest.mark.parametrize("days_ago", [OVER_DAYS - 10, 365 * 50], ids=["stood still", "1970"])
def test_a_certificate_that_is_over_by_no_clock_but_the_brokers_is_renewed(
    lab: Lab, rogue: Rogue, days_ago: int
) -> None:
    """The broker refuses it, which is how the gateway learns of it."""
    name = f"over-{days_ago}"
    gateway = aged(lab, name, OVER_DAYS)
    old = gateway.certificate
    agent = boot(gateway, f"{datetime.now(UTC) - timedelta(days=days_ago):%Y-%m-%d}")
    lab.wait_until_known(name)
    assert certificates_said(rogue, name) == [gateway.certificate] != [old]
    gateway.switch_off(agent)
    assert agent.status == 0

"""An update from a file on the gateway itself, with no broker in reach, and what the fleet hears of it afterwards.

The commands are run as an integrator's script runs them; exit statuses are what it goes by.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from narrowboat_device.boot.loader import power_on
from narrowboat_device.config import load_config
from narrowboat_device.disk import SystemDisk
from narrowboat_protocol.limits import MIB
from narrowboat_protocol.release_file import HEADER_BYTES
from narrowboat_protocol.states import State
from tests.support.agent_thread import AgentThread
from tests.support.images import small_image
from tests.support.live_fleet import NARROWBOAT_DEVICE, Gateway
from tests.support.processes import wait_for
from tests.support.relay import RelayThread
from tests.support.rogue import PATIENCE_S

from .lab import BASE_SEQUENCE, Lab

DISK = SystemDisk()

IMAGE = small_image(90, MIB)


@pytest.fixture
def relay(lab: Lab) -> Iterator[RelayThread]:
    """The way to the broker, which is dark until a test mends it."""
    with RelayThread(lab.fleet.ports.device) as relay:
        relay.darken()
        yield relay


@pytest.fixture(scope="module")
def file(lab: Lab) -> Path:
    """A release that the bridge has never seen."""
    return lab.save(lab.kit.make_release(IMAGE, version="9.0.0", sequence=BASE_SEQUENCE), "stick")


def offline(lab: Lab, name: str, relay: RelayThread, extra_toml: str = "") -> Gateway:
    """A gateway that has booted and whose agent's service does not run."""
    gateway = lab.make_gateway(name, relay, extra_toml=extra_toml)
    config = load_config(gateway.config)
    power_on(DISK, config.boot.state_file, config.boot.booted_path, config.slot_names)
    return gateway


def type_on(gateway: Gateway, command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    words = [NARROWBOAT_DEVICE, command, *map(str, arguments), "--config", str(gateway.config)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_a_file_is_installed_without_a_broker_and_the_fleet_hears_of_it_later(
    lab: Lab, relay: RelayThread, file: Path
) -> None:
    gateway = offline(lab, "gw-stick", relay)
    installed = type_on(gateway, "install", file)
    assert installed.returncode == 0, installed.stderr
    assert "ready: the next boot tries it" in installed.stdout
    assert type_on(gateway, "verify-slot", "b").returncode == 0
    with lab.rogue() as ears, AgentThread(gateway.config) as machine:
        wait_for(lambda: machine.state is State.SUCCEEDED, PATIENCE_S, "the commit")
        assert machine.boot.primary == "b"
        assert machine.slot("b")[: len(IMAGE)] == IMAGE
        assert len(machine.outbox) == 1
        assert lab.device("gw-stick") is None
        relay.mend()
        end = ears.wait_for_end("gw-stick", attempt=0)
        assert (end.state, end.slot) == (State.SUCCEEDED, "b")
        wait_for(lambda: not machine.outbox, PATIENCE_S, "the Ack of the end")
    shown = lab.device("gw-stick")
    assert shown is not None
    assert (shown["summary"]["running_slot"], shown["summary"]["version"]) == ("b", "9.0.0")


def test_a_file_that_was_damaged_on_its_way_is_not_installed_and_the_fleet_hears_why(
    lab: Lab, relay: RelayThread, file: Path
) -> None:
    gateway, damaged = offline(lab, "gw-damaged", relay), lab.folder / "damaged.nbr"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    installed = type_on(gateway, "install", damaged)
    assert installed.returncode == 1
    assert "failed, bad_block" in installed.stdout
    with lab.rogue() as ears, AgentThread(gateway.config) as machine:
        relay.mend()
        end = ears.wait_for_end("gw-damaged", attempt=0)
        assert (end.state, end.reason.value if end.reason else None) == (State.FAILED, "bad_block")
        assert (machine.boot.primary, sorted(machine.boot.bootable)) == ("a", ["a"])


def test_a_file_is_held_to_the_same_proofs_as_the_bridge(lab: Lab, relay: RelayThread, file: Path) -> None:
    """Floor, hardware, signatures, and whether it is a release at all."""
    gateway = offline(lab, "gw-proofs", relay)
    before = (gateway.folder / "slot-b.img").read_bytes()
    make = lab.kit.make_release
    unfit = {
        "below_floor": make(IMAGE, sequence=BASE_SEQUENCE - 1).file,
        "wrong_class": make(IMAGE, sequence=BASE_SEQUENCE, classes=["gateway-b"]).file,
        "unknown_key": make(IMAGE, sequence=BASE_SEQUENCE, signers=[lab.kit.director]).file,
        "bad_head": file.read_bytes()[: HEADER_BYTES + 60] + b"!" + file.read_bytes()[HEADER_BYTES + 61 :],
        "bad_document": file.read_bytes()[:-1],
        "unknown_format": b"not a release, and long enough to have been one",
    }
    for reason, data in unfit.items():
        path = lab.folder / f"{reason}.nbr"
        path.write_bytes(data)
        refused = type_on(gateway, "install", path)
        assert refused.returncode == 1, reason
        assert reason in refused.stdout + refused.stderr
    assert (gateway.folder / "slot-b.img").read_bytes() == before


def test_a_gateway_whose_owner_forbids_local_installation_takes_no_file(
    lab: Lab, relay: RelayThread, file: Path
) -> None:
    gateway = offline(lab, "gw-strict", relay, "\n[install]\nallow_local = false\n")
    refused = type_on(gateway, "install", file)
    assert refused.returncode == 2
    assert "allow_local" in refused.stderr


def test_verify_slot_tells_a_script_what_a_slot_holds(lab: Lab, relay: RelayThread) -> None:
    gateway = offline(lab, "gw-verify", relay)
    slot = gateway.folder / "slot-a.img"
    assert type_on(gateway, "verify-slot", "a").returncode == 0
    with slot.open("r+b") as image:
        image.seek(100_000)
        image.write(b"rot")
    rotten = type_on(gateway, "verify-slot", "a")
    assert rotten.returncode == 1
    assert "does not hold release" in rotten.stdout
    assert type_on(gateway, "verify-slot", "b").returncode == 1, "no release lies beside it"
    assert type_on(gateway, "verify-slot", "c").returncode == 2

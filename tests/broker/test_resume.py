"""A download goes on where it stopped, whatever stopped it, and pays for no byte twice.

The link is a relay that counts and, at a chosen byte, stands still: so each test breaks things at the same place of the
download on any machine. Images are noise, which does not compress, so that bytes of the image are bytes on the wire.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest

from narrowboat_device.assembly import open_gateway
from narrowboat_device.boot.loader import power_on
from narrowboat_device.config import load_config
from narrowboat_device.core.events import RootArrived
from narrowboat_device.disk import SystemDisk
from narrowboat_protocol.limits import DEFAULT_LIMITS, MIB
from narrowboat_protocol.payload import Codec, Head
from narrowboat_protocol.states import State
from tests.support.processes import Child, wait_for
from tests.support.relay import LinkShape, RelayThread
from tests.support.rogue import PATIENCE_S

from .lab import Lab, Pushed, noise, running_lab

IMAGE_BYTES = 10 * MIB
STALL_BYTES = 7 * MIB
SYNCED_BYTES = DEFAULT_LIMITS.sync_bytes
"""By the stall the first batch was synced, and more than two MiB beyond it were not."""
WASTE_BYTES = 512 * 1024
"""Handshakes, documents, and the block and buffers that a cut loses."""


@pytest.fixture
def relay(lab: Lab) -> Iterator[RelayThread]:
    with RelayThread(lab.fleet.ports.device) as relay:
        relay.stall_at(STALL_BYTES)
        yield relay


@pytest.fixture(scope="module")
def noisy(lab: Lab) -> Pushed:
    return lab.push(noise(30, IMAGE_BYTES), "3.0.0", codec=Codec.STORED)


def left_to_fetch(head: Head, synced_bytes: int) -> int:
    """What a gateway that knows nothing but its journal and its slot must still fetch: head, layer, and frames."""
    frame = head.frame_of_chunk(synced_bytes >> head.tree.log2_chunk_size)
    return head.leaves_offset + head.payload_length - frame.offset


def test_a_link_that_breaks_in_mid_download_costs_no_byte_twice(lab: Lab, noisy: Pushed, relay: RelayThread) -> None:
    with lab.gateway("gw-cut", relay) as gateway:
        lab.start(noisy, "cut", "gw-cut")
        wait_for(lambda: relay.counts.down_bytes >= STALL_BYTES, PATIENCE_S, "the middle of the download")
        relay.cut()
        relay.stall_at(None)
        assert lab.wait_for_end("cut", "gw-cut")["state"] == "succeeded"
        assert gateway.slot("b")[:IMAGE_BYTES] == noisy.made.image
    assert relay.counts.connections > 1
    assert relay.counts.down_bytes <= len(noisy.made.payload) + WASTE_BYTES


def test_a_link_that_lives_five_seconds_at_a_time_brings_the_update_all_the_same(lab: Lab, noisy: Pushed) -> None:
    shape = LinkShape(rate_bits_per_s=5e6, round_trip_s=0.1, cut_every_s=5.0)
    with RelayThread(lab.fleet.ports.device, shape) as relay, lab.gateway("gw-flaky", relay) as gateway:
        lab.start(noisy, "flaky", "gw-flaky")
        assert lab.wait_for_end("flaky", "gw-flaky")["state"] == "succeeded"
        assert gateway.slot("b")[:IMAGE_BYTES] == noisy.made.image
    assert relay.counts.connections > 3
    assert relay.counts.down_bytes <= len(noisy.made.payload) + WASTE_BYTES


def test_a_gateway_that_loses_power_does_not_fetch_again_what_it_had_synced(
    lab: Lab, noisy: Pushed, relay: RelayThread
) -> None:
    gateway = lab.make_gateway("gw-power", relay)
    lab.fleet.switch_on(gateway)
    lab.start(noisy, "power", "gw-power")
    synced_bytes, carried_bytes = lab.cut_in_mid_download(gateway, relay, SYNCED_BYTES)
    assert synced_bytes < IMAGE_BYTES
    assert lab.wait_for_end("power", "gw-power")["state"] == "succeeded"
    lab.fleet.pull_the_plug(gateway)
    assert relay.counts.down_bytes - carried_bytes <= left_to_fetch(noisy.made.head, synced_bytes) + WASTE_BYTES
    assert (gateway.folder / "slot-b.img").read_bytes()[:IMAGE_BYTES] == noisy.made.image


def test_a_chunk_that_rots_while_the_power_is_off_is_found_and_fetched_alone(
    lab: Lab, noisy: Pushed, relay: RelayThread
) -> None:
    with lab.gateway("gw-rot", relay) as gateway:
        lab.start(noisy, "rot", "gw-rot")
        wait_for(lambda: gateway.done_bytes >= SYNCED_BYTES, PATIENCE_S, "a first sync")
        gateway.switch_off()
        synced_bytes, carried_bytes = gateway.done_bytes, relay.counts.down_bytes
        with (lab.folder / "gw-rot" / "slot-b.img").open("r+b") as slot:
            slot.seek(MIB + 17)
            slot.write(b"rot")
        relay.stall_at(None)
        gateway.switch_on()
        assert lab.wait_for_end("rot", "gw-rot")["state"] == "succeeded"
        assert gateway.slot("b")[:IMAGE_BYTES] == noisy.made.image
    frame_bytes = DEFAULT_LIMITS.full_frame_image_bytes_max
    most = left_to_fetch(noisy.made.head, synced_bytes) + frame_bytes + WASTE_BYTES
    assert relay.counts.down_bytes - carried_bytes <= most


# What dies in the middle is everybody's, so these have a lab of their own.


@pytest.fixture(scope="module")
def shaky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(tmp_path_factory.mktemp("shaky")) as lab:
        yield lab


@pytest.fixture(scope="module")
def shaky_noise(shaky: Lab) -> Pushed:
    return shaky.push(noise(31, IMAGE_BYTES), "3.1.0", codec=Codec.STORED)


RESTARTS: dict[str, Callable[[Lab], None]] = {
    "bridge-killed": lambda lab: lab.restart_bridge(Child.kill),
    "broker-killed": lambda lab: lab.restart_broker(Child.kill),
    "broker-stopped": lambda lab: lab.restart_broker(Child.stop),
}


@pytest.mark.parametrize("name", RESTARTS)
def test_a_server_that_dies_in_mid_download_costs_no_byte_twice(shaky: Lab, shaky_noise: Pushed, name: str) -> None:
    with RelayThread(shaky.fleet.ports.device) as relay, shaky.gateway(name, relay) as gateway:
        relay.stall_at(STALL_BYTES)
        shaky.start(shaky_noise, name, name)
        wait_for(lambda: relay.counts.down_bytes >= STALL_BYTES, PATIENCE_S, "the middle of the download")
        RESTARTS[name](shaky)
        relay.stall_at(None)
        shaky.wait_until_served()
        assert shaky.wait_for_end(name, name)["state"] == "succeeded"
        assert gateway.slot("b")[:IMAGE_BYTES] == shaky_noise.made.image
        assert relay.counts.down_bytes <= len(shaky_noise.made.payload) + WASTE_BYTES


def test_a_bridge_restored_from_before_the_campaign_in_the_middle_of_it_costs_no_byte_twice(
    shaky: Lab, shaky_noise: Pushed
) -> None:
    """It has never heard of the campaign, which the operator starts again."""
    name, data, backup = "gw-backup", shaky.fleet.path / "bridge" / "data", shaky.folder / "backup"
    with RelayThread(shaky.fleet.ports.device) as relay, shaky.gateway(name, relay) as gateway:
        relay.stall_at(STALL_BYTES)
        shaky.wait_until_known(name)
        shaky.bridge.stop()
        shutil.copytree(data, backup)
        shaky.restart_bridge(Child.stop)
        shaky.wait_until_served()
        shaky.start(shaky_noise, name, name)
        wait_for(lambda: relay.counts.down_bytes >= STALL_BYTES, PATIENCE_S, "the middle of the download")
        shaky.bridge.kill()
        shutil.rmtree(data)
        backup.rename(data)
        shaky.restart_bridge(Child.kill)
        shaky.wait_until_served()
        relay.stall_at(None)
        shaky.start(shaky_noise, name, name)
        assert shaky.wait_for_end(name, name)["state"] == "succeeded"
        assert gateway.slot("b")[:IMAGE_BYTES] == shaky_noise.made.image
        assert relay.counts.down_bytes <= len(shaky_noise.made.payload) + WASTE_BYTES


def test_a_bridge_rebuilt_from_keys_and_payloads_in_mid_campaign_leaves_a_device_what_it_had(
    shaky: Lab, shaky_noise: Pushed
) -> None:
    """The device would say hello to it within six minutes; it is started anew, so that the test need not wait."""
    name = "gw-rebuilt"
    with RelayThread(shaky.fleet.ports.device) as relay, shaky.gateway(name, relay) as gateway:
        relay.stall_at(STALL_BYTES)
        shaky.start(shaky_noise, name, name)
        wait_for(lambda: gateway.done_bytes >= SYNCED_BYTES, PATIENCE_S, "a first sync")
        shaky.bridge.kill()
        shutil.rmtree(shaky.fleet.path / "bridge" / "data")
        shaky.restart_bridge(Child.kill)
        shaky.wait_until_served()
        pushed = shaky.type("release", "push", shaky_noise.file, "--wait")
        assert pushed.status == 0, pushed.err
        gateway.switch_off()
        synced_bytes, carried_bytes = gateway.done_bytes, relay.counts.down_bytes
        relay.stall_at(None)
        gateway.switch_on()
        shaky.start(shaky_noise, name, name)
        assert shaky.wait_for_end(name, name)["state"] == "succeeded"
        assert gateway.slot("b")[:IMAGE_BYTES] == shaky_noise.made.image
    most = left_to_fetch(shaky_noise.made.head, synced_bytes) + WASTE_BYTES
    assert relay.counts.down_bytes - carried_bytes <= most


def test_a_gateway_can_tell_a_bridge_that_starts_from_what_the_broker_kept(shaky: Lab) -> None:
    """Else it would not say hello to a bridge that lost its store, or say it on every link."""
    disk, config = SystemDisk(), load_config(shaky.make_gateway("gw-listens").config)
    power_on(disk, config.boot.state_file, config.boot.booted_path, config.slot_names)
    with open_gateway(disk, config, DEFAULT_LIMITS, with_link=True) as opened:
        events = iter(lambda: opened.inbox.get(PATIENCE_S), None)
        assert next(event for event in events if isinstance(event, RootArrived)).retained
        shaky.restart_bridge(Child.stop)
        assert not next(event for event in events if isinstance(event, RootArrived)).retained


def test_a_byte_budget_holds_even_a_download_that_would_be_over_in_a_moment(lab: Lab, noisy: Pushed) -> None:
    with lab.gateway("gw-budget") as gateway:
        lab.start(noisy, "budget", "gw-budget", "--byte-budget", MIB)
        wait_for(
            lambda: lab.attempt("budget", "gw-budget")["hold"] == "byte_budget", PATIENCE_S, "the budget to hold it"
        )
        assert gateway.state is State.DOWNLOADING
        assert gateway.boot.trial is None

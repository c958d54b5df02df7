"""An encrypted release goes the whole way: built by the command line, over a link that breaks and a power cut, and no
byte of it is paid for twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from narrowboat_bridge.cli.release_io import open_release_file
from narrowboat_protocol.limits import DEFAULT_LIMITS, MIB
from narrowboat_protocol.payload import Head
from tests.support.processes import wait_for
from tests.support.relay import RelayThread
from tests.support.rogue import PATIENCE_S

from .lab import BASE_SEQUENCE, Lab, noise

IMAGE_BYTES = 10 * MIB
STALL_BYTES = 7 * MIB
SYNCED_BYTES = DEFAULT_LIMITS.sync_bytes
WASTE_BYTES = 512 * 1024
ENCRYPTION = '\n[encryption]\nkey = "agreement.pem"\n'
IMAGE = noise(31, IMAGE_BYTES)


def encrypted(lab: Lab, version: str) -> tuple[Path, Head]:
    """A release of the image, built, signed and pushed as the README says."""
    folder, fleet = lab.folder, lab.fleet.path
    (folder / "private.img").write_bytes(IMAGE)
    text = (fleet / "release.toml").read_text()
    for old, new in (
        ('version = "1.0.0"', f'version = "{version}"'),
        ("sequence = 1", f'sequence = {BASE_SEQUENCE}\ncodec = "stored"'),
        ("rootfs.ext4", "private.img"),
    ):
        assert old in text
        text = text.replace(old, new)
    (folder / "private.toml").write_text(text)
    file = folder / f"private-{version}.nbr"
    for command in (
        ("build", folder / "private.toml", "-o", file, "--encrypt-to", fleet / "keys" / "bridge-agreement.pub.pem"),
        ("sign", file, "--key", fleet / "keys" / "release-1.pem"),
    ):
        lab.fleet.narrowboat("release", *map(str, command))
    pushed = lab.type("release", "push", file, "--wait")
    assert pushed.status == 0, pushed.err
    with open_release_file(file) as opened:
        return file, opened.read_head()


@pytest.fixture(scope="module")
def private(lab: Lab) -> tuple[Path, Head]:
    return encrypted(lab, "4.0.0")


@pytest.fixture
def relay(lab: Lab) -> Iterator[RelayThread]:
    with RelayThread(lab.fleet.ports.device) as relay:
        relay.stall_at(STALL_BYTES)
        yield relay


def start(lab: Lab, file: Path, campaign: str, device: str) -> str:
    lab.wait_until_known(device)
    started = lab.type("campaign", "start", file, "--name", campaign, "--device", device)
    assert started.status == 0, started.err
    return started.err


def test_a_link_that_breaks_in_mid_download_costs_no_byte_of_an_encrypted_payload_twice(
    lab: Lab, private: tuple[Path, Head], relay: RelayThread
) -> None:
    file, head = private
    with lab.gateway("gw-private-cut", relay, extra_toml=ENCRYPTION) as gateway:
        assert "no_key" not in start(lab, file, "private-cut", "gw-private-cut")
        wait_for(lambda: relay.counts.down_bytes >= STALL_BYTES, PATIENCE_S, "the middle of the download")
        relay.cut()
        relay.stall_at(None)
        assert lab.wait_for_end("private-cut", "gw-private-cut")["state"] == "succeeded"
        assert gateway.slot("b")[:IMAGE_BYTES] == IMAGE
    assert relay.counts.connections > 1
    assert relay.counts.down_bytes <= head.payload_length + WASTE_BYTES


def test_a_power_cut_in_mid_download_costs_no_synced_byte_of_an_encrypted_payload(
    lab: Lab, private: tuple[Path, Head], relay: RelayThread
) -> None:
    file, head = private
    gateway = lab.make_gateway("gw-private-power", relay, extra_toml=ENCRYPTION)
    lab.fleet.switch_on(gateway)
    start(lab, file, "private-power", "gw-private-power")
    synced_bytes, carried_bytes = lab.cut_in_mid_download(gateway, relay, SYNCED_BYTES)
    assert synced_bytes < IMAGE_BYTES
    assert lab.wait_for_end("private-power", "gw-private-power")["state"] == "succeeded"
    lab.fleet.pull_the_plug(gateway)
    frame = head.frame_of_chunk(synced_bytes >> head.tree.log2_chunk_size)
    left_bytes = head.leaves_offset + head.payload_length - frame.offset
    assert relay.counts.down_bytes - carried_bytes <= left_bytes + WASTE_BYTES
    assert (gateway.folder / "slot-b.img").read_bytes()[:IMAGE_BYTES] == IMAGE


def test_a_gateway_without_a_key_is_named_at_the_start_and_ends_with_its_reason(
    lab: Lab, private: tuple[Path, Head]
) -> None:
    with lab.gateway("gw-keyless") as gateway:
        warning = start(lab, private[0], "private-keyless", "gw-keyless")
        assert "have no key for encrypted payloads and will fail (no_key): gw-keyless" in warning
        end = lab.wait_for_end("private-keyless", "gw-keyless")
        assert (end["state"], end["reason"]) == ("failed", "no_key")
        assert gateway.boot.primary == "a"

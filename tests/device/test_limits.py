"""What would exceed a declared limit is refused before anything is allocated or asked for, whoever signed it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import pytest

from narrowboat_device.core import actions as ac
from narrowboat_device.core import events as ev
from narrowboat_protocol.documents import Target
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.limits import DEFAULT_LIMITS, KIB, MIB
from narrowboat_protocol.states import State
from narrowboat_protocol.suit import Image, Manifest, build_envelope, parse_envelope
from narrowboat_protocol.tree import Tree
from tests.support.fleet import COMPONENT, HARDWARE, FleetKit
from tests.support.gateway import SMALL, Gateway
from tests.support.images import small_image
from tests.support.suit_manifests import sign_envelope

IMAGE = small_image(3, 45_000)
GROWTH_BYTES_MAX = 256 * KIB


@pytest.fixture
def fleet() -> FleetKit:
    return FleetKit.create(limits=SMALL)


def test_a_head_that_is_said_to_be_huge_is_never_asked_for(fleet: FleetKit) -> None:
    gateway, release = Gateway(fleet, memory_bytes_max=MIB), fleet.make_release(IMAGE)
    lying = release.reference.model_copy(update={"head_size": DEFAULT_LIMITS.head_bytes_max})
    gateway.connect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    gateway.assign(release, targets=(Target(component=COMPONENT, release=release.digest, payloads=(lying,)),))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (gateway.report.state, gateway.report.reason) == (State.FAILED, Reason.TOO_LARGE)
    assert gateway.did(ac.Fetch) == []
    assert peak - before < GROWTH_BYTES_MAX


def test_a_head_that_would_fill_the_memory_gives_way_to_a_payload_that_does_not(fleet: FleetKit) -> None:
    gateway, release = Gateway(fleet, memory_bytes_max=MIB), fleet.make_release(IMAGE)
    lying = release.reference.model_copy(update={"head_size": DEFAULT_LIMITS.head_bytes_max, "digest": bytes(32)})
    gateway.connect()
    target = Target(component=COMPONENT, release=release.digest, payloads=(lying, release.reference))
    gateway.assign(release, targets=(target,))
    assert gateway.state is State.REBOOTING


@pytest.mark.parametrize("length", [64 * KIB + 1, 1 << 30, SMALL.image_bytes_max])
def test_a_tree_over_more_than_the_slot_is_refused_unasked(fleet: FleetKit, length: int) -> None:
    """A release is signed, and made for another gateway or by a tool that lies."""
    gateway = Gateway(fleet, slot_bytes=64 * KIB)
    release = fleet.make_release(IMAGE)
    tree = Tree(SMALL.log2_chunk_size, length, release.head.tree.root)
    vendor, classes = HARDWARE.vendor_id, (HARDWARE.class_id,)
    image = Image(COMPONENT, vendor, classes, release.image_sha256, tree, "9.0.0", 0)
    envelope = sign_envelope(build_envelope(Manifest(1, (image,)), limits=SMALL), fleet.release_signers[0], SMALL)
    gateway.connect()
    gateway.assign(replace(release, envelope=envelope, digest=parse_envelope(envelope, SMALL).digest))
    assert (gateway.report.state, gateway.report.reason) == (State.REJECTED, Reason.IMAGE_TOO_LARGE)
    assert gateway.did(ac.Fetch) == gateway.did(ac.WriteChunks) == []


FLOODS: dict[str, Callable[[FleetKit], ev.Event]] = {
    "the root that it has": lambda fleet: ev.RootArrived(fleet.root_data),
    "roots of nobody": lambda fleet: ev.RootArrived(FleetKit.create().root_data),
    "roots that are none": lambda fleet: ev.RootArrived(bytes(16_000)),
    "deliveries that are none": lambda fleet: ev.DeliveryArrived(bytes(100_000)),
    "Acks that are none": lambda fleet: ev.AckArrived(bytes(100_000)),
    "blocks of nothing": lambda fleet: ev.BlockArrived(b""),
    "blocks of another payload": lambda fleet: ev.BlockArrived(b"\x83\x48" + bytes(8) + b"\x00\x41x"),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_thousand_of_what_changes_nothing_costs_neither_memory_nor_storage_nor_a_full_log(
    fleet: FleetKit, flood: str
) -> None:
    gateway = Gateway(fleet)
    gateway.connect()
    event = FLOODS[flood](fleet)
    gateway.give(event)
    before = len(gateway.actions)
    tracemalloc.start()
    base, _ = tracemalloc.get_traced_memory()
    for _ in range(1000):
        gateway.give(event)
    now, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert gateway.actions[before:] == []
    assert now - base < GROWTH_BYTES_MAX
    gateway.assign(fleet.make_release(IMAGE))
    assert gateway.state is State.REBOOTING

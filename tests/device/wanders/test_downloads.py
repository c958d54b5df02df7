"""What walks and readers have found of downloads, each in its smallest form."""

from __future__ import annotations

from dataclasses import replace

from narrowboat_device.core import actions as ac
from narrowboat_device.core import events as ev
from narrowboat_protocol.documents import Target
from narrowboat_protocol.states import HoldReason, State
from tests.device.agent_kit import attempt
from tests.device.wanders.kit import stall_in_frames
from tests.support.gateway import SMALL, Gateway
from tests.support.walk import LIMITS, World


def test_good_frames_before_a_forged_one_in_the_same_block_are_written(gateway: Gateway, world: World) -> None:
    release = world.other
    last = release.head.frame(release.head.frame_count - 1)
    assert last.offset + last.encoded_length - release.head.frames_offset < LIMITS.block_bytes_slow
    forged = [True]

    def tamper(offset: int, data: bytes) -> bytes:
        if forged and offset + len(data) == release.head.payload_length:
            forged.clear()
            return data[:-1] + bytes([data[-1] ^ 1])
        return data

    gateway.tamper = tamper
    gateway.assign(release)
    assert gateway.state is State.REBOOTING
    assert gateway.did(ac.HashSlot) == []


def test_frames_that_came_before_the_head_are_not_fetched_twice(gateway: Gateway, world: World) -> None:
    lost = [True]

    def tamper(offset: int, data: bytes) -> bytes | None:
        return None if offset == 0 and lost and lost.pop() else data

    gateway.tamper = tamper
    gateway.assign(world.other)
    gateway.pass_time(30)
    assert gateway.state is State.REBOOTING
    fetched = [span for span in gateway.fetched() if span[0] >= world.other.head.frames_offset]
    assert len(fetched) == len(set(fetched))


def test_no_two_syncs_share_a_token_though_the_download_begins_anew(gateway: Gateway, world: World) -> None:
    stall_in_frames(gateway, world.one)
    gateway.pass_time(6)
    gateway.tamper = lambda _, data: data
    gateway.payloads[world.other.payload_digest] = world.other.payload
    two = world.one.target().model_copy(update={"payloads": (world.other.reference, world.one.reference)})
    gateway.assign(world.one, targets=(two,))
    tokens = [action.token for action in gateway.actions if isinstance(action, ac.SyncSlot)]
    assert len(tokens) == len(set(tokens)) > 1


def test_what_has_arrived_is_synced_though_the_link_is_gone(world: World) -> None:
    gateway = Gateway(world.fleet, slot_bytes=32 * 1024, limits=SMALL)
    gateway.connect()
    stall_in_frames(gateway, world.one)
    assert gateway.did(ac.SyncSlot) == []
    gateway.give(ev.LinkLost())
    gateway.pass_time(6)
    assert attempt(gateway).next_chunk == 2
    assert gateway.agent.deadline is not None
    assert gateway.agent.deadline > gateway.now.monotonic_s


def test_a_deadline_that_is_met_to_the_instant_moves_on(gateway: Gateway, world: World) -> None:
    gateway.now = replace(gateway.now, monotonic_s=0.1)
    gateway.fetching = False
    gateway.assign(world.one)
    for _ in range(200):
        deadline = gateway.agent.deadline
        assert deadline is not None
        assert deadline > gateway.now.monotonic_s
        gateway.now = replace(gateway.now, monotonic_s=deadline)
        gateway.give(ev.TimeReached())


def test_an_attempt_without_a_usable_source_keeps_saying_so(gateway: Gateway, world: World) -> None:
    reference = world.one.reference.model_copy(update={"sources": ("https://elsewhere/",)})
    target = Target(component="rootfs", release=world.one.digest, payloads=(reference,))
    gateway.assign(world.one, targets=(target,))
    for _ in range(3):
        gateway.pass_time(4000)
        shown = [action.hold for action in gateway.actions if isinstance(action, ac.ShowStatus)]
        assert shown[-1] is HoldReason.NO_SOURCE
    gateway.assign(world.one)
    assert gateway.state is State.REBOOTING

"""The agent core as given-when-then: how an image comes into a slot, and what lost, forged and rotten bytes cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from narrowboat_device.core import actions as ac
from narrowboat_device.core import events as ev
from narrowboat_device.core.memory import Journal
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.payload import Codec, parse_head
from narrowboat_protocol.states import State
from tests.device.agent_kit import IMAGE, attempt, brought_to
from tests.support.fleet import FleetKit, MadeRelease
from tests.support.gateway import SMALL, Gateway, sha256_of_slot


def test_what_was_synced_before_a_power_cut_is_not_fetched_again(gateway: Gateway, release: MadeRelease) -> None:
    brought_to(gateway, State.DOWNLOADING, release)
    gateway.pass_time(6)
    journal = gateway.records[ac.Record.JOURNAL]
    assert journal is not None
    attempt = Journal.decode(journal).attempt
    assert attempt is not None
    assert attempt.next_chunk >= 2
    synced = release.head.frame_of_chunk(attempt.next_chunk).offset

    before = len(gateway.actions)
    gateway.tamper = lambda _, data: data
    gateway.power_cycle()
    gateway.connect()
    again = [span for action in gateway.actions[before:] if isinstance(action, ac.Fetch) for span in action.ranges]
    assert all(offset + length <= release.head.leaves_offset or offset >= synced for offset, length in again)
    assert gateway.state is State.REBOOTING


@pytest.mark.parametrize("between", ["nothing", "an abort", "a refusal", "a new epoch"])
def test_the_same_image_under_another_signature_keeps_every_chunk(
    gateway: Gateway, fleet: FleetKit, release: MadeRelease, between: str
) -> None:
    brought_to(gateway, State.DOWNLOADING, release)
    gateway.pass_time(6)
    kept = attempt(gateway).next_chunk
    assert kept > 0
    epoch = 0
    match between:
        case "an abort":
            gateway.assign()
        case "a refusal":
            gateway.assign(fleet.make_release(IMAGE, classes=("gateway-z",)))
            assert gateway.state is State.REJECTED
        case "a new epoch":
            epoch = 1
            gateway.give(ev.RootArrived(fleet.next_root(epoch=1)))
            gateway.power_on()
            gateway.connect()
    asked = len(gateway.fetched())
    gateway.tamper = lambda _, data: data
    gateway.assign(fleet.make_release(IMAGE, version="2.0.1", sequence=6, epoch=epoch))
    assert gateway.state is State.REBOOTING
    frames = [offset for offset, _ in gateway.fetched()[asked:] if offset >= release.head.frames_offset]
    assert min(frames) >= release.head.frame_of_chunk(kept).offset


def test_a_lost_link_costs_only_what_was_on_its_way(gateway: Gateway, release: MadeRelease) -> None:
    gateway.fetching = False
    gateway.assign(release)
    asked = gateway.fetched()
    gateway.give(ev.LinkLost())
    gateway.fetching = True
    gateway.give(ev.LinkOpened())

    assert gateway.state is State.REBOOTING
    assert len({offset for offset, _ in gateway.fetched()[len(asked) :]}) == len(gateway.fetched()) - len(asked)


def test_a_block_that_never_comes_is_asked_for_again_and_then_of_every_bridge(
    gateway: Gateway, release: MadeRelease
) -> None:
    gateway.fetching = False
    gateway.assign(release)
    for _ in range(3):
        gateway.pass_time(30)
    channels = [action.channel for action in gateway.actions if isinstance(action, ac.Fetch)]
    assert channels[-1] == "get-any"
    gateway.fetching = True
    gateway.pass_time(30)
    assert gateway.state is State.REBOOTING


def _flip(start: int, end: int, times: int) -> Callable[[int, bytes], bytes]:
    """Alter one byte of the stretch of the payload, as often as `times` says."""
    left = [times]

    def tamper(offset: int, data: bytes) -> bytes:
        at = max(start, offset) - offset
        if left[0] == 0 or at >= len(data) or offset + len(data) <= start or offset >= end:
            return data
        left[0] -= 1
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    return tamper


@pytest.mark.parametrize(
    ("part", "reason"), [("head", Reason.BAD_HEAD), ("layer", Reason.BAD_LAYER), ("frame", Reason.BAD_BLOCK)]
)
def test_forged_bytes_are_asked_for_again_and_never_reach_the_boot_switch(
    gateway: Gateway, release: MadeRelease, part: str, reason: Reason
) -> None:
    head = release.head
    spans = {
        "head": (0, head.layer_offset),
        "layer": (head.layer_offset, head.leaves_offset),
        "frame": (head.frames_offset, head.payload_length),
    }
    gateway.tamper = _flip(*spans[part], times=1)
    gateway.assign(release)
    assert gateway.state is State.REBOOTING
    assert sha256_of_slot(gateway, "b", len(IMAGE)) == release.image_sha256

    stubborn = Gateway(gateway.fleet, "gw-2")
    stubborn.connect()
    stubborn.tamper = _flip(*spans[part], times=-1)
    stubborn.assign(release)
    assert (stubborn.state, stubborn.report.reason) == (State.FAILED, reason)
    assert stubborn.did(ac.ArmTrial) == []


def test_a_payload_of_another_image_is_refused_though_the_assignment_names_it(
    gateway: Gateway, release: MadeRelease, other: MadeRelease
) -> None:
    lying = release.target().model_copy(update={"payloads": (other.reference,)})
    gateway.payloads[other.payload_digest] = other.payload
    gateway.assign(release, targets=(lying,))
    assert (gateway.state, gateway.report.reason) == (State.FAILED, Reason.BAD_HEAD)
    assert gateway.did(ac.WriteChunks) == []


def test_the_next_payload_of_the_assignment_is_tried_when_one_is_useless(
    gateway: Gateway, release: MadeRelease, other: MadeRelease
) -> None:
    both = release.target().model_copy(update={"payloads": (other.reference, release.reference)})
    gateway.payloads[other.payload_digest] = other.payload
    gateway.assign(release, targets=(both,))
    assert gateway.state is State.REBOOTING


def test_a_chunk_that_rots_before_the_read_back_is_mended_with_its_frame_alone(
    gateway: Gateway, release: MadeRelease
) -> None:
    gateway.reading_back = False
    gateway.assign(release)
    fetched = len(gateway.fetched())
    gateway.slots["b"][20_000] ^= 1
    gateway.reading_back = True
    gateway.power_on()
    gateway.connect()

    assert gateway.state is State.REBOOTING
    assert sha256_of_slot(gateway, "b", len(IMAGE)) == release.image_sha256
    frame = release.head.frame_of_chunk(20_000 >> SMALL.log2_chunk_size)
    frames = [span for span in gateway.fetched()[fetched:] if span[0] >= release.head.frames_offset]
    assert sum(length for _, length in frames) == frame.encoded_length


def test_a_medium_that_never_keeps_a_chunk_is_named_as_the_fault(gateway: Gateway, release: MadeRelease) -> None:
    rotten = _RottenGateway(gateway.fleet, "gw-3")
    rotten.connect()
    rotten.assign(release)
    assert (rotten.report.state, rotten.report.reason) == (State.FAILED, Reason.MEDIUM_FAILED)
    assert rotten.did(ac.ArmTrial) == []


class _RottenGateway(Gateway):
    """One cell of slot b never holds what was written."""

    def _carry_out(self, action: ac.Action) -> None:
        super()._carry_out(action)
        if isinstance(action, ac.WriteChunks):
            self.slots["b"][20_000] = 0xEE


def test_a_release_that_contradicts_itself_is_rejected(fleet: FleetKit) -> None:
    gateway = Gateway(fleet)
    gateway.connect()
    release = fleet.make_release(IMAGE)
    gateway.reading_back = False
    gateway.assign(release)
    head = parse_head(release.payload[: release.head_size], SMALL)
    gateway.give(ev.SlotReadBack(release.payload[head.layer_offset : head.leaves_offset], bytes(32)))
    assert (gateway.report.state, gateway.report.reason) == (State.REJECTED, Reason.IMAGE_CONTRADICTS_RELEASE)


def test_a_codec_that_the_device_lacks_is_named_before_anything_is_written(fleet: FleetKit) -> None:
    gateway = Gateway(fleet, codecs=(0,))
    gateway.connect()
    gateway.assign(fleet.make_release(IMAGE, codec=Codec.LZMA))
    assert (gateway.report.state, gateway.report.reason) == (State.FAILED, Reason.UNSUPPORTED_CODEC)
    assert gateway.did(ac.WriteChunks) == []


def test_a_payload_that_needs_more_memory_than_allowed_is_refused_before_it_is_allocated(fleet: FleetKit) -> None:
    gateway = Gateway(fleet, memory_bytes_max=1000)
    gateway.connect()
    gateway.assign(fleet.make_release(IMAGE))
    assert (gateway.report.state, gateway.report.reason) == (State.FAILED, Reason.TOO_LARGE)


def test_a_block_of_a_thousand_frames_is_never_in_memory_as_a_whole(fleet: FleetKit) -> None:
    few = replace(SMALL, decoded_bytes_per_turn=SMALL.full_frame_image_bytes_max)
    gateway = _FrugalGateway(fleet, "gw-5", slot_bytes=1 << 20, limits=few)
    gateway.connect()
    gateway.assign(fleet.make_release(bytes(1 << 20)))
    assert gateway.state is State.REBOOTING
    assert gateway.decoded_bytes_max == SMALL.full_frame_image_bytes_max


class _FrugalGateway(Gateway):
    """Notes how much of an image one answer of the agent carries."""

    decoded_bytes_max = 0

    def _perform(self, actions: list[ac.Action]) -> None:
        decoded = sum(len(action.data) for action in actions if isinstance(action, ac.WriteChunks))
        self.decoded_bytes_max = max(self.decoded_bytes_max, decoded)
        super()._perform(actions)

"""What a gateway refuses, though it comes from the server that it listens to.

The attacker owns broker and bridge: it has a bridge's certificate and the director's key, and serves payloads itself.
It has no release key. So it may offer a gateway anything, and the gateway's own proofs decide. Each kind of forgery has
a reason of its own, none of them costs the running slot, and the gateway takes a good release afterwards.

Attempts of one gateway follow each other, numbered by assignment counters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import pytest

from narrowboat_protocol.documents import Report, Target
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.keys import Algorithm, PrivateKey
from narrowboat_protocol.limits import DEFAULT_LIMITS, MIB
from narrowboat_protocol.payload import Codec, parse_head
from narrowboat_protocol.states import State
from narrowboat_protocol.suit import Image, Manifest, build_envelope, parse_envelope
from narrowboat_protocol.topics import Channel
from tests.support.agent_thread import AgentThread
from tests.support.fleet import HARDWARE, VENDOR, FleetKit, MadeRelease, sign_envelope
from tests.support.images import small_image
from tests.support.rogue import Rogue, Tamper, honest

from .lab import BASE_SEQUENCE, Lab

NAME = "gw-wary"
IMAGE = small_image(40, MIB + 70_000)
OTHER_IMAGE = small_image(41, MIB + 70_000)


@dataclass(slots=True)
class Siege:
    """One gateway, and the attacker that it takes for its bridge."""

    kit: FleetKit
    gateway: AgentThread
    rogue: Rogue
    counters: Iterator[int] = field(default_factory=lambda: count(1))

    def assign(self, target: Target, *envelopes: bytes) -> Report:
        """Assign, and return the end that the gateway reports."""
        counter = next(self.counters)
        self.rogue.assign(self.kit.director, NAME, target, counter=counter, envelopes=envelopes)
        return self.rogue.wait_for_end(NAME, counter)

    def offer(self, made: MadeRelease) -> Report:
        """Assign a release whose payload is never served."""
        return self.assign(made.target(), made.envelope)

    def serve(self, made: MadeRelease, payload: bytes, tamper: Tamper = honest) -> Report:
        """Assign a release and serve `payload` for it, altered by `tamper`."""
        self.rogue.serve(NAME, payload, made.payload_digest, tamper)
        return self.assign(made.target(), made.envelope)

    @property
    def requests(self) -> int:
        return self.rogue.count(NAME, Channel.GET) + self.rogue.count(NAME, Channel.GET_ANY)


@pytest.fixture(scope="module")
def siege(lab: Lab) -> Iterator[Siege]:
    with lab.rogue() as rogue, lab.gateway(NAME, slot_bytes=2 * MIB) as gateway:
        yield Siege(lab.kit, gateway, rogue)


@pytest.fixture
def unharmed(siege: Siege) -> Iterator[None]:
    """Whatever is refused in the test leaves the running slot, its place in the boot order and its bytes alone."""
    before = siege.gateway.slot("a")
    yield
    boot = siege.gateway.boot
    assert (boot.primary, boot.trial, boot.bootable) == ("a", None, frozenset({"a"}))
    assert siege.gateway.slot("a") == before
    assert not siege.gateway.holds_envelope("b")


# Releases that are refused before a byte of them is asked for.


def release(kit: FleetKit, image: bytes = IMAGE, *, sequence: int = BASE_SEQUENCE, **changes: Any) -> MadeRelease:
    return kit.make_release(image, **{"sequence": sequence, "codec": Codec.ZSTD} | changes)


def stranger_signs(kit: FleetKit) -> MadeRelease:
    return release(kit, signers=[PrivateKey.generate(Algorithm.ED25519)])


def director_signs(kit: FleetKit) -> MadeRelease:
    return release(kit, signers=[kit.director])


def manifest_altered(kit: FleetKit) -> MadeRelease:
    """The sequence is another, under the digest and signature of the true one."""
    made = release(kit)
    other = parse_envelope(release(kit, sequence=BASE_SEQUENCE + 1).envelope)
    return replace(made, envelope=replace(parse_envelope(made.envelope), manifest=other.manifest).encode())


def manifest_replaced(kit: FleetKit) -> MadeRelease:
    """Another manifest with its own digest, and the signature of the true one."""
    made = release(kit, OTHER_IMAGE)
    signature = parse_envelope(release(kit).envelope).authentication
    return replace(made, envelope=replace(parse_envelope(made.envelope), authentication=signature).encode())


def other_release_inside(kit: FleetKit) -> MadeRelease:
    """A true release, but not the one that the assignment names."""
    made = release(kit)
    return replace(made, envelope=release(kit, OTHER_IMAGE).envelope)


def for_other_hardware(kit: FleetKit) -> MadeRelease:
    return release(kit, classes=["gateway-b"])


def below_the_floor(kit: FleetKit) -> MadeRelease:
    return release(kit, sequence=BASE_SEQUENCE - 1)


def of_another_epoch(kit: FleetKit) -> MadeRelease:
    return release(kit, epoch=1)


def of_a_component_that_the_root_does_not_know(kit: FleetKit) -> MadeRelease:
    return release(kit, component="modem")


def larger_than_the_slot(kit: FleetKit) -> MadeRelease:
    return release(kit, small_image(42, 2 * MIB + 1))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (stranger_signs, Reason.UNKNOWN_KEY),
        (director_signs, Reason.UNKNOWN_KEY),
        (manifest_altered, Reason.MISSING_RELEASE),
        (manifest_replaced, Reason.BAD_SIGNATURE),
        (other_release_inside, Reason.MISSING_RELEASE),
        (for_other_hardware, Reason.WRONG_CLASS),
        (below_the_floor, Reason.BELOW_FLOOR),
        (of_another_epoch, Reason.WRONG_EPOCH),
        (of_a_component_that_the_root_does_not_know, Reason.NOT_PERMITTED),
        (larger_than_the_slot, Reason.IMAGE_TOO_LARGE),
    ],
)
def test_a_release_that_is_not_fit_is_rejected_before_its_first_byte(
    siege: Siege, unharmed: None, make: Callable[[FleetKit], MadeRelease], reason: Reason
) -> None:
    asked = siege.requests
    end = siege.offer(make(siege.kit))
    assert (end.state, end.reason) == (State.REJECTED, reason)
    assert siege.requests == asked


# Payloads that are refused on the way.


def flipped(at: int) -> Tamper:
    """The byte at `at` of the payload is another one, however often it is asked for."""

    def tamper(offset: int, data: bytes) -> bytes:
        place = at - offset
        return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :] if 0 <= place < len(data) else data

    return tamper


def made_of(payload: bytes, made: MadeRelease) -> MadeRelease:
    """The same release, with an assignment that names another payload for it."""
    head = parse_head(payload[: made.head_size], DEFAULT_LIMITS)
    return replace(made, payload=payload, head=head, head_sha256=hashlib.sha256(payload[: made.head_size]).digest())


def with_foreign_frames(kit: FleetKit) -> MadeRelease:
    """A payload whose head is of the release's image and whose frames, digests in the index included, are not."""
    true = release(kit, codec=Codec.STORED)
    false = release(kit, OTHER_IMAGE, codec=Codec.STORED)
    head = true.payload[: true.head_size].replace(true.head.index, false.head.index)
    payload = head + true.payload[true.head_size : true.head.frames_offset] + false.payload[false.head.frames_offset :]
    return made_of(payload, true)


def with_a_frame_that_does_not_decode(kit: FleetKit) -> MadeRelease:
    """The first frame is noise, and the index says so."""
    true = release(kit)
    frame = true.head.frame(0)
    noise = bytes(frame.encoded_length)
    index = true.head.index.replace(frame.hash8, hashlib.sha256(noise).digest()[:8])
    end = frame.offset + frame.encoded_length
    middle = true.payload[true.head_size : frame.offset]
    return made_of(
        true.payload[: true.head_size].replace(true.head.index, index) + middle + noise + true.payload[end:], true
    )


def of_another_image(kit: FleetKit) -> MadeRelease:
    """A whole and well-named payload of another image."""
    other = release(kit, OTHER_IMAGE)
    made = release(kit)
    return replace(other, envelope=made.envelope, digest=made.digest)


@pytest.fixture(scope="module")
def good(lab: Lab) -> MadeRelease:
    return release(lab.kit, version="4.0.0")


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (lambda made: 60, Reason.BAD_HEAD),
        (lambda made: made.head_size - 1, Reason.BAD_HEAD),
        (lambda made: made.head.layer_offset, Reason.BAD_LAYER),
        (lambda made: made.head.frames_offset + 100, Reason.BAD_BLOCK),
        (lambda made: made.head.payload_length - 1, Reason.BAD_BLOCK),
    ],
    ids=["image in the head", "index in the head", "layer", "first frame", "last frame"],
)
def test_bytes_that_are_altered_on_the_way_again_and_again_end_the_attempt(
    siege: Siege, unharmed: None, good: MadeRelease, place: Callable[[MadeRelease], int], reason: Reason
) -> None:
    end = siege.serve(good, good.payload, flipped(place(good)))
    assert (end.state, end.reason) == (State.FAILED, reason)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (with_foreign_frames, Reason.BAD_FRAME),
        (with_a_frame_that_does_not_decode, Reason.BAD_FRAME),
        (of_another_image, Reason.BAD_HEAD),
    ],
)
def test_a_payload_that_does_not_make_the_signed_image_ends_the_attempt(
    siege: Siege, unharmed: None, make: Callable[[FleetKit], MadeRelease], reason: Reason
) -> None:
    made = make(siege.kit)
    end = siege.serve(made, made.payload)
    assert (end.state, end.reason) == (State.FAILED, reason)


def test_leaves_that_are_not_the_layers_do_not_help_foreign_frames_in(siege: Siege, unharmed: None) -> None:
    made = with_foreign_frames(siege.kit)
    end = siege.serve(made, made.payload, flipped(made.head.leaves_offset))
    assert (end.state, end.reason) == (State.FAILED, Reason.BAD_LEAVES)


def test_a_release_that_contradicts_itself_is_rejected_after_the_last_byte(siege: Siege, unharmed: None) -> None:
    """The release keys signed a tree and a SHA-256 that are not of one image."""
    made = release(siege.kit)
    false_sha256 = hashlib.sha256(OTHER_IMAGE).digest()
    described = Image("rootfs", VENDOR, (HARDWARE.class_id,), false_sha256, made.head.tree, "4.1.0", 0)
    envelope = sign_envelope(
        build_envelope(Manifest(BASE_SEQUENCE, (described,)), limits=DEFAULT_LIMITS), siege.kit.release_signers[0]
    )
    head = made.payload[: made.head_size].replace(made.image_sha256, false_sha256)
    contradiction = replace(
        made_of(head + made.payload[made.head_size :], made), envelope=envelope, digest=parse_envelope(envelope).digest
    )
    end = siege.serve(contradiction, contradiction.payload)
    assert (end.state, end.reason) == (State.REJECTED, Reason.IMAGE_CONTRADICTS_RELEASE)


# And after all of it.


def test_a_gateway_that_was_lied_to_takes_a_good_release_though_a_few_blocks_are_forged_first(
    siege: Siege, good: MadeRelease
) -> None:
    forged: list[int] = []

    def forge_three(offset: int, data: bytes) -> bytes:
        if offset >= good.head.frames_offset and len(forged) < DEFAULT_LIMITS.bad_blocks_per_source_max:
            forged.append(offset)
            return bytes(len(data))
        return data

    end = siege.serve(good, good.payload, forge_three)
    assert (end.state, end.slot) == (State.SUCCEEDED, "b")
    assert len(forged) == DEFAULT_LIMITS.bad_blocks_per_source_max
    assert siege.gateway.slot("b")[: len(IMAGE)] == IMAGE
    assert siege.gateway.boot.primary == "b"


# The same by an honest bridge, which knows less of a gateway than the gateway itself.


def test_an_image_larger_than_the_slot_costs_no_byte_and_the_operator_reads_why(lab: Lab) -> None:
    pushed = lab.push(small_image(43, 2 * MIB), "4.2.0")
    with lab.rogue() as listener, lab.gateway("gw-small", slot_bytes=MIB) as gateway:
        before = gateway.slot("b")
        lab.start(pushed, "too-large", "gw-small")
        attempt = lab.wait_for_end("too-large", "gw-small")
        assert (attempt["state"], attempt["reason"]) == ("rejected", "image_too_large")
        assert listener.count("gw-small", Channel.GET) == 0
        assert gateway.slot("b") == before
    assert lab.type("campaign", "watch", "too-large").status == 4


def test_a_release_that_would_lower_the_sequence_is_rejected_by_the_gateway_and_the_operator_reads_why(
    lab: Lab,
) -> None:
    pushed = lab.push(small_image(44, MIB), "4.3.0", sequence=BASE_SEQUENCE - 1)
    with lab.gateway("gw-floor") as gateway:
        lab.start(pushed, "way-back", "gw-floor")
        attempt = lab.wait_for_end("way-back", "gw-floor")
        assert (attempt["state"], attempt["reason"]) == ("rejected", "below_floor")
        assert gateway.boot.bootable == {"a"}


def test_a_campaign_for_other_hardware_is_refused_at_the_desk(lab: Lab) -> None:
    made = for_other_hardware(lab.kit)
    file = lab.save(made, "other-hardware")
    assert lab.type("release", "push", file, "--wait").status == 0
    with lab.gateway("gw-class"):
        lab.wait_until_known("gw-class")
        started = lab.type("campaign", "start", file, "--name", "other-class", "--device", "gw-class")
    assert started.status == 1
    assert "expected devices of the hardware that the release is made for" in started.error_line

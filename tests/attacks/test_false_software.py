"""What a gateway refuses, though it comes from the server that it listens to.

The attacker owns broker and bridge: it has a bridge's certificate and the director's key, and serves payloads itself.
It has no release key. So it may offer a gateway anything, and the gateway's own proofs decide. Each kind of forgery has
a reason of its own, none of them costs the running slot, and the gateway takes a good release afterwards.

Attempts of one gateway follow each other, numbered by assignment counters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from narrowboat_protocol.errors import Reason
from narrowboat_protocol.keys import Algorithm, PrivateKey
from narrowboat_protocol.limits import DEFAULT_LIMITS, MIB
from narrowboat_protocol.payload import Codec, parse_head
from narrowboat_protocol.states import State
from narrowboat_protocol.suit import Image, Manifest, build_envelope, parse_envelope
from tests.broker.lab import BASE_SEQUENCE, Lab
from tests.support.fleet import HARDWARE, VENDOR, FleetKit, MadeRelease
from tests.support.images import small_image
from tests.support.rogue import Tamper
from tests.support.suit_manifests import sign_envelope

from .siege import Siege, besieged, besieged_of

NAME = "gw-wary"
IMAGE = small_image(40, MIB + 70_000)
OTHER_IMAGE = small_image(41, MIB + 70_000)


@pytest.fixture(scope="module")
def siege(lab: Lab) -> Iterator[Siege]:
    with besieged(lab, NAME, slot_bytes=2 * MIB) as siege:
        yield siege


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


def without_its_manifest(kit: FleetKit) -> MadeRelease:
    """The assignment names a true release, and what describes it is withheld."""
    return replace(release(kit), envelope=release(kit, OTHER_IMAGE).envelope[:0])


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
        (without_its_manifest, Reason.MISSING_RELEASE),
        (for_other_hardware, Reason.WRONG_CLASS),
        (below_the_floor, Reason.BELOW_FLOOR),
        (of_another_epoch, Reason.WRONG_EPOCH),
        (of_a_component_that_the_root_does_not_know, Reason.NOT_PERMITTED),
        (larger_than_the_slot, Reason.IMAGE_TOO_LARGE),
    ],
    ids=[
        "arbitrary software",
        "stolen director key",
        "altered manifest",
        "replaced manifest",
        "mix and match",
        "partial bundle",
        "wrong hardware",
        "rollback",
        "epoch downgrade",
        "extraneous component",
        "endless data",
    ],
)
def test_a_release_that_is_not_fit_is_rejected_before_its_first_byte(
    siege: Siege, unharmed: None, make: Callable[[FleetKit], MadeRelease], reason: Reason
) -> None:
    asked = siege.requests
    end = siege.offer(make(siege.kit))
    assert (end.state, end.reason) == (State.REJECTED, reason)
    assert siege.requests == asked


def test_stolen_keys_below_the_threshold_release_nothing(lab: Lab) -> None:
    """Two of three must sign; the thief has one, twice."""
    kit = FleetKit.create(release_threshold=2, release_keys=3)
    stolen, *others = kit.release_signers
    with besieged_of(lab, kit, "gw-threshold") as siege:
        for signers in ([stolen], [stolen, stolen], [stolen, kit.director]):
            end = siege.offer(release(kit, signers=signers))
            assert (end.state, end.reason) == (State.REJECTED, Reason.BAD_SIGNATURE)
        assert not siege.requests
        made = release(kit, signers=[stolen, others[0]])
        assert siege.serve(made, made.payload).state is State.SUCCEEDED


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
    ids=["frames of another image", "a frame that does not decode", "a true payload of another image"],
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

"""A release is what enough release keys signed, whoever carried it and in whatever order it was signed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import permutations
from uuid import UUID

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from narrowboat_protocol.cose import sign1, signature_kid
from narrowboat_protocol.errors import PeerError, Reason, TrustError, UsageError
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.suit import (
    Envelope,
    Image,
    Manifest,
    authenticate,
    build_envelope,
    class_id,
    merge_envelopes,
    parse_envelope,
    parse_manifest,
    vendor_id,
)
from tests.support.suit_manifests import (
    GATEWAY,
    KEYS,
    ONE_IMAGE,
    P256_KEY,
    RELEASE_KEYS,
    STRANGER,
    TWO_IMAGES,
    VENDOR,
    Parts,
    believe,
    dump,
    image,
    sign,
    with_members,
)


def test_the_digest_of_the_manifest_decides_before_any_signature() -> None:
    other_manifest = parse_envelope(build_envelope(TWO_IMAGES)).manifest
    envelope = with_members(sign(build_envelope(ONE_IMAGE), KEYS[0]), {3: other_manifest})
    with pytest.raises(TrustError, match="not that of the manifest") as refusal:
        parse_envelope(envelope)
    assert refusal.value.reason is Reason.BAD_SIGNATURE


def test_the_digest_covers_the_byte_string_header() -> None:
    envelope = build_envelope(ONE_IMAGE)
    digest_without = hashlib.sha256(parse_envelope(envelope).manifest).digest()
    with pytest.raises(TrustError, match="not that of the manifest"):
        parse_envelope(with_members(envelope, {2: dump([dump([-16, digest_without])])}))


@pytest.mark.parametrize("manifest", [ONE_IMAGE, TWO_IMAGES])
def test_a_release_reads_back_as_it_was_written(manifest: Manifest) -> None:
    envelope = sign(build_envelope(manifest), KEYS[0])
    release = believe(envelope)
    assert (release.sequence, release.images) == (manifest.sequence, manifest.images)
    assert release.digest == parse_envelope(envelope).digest
    assert release.signers == {KEYS[0].public.kid}
    assert [image.size_bytes for image in release.images] == [5] * len(manifest.images)


NAMES = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=64)
COUNTERS = st.integers(0, (1 << 53) - 1)
IMAGES = st.builds(
    Image,
    component=NAMES,
    vendor_id=st.uuids(),
    class_ids=st.lists(st.uuids(), min_size=1, max_size=16, unique=True).map(tuple),
    image_sha256=st.binary(min_size=32, max_size=32),
    tree=st.binary(min_size=1, max_size=100).map(lambda content: image(content=content).tree),
    version=st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=16),
    epoch=COUNTERS,
)
MANIFESTS = st.builds(
    Manifest,
    sequence=COUNTERS,
    images=st.lists(IMAGES, min_size=1, max_size=8, unique_by=lambda image: image.component).map(tuple),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(MANIFESTS)
def test_every_release_that_can_be_described_reads_back(manifest: Manifest) -> None:
    envelope = build_envelope(manifest)
    release = believe(sign(envelope, KEYS[0]))
    assert (release.sequence, release.images) == (manifest.sequence, manifest.images)
    assert build_envelope(manifest) == envelope


def test_the_longest_release_fits_one_message() -> None:
    class_ids = tuple(class_id(VENDOR, f"class-{number}") for number in range(16))
    images = tuple(replace(image(f"{i}" * 64, class_ids), version="v" * 64) for i in range(8))
    envelope = sign(build_envelope(Manifest((1 << 53) - 1, images)), *KEYS)
    assert len(envelope) < DEFAULT_LIMITS.envelope_bytes_max


@pytest.mark.parametrize(
    "unfit",
    [
        Manifest(7, ()),
        Manifest(-1, ONE_IMAGE.images),
        Manifest(7, ONE_IMAGE.images * 2),
        Manifest(7, tuple(image(f"c{number}") for number in range(9))),
        Manifest(7, (image("UPPER"),)),
        Manifest(7, (image(class_ids=()),)),
        Manifest(7, (image(class_ids=(GATEWAY, GATEWAY)),)),
        Manifest(7, (replace(image(), version=""),)),
        Manifest(7, (replace(image(), image_sha256=b"short"),)),
    ],
)
def test_a_release_engineer_cannot_write_what_a_gateway_refuses(unfit: Manifest) -> None:
    with pytest.raises(UsageError):
        build_envelope(unfit)


# Envelopes as a broker or a stick may deliver them.


def test_no_flipped_bit_makes_another_release() -> None:
    envelope = sign(build_envelope(TWO_IMAGES), *KEYS[:2])
    release = believe(envelope, 2)
    for bit in range(8 * len(envelope)):
        flipped = bytearray(envelope)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PeerError):
            believe(bytes(flipped), 2)
    assert believe(envelope, 2) == release


def test_a_cut_envelope_is_no_release() -> None:
    envelope = sign(build_envelope(ONE_IMAGE), KEYS[0])
    for length in range(len(envelope)):
        with pytest.raises(PeerError):
            believe(envelope[:length])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200))
def test_any_bytes_raise_our_errors_only(noise: bytes) -> None:
    with pytest.raises(PeerError):
        believe(noise)
    with pytest.raises(PeerError):
        believe(dump(cbor2.CBORTag(107, {2: noise, 3: noise})))


def test_an_envelope_over_the_limit_is_not_parsed() -> None:
    limits = replace(DEFAULT_LIMITS, envelope_bytes_max=100)
    with pytest.raises(PeerError) as refusal:
        parse_envelope(build_envelope(ONE_IMAGE), limits)
    assert refusal.value.reason is Reason.TOO_LARGE


def test_a_flood_of_signatures_is_refused_before_any_is_verified() -> None:
    envelope = parse_envelope(build_envelope(ONE_IMAGE))
    flooded = replace(envelope, authentication=(b"",) * (DEFAULT_LIMITS.signatures_max + 1))
    with pytest.raises(PeerError) as refusal:
        parse_envelope(flooded.encode())
    assert refusal.value.reason is Reason.TOO_LARGE


# Signatures.


def test_one_key_that_signs_twice_counts_once() -> None:
    unsigned = parse_envelope(build_envelope(ONE_IMAGE))
    blocks = tuple(sign1(P256_KEY, unsigned.signed_payload, external_aad=b"") for _ in range(2))
    doubled = replace(unsigned, authentication=blocks).encode()
    assert believe(doubled, 1).signers == {P256_KEY.public.kid}
    with pytest.raises(TrustError) as refusal:
        believe(doubled, 2)
    assert refusal.value.reason is Reason.BAD_SIGNATURE


def test_the_threshold_is_met_by_distinct_release_keys_only() -> None:
    envelope = sign(build_envelope(ONE_IMAGE), *KEYS, STRANGER)
    assert believe(envelope, 3).signers == {key.public.kid for key in KEYS}
    with pytest.raises(TrustError):
        believe(envelope, 4)


def test_strangers_and_nobody_cannot_release() -> None:
    for envelope in (build_envelope(ONE_IMAGE), sign(build_envelope(ONE_IMAGE), STRANGER)):
        with pytest.raises(TrustError) as refusal:
            believe(envelope)
        assert refusal.value.reason is Reason.UNKNOWN_KEY


def test_a_threshold_of_nobody_is_the_callers_fault() -> None:
    with pytest.raises(UsageError):
        believe(sign(build_envelope(ONE_IMAGE), KEYS[0]), 0)


def test_a_signature_of_another_kind_of_document_does_not_release() -> None:
    unsigned = parse_envelope(build_envelope(ONE_IMAGE))
    block = sign1(KEYS[0], unsigned.signed_payload, external_aad=b"nb-assignment")
    with pytest.raises(TrustError) as refusal:
        believe(replace(unsigned, authentication=(block,)).encode())
    assert refusal.value.reason is Reason.BAD_SIGNATURE


def test_the_steps_lead_where_the_whole_way_leads() -> None:
    envelope = sign(build_envelope(TWO_IMAGES), *KEYS)
    steps = parse_manifest(authenticate(parse_envelope(envelope), RELEASE_KEYS, 3))
    assert steps == believe(envelope, 3)


@pytest.mark.cwt
@pytest.mark.parametrize("key", [KEYS[0], P256_KEY], ids=["Ed25519", "ESP256"])
def test_another_implementation_of_cose_accepts_our_signatures(key: PrivateKey) -> None:
    from cwt import COSE, COSEKey

    envelope = parse_envelope(sign(build_envelope(ONE_IMAGE), key))
    members = {**key.public.to_cbor(), 2: key.public.kid, 3: int(key.public.algorithm)}
    (block,) = envelope.authentication
    payload = COSE.new().decode(block, COSEKey.new(members), detached_payload=envelope.signed_payload)
    assert payload == envelope.signed_payload


# Signing on several machines.


def signed_apart(keys: Iterable[PrivateKey]) -> list[bytes]:
    return [sign(build_envelope(ONE_IMAGE), key) for key in keys]


def test_merging_in_any_order_gives_one_file() -> None:
    apart = signed_apart((*KEYS, P256_KEY))
    merged = set()
    for first, second, third, fourth in permutations(apart):
        merged.add(merge_envelopes(merge_envelopes(merge_envelopes(first, second), third), fourth))
        merged.add(merge_envelopes(merge_envelopes(first, second), merge_envelopes(third, fourth)))
    assert len(merged) == 1
    assert len(believe(merged.pop(), 4).signers) == 4


def test_signing_in_any_order_gives_one_file() -> None:
    (envelope,) = {sign(build_envelope(ONE_IMAGE), *order) for order in permutations(KEYS)}
    kids = [signature_kid(block) for block in parse_envelope(envelope).authentication]
    assert kids == sorted(key.public.kid for key in KEYS)


def test_merging_keeps_one_signature_of_each_key() -> None:
    first, second = signed_apart((P256_KEY, P256_KEY))
    assert first != second
    merged = merge_envelopes(first, second)
    assert merged == merge_envelopes(second, first)
    assert len(parse_envelope(merged).authentication) == 1
    assert merge_envelopes(merged, merged) == merged


def test_signing_again_replaces_a_bad_signature() -> None:
    (good,) = signed_apart(KEYS[:1])
    envelope = parse_envelope(good)
    for filler in (b"\x00", b"\xff"):
        bad_block = envelope.authentication[0][:-64] + filler * 64
        bad = replace(envelope, authentication=(bad_block,)).encode()
        assert sign(bad, KEYS[0]) == good


def test_signatures_of_another_release_are_not_merged() -> None:
    with pytest.raises(UsageError, match="expected envelopes of one release"):
        merge_envelopes(build_envelope(ONE_IMAGE), build_envelope(TWO_IMAGES))


def test_signatures_do_not_change_which_release_it_is() -> None:
    digests = {parse_envelope(envelope).digest for envelope in signed_apart(KEYS)}
    assert digests == {parse_envelope(build_envelope(ONE_IMAGE)).digest}


@pytest.mark.parametrize("tool", [lambda data: merge_envelopes(data, data), lambda data: sign(data, KEYS[0])])
def test_a_signing_tool_does_not_drop_members_silently(tool: Callable[[bytes], bytes]) -> None:
    parts = Parts.of(ONE_IMAGE)
    parts.envelope["#payload"] = b"x"
    with pytest.raises(UsageError, match="expected only 2"):
        tool(parts.seal())


def test_an_envelope_takes_no_more_signatures_than_a_gateway_reads() -> None:
    limits = replace(DEFAULT_LIMITS, signatures_max=1)
    first, second = signed_apart(KEYS[:2])
    with pytest.raises(UsageError, match="would be refused"):
        merge_envelopes(first, second, limits)


def test_an_unsigned_envelope_is_all_that_a_signer_needs() -> None:
    envelope = parse_envelope(build_envelope(ONE_IMAGE))
    assert envelope == Envelope(envelope.digest, (), envelope.manifest)
    assert envelope.signed_payload == dump([-16, envelope.digest])


def test_hardware_identifiers_are_those_of_the_draft() -> None:
    """The examples of draft-ietf-suit-manifest-37 use the domain arm.com and the class "suit"."""
    vendor = vendor_id("arm.com")
    assert vendor == UUID("fa6b4a53-d5ad-5fdf-be9d-e663e4d41ffe")
    assert class_id(vendor, "suit") == UUID("1492af14-2569-5e48-bf42-9b2d51f2ab45")

"""Signatures count for one content, one kind, one format and one fleet, and only in the one form."""

from __future__ import annotations

import subprocess
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from narrowboat_protocol.cbor import encode
from narrowboat_protocol.cose import (
    SignedDocument,
    document_aad,
    sign1,
    sign_document,
    signature_kid,
    verify_signatures,
)
from narrowboat_protocol.errors import DocumentError, NarrowboatError, Reason, TrustError
from narrowboat_protocol.keys import Algorithm, PrivateKey, PublicKey, public_key_from_cbor

KEYS = {algorithm: PrivateKey.generate(algorithm) for algorithm in Algorithm}
OTHER = PrivateKey.generate(Algorithm.ED25519)
FLEET = bytes(32)
AAD = document_aad("assignment", 1, FLEET)


def known(*keys: PrivateKey) -> dict[bytes, PublicKey]:
    return {key.public.kid: key.public for key in keys}


def verify(
    content: bytes, blocks: list[bytes], *keys: PrivateKey, threshold: int = 1, aad: bytes = AAD
) -> frozenset[bytes]:
    return verify_signatures(content, blocks, keys=known(*keys), threshold=threshold, external_aad=aad)


@pytest.fixture(params=Algorithm, ids=lambda algorithm: algorithm.name)
def key(request: pytest.FixtureRequest) -> PrivateKey:
    return KEYS[request.param]


def test_a_signature_counts_for_its_content_and_names_its_key(key: PrivateKey) -> None:
    block = sign1(key, b"content", external_aad=AAD)
    assert verify(b"content", [block], key) == {key.public.kid}
    assert signature_kid(block) == key.public.kid


@pytest.mark.parametrize(
    "aad",
    [
        document_aad("ack", 1, FLEET),
        document_aad("assignment", 2, FLEET),
        document_aad("assignment", 1, b"\x01" * 32),
        b"",
    ],
    ids=["another kind", "another format", "another fleet", "none"],
)
def test_a_signature_is_not_replayed_as_anything_else(key: PrivateKey, aad: bytes) -> None:
    block = sign1(key, b"content", external_aad=AAD)
    with pytest.raises(TrustError) as caught:
        verify(b"content", [block], key, aad=aad)
    assert caught.value.reason is Reason.BAD_SIGNATURE


def test_no_flipped_bit_leaves_a_signature_valid(key: PrivateKey) -> None:
    block = sign1(key, b"content", external_aad=AAD)
    for bit in range(len(block) * 8):
        flipped = bytearray(block)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(NarrowboatError):
            verify(b"content", [bytes(flipped)], key)


def test_a_threshold_counts_keys_and_not_signatures(key: PrivateKey) -> None:
    blocks = [sign1(key, b"c", external_aad=AAD), sign1(key, b"c", external_aad=AAD)]
    with pytest.raises(TrustError):
        verify(b"c", blocks, key, OTHER, threshold=2)
    assert len(verify(b"c", [*blocks, sign1(OTHER, b"c", external_aad=AAD)], key, OTHER, threshold=2)) == 2


def test_strangers_are_ignored_and_alone_are_not_enough(key: PrivateKey) -> None:
    stranger = sign1(OTHER, b"c", external_aad=AAD)
    assert verify(b"c", [stranger, sign1(key, b"c", external_aad=AAD)], key) == {key.public.kid}
    with pytest.raises(TrustError) as caught:
        verify(b"c", [stranger], key)
    assert caught.value.reason is Reason.UNKNOWN_KEY


def _block(protected: object, unprotected: object, payload: object, signature: bytes, tag: int = 18) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(tag, [encode(protected), unprotected, payload, signature]))


KID = KEYS[Algorithm.ED25519].public.kid
FORMS = {
    "another tag": _block({1: -19, 4: KID}, {}, None, bytes(64), tag=98),
    "an attached payload": _block({1: -19, 4: KID}, {}, b"c", bytes(64)),
    "an unprotected header": _block({1: -19, 4: KID}, {1: -19}, None, bytes(64)),
    "a critical header": _block({1: -19, 2: [4], 4: KID}, {}, None, bytes(64)),
    "no algorithm": _block({4: KID}, {}, None, bytes(64)),
    "no key": _block({1: -19}, {}, None, bytes(64)),
    "a short signature": _block({1: -19, 4: KID}, {}, None, bytes(63)),
    "a short thumbprint": _block({1: -19, 4: KID[:8]}, {}, None, bytes(64)),
}


@pytest.mark.parametrize("block", FORMS.values(), ids=FORMS.keys())
def test_a_block_in_any_other_form_is_refused(block: bytes) -> None:
    with pytest.raises(DocumentError):
        verify(b"c", [block], KEYS[Algorithm.ED25519])


def signed_under(protected: dict[int, object], key: PrivateKey) -> bytes:
    """A block whose signature is right, whatever its protected header says."""
    header = encode(protected)
    signature = key.sign(encode(["Signature1", header, AAD, b"c"]))
    return encode(cbor2.CBORTag(18, [header, {}, None, signature]))


ESP256, ED25519 = KEYS[Algorithm.ESP256], KEYS[Algorithm.ED25519]
HEADERS: dict[str, tuple[PrivateKey, dict[int, object], bool, bool]] = {
    "the key's own algorithm": (ESP256, {1: -9, 4: ESP256.public.kid}, False, True),
    "the number of Ed25519 with a P-256 key": (ESP256, {1: -19, 4: ESP256.public.kid}, False, False),
    "the number of ESP256 with an Ed25519 key": (ED25519, {1: -9, 4: ED25519.public.kid}, False, False),
    "EdDSA, which names no curve": (ED25519, {1: -8, 4: ED25519.public.kid}, False, False),
    "ES256 where nobody asked for it": (ESP256, {1: -7, 4: ESP256.public.kid}, False, False),
    "ES256 where it is asked for": (ESP256, {1: -7, 4: ESP256.public.kid}, True, True),
    "ES256 without a thumbprint where nobody asked for it": (ESP256, {1: -7}, False, False),
    "ES256 without a thumbprint where it is asked for": (ESP256, {1: -7}, True, True),
    "ESP256 without a thumbprint where ES256 is asked for": (ESP256, {1: -9}, True, False),
    "a boolean for the algorithm": (ED25519, {1: True, 4: ED25519.public.kid}, False, False),
}


@pytest.mark.parametrize(("key", "protected", "es256", "counts"), HEADERS.values(), ids=HEADERS.keys())
def test_a_right_signature_counts_only_under_the_algorithm_of_its_key(
    key: PrivateKey, protected: dict[int, object], es256: bool, counts: bool
) -> None:
    def verified(*beside: bytes) -> frozenset[bytes]:
        return verify_signatures(
            b"c",
            [*beside, signed_under(protected, key)],
            keys=known(key),
            threshold=1,
            external_aad=AAD,
            accept_es256=es256,
        )

    if counts:
        assert verified() == {key.public.kid}
        return
    with pytest.raises(NarrowboatError):
        verified()
    with pytest.raises(NarrowboatError):
        verified(sign1(key, b"c", external_aad=AAD))


def test_a_bad_block_of_a_known_key_spoils_the_set_beside_enough_good_ones(key: PrivateKey) -> None:
    """Nobody honest writes one, so whoever put it there is not to be believed in anything."""
    good, bad = sign1(OTHER, b"c", external_aad=AAD), sign1(key, b"d", external_aad=AAD)
    for blocks in ([good, bad], [bad, good]):
        with pytest.raises(TrustError) as caught:
            verify(b"c", blocks, key, OTHER)
        assert caught.value.reason is Reason.BAD_SIGNATURE
        assert verify(b"c", blocks, OTHER) == {OTHER.public.kid}


SIGNATURES_REFUSED: dict[str, object] = {
    "none": [],
    "seventeen": [b"\x00"] * 17,
    "text for a signature": [b"\x00", "\x00"],
    "a list for a signature": [[b"\x00"]],
    "bytes for the list": b"\x00",
}


@pytest.mark.parametrize("signatures", SIGNATURES_REFUSED.values(), ids=SIGNATURES_REFUSED.keys())
def test_a_document_without_one_to_sixteen_signatures_is_refused(signatures: object) -> None:
    with pytest.raises(DocumentError):
        SignedDocument.decode(encode([1, b"c", signatures]))
    assert len(SignedDocument.decode(encode([1, b"c", [b"\x00"] * 16])).signatures) == 16


@pytest.mark.parametrize("outer", [[True, b"c", [b"s"]], [1, b"c"], [1, "c", [b"s"]], [1, b"c", [b"s"], 0], {}, 1])
def test_a_document_of_another_outer_shape_is_refused(outer: object) -> None:
    with pytest.raises(DocumentError):
        SignedDocument.decode(encode(outer))


SMALL_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]
"""Ed25519 points whose order divides 8, without the sign of x; the last two are second encodings of the first two."""


@pytest.mark.parametrize("sign", [0, 0x80])
@pytest.mark.parametrize("point", SMALL_ORDER)
def test_a_key_that_anybody_can_sign_under_is_no_key(point: str, sign: int) -> None:
    """The neutral point for R and zero for s sign every eighth message at least: no secret is involved."""
    x = bytearray.fromhex(point)
    x[31] |= sign
    key = ed25519.Ed25519PublicKey.from_public_bytes(bytes(x))
    assert any(PublicKey(Algorithm.ED25519, b"", key).verify(b"\1" + bytes(63), b"%d" % at) for at in range(200))
    with pytest.raises(DocumentError, match="a point of large order"):
        public_key_from_cbor({1: 1, -1: 6, -2: bytes(x)})


@pytest.mark.parametrize("protected", [b"", b"\xff", b"\xa1", b"\xa2\x01\x32\x01\x32", b"\xbf\xff"])
def test_a_protected_header_that_is_no_cbor_is_no_block(protected: bytes) -> None:
    block = cbor2.dumps(cbor2.CBORTag(18, [protected, {}, None, bytes(64)]))
    with pytest.raises(DocumentError):
        signature_kid(block)
    with pytest.raises(DocumentError):
        verify(b"c", [block], KEYS[Algorithm.ED25519])


def test_the_order_of_signing_leaves_no_trace() -> None:
    signers = [KEYS[Algorithm.ED25519], OTHER]
    one = sign_document(b"c", 1, "root", FLEET, signers)
    two = sign_document(b"c", 1, "root", FLEET, reversed(signers))
    assert one.encode() == two.encode()
    assert SignedDocument.decode(one.encode()) == one


@given(st.binary(max_size=200))
def test_hostile_bytes_raise_only_our_errors(data: bytes) -> None:
    with pytest.raises(NarrowboatError):
        SignedDocument.decode(data)
    with pytest.raises(NarrowboatError):
        signature_kid(data)


@pytest.mark.cwt
def test_another_implementation_verifies_what_we_sign(key: PrivateKey) -> None:
    """The library knows the older numbers -7 and -8 for the same algorithms, so the signature itself is compared."""
    import cwt

    block = cbor2.loads(sign1(key, b"content", external_aad=AAD))
    protected, _, _, signature = block.value
    to_be_signed = encode(["Signature1", protected, AAD, b"content"])
    cwt.COSEKey.from_pem(key.public.to_pem()).verify(to_be_signed, signature)


def test_openssl_verifies_what_we_sign(key: PrivateKey, tmp_path: Path) -> None:
    """And refuses the same signature over anything else."""
    protected, _, _, signature = cbor2.loads(sign1(key, b"content", external_aad=AAD)).value
    if key.public.algorithm is Algorithm.ESP256:
        half = len(signature) // 2
        signature = encode_dss_signature(*(int.from_bytes(part) for part in (signature[:half], signature[half:])))
    public, signed, beside = (tmp_path / name for name in ("public.pem", "signature", "content"))
    public.write_bytes(key.public.to_pem())
    signed.write_bytes(signature)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", str(public), "-rawin"]
    command += ["-in", str(beside), "-sigfile", str(signed)]
    for content, verifies in ((b"content", True), (b"another", False)):
        beside.write_bytes(encode(["Signature1", protected, AAD, content]))
        told = subprocess.run(command, capture_output=True, check=False)
        assert (told.returncode == 0) is verifies, told.stderr


def test_a_key_shows_nothing_of_itself(key: PrivateKey) -> None:
    secret = key.to_pem()
    assert secret.splitlines()[1].decode() not in repr(key) + str(key)


def test_a_private_key_opens_only_with_its_passphrase(key: PrivateKey) -> None:
    pem = key.to_pem(b"sesame")
    assert PrivateKey.from_pem(pem, b"sesame").public == key.public
    for wrong in (None, b"guess"):
        with pytest.raises(NarrowboatError):
            PrivateKey.from_pem(pem, wrong)

"""Encrypted payloads: nothing of the image is readable without the key, everything is with it, from anywhere on."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from narrowboat_protocol.errors import DocumentError, PayloadError, PeerError, Reason, TrustError, UsageError
from narrowboat_protocol.keys import Algorithm, PrivateKey
from narrowboat_protocol.payload import (
    Codec,
    FrameProof,
    FrameStream,
    Head,
    PayloadCipher,
    check_hashes,
    decode_frame,
    measure_head,
    parse_head,
)
from narrowboat_protocol.suit import AgreementKey, ContentKey, recipients_of, seal, unseal
from tests.protocol.payload_kit import CODECS, LIMITS, TEXT, encoded_frame, images, read, refusal, traced_peak, write

contents = st.builds(ContentKey, st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
CONTENT = ContentKey(b"0123456789abcdef", b"\xff" * 16)
SECRET = int.from_bytes(hashlib.sha256(b"agreement").digest(), "big") >> 1
KEY, OTHER = AgreementKey(ec.derive_private_key(SECRET, ec.SECP256R1())), AgreementKey.generate()


def opened(image: bytes, codec: Codec = Codec.ZSTD, content: ContentKey = CONTENT) -> tuple[Head, bytes, PayloadCipher]:
    """An encrypted payload, with what decrypts it after the key has been sealed and unsealed."""
    prologue, payload = write(image, codec, content_key=content)
    assert prologue.content_key is not None
    unsealed = unseal(seal(prologue.content_key, [KEY.public], AgreementKey.generate), KEY)
    head = parse_head(payload[: measure_head(payload, LIMITS)], LIMITS)
    return head, payload, PayloadCipher(unsealed, len(prologue.head))


# The payload


@given(images, st.sampled_from(CODECS), contents, st.integers(1, 700))
def test_an_image_survives_encryption_under_any_codec_key_and_block_size(
    image: bytes, codec: Codec, content: ContentKey, block_bytes: int
) -> None:
    head, payload, cipher = opened(image, codec, content)
    assert head.encrypted
    assert head.payload_length == len(payload)
    assert read(head, payload, block_bytes, cipher=cipher) == image
    check_hashes(head, head.tree, lambda offset, length: payload[offset:][:length], LIMITS, cipher)
    proof = FrameProof(head)
    proof.feed(payload)
    proof.check()


@given(images.filter(lambda image: len(image) > 256), contents, st.data())
def test_reading_can_start_at_any_frame_and_any_byte(image: bytes, content: ContentKey, data: st.DataObject) -> None:
    head, payload, cipher = opened(image, content=content)
    number = data.draw(st.integers(0, head.frame_count - 1))
    assert read(head, payload, 64, number, cipher=cipher) == image[head.frame(number).image_offset :]
    whole = cipher.apply(head.layer_offset, payload[head.layer_offset :])
    offset = data.draw(st.integers(head.layer_offset, len(payload) - 1))
    length = data.draw(st.integers(1, len(payload) - offset))
    at = offset - head.layer_offset
    assert cipher.apply(offset, payload[offset : offset + length]) == whole[at : at + length]


@given(images, st.sampled_from(CODECS), contents)
def test_what_is_encrypted_is_the_plain_payload_and_no_longer(image: bytes, codec: Codec, content: ContentKey) -> None:
    """A reader that knows AES-CTR and nothing of ours decrypts the whole behind the head in one go."""
    prologue, payload = write(image, codec, content_key=content)
    plain_prologue, plain = write(image, codec)
    assert prologue.content_key is not None
    stream = Cipher(algorithms.AES(content.key), modes.CTR(prologue.content_key.iv)).decryptor()
    assert stream.update(payload[len(prologue.head) :]) == plain[len(plain_prologue.head) :]


@pytest.mark.parametrize("codec", CODECS)
def test_neither_the_image_nor_hashes_of_its_parts_are_readable(codec: Codec) -> None:
    prologue, plain = write(TEXT, codec)
    _, payload = write(TEXT, codec, content_key=CONTENT)
    pieces = [prologue.leaves[at : at + 32] for at in range(0, len(prologue.leaves), 32)]
    pieces += [prologue.layer[at : at + 32] for at in range(0, len(prologue.layer), 32)]
    pieces += [plain[-100:][at : at + 16] for at in range(80)]
    index = parse_head(prologue.head, LIMITS).index
    pieces += [index[at + 7 : at + 15] for at in range(0, len(index), 15)]
    assert pieces
    assert all(piece in plain for piece in pieces)
    assert not [piece for piece in pieces if piece in payload]
    assert TEXT[:35] not in payload


def test_a_frame_that_was_altered_is_found_before_it_is_decrypted() -> None:
    head, payload, cipher = opened(TEXT)
    frame, encoded = encoded_frame(head, payload, 1)
    for at in range(len(encoded)):
        flipped = encoded[:at] + bytes([encoded[at] ^ 1]) + encoded[at + 1 :]
        assert refusal(lambda flipped=flipped: decode_frame(frame, flipped, LIMITS, cipher)) is Reason.BAD_BLOCK  # type: ignore[misc]


def test_a_frame_that_was_altered_with_its_hash_is_no_frame_or_another_image() -> None:
    """Whoever makes the head as well chooses what is decrypted, and thereby bits of the plaintext; the tree decides."""
    head, payload, cipher = opened(TEXT, Codec.STORED)
    frame, encoded = encoded_frame(head, payload, 1)
    flipped = encoded[:5] + bytes([encoded[5] ^ 1]) + encoded[6:]
    forged = replace(frame, hash8=hashlib.sha256(flipped).digest()[:8])
    image = decode_frame(forged, flipped, LIMITS, cipher)
    assert image != TEXT[frame.image_offset : frame.image_offset + frame.image_bytes]
    assert len(image) == frame.image_bytes


def test_a_wrong_key_makes_no_hash_of_the_release() -> None:
    head, payload, _ = opened(TEXT)
    wrong = PayloadCipher(ContentKey(bytes(16), bytes(16)), head.layer_offset)
    with pytest.raises(PayloadError) as caught:
        check_hashes(head, head.tree, lambda offset, length: payload[offset:][:length], LIMITS, wrong)
    assert caught.value.reason is Reason.BAD_LAYER


def test_an_encrypted_payload_is_never_read_as_a_plain_one_nor_a_plain_one_decrypted() -> None:
    encrypted, _, cipher = opened(TEXT)
    plain = parse_head(write(TEXT)[0].head, LIMITS)
    for head, key in ((encrypted, None), (plain, cipher)):
        with pytest.raises(UsageError):
            FrameStream(head, LIMITS, cipher=key)


def test_the_head_tells_the_memory_that_decryption_takes() -> None:
    head, _, _ = opened(TEXT, Codec.STORED)
    plain = parse_head(write(TEXT, Codec.STORED)[0].head, LIMITS)
    assert head.peak_memory_bytes == plain.peak_memory_bytes + plain.encoded_frame_bytes_max


def test_decrypting_takes_no_more_than_its_result() -> None:
    cipher, data = PayloadCipher(CONTENT, 0), bytes(1 << 20)
    cipher.apply(0, b"the imports")
    with traced_peak() as peak_bytes:
        cipher.apply(17, data)
    assert peak_bytes() < len(data) + (64 << 10)


# The key


def test_each_recipient_opens_the_key_and_nobody_else() -> None:
    info = seal(CONTENT, [KEY.public, OTHER.public])
    assert recipients_of(info) == (KEY.public.kid, OTHER.public.kid)
    assert unseal(info, KEY) == unseal(info, OTHER) == CONTENT
    with pytest.raises(TrustError) as caught:
        unseal(info, AgreementKey.generate())
    assert caught.value.reason is Reason.NO_KEY


def test_no_two_seals_are_alike() -> None:
    assert len({seal(CONTENT, [KEY.public]) for _ in range(5)}) == 5


@given(st.integers(0, 1 << 20), st.integers(0, 7))
def test_an_info_with_any_bit_flipped_opens_nothing_but_what_was_sealed(position: int, bit: int) -> None:
    info = bytearray(seal(CONTENT, [KEY.public]))
    info[position % len(info)] ^= 1 << bit
    assert key_or_reason(bytes(info)) in (CONTENT.key, Reason.NO_KEY, Reason.BAD_DOCUMENT)


def key_or_reason(info: bytes) -> bytes | Reason:
    try:
        return unseal(info, KEY).key
    except PeerError as error:
        return error.reason


def test_a_key_is_shown_nowhere() -> None:
    shown = f"{CONTENT!r} {KEY!r} {PayloadCipher(CONTENT, 0)!r}"
    for secret in (CONTENT.key, SECRET.to_bytes(32, "big")):
        assert secret.hex() not in shown
        assert repr(secret) not in shown


def test_a_key_that_only_signs_is_no_recipient() -> None:
    with pytest.raises(DocumentError, match="P-256"):
        seal(CONTENT, [PrivateKey.generate(Algorithm.ED25519).public])
    with pytest.raises(UsageError):
        AgreementKey.from_pem(PrivateKey.generate(Algorithm.ED25519).to_pem())


@pytest.mark.parametrize("count", [0, 17])
def test_a_key_is_sealed_to_one_recipient_at_least_and_to_sixteen_at_most(count: int) -> None:
    with pytest.raises(UsageError):
        seal(CONTENT, [KEY.public] * count)


@pytest.mark.cwt
def test_another_implementation_of_cose_decrypts_what_we_encrypt() -> None:
    from cwt import COSE, COSEKey

    prologue, payload = write(TEXT, content_key=CONTENT)
    assert prologue.content_key is not None
    info = seal(prologue.content_key, [KEY.public])
    members: dict[int, Any] = {
        **KEY.public.to_cbor(),
        2: KEY.public.kid,
        3: -29,
        -4: SECRET.to_bytes(32, "big"),
    }
    context = {"alg": "A128KW", "supp_pub": {"key_data_length": 128, "protected": {"alg": "ECDH-ES+A128KW"}}}
    context["supp_pub"]["other"] = "SUIT Payload Encryption"  # type: ignore[index]
    plain = COSE.new().decode(
        info,
        COSEKey.new(members),
        context=context,
        detached_payload=payload[len(prologue.head) :],
        enable_non_aead=True,
    )
    plain_prologue, plain_payload = write(TEXT)
    assert plain == plain_payload[len(plain_prologue.head) :]


def test_the_structure_is_the_published_one() -> None:
    ephemeral = AgreementKey(ec.derive_private_key(7, ec.SECP256R1()))
    value = cbor2.loads(seal(CONTENT, [KEY.public], lambda: ephemeral))
    assert value.tag == 96
    protected, unprotected, ciphertext, ((recipient_protected, recipient, wrapped),) = value.value
    assert (protected, unprotected, ciphertext) == (b"", {1: -65534, 5: CONTENT.iv}, None)
    assert cbor2.loads(recipient_protected) == {1: -29}
    assert recipient == {4: KEY.public.kid, -1: ephemeral.public.to_cbor()}
    assert KEY.unwrap(wrapped, ephemeral.public) == CONTENT.key

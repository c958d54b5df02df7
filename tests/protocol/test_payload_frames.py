"""Frames of payloads: whatever comes yields exactly the bytes of the frame, in bounded memory, or a refusal."""

from __future__ import annotations

import lzma
import random
import subprocess
import sys
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowboat_protocol.errors import PayloadError, Reason
from narrowboat_protocol.limits import MIB
from narrowboat_protocol.payload import Codec, available_codecs, decode_frame, parse_head
from narrowboat_protocol.payload.codecs import compress_frame, decompress_frame
from tests.protocol.payload_kit import CODECS, LIMITS, TEXT, encoded_frame, refusal, traced_peak, write, zstd_frame

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

RAW_BLOCK = (256 << 3 | 1).to_bytes(3, "little") + TEXT[:256]
RLE_BLOCK = (4096 << 3 | 2).to_bytes(3, "little") + b"x"
WINDOW_2_12 = 2 << 3


def zstd_frame_by_hand(
    blocks: bytes, window: int = WINDOW_2_12, dictionary_id: bytes = b"", content_bytes: int = 256
) -> bytes:
    """A frame that states its content size and, unlike any of libzstd's at that size, a window."""
    descriptor = 0x80 | len(dictionary_id)
    header = bytes([descriptor, window]) + dictionary_id + content_bytes.to_bytes(4, "little")
    return b"\x28\xb5\x2f\xfd" + header + blocks


def lzma_frame(image: bytes, **changes: int) -> bytes:
    settings = {
        "id": lzma.FILTER_LZMA1,
        "dict_size": 1 << LIMITS.window_log,
        "lc": 3,
        "lp": 0,
        "pb": 2,
    } | changes
    return lzma.compress(image, lzma.FORMAT_RAW, filters=[settings])


def outcome(codec: Codec, encoded: bytes, image_bytes: int) -> int | Reason:
    """Return the length of what a decoder makes of the bytes, or the reason for refusing them."""
    try:
        return len(decompress_frame(codec, encoded, image_bytes, LIMITS))
    except PayloadError as error:
        return error.reason


IMAGE = TEXT[:256]
BOMB = bytes(64 * MIB)
DICTIONARY = zstd.train_dict([TEXT[start:] for start in range(400)], 1024)


@pytest.mark.parametrize(
    ("codec", "encoded"),
    [
        pytest.param(Codec.STORED, IMAGE[:-1], id="stored, short"),
        pytest.param(Codec.STORED, IMAGE + b"x", id="stored, long"),
        pytest.param(Codec.ZSTD, b"", id="zstd, empty"),
        pytest.param(Codec.ZSTD, b"\x28\xb5\x2f\xfd", id="zstd, magic only"),
        pytest.param(Codec.ZSTD, zstd_frame(IMAGE, 12)[:-1], id="zstd, cut"),
        pytest.param(Codec.ZSTD, zstd_frame(IMAGE, 12) + b"\x00", id="zstd, trailing byte"),
        pytest.param(Codec.ZSTD, zstd_frame(IMAGE, 12) * 2, id="zstd, second frame"),
        pytest.param(Codec.ZSTD, zstd_frame(IMAGE, 12) + zstd_frame(b"", 12), id="zstd, second empty frame"),
        pytest.param(Codec.ZSTD, b"\x50\x2a\x4d\x18\x01\x00\x00\x00x" + zstd_frame(IMAGE, 12), id="zstd, skippable"),
        pytest.param(Codec.ZSTD, zstd_frame(IMAGE, 12, content_size=False), id="zstd, no content size"),
        pytest.param(Codec.ZSTD, zstd_frame_by_hand(RAW_BLOCK, WINDOW_2_12 + 1), id="zstd, window an eighth too large"),
        pytest.param(Codec.ZSTD, zstd_frame_by_hand(RAW_BLOCK, 31 << 3), id="zstd, window of 2 TiB"),
        pytest.param(Codec.ZSTD, zstd_frame_by_hand(RAW_BLOCK, dictionary_id=b"\x00"), id="zstd, dictionary of no id"),
        pytest.param(Codec.ZSTD, zstd_frame(IMAGE, 12, dictionary=DICTIONARY), id="zstd, dictionary"),
        pytest.param(Codec.ZSTD, zstd_frame(IMAGE[:-1], 12), id="zstd, short"),
        pytest.param(Codec.ZSTD, zstd_frame(BOMB, 12), id="zstd, bomb"),
        pytest.param(Codec.ZSTD, lzma_frame(IMAGE), id="zstd, but LZMA"),
        pytest.param(Codec.LZMA, b"", id="LZMA, empty"),
        pytest.param(Codec.LZMA, lzma_frame(IMAGE)[:-1], id="LZMA, cut"),
        pytest.param(Codec.LZMA, lzma_frame(IMAGE) + b"\x00", id="LZMA, trailing byte"),
        pytest.param(Codec.LZMA, lzma_frame(IMAGE) * 2, id="LZMA, second stream"),
        pytest.param(Codec.LZMA, lzma_frame(IMAGE[:-1]), id="LZMA, short"),
        pytest.param(Codec.LZMA, lzma_frame(IMAGE + b"x"), id="LZMA, long"),
        pytest.param(Codec.LZMA, lzma_frame(BOMB), id="LZMA, bomb"),
        pytest.param(Codec.LZMA, lzma.compress(IMAGE), id="LZMA, xz container"),
        pytest.param(Codec.LZMA, zstd_frame(IMAGE, 12), id="LZMA, but zstd"),
    ],
)
def test_a_frame_that_is_not_exactly_its_image_is_refused_in_bounded_memory(codec: Codec, encoded: bytes) -> None:
    with traced_peak() as peak_bytes:
        assert refusal(lambda: decompress_frame(codec, encoded, len(IMAGE), LIMITS)) is Reason.BAD_FRAME
    assert peak_bytes() < len(encoded) + MIB


def test_a_bomb_that_states_an_honest_size_is_stopped_at_that_size() -> None:
    """For content beyond its first buffer, libzstd compares the stated size at the end of a frame only."""
    bomb = zstd_frame_by_hand(RLE_BLOCK * 16384, content_bytes=64 * 1024)
    with traced_peak() as peak_bytes:
        assert refusal(lambda: decompress_frame(Codec.ZSTD, bomb, 64 * 1024, LIMITS)) is Reason.BAD_FRAME
    assert peak_bytes() < MIB


def test_the_window_of_the_format_itself_is_accepted() -> None:
    assert decompress_frame(Codec.ZSTD, zstd_frame_by_hand(RAW_BLOCK), len(IMAGE), LIMITS) == IMAGE


def test_a_window_beyond_the_format_is_refused_with_content_of_that_size_too() -> None:
    image = random.Random(4).randbytes(1024) * 16
    encoded = zstd_frame(image, 14)
    assert refusal(lambda: decompress_frame(Codec.ZSTD, encoded, len(image), LIMITS)) is Reason.BAD_FRAME


@given(st.sampled_from([Codec.ZSTD, Codec.LZMA]), st.data())
@settings(max_examples=300)
def test_damage_behind_a_right_hash_never_yields_more_than_the_frame(codec: Codec, data: st.DataObject) -> None:
    """The decoder alone: whatever it makes of damaged bytes has the promised length or is refused."""
    encoded = bytearray(compress_frame(codec, IMAGE, LIMITS))
    for _ in range(data.draw(st.integers(1, 3))):
        bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
        encoded[bit // 8] ^= 1 << bit % 8
    assert outcome(codec, bytes(encoded), len(IMAGE)) in (len(IMAGE), Reason.BAD_FRAME)


@given(st.sampled_from(CODECS), st.binary(max_size=300), st.integers(1, 256), st.booleans())
def test_hostile_bytes_as_a_frame_end_in_its_length_or_a_refusal(
    codec: Codec, hostile: bytes, image_bytes: int, with_magic: bool
) -> None:
    encoded = b"\x28\xb5\x2f\xfd" + hostile if with_magic else hostile
    assert outcome(codec, encoded, image_bytes) in (image_bytes, Reason.BAD_FRAME)


@pytest.mark.parametrize("codec", CODECS)
def test_a_flipped_bit_in_a_frame_never_reaches_the_slot(codec: Codec) -> None:
    prologue, payload = write(IMAGE, codec)
    frame, encoded = encoded_frame(parse_head(prologue.head, LIMITS), payload, 0)
    assert decode_frame(frame, encoded, LIMITS) == IMAGE
    for bit in range(len(encoded) * 8):
        damaged = bytearray(encoded)
        damaged[bit // 8] ^= 1 << bit % 8
        assert refusal(partial(decode_frame, frame, bytes(damaged), LIMITS)) is Reason.BAD_BLOCK


def test_a_device_without_zstd_says_so_and_reads_everything_else() -> None:
    script = """
import sys
sys.modules["compression.zstd"] = sys.modules["backports.zstd"] = None
from narrowboat_protocol.errors import PayloadError, UsageError
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.payload import Codec, available_codecs
from narrowboat_protocol.payload.codecs import compress_frame, decompress_frame
assert available_codecs() == {Codec.STORED, Codec.LZMA}
encoded = compress_frame(Codec.LZMA, b"image", DEFAULT_LIMITS)
assert decompress_frame(Codec.LZMA, encoded, 5, DEFAULT_LIMITS) == b"image"
for call in (
    lambda: decompress_frame(Codec.ZSTD, b"frame", 5, DEFAULT_LIMITS),
    lambda: compress_frame(Codec.ZSTD, b"image", DEFAULT_LIMITS),
):
    try:
        call()
    except (PayloadError, UsageError) as error:
        print(error.reason)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["unsupported_codec"] * 2, "")
    assert available_codecs() == set(Codec)

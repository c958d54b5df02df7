"""Payloads: what was written is read back, and nothing else ever is, whatever a source sends."""

from __future__ import annotations

import hashlib
import lzma
import random
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowboat_protocol import cbor
from narrowboat_protocol.errors import PayloadError, Reason, UsageError
from narrowboat_protocol.limits import DEFAULT_LIMITS, MIB, Limits
from narrowboat_protocol.payload import (
    HEAD_START_BYTES,
    Codec,
    Frame,
    FrameStream,
    Head,
    PayloadWriter,
    Prologue,
    available_codecs,
    decode_frame,
    encode_head,
    measure_head,
    parse_head,
    payload_bytes_max,
)
from narrowboat_protocol.payload.codecs import compress_frame, decompress_frame
from narrowboat_protocol.payload.head import pack_entry
from narrowboat_protocol.tree import Tree, check_layer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LIMITS = Limits(
    log2_chunk_size=6,
    subtree_chunks=4,
    full_frame_image_bytes_max=256,
    window_log=12,
    image_bytes_max=64 * 1024,
    head_bytes_max=4096,
)
DIGEST = bytes(range(32))
CODECS = list(Codec)
TEXT = b"a narrow link that keeps breaking; " * 40


def write(image: bytes, codec: Codec = Codec.ZSTD, limits: Limits = LIMITS) -> tuple[Prologue, bytes]:
    """Return the prologue and the whole payload of an image."""
    writer = PayloadWriter(limits, codec)
    frames = b"".join(writer.encode([image]))
    prologue = writer.prologue()
    return prologue, prologue.head + prologue.layer + prologue.leaves + frames


def read(head: Head, payload: bytes, block_bytes: int, first_frame: int = 0, limits: Limits = LIMITS) -> bytes:
    stream = FrameStream(head, limits, first_frame)
    image = bytearray()
    while stream.next_offset < len(payload):
        offset = stream.next_offset
        for frame, piece in stream.feed(offset, payload[offset : offset + block_bytes]):
            assert len(piece) == frame.image_bytes
            image += piece
    return bytes(image)


def encoded_frame(head: Head, payload: bytes, number: int) -> tuple[Frame, bytes]:
    frame = head.frame(number)
    return frame, payload[frame.offset : frame.offset + frame.encoded_length]


def refusal(call: Callable[[], object]) -> Reason:
    with pytest.raises(PayloadError) as caught:
        call()
    return caught.value.reason


@contextmanager
def traced_peak() -> Iterator[Callable[[], int]]:
    """Trace what Python allocates inside, and afterwards tell the most there was at once, in bytes."""
    peak_bytes = 0
    tracemalloc.start()
    try:
        yield lambda: peak_bytes
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


images = st.one_of(
    st.binary(min_size=1, max_size=900),
    st.integers(1, 2000).map(bytes),
    st.integers(1, len(TEXT)).map(lambda length: TEXT[:length]),
)


# Round trips


@given(images, st.sampled_from(CODECS), st.integers(1, 700))
def test_an_image_survives_any_codec_and_any_block_size(image: bytes, codec: Codec, block_bytes: int) -> None:
    prologue, payload = write(image, codec)
    head = parse_head(payload[: measure_head(payload[:HEAD_START_BYTES], LIMITS)], LIMITS)
    assert head.image_sha256 == prologue.image_sha256 == hashlib.sha256(image).digest()
    assert head.payload_length == len(payload)
    assert payload[head.layer_offset : head.leaves_offset] == prologue.layer
    assert payload[head.leaves_offset : head.frames_offset] == prologue.leaves
    check_layer(head.tree, prologue.layer, LIMITS)
    assert read(head, payload, block_bytes) == image


@pytest.mark.parametrize("length", [1, 63, 64, 65, 255, 256, 257, 1023, 1024, 1025])
@pytest.mark.parametrize("codec", CODECS)
def test_lengths_beside_every_boundary_survive(length: int, codec: Codec) -> None:
    image = TEXT[:length]
    _, payload = write(image, codec)
    head = parse_head(payload[: measure_head(payload, LIMITS)], LIMITS)
    assert read(head, payload, 50) == image
    assert head.tree.length == length


@given(st.lists(st.integers(0, len(TEXT)), max_size=8).map(sorted), st.sampled_from(CODECS))
def test_one_image_has_one_payload_however_it_is_cut(cuts: list[int], codec: Codec) -> None:
    writer = PayloadWriter(LIMITS, codec)
    blocks = [TEXT[start:end] for start, end in pairwise([0, *cuts, len(TEXT)])]
    frames = b"".join(writer.encode(blocks))
    prologue = writer.prologue()
    assert prologue.head + prologue.layer + prologue.leaves + frames == write(TEXT, codec)[1]


@pytest.mark.parametrize("codec", [Codec.ZSTD, Codec.LZMA])
def test_what_does_not_shrink_is_stored(codec: Codec) -> None:
    noise = random.Random(1).randbytes(256)
    prologue, _ = write(noise + bytes(256), codec)
    head = parse_head(prologue.head, LIMITS)
    assert [head.frame(number).codec for number in range(head.frame_count)] == [Codec.STORED, codec]
    assert head.codecs == {Codec.STORED, codec}
    assert head.frame(1).encoded_length < 64


def test_a_full_sized_frame_fits_the_default_window() -> None:
    image = random.Random(2).randbytes(4096) * 64 + TEXT
    for codec in (Codec.ZSTD, Codec.LZMA):
        prologue, payload = write(image, codec, DEFAULT_LIMITS)
        head = parse_head(prologue.head, DEFAULT_LIMITS)
        assert head.frame_count == 2
        assert head.frame(0).codec is codec
        assert read(head, payload, DEFAULT_LIMITS.block_bytes_max, 0, DEFAULT_LIMITS) == image


@given(images.filter(lambda image: len(image) > 256), st.data())
def test_reading_can_start_at_any_frame_and_find_the_frame_of_any_chunk(image: bytes, data: st.DataObject) -> None:
    prologue, payload = write(image)
    head = parse_head(prologue.head, LIMITS)
    number = data.draw(st.integers(0, head.frame_count - 1))
    assert read(head, payload, 64, number) == image[head.frame(number).image_offset :]
    chunk = data.draw(st.integers(0, head.tree.chunk_count - 1))
    frame = head.frame_of_chunk(chunk)
    assert frame.first_chunk <= chunk < frame.first_chunk + frame.chunk_count
    assert head.frame(frame.number) == frame


# The writer's contract


def test_the_prologue_is_refused_before_the_last_frame_was_taken() -> None:
    writer = PayloadWriter(LIMITS)
    frames = writer.encode([bytes(1000)])
    next(frames)
    with pytest.raises(UsageError):
        writer.prologue()
    with pytest.raises(UsageError):
        next(writer.encode([b"another image"]))


def test_an_image_that_a_device_would_refuse_is_never_written() -> None:
    for image in (b"", bytes(LIMITS.image_bytes_max + 1)):
        with pytest.raises(UsageError):
            write(image)
    with pytest.raises(UsageError):
        write(bytes(4096), limits=replace(LIMITS, head_bytes_max=200))


def test_a_level_that_the_codec_does_not_have_is_refused() -> None:
    for codec, level in ((Codec.ZSTD, 20), (Codec.ZSTD, -1), (Codec.LZMA, 10), (Codec.STORED, 1)):
        with pytest.raises(UsageError):
            compress_frame(codec, b"image", LIMITS, level)


def test_building_an_image_of_any_size_holds_a_few_frames() -> None:
    def image() -> Iterable[bytes]:
        return (bytes(MIB) for _ in range(48))

    with traced_peak() as peak_bytes:
        writer = PayloadWriter(DEFAULT_LIMITS, Codec.ZSTD, level=1)
        for _ in writer.encode(image()):
            pass
        writer.prologue()
    assert peak_bytes() < 4 * MIB


# Hostile heads


def entry(codec: int, chunk_count: int, encoded_length: int) -> bytes:
    return struct.pack(">BHI8s", codec, chunk_count, encoded_length, bytes(8))


def head_of(index: bytes, length: int = 512) -> bytes:
    return encode_head(DIGEST, Tree(6, length, DIGEST), index)


TWO_FRAMES = entry(0, 4, 256) + entry(1, 4, 10)


def test_the_head_is_the_published_one() -> None:
    data = head_of(TWO_FRAMES)
    assert cbor.decode(data, max_bytes=1000) == {
        1: 1,
        2: 0,
        3: DIGEST,
        4: [-16, 6, 512, DIGEST],
        5: TWO_FRAMES,
    }
    head = parse_head(data, LIMITS)
    start = len(data) + 2 * 32 + 8 * 32
    assert (head.layer_offset, head.leaves_offset, head.frames_offset) == (len(data), len(data) + 64, start)
    assert head.payload_length == start + 266
    assert head.frame(1) == Frame(1, Codec.ZSTD, 4, 4, 256, 256, start + 256, 10, bytes(8))
    assert head.peak_memory_bytes == 64 + (2 * 15 + 2 * 16) + 256 + 2 * 256 + 4096


@pytest.mark.parametrize(
    ("index", "length"),
    [
        pytest.param(b"", 512, id="no frames"),
        pytest.param(TWO_FRAMES[:-1], 512, id="half an entry"),
        pytest.param(entry(0, 4, 256), 512, id="chunks missing"),
        pytest.param(TWO_FRAMES + entry(1, 1, 10), 512, id="chunks twice"),
        pytest.param(TWO_FRAMES + entry(1, 0, 10), 512, id="a frame without chunks at the end"),
        pytest.param(entry(1, 0, 1) + TWO_FRAMES, 512, id="a frame without chunks at the start"),
        pytest.param(entry(1, 5, 10) + entry(1, 3, 10), 512, id="too much image in a frame"),
        pytest.param(entry(1, 65535, 10), 512, id="more chunks than the image"),
        pytest.param(entry(1, 4, 257) + entry(1, 4, 10), 512, id="longer than its image"),
        pytest.param(entry(1, 4, 2**32 - 1) + entry(1, 4, 10), 512, id="absurdly long"),
        pytest.param(entry(1, 4, 0) + entry(1, 4, 10), 512, id="empty"),
        pytest.param(entry(0, 4, 255) + entry(1, 4, 10), 512, id="stored, but shorter"),
        pytest.param(entry(0, 1, 64), 63, id="stored, but longer than a short last chunk"),
        pytest.param(TWO_FRAMES, 2**63, id="an image beyond the limit"),
        pytest.param(TWO_FRAMES, 0, id="an empty image"),
    ],
)
def test_an_index_that_does_not_fit_its_image_is_refused(index: bytes, length: int) -> None:
    assert refusal(lambda: parse_head(head_of(index, length), LIMITS)) is Reason.BAD_HEAD


FIELDS: dict[int, Any] = {1: 1, 2: 0, 3: DIGEST, 4: [-16, 6, 512, DIGEST], 5: TWO_FRAMES}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({1: 2}, Reason.UNKNOWN_FORMAT),
        ({1: 0}, Reason.UNKNOWN_FORMAT),
        ({1: True}, Reason.BAD_HEAD),
        ({2: 1}, Reason.UNSUPPORTED_CODEC),
        ({2: 2}, Reason.BAD_HEAD),
        ({2: False}, Reason.BAD_HEAD),
        ({3: DIGEST[:-1]}, Reason.BAD_HEAD),
        ({3: "0" * 32}, Reason.BAD_HEAD),
        ({4: [-16, 7, 512, DIGEST]}, Reason.BAD_HEAD),
        ({4: [-44, 6, 512, DIGEST]}, Reason.BAD_HEAD),
        ({4: DIGEST}, Reason.BAD_HEAD),
        ({5: "text"}, Reason.BAD_HEAD),
        ({5: entry(3, 4, 256) + entry(1, 4, 10)}, Reason.UNSUPPORTED_CODEC),
        ({5: entry(255, 4, 256) + entry(1, 4, 10)}, Reason.UNSUPPORTED_CODEC),
        ({6: 0}, Reason.BAD_HEAD),
    ],
    ids=repr,
)
def test_a_head_of_another_shape_is_refused_by_name(changes: dict[int, object], reason: Reason) -> None:
    assert refusal(lambda: parse_head(cbor.encode({**FIELDS, **changes}), LIMITS)) is reason


def test_a_cut_or_overlong_head_is_refused() -> None:
    data = head_of(TWO_FRAMES)
    for length in range(len(data)):
        assert refusal(partial(parse_head, data[:length], LIMITS)) is Reason.BAD_HEAD
    assert refusal(lambda: parse_head(data + b"\x00", LIMITS)) is Reason.BAD_HEAD
    assert refusal(lambda: parse_head(head_of(TWO_FRAMES * 200, 512), LIMITS)) is Reason.BAD_HEAD


def test_a_head_in_another_encoding_of_the_same_values_is_refused() -> None:
    data = head_of(TWO_FRAMES)
    longer_length = data.replace(b"\x19\x02\x00", b"\x1a\x00\x00\x02\x00", 1)
    assert len(longer_length) == len(data) + 2
    assert refusal(lambda: parse_head(longer_length, LIMITS)) is Reason.BAD_HEAD


@pytest.mark.parametrize("length", [1, 200, 512, 70_000])
def test_ninety_six_bytes_are_enough_to_measure_any_head(length: int) -> None:
    limits = replace(LIMITS, image_bytes_max=MIB, head_bytes_max=MIB)
    prologue, payload = write(random.Random(3).randbytes(length), limits=limits)
    assert measure_head(payload[:HEAD_START_BYTES], limits) == len(prologue.head) >= HEAD_START_BYTES


def test_a_head_that_claims_gigabytes_is_refused_from_its_first_bytes() -> None:
    start = head_of(TWO_FRAMES)[: -len(TWO_FRAMES) - 2] + b"\x5a\xff\xff\xff\xff"
    assert refusal(partial(measure_head, start, DEFAULT_LIMITS)) is Reason.BAD_HEAD


def test_a_head_full_of_objects_never_reaches_the_memory_of_a_gateway() -> None:
    """Four MiB of empty lists would be two hundred MiB of objects, were they decoded."""
    bombs = [
        b"\x9a\x00\x3f\xff\x00" + b"\x80" * 0x3FFF00,
        head_of(TWO_FRAMES)[: -len(TWO_FRAMES) - 2] + b"\x9a\x00\x3f\xff\x00" + b"\x80" * 0x3FFF00,
    ]
    for bomb in bombs:
        with traced_peak() as peak_bytes:
            assert refusal(partial(parse_head, bomb, DEFAULT_LIMITS)) is Reason.BAD_HEAD
        assert peak_bytes() < MIB


@given(st.data())
def test_hostile_bytes_as_a_head_end_in_a_refusal_or_a_consistent_head(data: st.DataObject) -> None:
    valid = bytearray(head_of(TWO_FRAMES))
    for _ in range(data.draw(st.integers(1, 4))):
        valid[data.draw(st.integers(0, len(valid) - 1))] = data.draw(st.integers(0, 255))
    hostile = data.draw(st.sampled_from([bytes(valid), data.draw(st.binary(max_size=200))]))
    try:
        head = parse_head(hostile, LIMITS)
    except PayloadError:
        return
    frames = [head.frame(number) for number in range(head.frame_count)]
    assert sum(frame.chunk_count for frame in frames) == head.tree.chunk_count
    assert sum(frame.image_bytes for frame in frames) == head.tree.length
    assert frames[-1].offset + frames[-1].encoded_length == head.payload_length <= payload_bytes_max(LIMITS)


# Hostile frames


def zstd_frame(image: bytes, window_log: int, *, content_size: bool = True, dictionary: Any = None) -> bytes:
    parameter = zstd.CompressionParameter
    options: dict[int, int] = {parameter.window_log: window_log, parameter.content_size_flag: int(content_size)}
    return zstd.compress(image, options=options, zstd_dict=dictionary)


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


# The stream


def test_bytes_of_an_unfinished_frame_survive_a_reconnect() -> None:
    noise = random.Random(5).randbytes(600)
    prologue, payload = write(noise)
    head = parse_head(prologue.head, LIMITS)
    stream = FrameStream(head, LIMITS)
    start = head.frames_offset
    assert [image for _, image in stream.feed(start, payload[start : start + 300])] == [noise[:256]]
    assert stream.next_offset == start + 300
    assert b"".join(image for _, image in stream.feed(start + 300, payload[start + 300 :])) == noise[256:]
    assert stream.next_offset == len(payload)


def test_a_forged_block_costs_one_frame_and_the_stream_asks_for_it_again() -> None:
    noise = random.Random(6).randbytes(1024)
    prologue, payload = write(noise)
    head = parse_head(prologue.head, LIMITS)
    start = head.frames_offset
    forged = bytearray(payload)
    forged[start + 300] ^= 1
    stream = FrameStream(head, LIMITS)
    frames = stream.feed(start, bytes(forged[start:]))
    assert next(frames)[1] == noise[:256]
    assert refusal(lambda: next(frames)) is Reason.BAD_BLOCK
    assert stream.next_offset == head.frame(1).offset
    assert b"".join(image for _, image in stream.feed(start + 256, payload[start + 256 :])) == noise[256:]


def test_a_frame_that_was_made_badly_is_told_from_a_forged_one() -> None:
    bad = zstd_frame(bytes(256), 12)[:-1]
    head = parse_head(head_of(pack_entry(Codec.ZSTD, 4, bad), 256), LIMITS)
    stream = FrameStream(head, LIMITS)
    assert refusal(lambda: list(stream.feed(head.frames_offset, bad))) is Reason.BAD_FRAME
    assert stream.next_offset == head.frames_offset


def test_starting_anew_drops_the_unfinished_frame() -> None:
    noise = random.Random(7).randbytes(600)
    prologue, payload = write(noise)
    head = parse_head(prologue.head, LIMITS)
    stream = FrameStream(head, LIMITS)
    assert list(stream.feed(head.frames_offset, payload[head.frames_offset :][:100])) == []
    stream.start(2)
    offset = stream.next_offset
    assert offset == head.frame(2).offset
    assert [image for _, image in stream.feed(offset, payload[offset:])] == [noise[512:]]


def test_bytes_out_of_order_or_past_the_end_are_a_bug_of_the_caller() -> None:
    prologue, payload = write(bytes(600))
    head = parse_head(prologue.head, LIMITS)
    start = head.frames_offset
    stream = FrameStream(head, LIMITS)
    for offset, data in ((start + 1, b"x"), (0, b"x"), (start, payload[start:] + b"x")):
        with pytest.raises(UsageError):
            stream.feed(offset, data)
    stream.feed(start, payload[start : start + 5])
    with pytest.raises(UsageError):
        stream.feed(start + 5, b"fed before the first block was taken")
    with pytest.raises(UsageError):
        decode_frame(head.frame(0), b"short", LIMITS)
    for number in (-1, head.frame_count):
        with pytest.raises(UsageError):
            stream.start(number)
        with pytest.raises(UsageError):
            head.frame(number)
    for chunk in (-1, head.tree.chunk_count):
        with pytest.raises(UsageError):
            head.frame_of_chunk(chunk)


@pytest.mark.parametrize("codec", CODECS)
def test_reading_takes_no_more_memory_than_the_head_announced(codec: Codec) -> None:
    """One block that expands to 32 MiB, and blocks that hold a quarter of a frame."""
    image = bytes(32 * MIB) if codec is not Codec.STORED else random.Random(8).randbytes(8 * MIB)
    writer = PayloadWriter(DEFAULT_LIMITS, codec, 0)
    frames = b"".join(writer.encode([image]))
    head_bytes = writer.prologue().head
    blocks = memoryview(frames)
    total_bytes = 0
    with traced_peak() as peak_bytes:
        head = parse_head(head_bytes, DEFAULT_LIMITS)
        stream = FrameStream(head, DEFAULT_LIMITS)
        while stream.next_offset < head.payload_length:
            start = stream.next_offset - head.frames_offset
            for _, piece in stream.feed(stream.next_offset, bytes(blocks[start : start + 64 * 1024])):
                total_bytes += len(piece)
    assert total_bytes == len(image)
    assert peak_bytes() < head.peak_memory_bytes + MIB // 2


def test_a_one_gib_image_takes_no_more_of_a_gateway_than_a_small_one() -> None:
    """Resident memory of a whole process, so that what the C libraries allocate counts too."""
    script = """
import resource
from narrowboat_protocol.limits import DEFAULT_LIMITS, MIB
from narrowboat_protocol.payload import Codec, FrameStream, encode_head, parse_head
from narrowboat_protocol.payload.codecs import compress_frame
from narrowboat_protocol.payload.head import pack_entry
from narrowboat_protocol.tree import Tree

def read(frame_count):
    encoded = compress_frame(Codec.ZSTD, bytes(MIB // 4), DEFAULT_LIMITS)
    tree = Tree(16, frame_count * MIB // 4, bytes(32))
    head = parse_head(encode_head(bytes(32), tree, pack_entry(Codec.ZSTD, 4, encoded) * frame_count), DEFAULT_LIMITS)
    for _ in FrameStream(head, DEFAULT_LIMITS).feed(head.frames_offset, encoded * frame_count):
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

small_bytes, large_bytes = read(4), read(4096)
print(large_bytes - small_bytes)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2 * MIB

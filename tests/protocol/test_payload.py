"""Payloads: what was written is read back, and nothing else ever is, whatever a source sends."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.limits import DEFAULT_LIMITS, MIB
from narrowboat_protocol.payload import (
    HEAD_START_BYTES,
    Codec,
    FrameStream,
    PayloadWriter,
    decode_frame,
    measure_head,
    parse_head,
)
from narrowboat_protocol.payload.codecs import compress_frame
from narrowboat_protocol.payload.head import pack_entry
from narrowboat_protocol.tree import check_layer
from tests.protocol.payload_kit import (
    CODECS,
    LIMITS,
    TEXT,
    head_of,
    images,
    read,
    refusal,
    traced_peak,
    write,
    zstd_frame,
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

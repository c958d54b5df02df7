"""Heads of payloads: one that does not fit its image, or claims too much, is refused before anything rests on it."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowboat_protocol import cbor
from narrowboat_protocol.errors import PayloadError, Reason
from narrowboat_protocol.limits import DEFAULT_LIMITS, MIB
from narrowboat_protocol.payload import HEAD_START_BYTES, Codec, Frame, measure_head, parse_head, payload_bytes_max
from tests.protocol.payload_kit import DIGEST, LIMITS, entry, head_of, refusal, traced_peak, write

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
        ({6: 0}, Reason.UNSUPPORTED_CODEC),
        ({6: 1}, Reason.UNSUPPORTED_CODEC),
        ({7: 0}, Reason.BAD_HEAD),
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

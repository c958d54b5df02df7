"""A payload is proved without decoding it: whatever was altered since it was made is found."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowboat_protocol.errors import PayloadError, Reason
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.payload import FrameProof, check_hashes
from tests.support.fleet import FleetKit

LIMITS = Limits(log2_chunk_size=12, subtree_chunks=4, full_frame_image_bytes_max=8192)
MADE = FleetKit.create(limits=LIMITS).make_release(random.Random(1).randbytes(60_000))


def proved(payload: bytes, piece_bytes: int = 1000) -> None:
    def read(offset: int, length: int) -> bytes:
        return payload[offset : offset + length]

    check_hashes(MADE.head, MADE.head.tree, read, LIMITS)
    frames = FrameProof(MADE.head)
    for offset in range(0, len(payload), piece_bytes):
        frames.feed(payload[offset : offset + piece_bytes])
    frames.check()


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000, 1 << 20])
def test_a_payload_as_it_was_made_is_proved_however_it_is_cut(piece_bytes: int) -> None:
    assert MADE.head.frame_count > 3
    proved(MADE.payload, piece_bytes)


@given(st.integers(MADE.head_size, len(MADE.payload) - 1), st.integers(0, 7))
def test_any_altered_bit_behind_the_head_is_found(at: int, bit: int) -> None:
    altered = bytearray(MADE.payload)
    altered[at] ^= 1 << bit
    with pytest.raises(PayloadError) as caught:
        proved(bytes(altered))
    assert caught.value.reason in (Reason.BAD_LAYER, Reason.BAD_LEAVES, Reason.BAD_BLOCK)


def test_a_frame_that_did_not_come_is_not_proved() -> None:
    with pytest.raises(PayloadError, match=f"frame {MADE.head.frame_count - 1} "):
        proved(MADE.payload[:-1])

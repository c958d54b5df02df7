"""What the tests of payloads share: small limits, an image written and read whole, and what a refusal says."""

from __future__ import annotations

import struct
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import strategies as st

from narrowboat_protocol.errors import PayloadError, Reason
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.payload import (
    Codec,
    Frame,
    FrameStream,
    Head,
    PayloadCipher,
    PayloadWriter,
    Prologue,
    encode_head,
)
from narrowboat_protocol.suit import ContentKey
from narrowboat_protocol.tree import Tree

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


def write(
    image: bytes, codec: Codec = Codec.ZSTD, limits: Limits = LIMITS, content_key: ContentKey | None = None
) -> tuple[Prologue, bytes]:
    """Return the prologue and the whole payload of an image."""
    writer = PayloadWriter(limits, codec, content_key=content_key)
    frames = b"".join(writer.encode([image]))
    prologue = writer.prologue()
    return prologue, prologue.head + prologue.layer + prologue.leaves + frames


def read(
    head: Head,
    payload: bytes,
    block_bytes: int,
    first_frame: int = 0,
    limits: Limits = LIMITS,
    cipher: PayloadCipher | None = None,
) -> bytes:
    stream = FrameStream(head, limits, first_frame, cipher=cipher)
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


def entry(codec: int, chunk_count: int, encoded_length: int) -> bytes:
    return struct.pack(">BHI8s", codec, chunk_count, encoded_length, bytes(8))


def head_of(index: bytes, length: int = 512) -> bytes:
    return encode_head(DIGEST, Tree(6, length, DIGEST), index)


def zstd_frame(image: bytes, window_log: int, *, content_size: bool = True, dictionary: Any = None) -> bytes:
    parameter = zstd.CompressionParameter
    options: dict[int, int] = {parameter.window_log: window_log, parameter.content_size_flag: int(content_size)}
    return zstd.compress(image, options=options, zstd_dict=dictionary)

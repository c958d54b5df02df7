"""The closed set of codecs that a frame may name, and their hard bounds.

A frame comes from anywhere, so decoding it is the one place where hostile bytes reach C code. Whatever
they are, a decoder here returns exactly the number of bytes that the index promised or raises
`PayloadError`; it allocates no more than that output (twice, while the pieces are joined), the window and
the decoder's own fixed state; and nothing may follow the compressed stream.

- *stored*: the image bytes themselves.
- *zstd* (RFC 8878): one standard frame that states its content size, without dictionary, with a window of
  at most `1 << window_log` bytes. The header is read here, since libzstd decodes small frames in one pass
  without looking at the window, and some builds of it also accept skippable frames and formats older than
  the RFC. libzstd is given the window's bound as well, so that a mistake here costs no memory.
- *LZMA*: raw LZMA1 with lc=3, lp=0, pb=2 and a dictionary of `1 << window_log` bytes. Nothing is read from
  a header, so nothing in it can lie. The end marker is required: liblzma's raw encoder always writes it,
  and it shows that the stream ended where the frame does.

zstd is `compression.zstd` from Python 3.14 on, before that the package `backports.zstd`, which has no
wheel for some gateways: it is optional, and a device says in its hello which codecs it has.
"""

from __future__ import annotations

import lzma
import sys
from enum import IntEnum

from ..errors import PayloadError, Reason, UsageError
from ..limits import Limits

try:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
except ImportError:
    _ZSTD_FOUND = False
else:
    _ZSTD_FOUND = True


class Codec(IntEnum):
    """How a frame is coded. The values are wire values."""

    STORED = 0
    ZSTD = 1
    LZMA = 2


_HIGHEST_LEVEL = {Codec.STORED: 0, Codec.ZSTD: 19, Codec.LZMA: 9}

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_SINGLE_SEGMENT = 0x20
_ZSTD_DICTIONARY_ID = 0x03
_ZSTD_HEADER_BYTES_MIN = 6


def available_codecs() -> frozenset[Codec]:
    """Return the codecs that this process can decode."""
    return frozenset(codec for codec in Codec if codec is not Codec.ZSTD or _ZSTD_FOUND)


def compress_frame(codec: Codec, image: bytes, limits: Limits, level: int | None = None) -> bytes:
    """Encode the image bytes of one frame, at the codec's highest level unless told otherwise.

    The result depends on nothing but the arguments and the version of the codec's library.
    """
    highest = _HIGHEST_LEVEL[codec]
    level = highest if level is None else level
    if not 0 <= level <= highest:
        raise UsageError(Reason.BAD_USE, f"expected a level from 0 to {highest} for {codec.name}, got {level}")
    if codec is Codec.STORED:
        return image
    if codec is Codec.LZMA:
        return lzma.compress(image, lzma.FORMAT_RAW, filters=_lzma_filters(limits, level | lzma.PRESET_EXTREME))
    if not _ZSTD_FOUND:
        raise UsageError(
            Reason.UNSUPPORTED_CODEC,
            "expected zstd in this Python, found none; install backports.zstd or use LZMA",
        )
    parameter = zstd.CompressionParameter
    return zstd.compress(image, options={parameter.compression_level: level, parameter.window_log: limits.window_log})


def decompress_frame(codec: Codec, encoded: bytes | memoryview, image_bytes: int, limits: Limits) -> bytes:
    """Decode one frame to exactly `image_bytes` bytes.

    Raises `PayloadError`: `unsupported_codec` if this process lacks the codec, else `bad_frame`.
    """
    if codec is Codec.STORED:
        image = bytes(encoded)
    elif codec is Codec.LZMA:
        image = _decompress_lzma(encoded, image_bytes, limits)
    elif _ZSTD_FOUND:
        image = _decompress_zstd(encoded, image_bytes, limits)
    else:
        raise PayloadError(
            Reason.UNSUPPORTED_CODEC,
            "expected a frame in a codec that hello named, got zstd; ask for an LZMA payload",
        )
    if len(image) != image_bytes:
        raise _bad_frame(codec, f"expected {image_bytes} bytes of image, got {_amount(image, image_bytes)}")
    return image


def _amount(image: bytes, image_bytes: int) -> str:
    return "more" if len(image) > image_bytes else str(len(image))


def _bad_frame(codec: Codec, what: str) -> PayloadError:
    return PayloadError(Reason.BAD_FRAME, f"{codec.name} frame: {what}; do not use this payload for these chunks")


def _lzma_filters(limits: Limits, preset: int) -> list[dict[str, int]]:
    return [
        {
            "id": lzma.FILTER_LZMA1,
            "preset": preset,
            "dict_size": 1 << limits.window_log,
            "lc": 3,
            "lp": 0,
            "pb": 2,
        }
    ]


def _decompress_lzma(encoded: bytes | memoryview, image_bytes: int, limits: Limits) -> bytes:
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_lzma_filters(limits, lzma.PRESET_DEFAULT))
    try:
        # One byte more than promised: without that room, a longer stream would look like one not ended.
        image = decoder.decompress(encoded, max_length=image_bytes + 1)
    except (lzma.LZMAError, EOFError, MemoryError) as error:
        raise _bad_frame(Codec.LZMA, f"the decoder refuses it: {type(error).__name__}") from None
    if len(image) <= image_bytes:
        _check_end(Codec.LZMA, decoder.unused_data, ended=decoder.eof)
    return image


def _decompress_zstd(encoded: bytes | memoryview, image_bytes: int, limits: Limits) -> bytes:
    _check_zstd_header(encoded, image_bytes, limits)
    decoder = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: limits.window_log})
    try:
        image = decoder.decompress(encoded, max_length=image_bytes + 1)
    except (zstd.ZstdError, EOFError, MemoryError) as error:
        raise _bad_frame(Codec.ZSTD, f"the decoder refuses it: {type(error).__name__}") from None
    if len(image) <= image_bytes:
        _check_end(Codec.ZSTD, decoder.unused_data, ended=decoder.eof)
    return image


def _check_end(codec: Codec, unused: bytes, *, ended: bool) -> None:
    if not ended:
        raise _bad_frame(codec, "expected a complete stream, got a truncated one")
    if unused:
        raise _bad_frame(codec, f"expected nothing after the stream, got {len(unused)} bytes")


def _check_zstd_header(encoded: bytes | memoryview, image_bytes: int, limits: Limits) -> None:
    """Check a frame header (RFC 8878 section 3.1.1.1) for what this format allows of it."""
    if len(encoded) < _ZSTD_HEADER_BYTES_MIN or encoded[:4] != _ZSTD_MAGIC:
        raise _bad_frame(Codec.ZSTD, "expected a standard frame, got other bytes")
    descriptor, window_descriptor = encoded[4], encoded[5]
    if descriptor & _ZSTD_DICTIONARY_ID:
        raise _bad_frame(Codec.ZSTD, "expected no dictionary, got a dictionary id")
    try:
        content_bytes = zstd.get_frame_info(encoded).decompressed_size
    except zstd.ZstdError:
        raise _bad_frame(Codec.ZSTD, "expected a frame header, got a truncated one") from None
    if content_bytes != image_bytes:
        raise _bad_frame(Codec.ZSTD, f"expected a content size of {image_bytes} bytes, got {content_bytes}")
    if descriptor & _ZSTD_SINGLE_SEGMENT:
        window_bytes = image_bytes
    else:
        base_bytes = 1 << 10 + (window_descriptor >> 3)
        window_bytes = base_bytes + (base_bytes >> 3) * (window_descriptor & 7)
    if window_bytes > 1 << limits.window_log:
        raise _bad_frame(Codec.ZSTD, f"expected a window of at most 2^{limits.window_log} bytes, got {window_bytes}")

"""The payload format: one file that encodes an image for the wire, readable in ranges and in order.

`codecs` bounds what a frame may do, `head` says where frames lie, `writer` makes payloads, `reader`
turns them back into an image, `proof` checks them without doing so, and `cipher` keeps them from others.
"""

from __future__ import annotations

from .cipher import PayloadCipher
from .codecs import Codec, available_codecs
from .head import (
    HEAD_START_BYTES,
    Frame,
    Head,
    Kind,
    encode_head,
    measure_head,
    parse_head,
    payload_bytes_max,
)
from .proof import FrameProof, check_hashes
from .reader import FrameStream, decode_frame
from .writer import PayloadWriter, Prologue

__all__ = [
    "HEAD_START_BYTES",
    "Codec",
    "Frame",
    "FrameProof",
    "FrameStream",
    "Head",
    "Kind",
    "PayloadCipher",
    "PayloadWriter",
    "Prologue",
    "available_codecs",
    "check_hashes",
    "decode_frame",
    "encode_head",
    "measure_head",
    "parse_head",
    "payload_bytes_max",
]

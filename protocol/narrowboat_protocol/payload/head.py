"""The head of a payload: what it holds, where each frame lies, and what decoding it will cost.

A payload is `head || layer || leaves || frames`. The head is deterministic CBOR,

    {1: format, 2: kind, 3: SHA-256 of the image, 4: tree, 5: index, ? 6: cipher}

and the index is a byte string of packed entries of 15 bytes, one a frame, in order: codec u8, chunk count
u16, encoded length u32, big-endian, and the first 8 bytes of the SHA-256 of the encoded frame. Frames
follow each other without gaps and cover each chunk once, so an entry needs no offset: two prefix sums, 16
bytes a frame, find the frame of a chunk and of a byte. Entries become `Frame` objects one at a time, when
asked for. With a cipher, which can only be A128CTR, everything behind the head is encrypted (see `cipher`), and the
index hashes frames as they travel.

A head is a hint. Everything that a reader allocates or loops over is checked here, so no later code looks
at a bound again; what it says about the image (`tree`, `image_sha256`) the caller compares with the signed
release.

The index comes last but for what always looks the same, so the first hundred bytes give the length of the head
(`measure_head`), which nothing else in a payload states. The same look guards memory: four MiB of hostile CBOR could
become two hundred MiB of empty lists, and a head is read from files that nobody vouched for. What does not begin like
a head, with one byte string as the rest, never reaches the decoder.
"""

from __future__ import annotations

import hashlib
import re
import struct
from array import array
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from .. import cbor
from ..errors import DocumentError, EncodingError, PayloadError, Reason, UsageError
from ..limits import Limits
from ..suit.numbers import A128CTR
from ..tree import HASH_BYTES, Tree
from .codecs import Codec

FORMAT = 1
HEAD_START_BYTES = 96
"""So many of a payload's first bytes are enough for `measure_head`; no head is shorter."""

_ENTRY = struct.Struct(">BHI8s")
_HASH8_BYTES = 8
_CODECS = frozenset(Codec)
_DEPTH_MAX = 2

_CIPHER_MEMBER = b"\x06\x39\xff\xfd"
"""The last member of the head of an encrypted payload: 6, -65534."""
_START = re.compile(
    rb"(?P<members>[\xa5\xa6])\x01[\x00-\x17]\x02[\x00-\x17]\x03\x58\x20.{32}"
    rb"\x04\x84\x2f[\x00-\x17](?:[\x00-\x17]|\x18.|\x19.{2}|\x1a.{4}|\x1b.{8})\x58\x20.{32}"
    rb"\x05(?P<index_head>[\x40-\x57]|\x58.|\x59.{2}|\x5a.{4})",
    re.DOTALL,
)


class Kind(IntEnum):
    """What frames are coded against. The values are wire values."""

    FULL = 0
    DELTA = 1


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: a run of whole chunks, encoded by itself. `offset` counts in the payload."""

    number: int
    codec: Codec
    first_chunk: int
    chunk_count: int
    image_offset: int
    image_bytes: int
    offset: int
    encoded_length: int
    hash8: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """A checked head. Offsets count from the start of the payload."""

    format: int
    kind: Kind
    image_sha256: bytes
    tree: Tree
    index: bytes = field(repr=False)
    encrypted: bool
    layer_offset: int
    leaves_offset: int
    frames_offset: int
    payload_length: int
    peak_memory_bytes: int
    """What reading takes at once: layer, tables, one frame; not the codec's fixed state (under 256 KiB)."""
    encoded_frame_bytes_max: int
    _first_chunks: array[int] = field(repr=False, compare=False)
    _ends: array[int] = field(repr=False, compare=False)

    @property
    def frame_count(self) -> int:
        return len(self._first_chunks)

    @property
    def codecs(self) -> frozenset[Codec]:
        """The codecs that a reader of this payload needs."""
        return frozenset(Codec(number) for number in set(self.index[:: _ENTRY.size]))

    def frame(self, number: int) -> Frame:
        if not 0 <= number < self.frame_count:
            raise UsageError(Reason.BAD_USE, f"expected a frame from 0 to {self.frame_count - 1}, got {number}")
        codec, chunk_count, encoded_length, hash8 = _ENTRY.unpack_from(self.index, number * _ENTRY.size)
        first_chunk = self._first_chunks[number]
        return Frame(
            number=number,
            codec=Codec(codec),
            first_chunk=first_chunk,
            chunk_count=chunk_count,
            image_offset=first_chunk << self.tree.log2_chunk_size,
            image_bytes=_image_bytes(self.tree, first_chunk, chunk_count),
            offset=self.frames_offset + self._ends[number] - encoded_length,
            encoded_length=encoded_length,
            hash8=hash8,
        )

    def frame_of_chunk(self, chunk: int) -> Frame:
        """Return the one frame that holds a chunk of the image."""
        if not 0 <= chunk < self.tree.chunk_count:
            raise UsageError(Reason.BAD_USE, f"expected a chunk from 0 to {self.tree.chunk_count - 1}, got {chunk}")
        return self.frame(bisect_right(self._first_chunks, chunk) - 1)


def hash8(encoded: bytes | memoryview) -> bytes:
    """Return what the index keeps of a frame's hash: enough, since the tree has the last word."""
    return hashlib.sha256(encoded).digest()[:_HASH8_BYTES]


def pack_entry(codec: Codec, chunk_count: int, encoded: bytes) -> bytes:
    """Return the index entry of one encoded frame."""
    return _ENTRY.pack(codec, chunk_count, len(encoded), hash8(encoded))


def encode_head(image_sha256: bytes, tree: Tree, index: bytes, *, encrypted: bool = False) -> bytes:
    """Encode the head of a full payload."""
    members: dict[int, object] = {1: FORMAT, 2: Kind.FULL.value, 3: image_sha256, 4: tree.to_cbor(), 5: index}
    return cbor.encode(members | {6: A128CTR} if encrypted else members)


def payload_bytes_max(limits: Limits) -> int:
    """Return the length that no payload exceeds: a largest head, two hashes a chunk, all frames stored."""
    chunk_count_max = -(-limits.image_bytes_max >> limits.log2_chunk_size)
    return limits.head_bytes_max + 2 * HASH_BYTES * chunk_count_max + limits.image_bytes_max


def measure_head(start: bytes, limits: Limits) -> int:
    """Return the length of a payload's head, from the first `HEAD_START_BYTES` bytes or more."""
    match = _START.match(start)
    if match is None:
        raise _refused("expected the start of a payload head, got other bytes; is this a payload?")
    index_head = match["index_head"]
    index_length = int.from_bytes(index_head[1:], "big") if len(index_head) > 1 else index_head[0] & 0x1F
    length: int = match.end() + index_length + (len(_CIPHER_MEMBER) if match["members"] == b"\xa6" else 0)
    if length > limits.head_bytes_max:
        raise _refused(f"expected at most {limits.head_bytes_max} bytes, got {length}")
    return length


def parse_head(data: bytes, limits: Limits) -> Head:
    """Read and check a head. Raises `PayloadError`: `unknown_format`, `unsupported_codec` or `bad_head`."""
    measure_head(data, limits)  # refuses what would decode to more than a few objects
    try:
        fields = cbor.decode(data, max_bytes=limits.head_bytes_max, max_depth=_DEPTH_MAX)
        match fields:
            case {1: int(number), 2: int(kind), 3: bytes(image_sha256), 4: tree_tuple, 5: bytes(index), **others}:
                _check_format_and_kind(number, kind)
                encrypted = _is_encrypted(others)
                tree = Tree.from_cbor(tree_tuple, limits)
            case _:
                raise _refused("expected format, kind, SHA-256, tree and index, got other types")
    except (EncodingError, DocumentError) as error:
        raise _refused(str(error)) from None
    return _checked_head(len(data), image_sha256, tree, index, limits, encrypted=encrypted)


def _refused(what: str) -> PayloadError:
    return PayloadError(Reason.BAD_HEAD, f"payload head: {what}")


def _check_format_and_kind(format_number: int, kind: int) -> None:
    if format_number != FORMAT:
        raise PayloadError(
            Reason.UNKNOWN_FORMAT,
            f"payload head: expected format {FORMAT}, got {format_number}; update this software first",
        )
    if kind == Kind.DELTA:
        raise PayloadError(
            Reason.UNSUPPORTED_CODEC,
            "payload head: expected a full payload, got a delta, which this version cannot decode; "
            "ask for the full payload",
        )
    if kind != Kind.FULL:
        raise _refused(f"expected kind {Kind.FULL} (full) or {Kind.DELTA} (delta), got {kind}")


def _is_encrypted(others: Mapping[object, object]) -> bool:
    if not others:
        return False
    if set(others) != {6}:
        raise _refused("expected a cipher at most behind the index, got another member")
    if others[6] == A128CTR:
        return True
    raise PayloadError(
        Reason.UNSUPPORTED_CODEC,
        f"payload head: expected cipher {A128CTR} (A128CTR) or none, got another; update this software first",
    )


def _checked_head(
    length: int, image_sha256: bytes, tree: Tree, index: bytes, limits: Limits, *, encrypted: bool
) -> Head:
    if not index or len(index) % _ENTRY.size:
        raise _refused(f"expected an index of {_ENTRY.size} bytes a frame, got {len(index)} bytes")
    first_chunks, ends = array("Q"), array("Q")
    chunk, end, encoded_max, image_max = 0, 0, 0, 0
    for number, (codec, chunk_count, encoded_length, _) in enumerate(_ENTRY.iter_unpack(index)):
        image_bytes = _image_bytes(tree, chunk, chunk_count)
        _check_entry(number, codec, image_bytes, encoded_length, limits)
        first_chunks.append(chunk)
        chunk += chunk_count
        end += encoded_length
        ends.append(end)
        encoded_max = max(encoded_max, encoded_length)
        image_max = max(image_max, image_bytes)
    if chunk != tree.chunk_count:
        raise _refused(f"expected frames for {tree.chunk_count} chunks, got {chunk}")
    layer_bytes = tree.subtree_count(limits) * HASH_BYTES
    leaves_offset = length + layer_bytes
    frames_offset = leaves_offset + tree.chunk_count * HASH_BYTES
    tables_bytes = len(index) + len(first_chunks) * first_chunks.itemsize + len(ends) * ends.itemsize
    working_bytes = _working_bytes(encoded_max, image_max, limits) + (encoded_max if encrypted else 0)
    return Head(
        format=FORMAT,
        kind=Kind.FULL,
        image_sha256=image_sha256,
        tree=tree,
        index=index,
        encrypted=encrypted,
        layer_offset=length,
        leaves_offset=leaves_offset,
        frames_offset=frames_offset,
        payload_length=frames_offset + end,
        peak_memory_bytes=layer_bytes + tables_bytes + working_bytes,
        encoded_frame_bytes_max=encoded_max,
        _first_chunks=first_chunks,
        _ends=ends,
    )


def _working_bytes(encoded_max: int, image_max: int, limits: Limits) -> int:
    """Return what one frame takes: its encoding, its image (twice: see codecs) and the window."""
    return encoded_max + 2 * image_max + (1 << limits.window_log)


def _image_bytes(tree: Tree, first_chunk: int, chunk_count: int) -> int:
    start = first_chunk << tree.log2_chunk_size
    return min(tree.length - start, chunk_count << tree.log2_chunk_size)


def _check_entry(number: int, codec: int, image_bytes: int, encoded_length: int, limits: Limits) -> None:
    """Check one frame's bounds. A frame that would grow is stored, so none is longer than its image bytes."""
    if codec not in _CODECS:
        raise PayloadError(
            Reason.UNSUPPORTED_CODEC,
            f"payload head: expected a codec from 0 to 2 in frame {number}, got {codec}",
        )
    if not 1 <= image_bytes <= limits.full_frame_image_bytes_max:
        most = limits.full_frame_image_bytes_max
        raise _refused(f"expected 1 to {most} bytes of image in frame {number}, got {image_bytes}")
    if not 1 <= encoded_length <= image_bytes:
        raise _refused(f"expected 1 to {image_bytes} encoded bytes in frame {number}, got {encoded_length}")
    if codec == Codec.STORED and encoded_length != image_bytes:
        raise _refused(f"expected {image_bytes} stored bytes in frame {number}, got {encoded_length}")

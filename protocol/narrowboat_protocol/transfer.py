"""Moving bytes: a device asks for byte ranges of a payload, and the answers are blocks of it.

The server is a range reader. A request names a payload by digest, a few ranges, and the largest block the asker wants;
each range comes back as one or more blocks, in any order, each in a message of its own at QoS 0. Nothing is pushed
unasked and nothing is acknowledged: a block that does not come is asked for again. Blocks are not signed, since what
they decode to is proved against the release; a block carries only the first eight bytes of the digest, enough to drop
what belongs to another transfer.

A block is the array [digest prefix, offset, data]. It is read without the general decoder, as it is the one message
that must be cheap: its header has a fixed form, and the data is a view into the message, not a copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from .cbor import encode
from .errors import DocumentError, Reason
from .limits import DEFAULT_LIMITS, KIB, Limits
from .model import AS_TUPLE, Document, key, refusal

DIGEST_PREFIX_BYTES = 8
_ARRAY_OF_3 = 0x83
_BYTES_8 = 0x48
_UINT, _BYTES = 0, 2

OFFSET_END = 1 << 40
Offset = Annotated[int, Field(ge=0, lt=OFFSET_END)]
Length = Annotated[int, Field(ge=1, le=DEFAULT_LIMITS.request_bytes_max)]
Range = Annotated[tuple[Offset, Length], AS_TUPLE]


class FetchRequest(Document):
    """Ask for byte ranges of one payload. Unsigned: the topic names the device and the broker vouches for it."""

    BYTES_MAX: ClassVar[int] = 1 * KIB
    ITEMS_MAX: ClassVar[int] = 128

    payload: bytes = key(1, min_length=32, max_length=32)
    ranges: Annotated[tuple[Range, ...], AS_TUPLE] = key(
        2, min_length=1, max_length=DEFAULT_LIMITS.ranges_per_request_max
    )
    block_bytes: int = key(3, ge=1024, le=DEFAULT_LIMITS.block_bytes_max)

    @model_validator(mode="after")
    def _bounded(self) -> FetchRequest:
        if sum(length for _, length in self.ranges) > DEFAULT_LIMITS.request_bytes_max:
            raise refusal(f"expected ranges of {DEFAULT_LIMITS.request_bytes_max} bytes together at most, got more")
        return self


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes of a payload. `data` may be a view into the message that carried it."""

    digest_prefix: bytes
    offset: int
    data: bytes | memoryview

    def encode(self) -> bytes:
        """Join header and data once; the data is not scanned."""
        head = bytearray((_ARRAY_OF_3, _BYTES_8))
        head += self.digest_prefix
        head += encode(self.offset)
        length = bytearray(encode(len(self.data)))
        length[0] |= _BYTES << 5
        return b"".join((head, length, self.data))


def decode_block(message: bytes, limits: Limits = DEFAULT_LIMITS) -> Block:
    """Read a block. Raises `DocumentError` unless the message is the one deterministic encoding of it."""
    start = 2 + DIGEST_PREFIX_BYTES
    if len(message) < start or message[0] != _ARRAY_OF_3 or message[1] != _BYTES_8:
        raise _bad_block("an array of digest prefix, offset and data")
    offset, position = _argument(message, start, _UINT)
    length, position = _argument(message, position, _BYTES)
    if offset >= OFFSET_END:
        raise _bad_block("an offset below 2^40")
    if length > limits.block_bytes_max:
        raise DocumentError(
            Reason.TOO_LARGE, f"block: expected at most {limits.block_bytes_max} bytes of data, got {length}"
        )
    if position + length != len(message) or length == 0:
        raise _bad_block("the data to fill the message")
    return Block(message[2:start], offset, memoryview(message)[position:])


def split_range(offset: int, length: int, block_bytes: int) -> list[tuple[int, int]]:
    """The blocks that answer one range: at most `block_bytes` each, in order."""
    return [(at, min(block_bytes, offset + length - at)) for at in range(offset, offset + length, block_bytes)]


def _argument(message: bytes, position: int, major: int) -> tuple[int, int]:
    """Read a head of the given major type in its shortest form: its argument and where it ends."""
    initial = message[position] if position < len(message) else 0xFF
    info = initial & 0x1F
    if initial >> 5 != major or info > 27:
        raise _bad_block(f"a value of CBOR major type {major} at byte {position}")
    if info < 24:
        return info, position + 1
    width = 1 << (info - 24)
    end = position + 1 + width
    argument = int.from_bytes(message[position + 1 : end], "big")
    if end > len(message) or argument < (24 if width == 1 else 1 << (4 * width)):
        raise _bad_block(f"a whole value in its shortest form at byte {position}")
    return argument, end


def _bad_block(expected: str) -> DocumentError:
    return DocumentError(Reason.BAD_BLOCK, f"block: expected {expected}")

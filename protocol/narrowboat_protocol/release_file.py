r"""The release file, `*.nbr`: a payload and the signed envelope of its release in one file.

    "NBRELS1\n" || u64be payload length || payload
        || u32be info length || u32be envelope length || encryption info || SUIT envelope

The encryption info (see `suit.encryption`) says to whom the key of the payload is sealed; of a payload that is not
encrypted it is empty. The envelope is the tail, so that signing (again, or by one more key) rewrites kilobytes of a
file of gigabytes, and the payload's offset is always the same. The lengths are not signed and need not be: the envelope
names the image and the payload proves itself against it. They are only bounded, and must fill the file exactly.

The functions work on bytes; `read_layout` asks for them through a function, so that a file, a memory map
and a range reader serve alike.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from .errors import DocumentError, Reason, UsageError
from .limits import Limits
from .payload.head import payload_bytes_max
from .suit.encryption import INFO_BYTES_MAX

MAGIC = b"NBRELS1\n"

_HEADER = struct.Struct(f">{len(MAGIC)}sQ")
_TRAILER = struct.Struct(">II")
HEADER_BYTES = _HEADER.size
TRAILER_BYTES = _TRAILER.size
"""The trailer's fixed part, the lengths of encryption info and envelope."""


@dataclass(frozen=True, slots=True)
class ReleaseFileLayout:
    """Where the parts lie. Offsets count from the start of the file."""

    payload_offset: int
    payload_length: int
    info_length: int
    """Of the encryption info; 0 if there is none."""
    envelope_offset: int
    envelope_length: int

    @property
    def trailer_offset(self) -> int:
        """Where `encode_trailer` goes when the release is signed again; what follows it is cut off."""
        return self.info_offset - TRAILER_BYTES

    @property
    def info_offset(self) -> int:
        return self.envelope_offset - self.info_length


def encode_header(payload_length: int, limits: Limits) -> bytes:
    """Return what stands before the payload."""
    if not 1 <= payload_length <= payload_bytes_max(limits):
        raise UsageError(
            Reason.TOO_LARGE,
            f"expected a payload of 1 to {payload_bytes_max(limits)} bytes, got {payload_length}",
        )
    return _HEADER.pack(MAGIC, payload_length)


def encode_trailer(envelope: bytes, limits: Limits, info: bytes = b"") -> bytes:
    """Return what stands after the payload."""
    if len(info) > INFO_BYTES_MAX:
        raise UsageError(
            Reason.TOO_LARGE, f"expected at most {INFO_BYTES_MAX} bytes of encryption info, got {len(info)}"
        )
    if not 1 <= len(envelope) <= limits.envelope_bytes_max:
        raise UsageError(
            Reason.TOO_LARGE,
            f"expected an envelope of 1 to {limits.envelope_bytes_max} bytes, got {len(envelope)}",
        )
    return _TRAILER.pack(len(info), len(envelope)) + info + envelope


def parse_header(data: bytes, limits: Limits) -> int:
    """Return the payload's length, out of the file's first `HEADER_BYTES` bytes."""
    if len(data) != HEADER_BYTES:
        raise _refused(f"expected at least {HEADER_BYTES} bytes, got {len(data)}; was it copied completely?")
    magic, payload_length = _HEADER.unpack(data)
    if magic != MAGIC:
        raise DocumentError(
            Reason.UNKNOWN_FORMAT,
            "release file: expected one of format NBRELS1, got other bytes; build it with this version",
        )
    if not 1 <= payload_length <= payload_bytes_max(limits):
        raise _refused(f"expected a payload of 1 to {payload_bytes_max(limits)} bytes, got {payload_length}")
    return int(payload_length)


def parse_trailer(data: bytes, payload_length: int, file_length: int, limits: Limits) -> ReleaseFileLayout:
    """Return the layout, out of the `TRAILER_BYTES` bytes that follow the payload."""
    if len(data) != TRAILER_BYTES:
        raise _refused(f"expected {TRAILER_BYTES} bytes after the payload, got {len(data)}; was it copied completely?")
    info_length, envelope_length = _TRAILER.unpack(data)
    if info_length > INFO_BYTES_MAX:
        raise _refused(f"expected at most {INFO_BYTES_MAX} bytes of encryption info, got {info_length}")
    if not 1 <= envelope_length <= limits.envelope_bytes_max:
        raise _refused(f"expected an envelope of 1 to {limits.envelope_bytes_max} bytes, got {envelope_length}")
    envelope_offset = HEADER_BYTES + payload_length + TRAILER_BYTES + info_length
    if file_length != envelope_offset + envelope_length:
        end = envelope_offset + envelope_length
        raise _refused(f"expected {end} bytes, got {file_length}; was it copied completely?")
    return ReleaseFileLayout(HEADER_BYTES, payload_length, info_length, envelope_offset, envelope_length)


def read_layout(read_at: Callable[[int, int], bytes], file_length: int, limits: Limits) -> ReleaseFileLayout:
    """Return the layout of a release file; `read_at(offset, length)` returns its bytes, fewer at its end."""
    payload_length = parse_header(read_at(0, HEADER_BYTES), limits)
    trailer = read_at(HEADER_BYTES + payload_length, TRAILER_BYTES)
    return parse_trailer(trailer, payload_length, file_length, limits)


def _refused(what: str) -> DocumentError:
    return DocumentError(Reason.BAD_DOCUMENT, f"release file: {what}")

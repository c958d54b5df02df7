"""Release files on disk: read in ranges, and signed again without touching the payload.

A release file may be larger than memory, so it is read where it is asked for, and its envelope, a few kilobytes at the
end, is the only part that changes when somebody signs. The new end goes out in one write and is synced. Should the
machine die in the middle of that, the file must be built anew, which gives the same bytes; whoever wants to keep the
file as it was signs into another.

Nothing that this module returns is believed: `envelope` and `manifest` are what the file claims.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from narrowboat_protocol.errors import NarrowboatError
from narrowboat_protocol.limits import DEFAULT_LIMITS, Limits
from narrowboat_protocol.payload import HEAD_START_BYTES, Head, measure_head, parse_head
from narrowboat_protocol.release_file import encode_trailer, read_layout
from narrowboat_protocol.suit import Envelope, Manifest, parse_envelope, read_manifest

from ..files import atomic_file

COPY_BYTES = 1 << 20


class ReleaseFile:
    """An open release file. Use `open_release_file`."""

    def __init__(self, file: BinaryIO, limits: Limits = DEFAULT_LIMITS) -> None:
        self._descriptor = file.fileno()
        self.limits = limits
        self.layout = read_layout(self.read_at, os.fstat(self._descriptor).st_size, limits)
        self.encryption = self.read_at(self.layout.info_offset, self.layout.info_length)
        """The encryption info; empty if there is none."""
        self.envelope_data = self.read_at(self.layout.envelope_offset, self.layout.envelope_length)
        self.envelope: Envelope = parse_envelope(self.envelope_data, limits)
        self.manifest: Manifest = read_manifest(self.envelope.manifest, limits)

    @property
    def digest(self) -> bytes:
        """The release's identity."""
        return self.envelope.digest

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes of the file; fewer at its end."""
        return os.pread(self._descriptor, length, offset)

    def read_payload(self, offset: int, length: int) -> bytes:
        """Bytes of the payload; fewer at its end."""
        length = min(length, self.layout.payload_length - offset)
        return self.read_at(self.layout.payload_offset + offset, length)

    def read_head(self) -> Head:
        """The checked head of the payload."""
        length = measure_head(self.read_payload(0, HEAD_START_BYTES), self.limits)
        return parse_head(self.read_payload(0, length), self.limits)

    def write_signed(self, target: BinaryIO, envelope: bytes) -> None:
        """Write this file with another envelope to `target`."""
        end = self.layout.trailer_offset
        starts = range(0, end, COPY_BYTES)
        target.writelines(self.read_at(start, min(COPY_BYTES, end - start)) for start in starts)
        target.write(encode_trailer(envelope, self.limits, self.encryption))


@contextmanager
def open_release_file(path: Path, limits: Limits = DEFAULT_LIMITS) -> Iterator[ReleaseFile]:
    """Open a release file. Errors about its content name it."""
    with path.open("rb") as file:
        try:
            release_file = ReleaseFile(file, limits)
        except NarrowboatError as error:
            raise type(error)(error.reason, f"{path}: {error}") from None
        yield release_file


def replace_envelope(path: Path, envelope: bytes, limits: Limits = DEFAULT_LIMITS) -> None:
    """Put another envelope into the release file at `path`."""
    with path.open("r+b") as file:
        before = ReleaseFile(file, limits)
        trailer = encode_trailer(envelope, limits, before.encryption)
        os.pwrite(file.fileno(), trailer, before.layout.trailer_offset)
        file.truncate(before.layout.trailer_offset + len(trailer))
        os.fsync(file.fileno())


def copy_with_envelope(source: Path, target: Path, envelope: bytes, limits: Limits = DEFAULT_LIMITS) -> None:
    """Write the release file at `source` to `target`, with another envelope."""
    with open_release_file(source, limits) as release_file, atomic_file(target) as file:
        release_file.write_signed(file, envelope)
    shutil.copymode(source, target)

"""A release file, `*.nbr`, on this machine: where its parts lie, its envelope, and the head of its payload.

Nothing in it is believed here; it is only bounded and taken apart.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.payload import HEAD_START_BYTES, measure_head
from narrowboat_protocol.release_file import read_layout

from .disk import Disk
from .files import medium_failed, pread_all


class ReleaseFile:
    """An open release file."""

    def __init__(self, disk: Disk, path: Path, limits: Limits) -> None:
        """Raises `UsageError` if there is no such file, `PeerError` if it is not a release file."""
        self._disk = disk
        self.path = path.absolute()
        self._limits = limits
        try:
            self._fd = disk.open(path, os.O_RDONLY)
        except OSError as error:
            raise UsageError(
                Reason.BAD_USE, f"expected a release file at {path}: {error.strerror}; check the path"
            ) from None
        try:
            self._layout = read_layout(self._read, disk.size(self._fd) or 0, limits)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._disk.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def payload_length(self) -> int:
        return self._layout.payload_length

    @property
    def encryption(self) -> bytes:
        """The encryption info; empty if there is none."""
        return self._read(self._layout.info_offset, self._layout.info_length)

    @property
    def envelope(self) -> bytes:
        return self._read(self._layout.envelope_offset, self._layout.envelope_length)

    @property
    def head(self) -> bytes:
        """The head of the payload, unchecked."""
        start = self._read(self._layout.payload_offset, min(HEAD_START_BYTES, self.payload_length))
        return self._read(self._layout.payload_offset, measure_head(start, self._limits))

    def _read(self, offset: int, length: int) -> bytes:
        try:
            return pread_all(self._disk, self._fd, length, offset)
        except OSError as error:
            raise medium_failed(f"read {self.path}", error) from error

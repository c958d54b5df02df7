"""Records: small contents that survive a power cut at any moment, in files whose size never changes.

A record file holds two copies of its content, each in a half of its own that starts on a page boundary:

    copy = magic || format || generation || length || SHA-256 of what stands before and of the content || content

Saving writes the copy that is not the newest and syncs it, so the newest one is never touched. A power cut
leaves at most that copy torn, its checksum says so, and the other one, a generation older, counts. So does
it when the newest one cannot be read, and the next save takes its place for good: what must never go back
is saved in both copies, one after the other. A first save writes both too. The files are allocated when the
gateway is provisioned and written in place: a full disk can stop a download, never the save that commits a
slot.

A half that the medium does not give back counts as damaged, as one whose checksum is wrong does: it is for bad sectors
that there are two. If the other one holds no intact copy, be it damaged, blank or unreadable too, nothing is known, and
that is an error: what cannot be read now may be whole, and must not be taken for lost. A read that fails is tried again
before, since the other copy may be older by one step.

One trap remains. When a sync fails, the kernel may forget that the pages were dirty, and reading them back
shows what the medium never took. So a failed save does not become the newest copy: the next save writes to
the same half again, and the last copy that is known to be durable stays untouched.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.limits import Limits

from .core.actions import Record
from .disk import Disk
from .files import medium_failed, pread_all, pwrite_all, sync_folder

MAGIC = b"NBRC"
FORMAT = 1
_START = struct.Struct(">4sIQI")
_DIGEST_BYTES = 32
_HEADER_BYTES = _START.size + _DIGEST_BYTES
_PAGE_BYTES = 4096
_READ_TRIES = 3
_PATHS_KEPT = 8
_GENERATIONS = 1 << 64
"""The count begins anew after so many, and is compared as serial numbers are (RFC 1982): newer is what lies less than
half of them ahead. Any pair of copies can therefore be followed by a newer one.
"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Copy:
    """An intact copy. `content` is None if its format is not ours to read."""

    generation: int
    content: bytes | None


class RecordFile:
    """One record file, open for as long as the object lives."""

    def __init__(self, disk: Disk, path: Path, content_bytes_max: int) -> None:
        """Open a file that `allocate` made. Raises `UsageError` if it is not there."""
        self._disk = disk
        self._path = path
        self._content_bytes_max = content_bytes_max
        self._half_bytes = _half_bytes(content_bytes_max)
        self._generation = 0
        self._newest_half: int | None = None
        self._is_alone = False
        self.is_newer = False
        """The content that was loaded last is there, in a format that only a newer agent knows."""
        try:
            self._fd = disk.open(path, os.O_RDWR)
        except OSError as error:
            raise UsageError(
                Reason.BAD_CONFIG,
                f"expected the record {path}: {error.strerror}; run `narrowboat-device provision`",
            ) from None

    @staticmethod
    def allocate(disk: Disk, path: Path, content_bytes_max: int) -> None:
        """Make room for a record, if it is not there yet. Its content is absent until the first save.
        Raises `MediumError`.
        """
        try:
            fd = disk.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                disk.fallocate(fd, 0, 2 * _half_bytes(content_bytes_max))
                disk.fsync(fd)
            finally:
                disk.close(fd)
            sync_folder(disk, path.parent)
        except OSError as error:
            raise medium_failed(f"allocate {path}", error) from error

    def close(self) -> None:
        self._disk.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load(self) -> bytes | None:
        """The content of the newest intact copy, as the medium has it; empty if none was ever written, None if
        none is intact. Raises `MediumError` if there may be one that the medium does not give back.
        """
        halves, error = self._read_halves()
        copies = {half: copy for half in (0, 1) if (copy := _read_copy(halves[half])) is not None}
        if error is not None and not copies:
            raise medium_failed(f"read {self._path}", error) from error
        damaged = [half for half in (0, 1) if half not in copies and not self._is_blank(halves[half])]
        self._warn_of_damage(damaged)
        self._newest_half, self._is_alone = _newest_of(copies), not copies
        newest = copies.get(self._newest_half, _Copy(0, None if damaged else b""))
        self._generation = newest.generation
        self.is_newer = bool(copies) and newest.content is None
        if self.is_newer:
            _log.warning("record %s: a newer agent wrote it, in a format that is unknown here", self._path.name)
        return newest.content

    def save(self, content: bytes, *, both: bool = False) -> None:
        """Make `content` the record, durably, in both copies if no read that fails must lead to what was before it.
        Raises `UsageError` before anything is written, or `MediumError`.
        """
        if len(content) > self._content_bytes_max:
            raise UsageError(
                Reason.TOO_LARGE,
                f"record {self._path.name}: expected at most {self._content_bytes_max} bytes, got {len(content)}",
            )
        if self._newest_half is None:
            self.load()
        self._write(content)
        if both or self._is_alone:
            self._write(content)
            self._is_alone = False

    def _write(self, content: bytes) -> None:
        """Write the copy that is not the newest, and make it the newest."""
        half, generation = (
            self._newest_half ^ 1 if self._newest_half is not None else 0,
            (self._generation + 1) % _GENERATIONS,
        )
        start = _START.pack(MAGIC, FORMAT, generation, len(content))
        digest = hashlib.sha256(start + content).digest()
        try:
            pwrite_all(self._disk, self._fd, start + digest + content, half * self._half_bytes)
            self._disk.fdatasync(self._fd)
        except OSError as error:
            raise medium_failed(f"save {self._path}", error) from error
        self._newest_half, self._generation = half, generation

    def _read_halves(self) -> tuple[list[bytes], OSError | None]:
        """Both halves, and why one is empty: it cannot be read."""
        found = [self._read_half(half) for half in (0, 1)]
        failed = next((half for half in found if isinstance(half, OSError)), None)
        return [b"" if isinstance(half, OSError) else half for half in found], failed

    def _read_half(self, half: int) -> bytes | OSError:
        """One half, or why it cannot be read, however often it is tried."""
        failed = OSError()
        for _ in range(_READ_TRIES):
            try:
                self._disk.forget(self._fd, half * self._half_bytes, self._half_bytes)
                return pread_all(self._disk, self._fd, self._half_bytes, half * self._half_bytes)
            except OSError as error:
                failed = error
        return failed

    def _is_blank(self, half: bytes) -> bool:
        return half == bytes(self._half_bytes)

    def _warn_of_damage(self, damaged: list[int]) -> None:
        if len(damaged) == 1:
            _log.warning("record %s: one copy is damaged, the other one counts", self._path.name)
        elif damaged:
            _log.warning("record %s: both copies are damaged, so its content is lost", self._path.name)


def _half_bytes(content_bytes_max: int) -> int:
    return -(-(_HEADER_BYTES + content_bytes_max) // _PAGE_BYTES) * _PAGE_BYTES


def _read_copy(half: bytes) -> _Copy | None:
    """The copy in one half, or None if it is not intact."""
    if len(half) < _HEADER_BYTES:
        return None
    magic, form, generation, length = _START.unpack_from(half)
    content = half[_HEADER_BYTES : _HEADER_BYTES + length]
    if magic != MAGIC or len(content) != length:
        return None
    digest = half[_START.size : _HEADER_BYTES]
    if hashlib.sha256(half[: _START.size] + content).digest() != digest:
        return None
    return _Copy(generation, content if form == FORMAT else None)


def _newest_of(copies: Mapping[int, _Copy]) -> int:
    """The half with the newest copy; the second if there is none, so that the first is written first."""
    if len(copies) < 2:
        return next(iter(copies), 1)
    ahead = (copies[1].generation - copies[0].generation) % _GENERATIONS
    return 1 if 0 < ahead < _GENERATIONS // 2 else 0


def record_bytes_max(record: Record, limits: Limits) -> int:
    """The most that a record holds."""
    return {
        Record.JOURNAL: limits.journal_bytes,
        Record.TRUST: limits.trust_bytes,
        Record.OUTBOX: limits.outbox_bytes,
    }[record]


@lru_cache(maxsize=_PATHS_KEPT)
def record_path(data_dir: Path, record: Record) -> Path:
    return data_dir / f"{record}.record"

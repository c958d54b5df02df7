"""Bytes on disk, and what it takes for them to be there after a power cut.

Three facts about Linux file systems shape this module. A write may be short, so every write loops. A
renamed file survives a power cut only if its content was synced before the rename and its folder after it.
And an error tells whose fault it is: no room is a fact about the storage that may change (`storage_full`),
anything else is a medium that failed (`medium_failed`).
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from narrowboat_protocol.errors import MediumError, Reason, UsageError

from .disk import Disk

_PATHS_KEPT = 8
# RLIMIT_FSIZE and quotas say "full" in words of their own.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def medium_failed(what: str, error: OSError) -> MediumError:
    """The error to raise when storage did not do `what`."""
    cause = error.strerror or type(error).__name__
    if error.errno in _NO_ROOM:
        return MediumError(Reason.STORAGE_FULL, f"{what}: {cause}; free some space")
    return MediumError(Reason.MEDIUM_FAILED, f"{what}: {cause}")


def pwrite_all(disk: Disk, fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`, in as many writes as the kernel wants. Raises `OSError`."""
    rest = memoryview(data)
    while rest:
        written = disk.pwrite(fd, rest, offset)
        offset += written
        rest = rest[written:]


def pread_all(disk: Disk, fd: int, length: int, offset: int) -> bytes:
    """Read `length` bytes at `offset`; fewer only where the file ends. Raises `OSError`."""
    pieces = []
    while length and (piece := disk.pread(fd, length, offset)):
        pieces.append(piece)
        offset += len(piece)
        length -= len(piece)
    return b"".join(pieces)


def sync_folder(disk: Disk, folder: Path) -> None:
    """Make the names in a folder durable. Raises `OSError`."""
    fd = disk.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        disk.fsync(fd)
    finally:
        disk.close(fd)


def write_durably(disk: Disk, path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file so that a power cut leaves the old content or the new one. Raises `MediumError`."""
    try:
        _replace(disk, path, data, mode, sync=True)
        sync_folder(disk, path.parent)
    except OSError as error:
        raise medium_failed(f"write {path}", error) from error


def write_atomically(disk: Disk, path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file so that a reader sees the old content or the new one; a power cut may lose both.
    Raises `MediumError`.
    """
    try:
        _replace(disk, path, data, mode, sync=False)
    except OSError as error:
        raise medium_failed(f"write {path}", error) from error


def remove_durably(disk: Disk, path: Path) -> None:
    """Remove a file, if it is there, so that it stays removed. Raises `MediumError`."""
    try:
        with suppress(FileNotFoundError):
            disk.unlink(path)
        sync_folder(disk, path.parent)
    except OSError as error:
        raise medium_failed(f"remove {path}", error) from error


def read_bounded(disk: Disk, path: Path, bytes_max: int, what: str) -> bytes:
    """Read a small file whole. Raises `UsageError` that names `what` if it is missing, unreadable or too
    large.
    """
    try:
        fd = disk.open(path, os.O_RDONLY)
        try:
            data = pread_all(disk, fd, bytes_max + 1, 0)
        finally:
            disk.close(fd)
    except OSError as error:
        raise UsageError(Reason.BAD_CONFIG, f"{what}: expected a readable file at {path}: {error.strerror}") from None
    if len(data) > bytes_max:
        raise UsageError(Reason.BAD_CONFIG, f"{what}: expected at most {bytes_max} bytes in {path}, got more")
    return data


@lru_cache(maxsize=_PATHS_KEPT)
def _beside(path: Path) -> Path:
    """What the new content is called until it is whole."""
    return path.with_name(f".{path.name}.new")


def _replace(disk: Disk, path: Path, data: bytes, mode: int, *, sync: bool) -> None:
    temporary = _beside(path)
    fd = disk.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        pwrite_all(disk, fd, data, 0)
        if sync:
            disk.fsync(fd)
    finally:
        disk.close(fd)
    disk.rename(temporary, path)

"""Bytes on disk, and what it takes for them to be there after a power cut.

Three facts about Linux file systems shape this module. A write may be short, so every write loops. A
renamed file survives a power cut only if its content was synced before the rename and its folder after it.
And an error tells whose fault it is: no room is a fact about the storage that may change (`storage_full`),
anything else is a medium that failed (`medium_failed`).
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from narrowboat_protocol.errors import MediumError, Reason, UsageError

# RLIMIT_FSIZE and quotas say "full" in words of their own.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def medium_failed(what: str, error: OSError) -> MediumError:
    """The error to raise when storage did not do `what`."""
    cause = error.strerror or type(error).__name__
    if error.errno in _NO_ROOM:
        return MediumError(Reason.STORAGE_FULL, f"{what}: {cause}; free some space")
    return MediumError(Reason.MEDIUM_FAILED, f"{what}: {cause}")


def pwrite_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`, in as many writes as the kernel wants. Raises `OSError`."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, offset)
        offset += written
        rest = rest[written:]


def pread_all(fd: int, length: int, offset: int) -> bytes:
    """Read `length` bytes at `offset`; fewer only where the file ends. Raises `OSError`."""
    pieces = []
    while length and (piece := os.pread(fd, length, offset)):
        pieces.append(piece)
        offset += len(piece)
        length -= len(piece)
    return b"".join(pieces)


def forget_cached(fd: int, offset: int, length: int) -> None:
    """Drop a range from the page cache, so that reading it asks the medium. Only what is synced is dropped;
    0 means to the end.
    """
    os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises `OSError`."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file so that a power cut leaves the old content or the new one. Raises `MediumError`."""
    try:
        _replace(path, data, mode, sync=True)
        sync_folder(path.parent)
    except OSError as error:
        raise medium_failed(f"write {path}", error) from error


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace a file so that a reader sees the old content or the new one; a power cut may lose both.
    Raises `MediumError`.
    """
    try:
        _replace(path, data, mode, sync=False)
    except OSError as error:
        raise medium_failed(f"write {path}", error) from error


def remove_durably(path: Path) -> None:
    """Remove a file, if it is there, so that it stays removed. Raises `MediumError`."""
    try:
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise medium_failed(f"remove {path}", error) from error


def read_bounded(path: Path, bytes_max: int, what: str) -> bytes:
    """Read a small file whole. Raises `UsageError` that names `what` if it is missing, unreadable or too
    large.
    """
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise UsageError(Reason.BAD_CONFIG, f"{what}: expected a readable file at {path}: {error.strerror}") from None
    if len(data) > bytes_max:
        raise UsageError(Reason.BAD_CONFIG, f"{what}: expected at most {bytes_max} bytes in {path}, got more")
    return data


def _replace(path: Path, data: bytes, mode: int, *, sync: bool) -> None:
    temporary = path.with_name(f".{path.name}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        pwrite_all(fd, data, 0)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)

"""What storage is asked for: the operating system's calls, and nothing above them.

Everything that the agent, its boot adapter and the boot loader keep goes through a `Disk` that they are given: slots,
records, envelopes, boot variables. The loops over short reads and writes, the order of syncs and renames, and what an
error means stand above it, in `files` and its callers, so they are the same code over the real disk and over the
simulated one that loses power at every call.

Not behind it: the configuration, which is read once before anything is opened, and the lock on the data folder, which
is about processes and not about storage.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Disk(Protocol):
    """Calls have the names and meanings of POSIX; each raises `OSError`. A read or a write may be short."""

    def open(self, path: Path, flags: int, mode: int = 0o600, /) -> int:
        """Open a file, or a folder for `fsync`, which makes the names in it durable. As on Linux, `O_EXCL` without
        `O_CREAT` refuses a block device that is mounted or claimed in another way, and says nothing about files.
        """
        ...

    def close(self, fd: int, /) -> None: ...

    def size(self, fd: int, /) -> int | None:
        """The length of a file or a block device; None for anything else."""
        ...

    def identity(self, fd: int, /) -> tuple[int, ...]:
        """What tells one file or block device from another, whatever names it has."""
        ...

    def pread(self, fd: int, length: int, offset: int, /) -> bytes: ...

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int, /) -> int: ...

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int, /) -> int: ...

    def fsync(self, fd: int, /) -> None: ...

    def fdatasync(self, fd: int, /) -> None: ...

    def fallocate(self, fd: int, offset: int, length: int, /) -> None:
        """Make room, so that no later write in the range fails for want of it."""
        ...

    def forget(self, fd: int, offset: int, length: int, /) -> None:
        """Drop a range from the page cache, so that reading it asks the medium. Only what is synced is dropped;
        a length of 0 means to the end.
        """
        ...

    def rename(self, source: Path, target: Path, /) -> None: ...

    def unlink(self, path: Path, /) -> None: ...

    def exists(self, path: Path, /) -> bool: ...

    def make_folder(self, path: Path, /) -> None:
        """One folder, in a folder that is there."""
        ...


class SystemDisk:
    """The disks of this machine."""

    close = staticmethod(os.close)
    pread = staticmethod(os.pread)
    preadv = staticmethod(os.preadv)
    pwrite = staticmethod(os.pwrite)
    fsync = staticmethod(os.fsync)
    fdatasync = staticmethod(os.fdatasync)
    fallocate = staticmethod(os.posix_fallocate)
    rename = staticmethod(os.rename)
    unlink = staticmethod(os.unlink)
    exists = staticmethod(os.path.exists)
    make_folder = staticmethod(os.mkdir)

    def open(self, path: Path, flags: int, mode: int = 0o600, /) -> int:
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def size(self, fd: int, /) -> int | None:
        mode = os.fstat(fd).st_mode
        return os.lseek(fd, 0, os.SEEK_END) if stat.S_ISREG(mode) or stat.S_ISBLK(mode) else None

    def identity(self, fd: int, /) -> tuple[int, ...]:
        found = os.fstat(fd)
        return (found.st_rdev,) if stat.S_ISBLK(found.st_mode) else (found.st_dev, found.st_ino)

    def forget(self, fd: int, offset: int, length: int, /) -> None:
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)

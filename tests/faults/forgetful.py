"""A file system that forgets what was not synced, in a process of its own: `python -m tests.faults.forgetful MOUNT`.

Fault model. Everything lives in memory, twice: as it is, and as it would be after a power cut. A file's content becomes
durable by its fsync or fdatasync, a folder's names by the folder's fsync. At a cut each write since the file's last
sync is kept, dropped or torn at 512 bytes, by itself and in any order; of the changes of names that no folder sync has
covered, some first ones are kept, as a journal of metadata keeps them. So a file whose name survives may be empty, and
a rename may come undone. What was synced never changes.

Writes may also be short: one byte or some less than was asked for, half of the time. It is mounted for direct I/O, so
that the caller sees that, and so that nothing stays in the kernel's cache over a cut.

The file `.control` steers it. Reading gives the number of operations so far that changed something. Writing
`cut N SEED PID` lets N more of them pass; the next one cuts the power instead: process PID is killed before its call
returns. Writing `stay` takes that back, and `sync` makes everything durable.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import stat
import sys
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import mfusepy

_SECTOR_BYTES = 512
_CONTROL = "/.control"
_CONTROL_FD = 1 << 32
_SHORT_WRITES = 0.5
_UNCACHED = {"attr_timeout": 0, "entry_timeout": 0}


@dataclass(slots=True)
class File:
    """A file, or a folder: then without content."""

    mode: int
    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    unsynced: list[tuple[int, bytes]] = field(default_factory=list)

    def write(self, data: bytes, offset: int) -> None:
        self.data = _written(self.data, data, offset)
        self.unsynced.append((offset, data))

    def resize(self, size: int) -> None:
        self.data = self.data[:size].ljust(size, b"\0")
        self.durable, self.unsynced = self.durable[:size], []

    def sync(self) -> None:
        self.durable, self.unsynced = bytes(self.data), []

    def cut(self, chance: random.Random) -> None:
        data = bytearray(self.durable)
        for offset, piece in chance.sample(self.unsynced, len(self.unsynced)):
            for start in range(0, len(piece), _SECTOR_BYTES) if chance.random() < 0.5 else (0,):
                if chance.random() < 0.5:
                    end = start + _SECTOR_BYTES if start or len(piece) > _SECTOR_BYTES else len(piece)
                    data = _written(data, piece[start:end], offset + start)
        self.data = data
        self.sync()


class Forgetful(mfusepy.Operations):  # type: ignore[misc]  # it comes without types
    """The operations that the kernel asks for; one at a time."""

    use_ns = True

    def __init__(self) -> None:
        self._names = {"/": File(stat.S_IFDIR | 0o755)}
        self._durable_names = dict(self._names)
        self._renamings: list[dict[str, File]] = []
        """The names after each change that no folder sync has covered."""
        self._open: dict[int, File] = {}
        self._chance = random.Random(0)
        self._changes = 0
        self._fuse: int | None = None
        self._victim = 0

    # What changes nothing.

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        if path == _CONTROL:
            return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": 0}
        file = self._open[fh] if fh is not None and fh in self._open else self._find(path)
        return {"st_mode": file.mode, "st_nlink": 1, "st_size": len(file.data)}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *(PurePosixPath(name).name for name in self._names if name != "/" and _in(name) == path)]

    def open(self, path: str, flags: int) -> int:
        return _CONTROL_FD if path == _CONTROL else self._opened(self._find(path))

    def release(self, path: str, fh: int) -> int:
        self._open.pop(fh, None)
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        if fh == _CONTROL_FD:
            return str(self._changes).encode()[offset : offset + size]
        return bytes(self._open[fh].data[offset : offset + size])

    def chmod(self, path: str, mode: int) -> int:
        self._find(path).mode = mode
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        return 0

    # What changes content.

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        if fh == _CONTROL_FD:
            self._obey(data.decode().split())
            return len(data)
        self._change()
        length = self._chance.randint(1, len(data)) if self._chance.random() < _SHORT_WRITES else len(data)
        self._open[fh].write(data[:length], offset)
        return length

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        if path != _CONTROL:
            self._change()
            self._find(path).resize(length)
        return 0

    def fallocate(self, path: str, mode: int, offset: int, size: int, fh: int) -> int:
        self._change()
        file = self._open[fh]
        if offset + size > len(file.data):
            file.write(bytes(offset + size - len(file.data)), len(file.data))
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self._change()
        self._open[fh].sync()
        return 0

    # What changes names.

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        self._rename({**self._names, path: (file := File(mode))})
        return self._opened(file)

    def mkdir(self, path: str, mode: int) -> int:
        self._rename({**self._names, path: File(stat.S_IFDIR | mode)})
        return 0

    def unlink(self, path: str) -> int:
        self._find(path)
        self._rename({name: file for name, file in self._names.items() if name != path})
        return 0

    def rmdir(self, path: str) -> int:
        return self.unlink(path)

    def rename(self, old: str, new: str, flags: int = 0) -> int:
        file = self._find(old)
        self._rename({name: other for name, other in self._names.items() if name != old} | {new: file})
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        self._change()
        self._durable_names, self._renamings = dict(self._names), []
        return 0

    # Power.

    def _obey(self, words: list[str]) -> None:
        match words:
            case ["cut", after, seed, victim]:
                self._chance, self._fuse, self._victim = random.Random(seed), int(after), int(victim)
            case ["stay"]:
                self._fuse = None
            case ["sync"]:
                self._durable_names, self._renamings = dict(self._names), []
                for file in self._names.values():
                    file.sync()
            case _:
                raise mfusepy.FuseOSError(errno.EINVAL)

    def _change(self) -> None:
        """Count an operation that changes something, before it does."""
        self._changes += 1
        if self._fuse is not None:
            if not self._fuse:
                self._cut()
                raise mfusepy.FuseOSError(errno.EIO)
            self._fuse -= 1

    def _cut(self) -> None:
        os.kill(self._victim, signal.SIGKILL)
        self._fuse = None
        kept = self._chance.randint(0, len(self._renamings))
        self._names = self._renamings[kept - 1] if kept else self._durable_names
        self._durable_names, self._renamings = dict(self._names), []
        for file in self._names.values():
            file.cut(self._chance)

    def _rename(self, names: dict[str, File]) -> None:
        self._change()
        self._names = names
        self._renamings.append(names)

    def _opened(self, file: File) -> int:
        fh = next(number for number in range(1, _CONTROL_FD) if number not in self._open)
        self._open[fh] = file
        return fh

    def _find(self, path: str) -> File:
        if path not in self._names:
            raise mfusepy.FuseOSError(errno.ENOENT)
        return self._names[path]


def _written(content: bytearray, data: bytes, offset: int) -> bytearray:
    content = content.ljust(offset, b"\0")
    content[offset : offset + len(data)] = data
    return content


def _in(name: str) -> str:
    return str(PurePosixPath(name).parent)


if __name__ == "__main__":
    mfusepy.FUSE(Forgetful(), sys.argv[1], foreground=True, nothreads=True, direct_io=True, **_UNCACHED)

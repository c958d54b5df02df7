"""The simulated disk: slots and a file system behind the device's `Disk`, that lose power at any call.

Fault model.

    writes    are in the page cache until a sync that began after them has ended. At a cut each one that waits is kept,
              dropped, or torn: any of its sectors of 512 bytes may have reached the medium, whatever their order, and
              writes to one file reach it in any order too. A sector itself is whole. A file that was growing has the
              old length, the new one, or any that a write that was kept gives it.
    names     a created, renamed or unlinked name is durable after a sync of its folder, and no sooner: a sync of the
              file is not enough. At a cut each change that waits is kept or lost, independently of the others, of the
              file's content and of their order. A rename by itself is atomic.
    medium    unwritten areas of a slot hold what some earlier life left there; bits of what lies still may rot; ranges
              may be unreadable (EIO).
    failures  a write, a read or a sync fails with EIO. After a failed sync the dirty pages count as clean, as on Linux:
              reading shows the new bytes until the pages are forgotten, later syncs succeed without them, and a cut
              loses them. There is room for so many pages; a write that needs another fails with ENOSPC, one into
              allocated pages does not.
    short     a read or a write may do only a part of what was asked.
    lies      a medium may acknowledge a flush and keep the bytes in a cache of its own, which a cut empties like the
              page cache. Syncs of names are not lied about.

Every call that changes anything burns the fuse, before it takes effect: when the fuse is used up, `PowerCut` is raised
in place of the call. `watch` is told of each such call at the same moment, and may `fork` the disk there. What a cut in
the middle of a write or sync does is what a cut right after or before it may do, so nothing between is needed.

What waits does not wait for ever: the kernel writes the oldest names down by itself when many do.

A fork is a copy that shares everything until one of the two changes it, so a world can be kept at each operation and
gone back to.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tests.sim.medium import PAGE_BYTES, Faults, Inode, Outcome, Rename, Write, pages_of

_WAITING_NAMES_MAX = 32
_INODES_MAX = 64


class PowerCut(BaseException):
    """The power goes. Not an `Exception`: no code of the device handles it."""


class SimDisk:
    """The disks of one gateway. Implements the device's `Disk`."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.faults = Faults()
        self.pages_free: int | None = None
        self.fuse: int | None = None
        self.watch: Callable[[str], None] = _look_away
        self.changes = 0
        """Grows whenever anything may have changed, on the medium or in the cache."""
        self.horizon: int | None = None
        """What a sync covers, while one is carried out that began earlier."""
        self._unreadable: set[tuple[int, int]] = set()
        self._inodes: dict[int, Inode] = {}
        self._names: dict[Path, int] = {}
        self._durable_names: dict[Path, int] = {}
        self._renames: list[Rename] = []
        self._folders: set[Path] = {Path("/")}
        self._durable_folders: set[Path] = {Path("/")}
        self._open: dict[int, int | Path] = {}
        self._numbers = 0

    # Made, looked at and copied by the world.

    def make_slot(self, path: Path, content: bytes) -> None:
        """A block device. What it holds is on the medium."""
        self._make(path, content, is_slot=True)

    def make_file(self, path: Path, content: bytes) -> None:
        """A durable file, in folders that are made for it."""
        self._make(path, content, is_slot=False)

    def make_folders(self, *paths: Path) -> None:
        """Durable folders."""
        for path in paths:
            self._folders |= {path, *path.parents}
            self._durable_folders |= {path, *path.parents}

    def _make(self, path: Path, content: bytes, *, is_slot: bool) -> None:
        inode = Inode(is_slot, size=len(content), durable_size=len(content), allocated=len(content))
        inode.put_on_medium(Write(0, 0, content))
        number = self._next_number()
        self.make_folders(path.parent)
        self._inodes[number] = inode
        self._names[path] = self._durable_names[path] = number

    def fork(self) -> SimDisk:
        """The same disk, as another world may go on with it. Nothing is open there."""
        other = SimDisk(self.rng)
        other.faults = replace(self.faults)
        other.pages_free = self.pages_free
        other._unreadable = set(self._unreadable)
        for inode in self._inodes.values():
            inode.shared = True
        other._inodes = dict(self._inodes)
        other._names, other._durable_names = dict(self._names), dict(self._durable_names)
        other._renames = list(self._renames)
        other._folders, other._durable_folders = set(self._folders), set(self._durable_folders)
        other._numbers = self._numbers
        return other

    def cut(self, outcome: Outcome) -> None:
        """The power goes: what waits is kept, dropped or torn, and nothing is open any more."""
        self.changes += 1
        for number, inode in list(self._inodes.items()):
            if inode.waiting or inode.cache or inode.size != inode.durable_size:
                self._own(number).cut(outcome, self.rng)
        for change in self._renames:
            if outcome is Outcome.KEPT or (outcome is Outcome.MIXED and self.rng.random() < 0.5):
                self._make_durable(change)
        self._renames.clear()
        self._folders = {folder for folder in self._durable_folders if self._durable_folders.issuperset(folder.parents)}
        self._durable_folders = set(self._folders)
        self._durable_names = {path: n for path, n in self._durable_names.items() if path.parent in self._folders}
        self._names = dict(self._durable_names)
        self._open.clear()
        self._collect()
        self.fuse, self.horizon = None, None

    def close_all(self) -> None:
        """The process died; the page cache lives on."""
        self._open.clear()

    @property
    def key(self) -> object:
        """Equal for disks with the same durable content. Only of use after a cut."""
        files = sorted(self._durable_names.items())
        return tuple(
            (path, self._inodes[number].durable_size, frozenset(self._inodes[number].medium.items()))
            for path, number in files
        )

    def version(self, path: Path) -> tuple[int, int]:
        """Changes whenever the file may have changed."""
        number = self._names.get(path, 0)
        return (number, self._inodes[number].version) if number else (0, 0)

    def durable(self, path: Path) -> bytes | None:
        """What a cut that drops everything would leave of a file; None if that is nothing."""
        number = self._durable_names.get(path)
        return self._inodes[number].content(durable=True) if number is not None else None

    def waits(self, path: Path) -> bool:
        """Whether the file has anything that a cut may lose."""
        inode = self._inodes[self._names[path]]
        return bool(inode.waiting or inode.ghosts)

    def rotten(self, path: Path) -> frozenset[int]:
        """The pages of a file that rotted, as far as they are still the same."""
        return frozenset(self._inodes[self._names[path]].rotten)

    @property
    def files(self) -> list[Path]:
        return sorted(self._names)

    @property
    def file_count(self) -> int:
        return len(self._names)

    @property
    def waiting_bytes(self) -> int:
        return sum([len(write.data) for inode in self._inodes.values() if inode.waiting for write in inode.waiting])

    def rot(self, path: Path, offset: int) -> None:
        """One bit of what is on the medium changes; the cache of it is gone."""
        self.changes += 1
        self._own(self._names[path]).rot(offset)

    def make_unreadable(self, path: Path, offset: int) -> None:
        """A page of the medium cannot be read until it is written again."""
        self._unreadable.add((self._names[path], offset // PAGE_BYTES))

    @property
    def newest_write(self) -> int:
        """Hand it back as `horizon` when a sync that begins now is to end."""
        return self._numbers

    # `Disk`.

    def open(self, path: Path, flags: int, _mode: int = 0o600, /) -> int:
        if flags & os.O_DIRECTORY:
            if path not in self._folders:
                raise _error(errno.ENOENT)
            return self._opened(path)
        number = self._names.get(path)
        if number is not None and flags & os.O_CREAT and flags & os.O_EXCL:
            raise _error(errno.EEXIST)
        if number is None:
            if not flags & os.O_CREAT or path.parent not in self._folders:
                raise _error(errno.ENOENT)
            self._burn(f"create {path.name}")
            number = self._next_number()
            self._inodes[number] = Inode(is_slot=False)
            self._rename(Rename(path.parent, None, path, number))
        elif flags & os.O_TRUNC and self._inodes[number].size:
            self._burn(f"truncate {path.name}")
            number = self._truncate(path, number)
        return self._opened(number)

    def close(self, fd: int, /) -> None:
        self._open.pop(fd, None)

    def size(self, fd: int, /) -> int | None:
        return self._inode(fd).size

    def identity(self, fd: int, /) -> tuple[int, ...]:
        return (self._number(fd),)

    def pread(self, fd: int, length: int, offset: int, /) -> bytes:
        inode = self._inode(fd)
        self._fail_read(fd, offset)
        end = min(offset + self._shortened(length), inode.size)
        if end <= offset:
            return b""
        first = offset // PAGE_BYTES
        pages = b"".join([inode.page(number) for number in range(first, -(-end // PAGE_BYTES))])
        return pages[offset - first * PAGE_BYTES : end - first * PAGE_BYTES]

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int, /) -> int:
        data = self.pread(fd, len(buffers[0]), offset)
        buffers[0][: len(data)] = data
        return len(data)

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int, /) -> int:
        self._burn("write")
        inode = self._own(self._number(fd))
        if self._happens(self.faults.write_error):
            raise _error(errno.EIO)
        length = self._shortened(len(data))
        self._take_room(inode, offset + length)
        write = Write(self._next_number(), offset, bytes(data[:length]))
        inode.write(write)
        if self._unreadable:
            self._unreadable -= {(self._number(fd), number) for number in pages_of(write)}
        return length

    def fsync(self, fd: int, /) -> None:
        what = self._open[fd]
        if isinstance(what, Path):
            self._sync_folder(what)
        else:
            self.fdatasync(fd)

    def fdatasync(self, fd: int, /) -> None:
        self._burn("sync")
        inode = self._own(self._number(fd))
        if inode.waiting and self._happens(self.faults.sync_error):
            inode.fail_sync()
            raise _error(errno.EIO)
        if not self._happens(self.faults.lie):
            inode.sync(self.horizon)

    def fallocate(self, fd: int, offset: int, length: int, /) -> None:
        inode = self._inode(fd)
        if inode.allocated >= offset + length and inode.size >= offset + length:
            return
        self._burn("allocate")
        inode = self._own(self._number(fd))
        self._take_room(inode, offset + length)
        inode.size = max(inode.size, offset + length)
        inode.version += 1

    def forget(self, fd: int, _offset: int, _length: int, /) -> None:
        if self._inode(fd).ghosts:
            self.changes += 1
            self._own(self._number(fd)).forget()

    def rename(self, source: Path, target: Path, /) -> None:
        if source.parent != target.parent:
            raise _error(errno.EXDEV)
        if source not in self._names:
            raise _error(errno.ENOENT)
        self._burn(f"rename to {target.name}")
        self._rename(Rename(source.parent, source, target, self._names[source]))

    def unlink(self, path: Path, /) -> None:
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        self._burn(f"unlink {path.name}")
        self._rename(Rename(path.parent, path, None, None))

    def exists(self, path: Path, /) -> bool:
        return path in self._names or path in self._folders

    def make_folder(self, path: Path, /) -> None:
        if path.parent not in self._folders:
            raise _error(errno.ENOENT)
        self._burn(f"make folder {path.name}")
        self._folders.add(path)
        self._rename(Rename(path.parent, None, path, None))

    # How it is done.

    def _burn(self, what: str) -> None:
        self.changes += 1
        self.watch(what)
        if self.fuse is not None:
            if self.fuse == 0:
                raise PowerCut
            self.fuse -= 1

    def _happens(self, probability: float) -> bool:
        return probability > 0.0 and self.rng.random() < probability

    def _shortened(self, length: int) -> int:
        return self.rng.randrange(1, length) if length > 1 and self._happens(self.faults.short) else length

    def _fail_read(self, fd: int, offset: int) -> None:
        if self._happens(self.faults.read_error):
            raise _error(errno.EIO)
        if self._unreadable and (self._number(fd), offset // PAGE_BYTES) in self._unreadable:
            raise _error(errno.EIO)

    def _take_room(self, inode: Inode, end: int) -> None:
        pages = -(-end // PAGE_BYTES) - -(-inode.allocated // PAGE_BYTES)
        if pages > 0 and self.pages_free is not None:
            if pages > self.pages_free or inode.is_slot:
                raise _error(errno.ENOSPC)
            self.pages_free -= pages
        inode.allocated = max(inode.allocated, end)

    def _rename(self, change: Rename) -> None:
        change.apply(self._names)
        self._renames.append(change)
        if len(self._renames) > _WAITING_NAMES_MAX:
            self._make_durable(self._renames.pop(0))
        if len(self._inodes) > _INODES_MAX:
            self._collect()

    def _truncate(self, path: Path, number: int) -> int:
        """The file begins anew; what the medium has of the old one is still under the name until the folder's sync."""
        fresh = self._next_number()
        self._inodes[fresh] = Inode(is_slot=False)
        self._rename(Rename(path.parent, None, path, fresh))
        for fd in [fd for fd, what in self._open.items() if what == number]:
            self._open[fd] = fresh
        return fresh

    def _sync_folder(self, folder: Path) -> None:
        self._burn(f"sync folder {folder.name}")
        if self._happens(self.faults.sync_error):
            raise _error(errno.EIO)
        for change in [change for change in self._renames if change.folder == folder]:
            self._make_durable(change)
        self._renames = [change for change in self._renames if change.folder != folder]

    def _make_durable(self, change: Rename) -> None:
        change.apply(self._durable_names)
        if change.target is not None and change.inode is None:
            self._durable_folders.add(change.target)

    def _collect(self) -> None:
        """Files without a name are gone once nobody has them open."""
        used = {*self._names.values(), *self._durable_names.values(), *self._open.values()}
        used |= {change.inode for change in self._renames if change.inode is not None}
        self._inodes = {number: inode for number, inode in self._inodes.items() if number in used}

    def _own(self, number: int) -> Inode:
        """The inode, to be changed."""
        inode = self._inodes[number]
        if inode.shared:
            inode = self._inodes[number] = inode.fork()
        return inode

    def _opened(self, what: int | Path) -> int:
        fd = self._next_number()
        self._open[fd] = what
        return fd

    def _number(self, fd: int) -> int:
        number = self._open.get(fd)
        if not isinstance(number, int):
            raise _error(errno.EBADF)
        return number

    def _inode(self, fd: int) -> Inode:
        return self._inodes[self._number(fd)]

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers


def _look_away(_what: str) -> None:
    """Nobody watches."""


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))

"""What one file or slot of the simulated disk is made of: pages on the medium or in the cache, and writes that wait.

The fault model stands in `disk`; here is what it means for one file. Pages are immutable and shared by all copies of a
file, so that a copy costs a few dictionaries.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

SECTOR_BYTES = 512
PAGE_BYTES = 4096
_ZEROS = bytes(PAGE_BYTES)


class Outcome(Enum):
    """What a cut does to everything that waits."""

    KEPT = auto()
    DROPPED = auto()
    MIXED = auto()


@dataclass(slots=True)
class Faults:
    """How likely each call fails, and how."""

    short: float = 0.0
    read_error: float = 0.0
    write_error: float = 0.0
    sync_error: float = 0.0
    lie: float = 0.0


class Write(NamedTuple):
    number: int
    offset: int
    data: bytes


@dataclass(slots=True)
class Inode:
    """A file or a slot. `cache` holds the pages that differ from the medium: dirty ones and ghosts."""

    is_slot: bool
    size: int = 0
    durable_size: int = 0
    allocated: int = 0
    medium: dict[int, bytes] = field(default_factory=dict)
    cache: dict[int, bytes] = field(default_factory=dict)
    waiting: list[Write] = field(default_factory=list)
    ghosts: set[int] = field(default_factory=set)
    """Pages that a failed sync forgot: clean to the kernel, and not on the medium."""
    rotten: set[int] = field(default_factory=set)
    """Pages of the medium that rotted, and that nothing was written to since."""
    version: int = 0
    shared: bool = False
    """Another disk has it too: to be copied before it is changed."""

    def fork(self) -> Inode:
        return replace(
            self,
            medium=dict(self.medium),
            cache=dict(self.cache),
            waiting=list(self.waiting),
            ghosts=set(self.ghosts),
            rotten=set(self.rotten),
            shared=False,
        )

    def page(self, number: int) -> bytes:
        return self.cache.get(number) or self.medium.get(number, _ZEROS)

    def write(self, write: Write) -> None:
        _patch(self.cache, write, self.page)
        self.waiting.append(write)
        self.size = max(self.size, write.offset + len(write.data))
        self.version += 1

    def put_on_medium(self, write: Write) -> None:
        _patch(self.medium, write, lambda number: self.medium.get(number, _ZEROS))
        if self.rotten:
            self.rotten.difference_update(pages_of(write))
        self.durable_size = max(self.durable_size, write.offset + len(write.data))

    def sync(self, horizon: int | None) -> None:
        """Put on the medium what was written up to `horizon`; None: everything."""
        later = [] if horizon is None else [write for write in self.waiting if write.number > horizon]
        for write in self.waiting[: len(self.waiting) - len(later)]:
            self.put_on_medium(write)
        self.durable_size = self.size
        self.cache = {number: self.cache[number] for number in self.ghosts}
        self.waiting = later
        for write in later:
            _patch(self.cache, write, self.page)
        self.version += 1

    def fail_sync(self) -> None:
        self.ghosts |= {number for write in self.waiting for number in pages_of(write)}
        self.waiting.clear()

    def forget(self) -> None:
        """Clean pages leave the cache, ghosts among them."""
        dirty = {number for write in self.waiting for number in pages_of(write)}
        for number in self.ghosts - dirty:
            del self.cache[number]
            self.version += 1
        self.ghosts &= dirty

    def cut(self, outcome: Outcome, rng: random.Random) -> None:
        kept: list[Write] = []
        match outcome:
            case Outcome.KEPT:
                kept, self.durable_size = self.waiting, self.size
            case Outcome.MIXED:
                kept = [piece for write in rng.sample(self.waiting, len(self.waiting)) for piece in torn(write, rng)]
                self.durable_size = rng.choice((self.durable_size, self.size))
        for write in kept:
            self.put_on_medium(write)
        self.size = self.durable_size
        self.cache, self.waiting, self.ghosts = {}, [], set()
        self.version += 1

    def rot(self, offset: int) -> None:
        """One bit of what is on the medium changes."""
        number = offset // PAGE_BYTES
        page = bytearray(self.medium.get(number, _ZEROS))
        page[offset % PAGE_BYTES] ^= 0x10
        self.medium[number] = bytes(page)
        self.rotten.add(number)
        self.version += 1

    def content(self, *, durable: bool) -> bytes:
        page = (lambda number: self.medium.get(number, _ZEROS)) if durable else self.page
        size = self.durable_size if durable else self.size
        return b"".join(page(number) for number in range(-(-size // PAGE_BYTES)))[:size]


@dataclass(frozen=True, slots=True)
class Rename:
    """A change of names in one folder: `source` names nothing any more, `target` names `inode`, or is a folder if there
    is none.
    """

    folder: Path
    source: Path | None
    target: Path | None
    inode: int | None

    def apply(self, names: dict[Path, int]) -> None:
        if self.source is not None:
            names.pop(self.source, None)
        if self.target is not None and self.inode is not None:
            names[self.target] = self.inode


def garbage(rng: random.Random, old: bytes, size_bytes: int) -> bytes:
    """What lies in a slot that nobody wrote yet: pages of an old image out of place, erased flash, zeros, noise."""
    pages: list[bytes] = []
    while len(pages) * PAGE_BYTES < size_bytes:
        at = rng.randrange(max(1, len(old) // PAGE_BYTES)) * PAGE_BYTES
        pages.append(
            rng.choice((old[at : at + PAGE_BYTES].ljust(PAGE_BYTES, b"\xff"), b"\xff" * PAGE_BYTES, _ZEROS))
            if rng.random() < 0.9
            else rng.randbytes(PAGE_BYTES)
        )
    return b"".join(pages)[:size_bytes]


def pages_of(write: Write) -> range:
    return range(write.offset // PAGE_BYTES, -(-(write.offset + len(write.data)) // PAGE_BYTES))


def _patch(pages: dict[int, bytes], write: Write, old: Callable[[int], bytes]) -> None:
    """Lay a write over pages, which are replaced and never changed."""
    at, end = write.offset, write.offset + len(write.data)
    for number in pages_of(write):
        start = number * PAGE_BYTES
        first, last = max(at, start), min(end, start + PAGE_BYTES)
        piece = write.data[first - at : last - at]
        if last - first < PAGE_BYTES:
            page = old(number)
            piece = page[: first - start] + piece + page[last - start :]
        pages[number] = piece


def torn(write: Write, rng: random.Random) -> Iterator[Write]:
    """Nothing of a write, all of it, or any of its sectors."""
    match rng.randrange(3):
        case 0:
            return
        case 1:
            yield write
            return
    at, end = write.offset, write.offset + len(write.data)
    while at < end:
        stop = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if rng.random() < 0.5:
            yield Write(write.number, at, write.data[at - write.offset : stop - write.offset])
        at = stop

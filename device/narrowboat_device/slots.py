"""One slot: a block device or a file that holds a system image, written in pieces and proved from the
medium.

Writing goes through the page cache and is durable after `sync`. Proving must not: a page that was written a
moment ago reads back well from memory whatever the storage did with it. So `leaves` and `read_back` sync
first, then tell the kernel to forget the pages (posix_fadvise with DONTNEED, which drops clean pages only,
hence the order), and then read. O_DIRECT would be stricter and is refused by some file systems, wants
aligned memory, and reads slowly without read-ahead. What fadvise cannot drop (pages that another process
maps, a file system that lives in memory) is read from the cache; that is the limit of this proof.

A read-back takes one chunk of memory and 32 bytes a subtree, whatever the size of the image. It computes
the layer and the image's SHA-256 in one pass, and drops behind itself what it read, so that proving an
image does not push the system's own pages out.
"""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Self

from narrowboat_protocol.errors import MediumError, Reason, UsageError
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.tree import Tree, leaf_hash, merkle_root

from .disk import Disk
from .files import medium_failed, pwrite_all


class SlotFile:
    """An open slot. The running one is opened for reading only, so that no mistake of ours can write to it. The other
    one is claimed, so that a configuration that takes a mounted partition for it is refused by the kernel.
    """

    def __init__(self, disk: Disk, name: str, path: Path, limits: Limits, *, writable: bool) -> None:
        """Raises `UsageError` if the slot cannot be opened."""
        self.name = name
        self._disk = disk
        self._path = path
        self._limits = limits
        self._writable = writable
        self._buffer = memoryview(bytearray(limits.chunk_size_bytes))
        try:
            self._fd = disk.open(path, os.O_RDWR | os.O_EXCL if writable else os.O_RDONLY)
        except OSError as error:
            in_use = error.errno == errno.EBUSY
            raise self._unusable("it is in use, mounted perhaps" if in_use else error.strerror) from None
        size_bytes = disk.size(self._fd)
        if size_bytes is None:
            disk.close(self._fd)
            raise self._unusable("it is neither")
        self.size_bytes = size_bytes
        self.identity = disk.identity(self._fd)

    def close(self) -> None:
        self._disk.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write image bytes; durable after `sync`. Raises `UsageError` for bytes outside the slot, or
        `MediumError`.
        """
        if not self._writable:
            raise UsageError(Reason.BAD_USE, f"slot {self.name} runs now and is never written")
        if not 0 <= offset <= offset + len(data) <= self.size_bytes:
            raise UsageError(
                Reason.BAD_USE,
                f"slot {self.name}: expected bytes within {self.size_bytes}, got {len(data)} at {offset}",
            )
        try:
            pwrite_all(self._disk, self._fd, data, offset)
        except OSError as error:
            raise self._failed("write to", error) from error

    def sync(self) -> None:
        """Make every write so far durable. Raises `MediumError`."""
        try:
            self._disk.fdatasync(self._fd)
        except OSError as error:
            raise self._failed("sync", error) from error

    def leaves(self, tree: Tree, first_chunk: int, chunk_count: int) -> bytes:
        """The leaf hashes of some chunks of the image, as the medium has them. Raises `MediumError`."""
        start, _ = tree.chunk_span(first_chunk)
        self._forget(start, chunk_count << tree.log2_chunk_size)
        chunks = range(first_chunk, first_chunk + chunk_count)
        return b"".join(leaf_hash(self._read_chunk(tree, chunk)) for chunk in chunks)

    def read_back(self, tree: Tree) -> tuple[bytes, bytes]:
        """The layer and the SHA-256 of the whole image, as the medium has it. Raises `MediumError`."""
        self._forget(0, tree.length)
        image = hashlib.sha256()
        layer = bytearray()
        for subtree in range(tree.subtree_count(self._limits)):
            first_chunk, chunk_count = tree.subtree_span(subtree, self._limits)
            leaves = bytearray()
            for number in range(first_chunk, first_chunk + chunk_count):
                chunk = self._read_chunk(tree, number)
                image.update(chunk)
                leaves += leaf_hash(chunk)
            layer += merkle_root(bytes(leaves))
            start, _ = tree.chunk_span(first_chunk)
            self._disk.forget(self._fd, start, self._limits.subtree_size_bytes)
        return bytes(layer), image.digest()

    def _forget(self, offset: int, length: int) -> None:
        self.sync()
        self._disk.forget(self._fd, offset, length)

    def _read_chunk(self, tree: Tree, number: int) -> memoryview:
        """One chunk, in the one buffer: it is gone when the next one is read."""
        offset, length = tree.chunk_span(number)
        filled = 0
        while filled < length:
            try:
                count = self._disk.preadv(self._fd, [self._buffer[filled:length]], offset + filled)
            except OSError as error:
                raise self._failed("read", error) from error
            if not count:
                raise MediumError(
                    Reason.MEDIUM_FAILED,
                    f"slot {self.name}: expected {offset + length} bytes of image, the slot ends at {offset + filled}",
                )
            filled += count
        return self._buffer[:length]

    def _unusable(self, why: str | None) -> UsageError:
        return UsageError(
            Reason.BAD_CONFIG,
            f"slot {self.name}: expected a block device or a file at {self._path}: {why}; see [[slots]]",
        )

    def _failed(self, what: str, error: OSError) -> MediumError:
        return medium_failed(f"{what} slot {self.name} ({self._path})", error)

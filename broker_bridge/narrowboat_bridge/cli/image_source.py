"""An image as a build system leaves it, read as a stream of raw bytes.

Yocto and Buildroot write a file system as it is (`.ext4`, `.squashfs`, `.img`, often with holes, which read
as zeros) or compressed (`.gz`, `.bz2`, `.xz`, `.zst`); a block device serves too. The last suffix decides,
and the first bytes must agree with it: an image that is still compressed would verify, install and fail to
boot. For the same reason what is known to be no image of a partition is refused by name. Decompression
streams, so memory does not grow with the image.

Progress counts bytes of the file, not of the image, since only the file's size is known beforehand.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import BufferedIOBase, BufferedReader
from pathlib import Path

from narrowboat_protocol.errors import Reason, UsageError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BLOCK_BYTES = 1 << 20

_MAGIC_BYTES = 6
_MAGIC = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zXZ\x00", ".zst": b"\x28\xb5\x2f\xfd"}
_ANDROID_SPARSE_MAGIC = b"\x3a\xff\x26\xed"
_NO_IMAGES = {
    ".tar": "an archive of files; let the build system make an ext4 or squashfs of it",
    ".cpio": "an archive of files; let the build system make an ext4 or squashfs of it",
    ".bmap": "a map of an image; name the image itself",
    ".lz4": "a compression that is not read here; compress with zst or xz instead",
    ".lzma": "a compression that is not read here; compress with zst or xz instead",
    ".lzo": "a compression that is not read here; compress with zst or xz instead",
    ".zip": "a compression that is not read here; compress with zst or xz instead",
    ".wic": "an image of a whole disk; name the image of the one partition that the slot holds",
}
_DECODER_ERRORS = (EOFError, lzma.LZMAError, zlib.error, zstd.ZstdError, gzip.BadGzipFile)


def read_image(path: Path, on_progress: Callable[[int, int], None]) -> Iterator[bytes]:
    """Yield the bytes of the image in `path`, decompressed. `on_progress` hears (bytes of the file read, its size).

    Raises `UsageError` if the file is no image, or not a whole one.
    """
    compression = _compression_of(path)
    with ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        size_bytes = _size_of(path, file)
        _check_start(path, file.read(_MAGIC_BYTES), compression)
        file.seek(0)
        image = stack.enter_context(_decompressed(file, compression))
        while block := _read_block(image, path, compression):
            yield block
            on_progress(file.tell(), size_bytes)


def _compression_of(path: Path) -> str:
    """The suffix that says how the image is compressed, or an empty string."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in _MAGIC else ""
    kind = suffixes[-1] if suffixes else ""
    if kind in _NO_IMAGES:
        raise UsageError(Reason.BAD_CONFIG, f"{path}: expected the image of a partition, got {_NO_IMAGES[kind]}")
    return compression


def _size_of(path: Path, file: BufferedReader) -> int:
    """The size of a file or block device."""
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISBLK(status.st_mode):
        raise UsageError(Reason.BAD_CONFIG, f"{path}: expected a file or block device as image, got another kind")
    size_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size_bytes


def _check_start(path: Path, start: bytes, compression: str) -> None:
    if compression:
        if not start.startswith(_MAGIC[compression]):
            raise UsageError(
                Reason.BAD_CONFIG, f"{path}: expected {compression} data, as its name says, got other bytes; rename it"
            )
        return
    if start.startswith(_ANDROID_SPARSE_MAGIC):
        raise UsageError(
            Reason.BAD_CONFIG, f"{path}: expected a raw image, got Android's sparse format; convert it with simg2img"
        )
    for suffix, magic in _MAGIC.items():
        if start.startswith(magic):
            raise UsageError(
                Reason.BAD_CONFIG, f"{path}: expected a raw image, got {suffix} data; let its name end in {suffix}"
            )


def _decompressed(file: BufferedReader, compression: str) -> BufferedIOBase:
    match compression:
        case ".gz":
            return gzip.open(file)
        case ".bz2":
            return bz2.open(file)
        case ".xz":
            return lzma.open(file)
        case ".zst":
            return zstd.open(file)
        case _:
            return file


def _read_block(image: BufferedIOBase, path: Path, compression: str) -> bytes:
    try:
        return image.read(BLOCK_BYTES)
    except _DECODER_ERRORS as error:
        raise UsageError(
            Reason.BAD_CONFIG,
            f"{path}: expected whole {compression} data, got a damaged or truncated file"
            f" ({type(error).__name__}); build it again",
        ) from None
    except OSError as error:
        # bz2 reports damaged data as an OSError without a number; one from the system has one.
        if error.errno is not None:
            raise
        raise UsageError(
            Reason.BAD_CONFIG, f"{path}: expected whole {compression} data, got a damaged file; build it again"
        ) from None

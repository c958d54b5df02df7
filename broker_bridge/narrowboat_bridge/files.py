"""Reading and writing files so that nothing half-written is ever found, nothing precious overwritten, nothing
read without a limit.

A file that somebody may read appears whole or not at all: it is written under a temporary name beside its
place, synced, and renamed. A key is different: it must never take the place of another, so it is created
exclusively, and readable by its owner only from the first moment on.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from narrowboat_protocol.errors import DocumentError, Reason, UsageError

PRIVATE = 0o600
PUBLIC = 0o644


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file that stands at `path`, whole and synced, once the block ends; if the block raises, `path` is as it was."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def scratch_file(beside: Path) -> Iterator[BinaryIO]:
    """A nameless file in the folder of `beside`, where there is room for what is being built."""
    temporary = beside.with_name(f".{beside.name}.{secrets.token_hex(4)}.scratch")
    with temporary.open("x+b") as file:
        temporary.unlink()
        yield file


def write_atomically(path: Path, data: bytes, mode: int | None = None) -> None:
    """Replace `path`. Without `mode`, who may read it is left to the process's umask."""
    with atomic_file(path) as file:
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        file.write(data)


def write_new(path: Path, data: bytes, mode: int = PUBLIC) -> None:
    """Create `path` with these permissions. Raises `UsageError` if something has that name."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise UsageError(
            Reason.CONFLICT, f"expected no file {path}, got one, which is left as it is; choose another name"
        ) from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Everything in `path`. Raises `DocumentError` if that is more than `max_bytes`."""
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise DocumentError(
            Reason.TOO_LARGE, f"{path}: expected at most {max_bytes} bytes, got more; is it the right file?"
        )
    return data


def sync_folder(folder: Path) -> None:
    """Make what was renamed or created in it durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Slots: what is written arrives whole or fails, and what is proved comes from the medium."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowboat_device.disk import SystemDisk
from narrowboat_device.slots import SlotFile
from narrowboat_protocol.errors import MediumError, Reason, UsageError
from narrowboat_protocol.limits import KIB, Limits
from narrowboat_protocol.tree import HASH_BYTES, BuiltTree, TreeBuilder
from tests.device.kit import file_size_limit, flip_bit

DISK = SystemDisk()

LIMITS = Limits(log2_chunk_size=4, subtree_chunks=4, image_bytes_max=4096)
SLOT_BYTES = 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "slot.img"
    path.write_bytes(bytes(SLOT_BYTES))
    return path


def open_slot(path: Path, limits: Limits = LIMITS, *, writable: bool = True) -> SlotFile:
    return SlotFile(DISK, "b", path, limits, writable=writable)


def tree_of(image: bytes, limits: Limits = LIMITS) -> BuiltTree:
    builder = TreeBuilder(limits)
    builder.update(image)
    return builder.finish()


@given(image=st.binary(min_size=1, max_size=SLOT_BYTES))
def test_a_slot_reads_back_as_the_tree_that_the_release_signs(
    image: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("slot") / "slot.img"
    path.write_bytes(os.urandom(SLOT_BYTES))
    built = tree_of(image)
    with open_slot(path) as slot:
        slot.write(0, image)
        slot.sync()
        assert slot.read_back(built.tree) == (built.layer, hashlib.sha256(image).digest())
        assert slot.leaves(built.tree, 0, built.tree.chunk_count) == built.leaves
        assert slot.leaves(built.tree, built.tree.chunk_count - 1, 1) == built.leaves[-HASH_BYTES:]


def test_writes_in_any_order_land_where_they_belong(path: Path) -> None:
    with open_slot(path) as slot:
        slot.write(32, memoryview(b"c" * 16))
        slot.write(0, b"a" * 16)
    assert path.read_bytes()[:48] == b"a" * 16 + bytes(16) + b"c" * 16
    assert path.stat().st_size == SLOT_BYTES


def test_one_flipped_bit_on_the_medium_changes_the_proof(path: Path) -> None:
    image = bytes(range(200))
    built = tree_of(image)
    with open_slot(path) as slot:
        slot.write(0, image)
        flip_bit(path, 137)
        layer, image_sha256 = slot.read_back(built.tree)
        leaves = slot.leaves(built.tree, 8, 2)
    assert image_sha256 != built.image_sha256
    wrong = [n for n in range(len(layer) // HASH_BYTES) if node(layer, n) != node(built.layer, n)]
    assert wrong == [137 // LIMITS.subtree_size_bytes]
    assert (node(leaves, 0) == node(built.leaves, 8), node(leaves, 1) == node(built.leaves, 9)) == (False, True)


def node(nodes: bytes, number: int) -> bytes:
    return nodes[number * HASH_BYTES : (number + 1) * HASH_BYTES]


def test_a_proof_asks_the_medium_and_not_the_page_cache(tmp_path: Path) -> None:
    limits = Limits()
    image = os.urandom(1024 * KIB)
    slot_path, other_path = tmp_path / "slot.img", tmp_path / "other.img"
    for path in (slot_path, other_path):
        path.write_bytes(image)
    tree = tree_of(image, limits).tree
    expected = bytes_fetched_after_forgetting(other_path)
    with open_slot(slot_path, limits) as slot:
        for prove in (lambda: slot.read_back(tree), lambda: slot.leaves(tree, 0, tree.chunk_count)):
            slot.write(0, image)
            before = bytes_fetched()
            prove()
            assert bytes_fetched() - before >= expected


def bytes_fetched_after_forgetting(path: Path) -> int:
    """What reading an uncached file of this file system fetches from storage: nothing, where it lives in memory."""
    fd = os.open(path, os.O_RDWR)
    try:
        os.fdatasync(fd)
        DISK.forget(fd, 0, 0)
        before = bytes_fetched()
        while os.read(fd, 64 * KIB):
            pass
        return bytes_fetched() - before
    finally:
        os.close(fd)


def bytes_fetched() -> int:
    """What this process has had the kernel fetch from storage so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


@pytest.mark.parametrize("offset", [-1, SLOT_BYTES - 15, SLOT_BYTES, 1 << 40])
def test_bytes_outside_the_slot_are_refused_before_anything_is_written(path: Path, offset: int) -> None:
    with open_slot(path) as slot, pytest.raises(UsageError) as caught:
        slot.write(offset, b"x" * 16)
    assert caught.value.reason is Reason.BAD_USE
    assert path.read_bytes() == bytes(SLOT_BYTES)


def test_the_running_slot_is_never_written(path: Path) -> None:
    with open_slot(path, writable=False) as slot, pytest.raises(UsageError, match="runs now"):
        slot.write(0, b"x")
    assert path.read_bytes() == bytes(SLOT_BYTES)


def test_the_running_slot_can_be_proved(path: Path) -> None:
    built = tree_of(bytes(100))
    with open_slot(path, writable=False) as slot:
        assert slot.read_back(built.tree) == (built.layer, built.image_sha256)


def test_a_short_write_is_never_taken_for_a_whole_one(path: Path) -> None:
    with open_slot(path) as slot, file_size_limit(40), pytest.raises(MediumError) as caught:
        slot.write(32, b"x" * 16)
    assert caught.value.reason is Reason.STORAGE_FULL
    assert path.read_bytes()[32:48] == b"x" * 8 + bytes(8)


def test_a_slot_that_shrank_fails_the_proof(path: Path) -> None:
    built = tree_of(bytes(500))
    with open_slot(path) as slot:
        os.truncate(path, 400)
        with pytest.raises(MediumError, match="ends at 400") as caught:
            slot.read_back(built.tree)
    assert caught.value.reason is Reason.MEDIUM_FAILED


def test_a_medium_that_is_gone_is_the_mediums_fault(path: Path) -> None:
    built = tree_of(bytes(100))
    slot = open_slot(path)
    slot.close()
    for use in (lambda: slot.write(0, b"x"), slot.sync, lambda: slot.read_back(built.tree)):
        with pytest.raises(MediumError) as caught:
            use()
        assert caught.value.reason is Reason.MEDIUM_FAILED


@pytest.mark.parametrize("name", ["absent", ".", "/dev/null"])
def test_what_is_no_slot_is_named_with_its_path(tmp_path: Path, name: str) -> None:
    for writable in (True, False):
        with pytest.raises(UsageError, match=f"slot b: .*{tmp_path / name}"):
            open_slot(tmp_path / name, writable=writable)


# Block devices. Loop devices are real ones, where we may make them; elsewhere the kernel's answer is played.


class BusyDisk(SystemDisk):
    """A kernel to which every file is a block device that somebody has claimed."""

    def open(self, path: Path, flags: int, mode: int = 0o600, /) -> int:
        if flags & os.O_EXCL and not flags & os.O_CREAT:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return super().open(path, flags, mode)


LOSETUP = shutil.which("losetup", path="/sbin:/usr/sbin:/usr/bin")
CAN_LOOP = LOSETUP is not None and os.access("/dev/loop-control", os.W_OK)


@contextmanager
def loop_device(path: Path) -> Iterator[Path]:
    assert LOSETUP is not None
    losetup = [LOSETUP, "--find", "--show", str(path)]
    device = subprocess.run(losetup, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    try:
        yield Path(device)
    finally:
        subprocess.run([LOSETUP, "--detach", device], check=True)


@contextmanager
def claimed(path: Path) -> Iterator[tuple[SystemDisk, Path]]:
    """The file as a device that somebody has mounted, as far as the kernel can tell."""
    with loop_device(path) as device:
        fd = os.open(device, os.O_RDONLY | os.O_EXCL)
        try:
            yield SystemDisk(), device
        finally:
            os.close(fd)


@contextmanager
def said_to_be_claimed(path: Path) -> Iterator[tuple[SystemDisk, Path]]:
    yield BusyDisk(), path


@pytest.mark.parametrize("claim", [said_to_be_claimed, claimed] if CAN_LOOP else [said_to_be_claimed])
def test_a_mounted_partition_is_never_taken_for_the_slot_to_write(path: Path, claim: Any) -> None:
    with claim(path) as (disk, device):
        with pytest.raises(UsageError, match="in use, mounted perhaps"):
            SlotFile(disk, "b", device, LIMITS, writable=True)
        with SlotFile(disk, "a", device, LIMITS, writable=False) as running:
            assert running.size_bytes == SLOT_BYTES


@pytest.mark.parametrize("is_device", [False, True] if CAN_LOOP else [False])
def test_a_slot_is_known_again_under_another_name_and_no_other_is_taken_for_it(
    path: Path, tmp_path: Path, is_device: bool
) -> None:
    other = tmp_path / "other"
    other.write_bytes(bytes(SLOT_BYTES))
    alias = tmp_path / "alias"
    with ExitStack() as stack:
        if is_device:
            path, other = (stack.enter_context(loop_device(file)) for file in (path, other))
            os.mknod(alias, stat.S_IFBLK | 0o600, path.stat().st_rdev)
        else:
            alias.symlink_to(path)
        slots = [stack.enter_context(open_slot(name, writable=False)) for name in (path, alias, other)]
        assert slots[0].identity == slots[1].identity != slots[2].identity

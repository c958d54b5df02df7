"""The simulated disk does to its owner what its fault model says, and nothing else."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from narrowboat_device.files import pread_all, pwrite_all, remove_durably, write_atomically, write_durably
from narrowboat_protocol.errors import MediumError, Reason
from tests.sim.disk import PowerCut, SimDisk
from tests.sim.medium import PAGE_BYTES, SECTOR_BYTES, Outcome

FOLDER = Path("/data")
FILE = FOLDER / "file"
SLOT = Path("/dev/slot")
OLD, NEW = b"o" * 3000, b"n" * 5000


@pytest.fixture
def disk() -> SimDisk:
    disk = SimDisk(random.Random(1))
    disk.make_slot(SLOT, b"\xa5" * 4 * PAGE_BYTES)
    disk.make_file(FILE, OLD)
    return disk


def open_slot(disk: SimDisk) -> int:
    return disk.open(SLOT, os.O_RDWR)


def contents(disk: SimDisk, act: str) -> set[bytes | None]:
    """What the file can hold after a cut at any operation of `act`, over many outcomes."""
    acts = {
        "durably": lambda on: write_durably(on, FILE, NEW),
        "atomically": lambda on: write_atomically(on, FILE, NEW),
        "remove": lambda on: remove_durably(on, FILE),
    }
    found: set[bytes | None] = set()
    for seed in range(300):
        world = disk.fork()
        world.rng = random.Random(seed)
        world.fuse = seed % 7
        try:
            acts[act](world)
        except PowerCut:
            world.cut(Outcome.MIXED)
            found.add(world.durable(FILE))
    return found


def test_a_file_that_is_replaced_durably_is_old_or_new_after_any_cut(disk: SimDisk) -> None:
    assert contents(disk, "durably") == {OLD, NEW}


def test_a_file_that_is_removed_durably_is_there_or_not_after_any_cut(disk: SimDisk) -> None:
    assert contents(disk, "remove") == {OLD, None}


def test_a_file_that_is_replaced_without_a_sync_can_be_a_third_thing_after_a_cut(disk: SimDisk) -> None:
    write_atomically(disk, FILE, NEW)
    found = set()
    for seed in range(100):
        world = disk.fork()
        world.rng = random.Random(seed)
        world.cut(Outcome.MIXED)
        found.add(world.durable(FILE))
    assert {OLD, NEW} < found


def test_a_renamed_file_keeps_its_old_name_until_its_folder_is_synced(disk: SimDisk) -> None:
    disk.rename(FILE, FOLDER / "other")
    assert (disk.durable(FILE), disk.durable(FOLDER / "other")) == (OLD, None)
    fd = disk.open(FOLDER, os.O_RDONLY | os.O_DIRECTORY)
    disk.fsync(fd)
    assert (disk.durable(FILE), disk.durable(FOLDER / "other")) == (None, OLD)


def test_a_folder_that_was_not_synced_takes_its_files_with_it(disk: SimDisk) -> None:
    disk.make_folder(FOLDER / "new")
    write_durably(disk, FOLDER / "new" / "file", NEW)
    disk.cut(Outcome.DROPPED)
    assert not disk.exists(FOLDER / "new" / "file")


def test_an_unsynced_write_is_kept_dropped_or_torn_between_sectors(disk: SimDisk) -> None:
    disk.pwrite(open_slot(disk), b"x" * PAGE_BYTES, PAGE_BYTES)
    found: set[bytes] = set()
    for seed in range(200):
        world = disk.fork()
        world.rng = random.Random(seed)
        world.cut(Outcome.MIXED)
        page = (world.durable(SLOT) or b"")[PAGE_BYTES : 2 * PAGE_BYTES]
        sectors = [page[at : at + SECTOR_BYTES] for at in range(0, PAGE_BYTES, SECTOR_BYTES)]
        assert set(sectors) <= {b"x" * SECTOR_BYTES, b"\xa5" * SECTOR_BYTES}
        found.add(page)
    assert {b"x" * PAGE_BYTES, b"\xa5" * PAGE_BYTES} < found


def test_writes_to_one_file_reach_the_medium_in_any_order(disk: SimDisk) -> None:
    fd = open_slot(disk)
    for number in range(4):
        disk.pwrite(fd, bytes([number]) * PAGE_BYTES, number * PAGE_BYTES)
    kept = set()
    for seed in range(400):
        world = disk.fork()
        world.rng = random.Random(seed)
        world.cut(Outcome.MIXED)
        content = world.durable(SLOT) or b""
        kept.add(tuple(content[n * PAGE_BYTES : (n + 1) * PAGE_BYTES] == bytes([n]) * PAGE_BYTES for n in range(4)))
    assert len(kept) == 2**4


def test_a_sync_covers_what_was_written_before_it_began(disk: SimDisk) -> None:
    fd = open_slot(disk)
    disk.pwrite(fd, b"before", 0)
    begun = disk.newest_write
    disk.pwrite(fd, b"during", PAGE_BYTES)
    disk.horizon = begun
    disk.fdatasync(fd)
    content = disk.durable(SLOT) or b""
    assert (content[:6], content[PAGE_BYTES : PAGE_BYTES + 6]) == (b"before", b"\xa5" * 6)
    assert disk.pread(fd, 6, PAGE_BYTES) == b"during"


def test_pages_of_a_failed_sync_read_well_until_they_are_forgotten(disk: SimDisk) -> None:
    fd = open_slot(disk)
    disk.pwrite(fd, b"never", 0)
    disk.faults.sync_error = 1.0
    with pytest.raises(OSError, match="Input/output"):
        disk.fdatasync(fd)
    disk.faults.sync_error = 0.0
    disk.fdatasync(fd)
    assert disk.pread(fd, 5, 0) == b"never"
    disk.forget(fd, 0, 0)
    assert disk.pread(fd, 5, 0) == b"\xa5" * 5


def test_a_medium_that_lies_loses_what_it_acknowledged(disk: SimDisk) -> None:
    fd = open_slot(disk)
    disk.faults.lie = 1.0
    disk.pwrite(fd, b"gone", 0)
    disk.fdatasync(fd)
    disk.cut(Outcome.DROPPED)
    assert (disk.durable(SLOT) or b"").startswith(b"\xa5\xa5")


def test_short_reads_and_writes_are_continued(disk: SimDisk) -> None:
    disk.faults.short = 0.9
    fd = open_slot(disk)
    data = random.Random(2).randbytes(2 * PAGE_BYTES)
    pwrite_all(disk, fd, data, 100)
    assert pread_all(disk, fd, len(data), 100) == data
    assert disk.changes > 3


def test_a_full_disk_refuses_new_pages_and_takes_allocated_ones(disk: SimDisk) -> None:
    fd = disk.open(FOLDER / "record", os.O_RDWR | os.O_CREAT)
    disk.fallocate(fd, 0, 2 * PAGE_BYTES)
    disk.pages_free = 0
    pwrite_all(disk, fd, bytes(2 * PAGE_BYTES), 0)
    with pytest.raises(MediumError) as caught:
        write_durably(disk, FOLDER / "new", NEW)
    assert caught.value.reason is Reason.STORAGE_FULL


def test_a_rotten_bit_and_an_unreadable_page_are_seen_until_they_are_written_again(disk: SimDisk) -> None:
    fd = open_slot(disk)
    disk.rot(SLOT, 7)
    assert disk.pread(fd, 8, 0) == b"\xa5" * 7 + b"\xb5"
    assert disk.rotten(SLOT) == {0}
    disk.make_unreadable(SLOT, PAGE_BYTES)
    with pytest.raises(OSError, match="Input/output"):
        disk.pread(fd, 1, PAGE_BYTES)
    disk.pwrite(fd, bytes(2 * PAGE_BYTES), 0)
    disk.fdatasync(fd)
    assert disk.pread(fd, 1, PAGE_BYTES) == b"\0"
    assert not disk.rotten(SLOT)


def test_a_fork_is_not_changed_by_what_happens_to_the_other(disk: SimDisk) -> None:
    other = disk.fork()
    fd = open_slot(disk)
    disk.pwrite(fd, b"here only", 0)
    disk.fdatasync(fd)
    disk.cut(Outcome.KEPT)
    other.cut(Outcome.KEPT)
    assert (other.durable(SLOT) or b"").startswith(b"\xa5")
    assert other.key != disk.key == disk.fork().key


def test_names_and_files_do_not_pile_up(disk: SimDisk) -> None:
    for number in range(500):
        write_atomically(disk, FOLDER / "status", bytes([number % 256]) * 100)
    assert len(disk.files) == 3
    assert disk.waiting_bytes < 100 * 100

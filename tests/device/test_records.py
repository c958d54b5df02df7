"""Records survive what power cuts and storage do to them: the old content or the new one, never a third."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowboat_device.core.actions import Record
from narrowboat_device.disk import SystemDisk
from narrowboat_device.records import MAGIC, RecordFile, record_bytes_max, record_path
from narrowboat_protocol.errors import MediumError, Reason, UsageError
from narrowboat_protocol.limits import DEFAULT_LIMITS
from tests.device.kit import file_size_limit, flip_bit

DISK = SystemDisk()

CONTENT_BYTES_MAX = 200
HALF_BYTES = 4096
OLD, NEW = b"the old content", b"the new content, which is longer"
HEADER_BYTES = 52


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A record that holds `OLD` in its first half and `NEW` in its second."""
    path = tmp_path / "journal.record"
    RecordFile.allocate(DISK, path, CONTENT_BYTES_MAX)
    with RecordFile(DISK, path, CONTENT_BYTES_MAX) as record:
        record.save(b"first")
        record.save(OLD)
        record.save(NEW)
    return path


def load(path: Path) -> bytes | None:
    with RecordFile(DISK, path, CONTENT_BYTES_MAX) as record:
        return record.load()


def save(path: Path, content: bytes) -> None:
    with RecordFile(DISK, path, CONTENT_BYTES_MAX) as record:
        record.save(content)


def test_a_new_record_has_no_content(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    RecordFile.allocate(DISK, tmp_path / "new", CONTENT_BYTES_MAX)
    assert load(tmp_path / "new") == b""
    assert not caplog.records


def test_the_newest_content_is_loaded(path: Path) -> None:
    assert load(path) == NEW


@pytest.mark.parametrize("half", [0, 1])
def test_a_record_that_was_saved_once_survives_a_half_that_cannot_be_read(tmp_path: Path, half: int) -> None:
    """Else one read that fails after provisioning has the boot loader take the boot state for lost."""
    path = tmp_path / "boot.state"
    RecordFile.allocate(DISK, path, CONTENT_BYTES_MAX)
    save(path, NEW)
    flip_bit(path, half * HALF_BYTES)
    assert load(path) == NEW


def test_any_damaged_byte_of_the_newest_copy_gives_the_old_content(path: Path) -> None:
    for offset in range(HALF_BYTES, HALF_BYTES + HEADER_BYTES + len(NEW)):
        flip_bit(path, offset)
        assert load(path) == OLD, offset
        flip_bit(path, offset)


def test_any_damaged_byte_elsewhere_leaves_the_new_content(path: Path) -> None:
    newest = range(HALF_BYTES, HALF_BYTES + HEADER_BYTES + len(NEW))
    for offset in [offset for offset in range(2 * HALF_BYTES) if offset not in newest]:
        flip_bit(path, offset)
        assert load(path) == NEW, offset
        flip_bit(path, offset)


def test_a_file_cut_at_any_length_gives_old_or_new_or_nothing(path: Path) -> None:
    whole = path.read_bytes()
    old_end, new_end = HEADER_BYTES + len(OLD), HALF_BYTES + HEADER_BYTES + len(NEW)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        expected = NEW if length >= new_end else OLD if length >= old_end else None
        assert load(path) == expected, length


def test_a_save_torn_at_any_byte_gives_old_or_new(path: Path) -> None:
    before = path.read_bytes()
    save(path, b"the third content")
    after = path.read_bytes()
    end = HEADER_BYTES + len(b"the third content")
    for torn in range(end + 1):
        path.write_bytes(after[:torn] + before[torn:])
        assert load(path) == (b"the third content" if torn == end else NEW), torn


def test_two_damaged_copies_are_told_and_give_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flip_bit(path, HEADER_BYTES)
    flip_bit(path, HALF_BYTES + HEADER_BYTES)
    assert load(path) is None
    assert [entry.levelno for entry in caplog.records] == [logging.WARNING]
    assert "both copies are damaged" in caplog.text


class HalfReadDisk(SystemDisk):
    """A medium that does not give back the first half of a file."""

    def pread(self, fd: int, length: int, offset: int, /) -> bytes:
        if offset < HALF_BYTES:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().pread(fd, length, offset)


@pytest.mark.parametrize("other", [bytes(HALF_BYTES), b"\xff" * HALF_BYTES])
def test_a_content_that_cannot_be_read_now_is_not_taken_for_lost(path: Path, other: bytes) -> None:
    path.write_bytes(path.read_bytes()[:HALF_BYTES] + other)
    with RecordFile(HalfReadDisk(), path, CONTENT_BYTES_MAX) as record, pytest.raises(MediumError):
        record.load()
    assert load(path) == OLD


def test_the_newest_copy_counts_though_reading_it_fails_for_once(path: Path) -> None:
    class TwiceFailingDisk(SystemDisk):
        """A medium that answers in the end."""

        failures = 2

        def pread(self, fd: int, length: int, offset: int, /) -> bytes:
            if offset >= HALF_BYTES and self.failures:
                self.failures -= 1
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().pread(fd, length, offset)

    with RecordFile(TwiceFailingDisk(), path, CONTENT_BYTES_MAX) as record:
        assert record.load() == NEW


def test_a_copy_is_read_though_the_medium_does_not_give_back_the_other(path: Path) -> None:
    with RecordFile(HalfReadDisk(), path, CONTENT_BYTES_MAX) as record:
        assert record.load() == NEW


@pytest.mark.parametrize("half", [0, 1])
def test_what_must_never_go_back_survives_a_half_that_cannot_be_read(path: Path, half: int) -> None:
    with RecordFile(DISK, path, CONTENT_BYTES_MAX) as record:
        record.save(b"the floor", both=True)
    flip_bit(path, half * HALF_BYTES)
    assert load(path) == b"the floor"
    save(path, b"the step after")
    assert load(path) == b"the step after"


def test_a_save_in_both_copies_that_is_torn_at_any_byte_gives_old_or_new(path: Path) -> None:
    before = path.read_bytes()
    with RecordFile(DISK, path, CONTENT_BYTES_MAX) as record:
        record.save(b"both", both=True)
    after, copy_bytes = path.read_bytes(), HEADER_BYTES + len(b"both")
    for torn in [half * HALF_BYTES + written for half in (0, 1) for written in range(copy_bytes + 1)]:
        path.write_bytes(after[:torn] + before[torn:])
        assert load(path) == (b"both" if torn >= copy_bytes else NEW), torn


def test_a_damaged_record_can_be_saved_again(path: Path) -> None:
    flip_bit(path, 0)
    flip_bit(path, HALF_BYTES)
    save(path, b"again")
    assert load(path) == b"again"


def test_a_save_after_a_restart_spares_the_newest_copy(path: Path) -> None:
    newest = path.read_bytes()[HALF_BYTES:]
    save(path, b"third")
    assert path.read_bytes()[HALF_BYTES:] == newest


def test_a_save_after_a_failed_one_spares_the_last_durable_copy(path: Path) -> None:
    with RecordFile(DISK, path, CONTENT_BYTES_MAX) as record:
        with file_size_limit(10), pytest.raises(MediumError):
            record.save(b"torn in the first half")
        with file_size_limit(HALF_BYTES + 10):
            record.save(b"again in the first half")
        assert record.load() == b"again in the first half"
    flip_bit(path, 0)
    assert load(path) == NEW


def test_a_content_that_is_too_large_is_refused_before_anything_is_written(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(UsageError) as caught:
        save(path, bytes(CONTENT_BYTES_MAX + 1))
    assert caught.value.reason is Reason.TOO_LARGE
    assert path.read_bytes() == before


def test_a_full_disk_cannot_stop_a_save(path: Path) -> None:
    with file_size_limit(path.stat().st_size):
        save(path, bytes(CONTENT_BYTES_MAX))
    assert load(path) == bytes(CONTENT_BYTES_MAX)


def test_a_record_of_a_newer_format_is_told_and_not_replaced_by_an_older_copy(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = bytearray(path.read_bytes())
    data[HALF_BYTES + len(MAGIC) + 3] += 1
    path.write_bytes(data)
    assert load(path) == OLD, "a changed format number alone is damage"

    seal(data, HALF_BYTES)
    path.write_bytes(data)
    assert load(path) is None
    assert "newer agent" in caplog.text


@pytest.mark.parametrize("highest", [(1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_no_generation_is_the_last_one(path: Path, highest: int) -> None:
    data = bytearray(path.read_bytes())
    for half, generation in ((0, highest - 1), (HALF_BYTES, highest)):
        data[half + 8 : half + 16] = generation.to_bytes(8)
        seal(data, half)
    path.write_bytes(data)
    assert load(path) == NEW
    for content in (b"second", b"third", b"fourth"):
        save(path, content)
        assert load(path) == content


def seal(data: bytearray, half: int) -> None:
    """Make the checksum of a copy right for what it says."""
    start, content = data[half : half + 20], data[half + HEADER_BYTES : half + HEADER_BYTES + len(NEW)]
    data[half + 20 : half + HEADER_BYTES] = hashlib.sha256(start + content).digest()


def test_a_missing_record_says_to_provision(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="narrowboat-device provision"):
        RecordFile(DISK, tmp_path / "absent", CONTENT_BYTES_MAX)


def test_allocating_again_keeps_the_content(path: Path) -> None:
    RecordFile.allocate(DISK, path, CONTENT_BYTES_MAX)
    assert load(path) == NEW


@given(contents=st.lists(st.binary(max_size=CONTENT_BYTES_MAX), min_size=1, max_size=6))
def test_every_content_comes_back(contents: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("record") / "any"
    RecordFile.allocate(DISK, path, CONTENT_BYTES_MAX)
    for content in contents:
        save(path, content)
        assert load(path) == content


def test_every_record_has_a_file_and_a_size() -> None:
    assert len({record_path(Path("data"), record) for record in Record}) == len(Record)
    assert all(record_bytes_max(record, DEFAULT_LIMITS) > 0 for record in Record)

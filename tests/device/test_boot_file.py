"""The boot loader and its adapter: whatever happens, the machine boots a slot that was good."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from narrowboat_device.boot.file import FileBootControl
from narrowboat_device.boot.loader import Choice, choose, default_environment, power_on
from narrowboat_device.boot.state import STATE_BYTES_MAX, BootState, read_state, write_state
from narrowboat_device.disk import SystemDisk
from narrowboat_device.records import RecordFile
from narrowboat_protocol.errors import MediumError, Reason, UsageError
from tests.device.kit import file_size_limit, flip_bit

DISK = SystemDisk()

SLOTS = ("a", "b")
TRIES = 3
BOTH, ONLY_A, ONLY_B, NONE = frozenset("ab"), frozenset("a"), frozenset("b"), frozenset[str]()


class Board:
    """A machine's boot parts in a folder."""

    def __init__(self, folder: Path) -> None:
        self.state_file = folder / "state"
        self.booted_file = folder / "booted"

    def write(self, state: BootState) -> None:
        RecordFile.allocate(DISK, self.state_file, STATE_BYTES_MAX)
        write_state(DISK, self.state_file, state)

    def power_on(self) -> str:
        return power_on(DISK, self.state_file, self.booted_file, SLOTS)

    def control(self) -> FileBootControl:
        return FileBootControl(DISK, self.state_file, self.booted_file, SLOTS, TRIES)

    @property
    def state(self) -> BootState | None:
        return read_state(DISK, self.state_file)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    """A machine that runs slot a, the only bootable one."""
    board = Board(tmp_path)
    board.write(BootState("a", None, 0, ONLY_A))
    board.power_on()
    return board


@pytest.mark.parametrize(
    ("state", "choice"),
    [
        (BootState("a", None, 0, BOTH), Choice("a", BootState("a", None, 0, BOTH))),
        (BootState("b", None, 0, ONLY_B), Choice("b", BootState("b", None, 0, ONLY_B))),
        (BootState("a", "b", 3, BOTH), Choice("b", BootState("a", "b", 2, BOTH))),
        (BootState("a", "b", 1, BOTH), Choice("b", BootState("a", "b", 0, BOTH))),
        (BootState("a", "b", 0, BOTH), Choice("a", BootState("a", None, 0, ONLY_A))),
        (BootState("a", None, 0, ONLY_B), Choice("b", BootState("a", None, 0, ONLY_B))),
        (BootState("a", None, 0, NONE), Choice("a", BootState("a", None, 0, NONE))),
        (BootState("a", "b", 0, ONLY_B), Choice("a", BootState("a", None, 0, NONE))),
    ],
)
def test_the_loader_chooses_by_the_table(state: BootState, choice: Choice) -> None:
    assert choose(state) == choice


def test_a_trial_that_is_never_committed_falls_back_after_its_tries(board: Board) -> None:
    board.control().arm_trial("b")
    booted = [board.power_on() for _ in range(TRIES + 2)]
    assert booted == ["b"] * TRIES + ["a", "a"]
    assert board.state == BootState("a", None, 0, ONLY_A)
    assert board.control().status().running == "a"


def test_a_committed_slot_boots_from_now_on(board: Board) -> None:
    board.control().arm_trial("b")
    board.power_on()
    board.control().commit("b")
    assert [board.power_on() for _ in range(TRIES + 1)] == ["b"] * (TRIES + 1)
    assert board.state == BootState("b", None, 0, BOTH)


@pytest.mark.parametrize("half", [0, 1])
def test_a_commit_outlives_a_copy_of_the_boot_state_that_cannot_be_read(board: Board, half: int) -> None:
    """The step before it is a trial, which has no tries left: falling back to that would end it for good."""
    board.control().arm_trial("b")
    for _ in range(TRIES):
        assert board.power_on() == "b"
    board.control().commit("b")
    flip_bit(board.state_file, half * board.state_file.stat().st_size // 2)
    assert board.power_on() == "b"


def test_a_trial_that_goes_back_boots_the_old_slot_at_once(board: Board) -> None:
    board.control().arm_trial("b")
    board.power_on()
    board.control().restore("a")
    assert board.power_on() == "a"
    assert board.state == BootState("a", None, 0, ONLY_A)


def test_tries_do_not_count_down_without_a_trial(board: Board) -> None:
    board.write(BootState("a", None, 2, BOTH))
    board.power_on()
    assert board.state == BootState("a", None, 2, BOTH)


def test_a_slot_that_is_about_to_change_is_not_booted(board: Board) -> None:
    control = board.control()
    control.arm_trial("b")
    control.mark_unbootable("b")
    assert board.state == BootState("a", None, 0, ONLY_A)
    assert board.power_on() == "a"


@pytest.mark.parametrize("change", ["mark_unbootable", "arm_trial", "commit", "restore"])
def test_every_change_may_be_repeated(board: Board, change: str) -> None:
    control = board.control()
    getattr(control, change)("b")
    once = board.state
    getattr(control, change)("b")
    assert board.state == once


@pytest.mark.parametrize("change", ["mark_unbootable", "arm_trial"])
def test_the_primary_slot_is_never_given_up(board: Board, change: str) -> None:
    before = board.state
    with pytest.raises(UsageError, match="primary"):
        getattr(board.control(), change)("a")
    assert board.state == before


@pytest.mark.parametrize("change", ["mark_unbootable", "arm_trial", "commit", "restore"])
def test_an_unknown_slot_is_refused(board: Board, change: str) -> None:
    with pytest.raises(UsageError):
        getattr(board.control(), change)("c")


@pytest.mark.parametrize("change", ["mark_unbootable", "arm_trial", "commit", "restore"])
def test_a_boot_variable_that_does_not_take_is_told(board: Board, change: str) -> None:
    before = board.state
    with file_size_limit(0), pytest.raises(MediumError) as caught:
        getattr(board.control(), change)("b")
    assert caught.value.reason is Reason.BOOT_CONTROL_FAILED
    assert board.state == before


def test_a_boot_variable_that_reads_back_otherwise_is_told(board: Board) -> None:
    class ForgetfulControl(FileBootControl):
        """A loader whose variables can be written but do not change."""

        def _read(self) -> BootState:
            return BootState("a", None, 0, ONLY_A)

    control = ForgetfulControl(DISK, board.state_file, board.booted_file, SLOTS, TRIES)
    with pytest.raises(MediumError) as caught:
        control.arm_trial("b")
    assert caught.value.reason is Reason.BOOT_CONTROL_FAILED


@pytest.mark.parametrize(("change", "slot"), [("mark_unbootable", "b"), ("commit", "b"), ("restore", "a")])
@pytest.mark.parametrize("half", [0, 1])
def test_what_the_agent_relies_on_outlives_a_copy_that_cannot_be_read(
    board: Board, change: str, slot: str, half: int
) -> None:
    """Else a slot boots that is being written, or that nobody believes any more."""
    control = board.control()
    control.arm_trial("b")
    getattr(control, change)(slot)
    state = board.state
    flip_bit(board.state_file, half * board.state_file.stat().st_size // 2)
    assert board.state == state


def test_a_trial_whose_copy_cannot_be_read_is_not_on(board: Board) -> None:
    control = board.control()
    control.mark_unbootable("b")
    before = board.state
    control.arm_trial("b")
    for half in (0, 4096):
        flip_bit(board.state_file, half)
        if board.state == before:
            assert board.power_on() == "a"
            return
        flip_bit(board.state_file, half)
    raise AssertionError("expected one copy of two to tell of the trial")


@pytest.mark.parametrize("content", [None, b"", b"x" * 8192, bytes(8192)])
def test_a_missing_or_garbled_state_boots_the_default_environment(tmp_path: Path, content: bytes | None) -> None:
    board = Board(tmp_path)
    if content is not None:
        board.state_file.write_bytes(content)
    assert board.power_on() == "a"
    assert board.state == default_environment(SLOTS)
    assert board.control().status().bootable == BOTH


def test_a_state_that_cannot_be_read_for_once_is_not_replaced(board: Board) -> None:
    class FailingDisk(SystemDisk):
        """A medium that does not answer."""

        def pread(self, _fd: int, _length: int, _offset: int, /) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    board.write(BootState("b", None, 0, ONLY_B))
    assert power_on(FailingDisk(), board.state_file, board.booted_file, SLOTS) == "a"
    assert board.power_on() == "b"


def test_a_state_with_unknown_members_counts_as_garbled(tmp_path: Path) -> None:
    board = Board(tmp_path)
    RecordFile.allocate(DISK, board.state_file, STATE_BYTES_MAX)
    with RecordFile(DISK, board.state_file, STATE_BYTES_MAX) as record:
        record.save(b'{"primary": "b", "trial": null, "tries_left": 0, "bootable": ["b"], "order": 1}')
    assert board.power_on() == "a"


def test_a_lost_state_is_told_from_one_that_cannot_be_read_now(board: Board) -> None:
    control = board.control()
    board.state_file.write_bytes(bytes(8192))
    with pytest.raises(MediumError) as caught:
        control.status()
    assert caught.value.reason is Reason.STATE_UNREADABLE


def test_every_boot_has_a_name_of_its_own(board: Board) -> None:
    first = board.control().status().boot_id
    board.power_on()
    assert len(first) == 16
    assert board.control().status().boot_id != first
    assert board.control().status().boot_id == board.control().status().boot_id


@pytest.mark.parametrize(
    "content", ["", "{}", '{"slot": "c", "boot_id": "' + "00" * 16 + '"}', '{"slot": "a", "boot_id": "00"}']
)
def test_an_agent_that_no_loader_started_is_told_so(board: Board, content: str) -> None:
    board.booted_file.write_text(content)
    with pytest.raises(UsageError):
        board.control()

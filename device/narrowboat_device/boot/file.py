"""The boot adapter `file`: boot variables in a boot-state file, for machines whose loader is a program of
ours and for tests.

It works exactly as an adapter for a real loader must: variables are read, changed, written, and read back.
What was booted is not a variable but a fact of this boot, so the loader writes it to a file of its own, the
*booted file*, which stands for the kernel's command line and /proc/sys/kernel/random/boot_id.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from narrowboat_protocol.errors import MediumError, Reason, UsageError

from ..core.events import BootStatus
from ..disk import Disk
from ..files import read_bounded, write_atomically
from ..records import RecordFile
from .state import STATE_BYTES_MAX, BootState, read_state, write_state

BOOT_ID_BYTES = 16
_BOOTED_BYTES_MAX = 1024


@dataclass(frozen=True, slots=True)
class Booted:
    """The slot that the loader booted, and the name of this boot: 16 random bytes in hex."""

    slot: str
    boot_id: str

    def write(self, disk: Disk, path: Path) -> None:
        write_atomically(disk, path, json.dumps({"slot": self.slot, "boot_id": self.boot_id}).encode())

    @classmethod
    def read(cls, disk: Disk, path: Path) -> Booted:
        """Raises `UsageError` if no loader of ours booted this machine."""
        data = read_bounded(disk, path, _BOOTED_BYTES_MAX, "booted file (start through `narrowboat-device machine`)")
        try:
            booted = _BOOTED.validate_json(data)
            if len(bytes.fromhex(booted.boot_id)) == BOOT_ID_BYTES:
                return booted
        except (ValidationError, ValueError):
            pass
        raise UsageError(Reason.BAD_CONFIG, f"{path}: expected a slot and a boot id; power-cycle the machine")


_BOOTED = TypeAdapter(Booted)


class FileBootControl:
    """`BootControl` over a boot-state file."""

    def __init__(self, disk: Disk, state_file: Path, booted_file: Path, slots: tuple[str, str], tries: int) -> None:
        self._disk = disk
        self._state_file = state_file
        self._slots = slots
        self._tries = tries
        self._booted = Booted.read(disk, booted_file)
        if self._booted.slot not in slots:
            raise UsageError(Reason.BAD_CONFIG, f"expected slot {' or '.join(slots)} to run; see [[slots]]")

    @property
    def running(self) -> str:
        return self._booted.slot

    def status(self) -> BootStatus:
        state = self._read()
        return BootStatus(
            running=self._booted.slot,
            boot_id=bytes.fromhex(self._booted.boot_id),
            primary=state.primary,
            trial=state.trial,
            tries_left=state.tries_left,
            bootable=state.bootable,
        )

    def mark_unbootable(self, slot: str) -> None:
        state = self._read()
        self._check_not_primary(slot, state)
        if slot == state.trial:
            state = replace(state, trial=None, tries_left=0)
        self._write(replace(state, bootable=state.bootable - {slot}), both=True)

    def arm_trial(self, slot: str) -> None:
        state = self._read()
        self._check_not_primary(slot, state)
        self._write(
            replace(state, trial=slot, tries_left=self._tries, bootable=state.bootable | {slot}),
            both=False,
        )

    def commit(self, slot: str) -> None:
        state = self._read()
        self._check_known(slot)
        self._write(BootState(slot, None, 0, state.bootable | {slot}), both=True)

    def restore(self, slot: str) -> None:
        self._check_known(slot)
        self._write(BootState(slot, None, 0, frozenset({slot})), both=True)

    def _read(self) -> BootState:
        """Raises `MediumError`: with `state_unreadable` if what was written is lost, so that it can only be written
        anew.
        """
        try:
            state = read_state(self._disk, self._state_file)
        except UsageError as error:
            raise MediumError(Reason.STATE_UNREADABLE, str(error)) from error
        if state is None:
            raise self._lost("a boot state, both copies are damaged")
        if not state.slots <= set(self._slots):
            raise self._lost(f"the slots {' and '.join(self._slots)}, got others")
        return state

    def _lost(self, expected: str) -> MediumError:
        return MediumError(Reason.STATE_UNREADABLE, f"{self._state_file}: expected {expected}")

    def _write(self, state: BootState, *, both: bool) -> None:
        try:
            if not self._disk.exists(self._state_file):
                RecordFile.allocate(self._disk, self._state_file, STATE_BYTES_MAX)
            write_state(self._disk, self._state_file, state, both=both)
        except MediumError as error:
            raise MediumError(Reason.BOOT_CONTROL_FAILED, str(error)) from error
        if self._read() != state:
            raise MediumError(
                Reason.BOOT_CONTROL_FAILED, f"{self._state_file}: expected to read back what was written, got other"
            )

    def _check_known(self, slot: str) -> None:
        if slot not in self._slots:
            raise UsageError(Reason.BAD_USE, f"expected slot {' or '.join(self._slots)}, got another")

    def _check_not_primary(self, slot: str, state: BootState) -> None:
        self._check_known(slot)
        if slot == state.primary:
            raise UsageError(Reason.BAD_USE, f"slot {slot} is the primary one; it stays bootable and has no trial")

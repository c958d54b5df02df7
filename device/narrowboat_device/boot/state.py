"""The boot state of the `file` adapter: what a boot loader and the agent tell each other, in one small
file.

The content is a JSON object, for eyes and for boot scripts; the file is a record of two checksummed copies
written in turn, as U-Boot's redundant environment is, and for the same reasons: it is written in place, so
a full disk cannot stop a commit, and a power cut leaves the state before or the state after. Every change
is one step, so falling back by one copy is falling back by one step, and every step was a state in which
the machine boots. What the agent relies on afterwards goes into both copies: a commit, the way back, and that a slot
which is about to change does not boot. A trial that is armed, and a try that is counted, can be lost with one copy:
the old slot boots, or the trial once more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from narrowboat_protocol.errors import MediumError, Reason

from ..disk import Disk
from ..records import RecordFile

STATE_BYTES_MAX = 2048


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True)
class BootState:
    """What boots: `trial` while it has tries left, else `primary`."""

    primary: str
    trial: str | None
    tries_left: int
    bootable: frozenset[str]

    @property
    def slots(self) -> frozenset[str]:
        """Every slot that is named."""
        return self.bootable | {self.primary} | ({self.trial} if self.trial is not None else set())

    def encode(self) -> bytes:
        values = {
            "primary": self.primary,
            "trial": self.trial,
            "tries_left": self.tries_left,
            "bootable": sorted(self.bootable),
        }
        return json.dumps(values).encode()

    @classmethod
    def decode(cls, content: bytes) -> BootState:
        """Raises `MediumError`: nobody but us and the loader writes this."""
        try:
            return _ADAPTER.validate_json(content)
        except ValidationError:
            raise MediumError(
                Reason.STATE_UNREADABLE, "boot state: expected primary, trial, tries_left and bootable"
            ) from None


_ADAPTER = TypeAdapter(BootState)


def read_state(disk: Disk, path: Path) -> BootState | None:
    """What the file says; None if no copy in it is intact. Raises `UsageError` if it is not there."""
    with RecordFile(disk, path, STATE_BYTES_MAX) as record:
        content = record.load()
        if record.is_newer:
            raise MediumError(Reason.BOOT_CONTROL_FAILED, f"{path}: a newer agent wrote it, in a format unknown here")
    return BootState.decode(content) if content else None


def write_state(disk: Disk, path: Path, state: BootState, *, both: bool = False) -> None:
    """Make the state durable, in both copies if none must lead back. Raises `MediumError`."""
    with RecordFile(disk, path, STATE_BYTES_MAX) as record:
        record.save(state.encode(), both=both)

"""A gateway as its disk has it durably: what a power cut that loses everything else would leave.

Records are read from the medium by a reader of its own, so a mistake in the device's reader is not repeated here. What
was read is kept until the disk changes.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import TypeVar

from narrowboat_device.boot.state import STATE_BYTES_MAX, BootState
from narrowboat_device.core.actions import Record
from narrowboat_device.core.memory import RECORD_FORMAT, Attempt, Journal, Letter, Outbox, TrustRecord
from narrowboat_device.records import record_bytes_max, record_path
from tests.sim.gateway import SimGateway
from tests.sim.medium import PAGE_BYTES
from tests.sim.newer_agent import in_format
from tests.sim.promises import InvariantError
from tests.sim.remembered import Remembered

DocumentT = TypeVar("DocumentT", Journal, TrustRecord, Outbox)
_HEADER = struct.Struct(">4sIQI")


class DurableGateway:
    """Reads one gateway."""

    def __init__(self, gateway: SimGateway, remembered: Remembered) -> None:
        self.remembered = remembered
        self._gateway = gateway
        self._disk = gateway.disk
        self._slots = {slot.name: slot.path for slot in gateway.config.slots}
        self._boot_path = gateway.config.boot.state_file
        self._paths = {record: record_path(gateway.config.storage.data_dir, record) for record in Record}
        self._watched = {str(path): path for path in (self._boot_path, *self._paths.values(), *self._slots.values())}
        self._versions: dict[str, tuple[int, int]] = {}
        self._contents: dict[Path, tuple[int, tuple[int, int], bytes | None]] = {}
        """By path: when the disk had changed so often, which version of the file, and its newest copy."""
        self._decoded: dict[tuple[Record, bytes], Journal | TrustRecord | Outbox] = {}
        self._boot: tuple[bytes, BootState] | None = None
        self._read: dict[Record, tuple[int, Journal | TrustRecord | Outbox | None]] = {}
        """By record: what it said when the disk had changed so often."""

    @property
    def name(self) -> str:
        return self._gateway.name

    @property
    def running(self) -> str | None:
        """The slot that runs; None while the power is off."""
        return self._gateway.running

    @property
    def boot(self) -> BootState:
        """What boots next, as the medium has it. The same object as long as it says the same."""
        content = self._newest(self._boot_path, STATE_BYTES_MAX)
        if not content:
            raise InvariantError("bootable", "no boot state can be read")
        if self._boot is None or self._boot[0] != content:
            self._boot = content, BootState.decode(content)
        return self._boot[1]

    def release_in(self, slot: str) -> bytes | None:
        """The release that a slot holds on the medium, if it holds a whole one."""
        release = self._gateway.release_in(slot)
        return release if isinstance(release, bytes) else None

    @property
    def attempt(self) -> Attempt | None:
        """The newest attempt, as the medium has it."""
        journal = self._record(Record.JOURNAL, Journal)
        return journal.attempt if journal is not None else None

    @property
    def root(self) -> bytes | None:
        """The root that it trusts, as the medium has it; None while that is the one it was provisioned with."""
        trust = self._record(Record.TRUST, TrustRecord)
        return trust.root if trust is not None else None

    @property
    def letters(self) -> tuple[Letter, ...]:
        """The terminal reports that wait, as the medium has them."""
        outbox = self._record(Record.OUTBOX, Outbox)
        return outbox.letters if outbox is not None else ()

    def _changed(self) -> set[str]:
        """The slots and records that may have changed since this was asked last."""
        before, version = self._versions, self._disk.version
        self._versions = {name: version(path) for name, path in self._watched.items()}
        return {name for name, now in self._versions.items() if before.get(name) != now}

    def _record(self, record: Record, kind: type[DocumentT]) -> DocumentT | None:
        """What a record says; None before it was ever written."""
        changes, value = self._read.get(record, (-1, None))
        if changes != self._disk.changes:
            value = self._read_record(record, kind)
            self._read[record] = self._disk.changes, value
        assert isinstance(value, kind | None)
        return value

    def _read_record(self, record: Record, kind: type[DocumentT]) -> DocumentT | None:
        content = self._newest(self._paths[record], record_bytes_max(record, self._gateway.limits))
        if content is None:
            if record in self.remembered.read:
                raise InvariantError("readable", f"no copy of the {record} is intact")
            return None
        self.remembered.read.add(record)
        key = (record, content)
        if key not in self._decoded:
            self._decoded = {known: value for known, value in self._decoded.items() if known[0] is not record}
            readable = in_format(content, RECORD_FORMAT) or b""
            self._decoded[key] = kind.decode(readable, max_bytes=len(readable))
        value = self._decoded[key]
        assert isinstance(value, kind)
        return value

    def _newest(self, path: Path, bytes_max: int) -> bytes | None:
        changes, known = self._disk.changes, self._contents.get(path)
        if known is not None and known[0] == changes:
            return known[2]
        version = self._disk.version(path)
        if known is not None and known[1] == version:
            content = known[2]
        else:
            content = _newest_copy(self._disk.durable(path) or b"", bytes_max)
        self._contents[path] = changes, version, content
        return content


def _newest_copy(data: bytes, bytes_max: int) -> bytes | None:
    """The content of the newest intact copy in a record file."""
    half_bytes = -(-(_HEADER.size + 32 + bytes_max) // PAGE_BYTES) * PAGE_BYTES
    best: tuple[int, bytes] | None = None
    for half in (data[:half_bytes], data[half_bytes : 2 * half_bytes]):
        if len(half) < half_bytes or half[:4] != b"NBRC":
            continue
        _, _, generation, length = _HEADER.unpack_from(half)
        content = half[_HEADER.size + 32 :][:length]
        if hashlib.sha256(half[: _HEADER.size] + content).digest() == half[_HEADER.size :][:32]:
            best = max(best, (generation, content)) if best is not None else (generation, content)
    return best[1] if best is not None else None

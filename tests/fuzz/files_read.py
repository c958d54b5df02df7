"""Targets: files that people write (configurations) and files of our own that a medium or a stranger may have damaged.

A file is given as an anonymous one in memory, so no input touches a disk and nothing is left behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from narrowboat_bridge.cli.operator_toml import OperatorToml
from narrowboat_bridge.cli.release_toml import ReleaseToml
from narrowboat_bridge.server import config as bridge_config
from narrowboat_device import config as device_config
from narrowboat_device.boot.file import Booted
from narrowboat_device.boot.state import STATE_BYTES_MAX, BootState
from narrowboat_device.core.memory import Attempt, Journal, Letter, Outbox, TrustRecord, read_record
from narrowboat_device.disk import SystemDisk
from narrowboat_device.records import FORMAT, MAGIC, RecordFile
from narrowboat_protocol import documents as doc
from narrowboat_protocol.errors import MediumError, UsageError
from narrowboat_protocol.limits import DEFAULT_LIMITS, KIB
from narrowboat_protocol.states import State
from tests.bridge.test_config import GOOD as BRIDGE_TOML
from tests.device.kit import CONFIG as DEVICE_TOML
from tests.vectors.documents import ASSIGNMENT, FAILED, FLEET_ID, SIGNED_ASSIGNMENT
from tests.vectors.seeds import seeded

from . import owner
from .shapes import JSON, RECORD, TOML
from .targets import Target

_HALF_BYTES = 4 * KIB
RELEASE_TOML = b"""
component = "rootfs"
vendor = "example.com"
classes = ["gateway-a", "gateway-b"]
version = "2.1.0"
sequence = 4
image = "deploy/image.ext4"
codec = "lzma"
level = 6
"""
OPERATOR_TOML = b"""
name = "ada"
host = "broker.example.com"
fleet_id = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"
ca = "server-ca.pem"
certificate = "cert.pem"
key = "key.pem"
signing_key = "signing-key.pem"
root = "root.signed"
"""


class _Scratch:
    """One file in memory, with a path."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("fuzz")
        self.path = Path(f"/proc/self/fd/{self._fd}")

    def holding(self, data: bytes) -> Path:
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, data, 0)
        return self.path


_SCRATCH = _Scratch()


def _device_config(data: bytes) -> None:
    config = device_config.load_config(_SCRATCH.holding(data))
    assert len(set(config.slot_names)) == 2, "two slots of one name"
    _usable(config.storage.data_dir, config.boot.booted_path, *(slot.path for slot in config.slots))


def _bridge_config(data: bytes) -> None:
    config = bridge_config.load_config(_SCRATCH.holding(data))
    assert len(bytes.fromhex(config.fleet_id)) == len(FLEET_ID)
    keys = (config.keys.director, config.keys.bridge, config.keys.device_ca)
    _usable(config.store_path, config.trust.roots, config.broker.ca, *(key for key in keys if isinstance(key, Path)))


def _release_toml(data: bytes) -> None:
    release = ReleaseToml.load(_SCRATCH.holding(data))
    assert len(set(release.class_ids)) == len(release.classes), "two classes of one id"
    _usable(release.image)


def _operator_toml(data: bytes) -> None:
    operator = OperatorToml.load(_SCRATCH.holding(data))
    _usable(operator.ca, operator.key, operator.root)


def _usable(*paths: Path) -> None:
    """The operating system takes these paths: there may be no such file, or a name too long; nothing else may come."""
    for path in paths:
        with suppress(OSError):
            path.stat()


def _record_file(data: bytes) -> None:
    """Whatever the file holds, what is saved next is what is read."""
    with RecordFile(SystemDisk(), _SCRATCH.holding(data), STATE_BYTES_MAX) as record:
        record.load()
        for content in (b"first", b"second"):
            record.save(content)
    with RecordFile(SystemDisk(), _SCRATCH.path, STATE_BYTES_MAX) as record:
        assert record.load() == b"second", "the record that was saved last is not the one that counts"


def _record(kind: type[Any], data: bytes) -> bytes:
    record = kind.decode(data, max_bytes=DEFAULT_LIMITS.journal_bytes)
    assert read_record(kind, data) == record
    encoded: bytes = record.encode()
    return encoded


def _boot_state(data: bytes) -> None:
    state = BootState.decode(data)
    assert BootState.decode(state.encode()) == state, "a second round differs"


def _booted(data: bytes) -> None:
    booted = Booted.read(SystemDisk(), _SCRATCH.holding(data))
    assert len(bytes.fromhex(booted.boot_id)) == 16, "a boot id of another length"


def _records() -> list[Target]:
    attempt = Attempt(
        attempt=7,
        component="rootfs",
        release=seeded("release"),
        envelope=seeded("envelope", 200),
        state=State.DOWNLOADING,
        slot="b",
        payloads=ASSIGNMENT.targets[0].payloads,
        reboot_windows=ASSIGNMENT.reboot_windows,
        next_chunk=64,
        suspects=(0,),
    )
    trust = TrustRecord(
        root=owner.ROOT_DATA, fleet_id=FLEET_ID, boot_number=3, assignment_counter=7, assignment=SIGNED_ASSIGNMENT
    )
    letter = Letter(pair=(3, 4), report=doc.sign_model(FAILED, FLEET_ID, owner.RELEASE_KEYS[:1]))
    contents = (Journal(attempt=attempt), trust, Outbox(letters=(letter,)))
    return [
        Target(f"record-{type(record).__name__.lower()}", partial(_record, type(record)), (record.encode(),))
        for record in contents
    ]


def _record_seeds() -> tuple[bytes, ...]:
    good = [MAGIC, FORMAT, 4, b"older"], [MAGIC, FORMAT, 5, b"newer"]
    whole = RECORD.put_together([_HALF_BYTES, *good])
    newer_format = RECORD.put_together([_HALF_BYTES, good[0], [MAGIC, FORMAT + 1, 5, b"newer"]])
    return (whole, bytes(2 * _HALF_BYTES), whole[:_HALF_BYTES] + bytes(_HALF_BYTES), newer_format)


_STATES = (
    BootState("a", None, 0, frozenset({"a"})).encode(),
    BootState("a", "b", 3, frozenset({"a", "b"})).encode(),
)
_BOOTED = b'{"slot": "a", "boot_id": "' + b"0f" * 16 + b'"}'

_CONFIGS: tuple[tuple[str, Callable[[bytes], None], bytes], ...] = (
    ("device-config", _device_config, DEVICE_TOML.encode()),
    ("bridge-config", _bridge_config, BRIDGE_TOML.encode()),
    ("release-toml", _release_toml, RELEASE_TOML),
    ("operator-toml", _operator_toml, OPERATOR_TOML),
)
FILE_TARGETS = (
    *(Target(name, read, (seed,), TOML, (UsageError,)) for name, read, seed in _CONFIGS),
    Target("record-file", _record_file, _record_seeds(), RECORD, (MediumError,)),
    *_records(),
    Target("boot-state", _boot_state, _STATES, JSON, (MediumError,)),
    Target("booted-file", _booted, (_BOOTED,), JSON, (UsageError,)),
)

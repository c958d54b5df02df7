"""The status file: where the agent stands, for programs on this machine.

The agent replaces `status.json` in the data folder whenever something changed, at most five times a second,
without a sync: it is a view, nothing depends on it, and failing to write it is not worth stopping for.
`narrowboat-device status` and hooks read it. `links_opened` counts connections that TCP and TLS allowed, also those
that the broker then refused. A field that does not apply is null; `updated_at` is in
seconds since 1970, by this machine's clock.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from enum import StrEnum
from pathlib import Path

from narrowboat_protocol.errors import MediumError, Reason, UsageError

from .core.actions import ShowStatus, ShowTrust
from .core.events import Now
from .disk import Disk
from .files import read_bounded, write_atomically

_INTERVAL_S = 0.2
_STATUS_BYTES_MAX = 16_384
_NEXT_LINE = ",\n "
_FIELDS: dict[type[ShowStatus | ShowTrust], tuple[str, ...]] = {
    part: tuple(field.name for field in dataclasses.fields(part)) for part in (ShowStatus, ShowTrust)
}

_log = logging.getLogger(__name__)


def status_path(data_dir: Path) -> Path:
    return data_dir / "status.json"


class StatusFile:
    """Writes the status file. Never raises."""

    def __init__(self, disk: Disk, path: Path, facts: dict[str, str]) -> None:
        """`facts` never change while the agent runs; they stand beside the status."""
        self._disk = disk
        self._path = path
        self._facts = facts
        self._status: ShowStatus | None = None
        self._trust: ShowTrust | None = None
        self._links_opened = 0
        self._is_stale = True
        self._next_write_s = 0.0
        self._has_failed = False

    @property
    def deadline(self) -> float | None:
        """When to call `flush` again, in monotonic seconds."""
        return self._next_write_s if self._is_stale else None

    def show(self, part: ShowStatus | ShowTrust) -> None:
        """What was shown of the other part stands."""
        if isinstance(part, ShowStatus):
            self._status = part
        else:
            self._trust = part
        self._is_stale = True

    def count_link(self) -> None:
        """A connection to the broker was begun; whether it lets us in shows later, and is not counted."""
        self._links_opened += 1
        self._is_stale = True

    def flush(self, now: Now, *, at_once: bool = False) -> None:
        """Write what changed, if the last write is long enough ago."""
        if not self._is_stale or (now.monotonic_s < self._next_write_s and not at_once):
            return
        self._is_stale, self._next_write_s = False, now.monotonic_s + _INTERVAL_S
        shown = _plain(self._status) | _plain(self._trust)
        counts = {"links_opened": self._links_opened, "updated_at": now.wall_s}
        try:
            write_atomically(self._disk, self._path, _to_json(self._facts | shown | counts))
        except MediumError as error:
            if not self._has_failed:
                _log.warning("the status file cannot be written: %s", error)
            self._has_failed = True


def read_status(disk: Disk, path: Path) -> dict[str, object]:
    """What the agent wrote last. Raises `UsageError` if it never did."""
    data = read_bounded(disk, path, _STATUS_BYTES_MAX, "status (has the agent ever run here?)")
    try:
        values = json.loads(data)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise UsageError(Reason.BAD_USE, f"{path}: expected a JSON object; start the agent to have it written anew")
    return values


def _to_json(values: dict[str, object]) -> bytes:
    """One line for each value. Not by `indent`, for which the standard library has no fast encoder."""
    return f"{{\n {json.dumps(values, separators=(_NEXT_LINE, ': '))[1:-1]}\n}}\n".encode()


def _plain(part: ShowStatus | ShowTrust | None) -> dict[str, object]:
    return {} if part is None else {name: _value(getattr(part, name)) for name in _FIELDS[type(part)]}


def _value(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    return value.value if isinstance(value, StrEnum) else value

"""Release envelopes beside the slots: which release lies in which slot, in words that the release keys
signed.

An envelope is written when its slot has been proved, removed before the slot changes, and never believed
without its signatures. It lies in the data folder, but says nothing that a lost data folder could forge: a
slot without an envelope is one whose release is unknown.
"""

from __future__ import annotations

from pathlib import Path

from narrowboat_protocol.errors import UsageError
from narrowboat_protocol.limits import Limits

from .disk import Disk
from .files import read_bounded, remove_durably, write_durably


class EnvelopeFolder:
    """The envelopes of all slots of one gateway."""

    def __init__(self, disk: Disk, data_dir: Path, limits: Limits) -> None:
        self._disk = disk
        self._data_dir = data_dir
        self._limits = limits

    def path(self, slot: str) -> Path:
        return self._data_dir / f"slot-{slot}.suit"

    def load(self, slot: str) -> bytes | None:
        """The envelope beside a slot; None if there is none that can be read."""
        try:
            return read_bounded(
                self._disk, self.path(slot), self._limits.envelope_bytes_max, f"envelope of slot {slot}"
            )
        except UsageError:
            return None

    def save(self, slot: str, envelope: bytes | None) -> None:
        """Put an envelope beside a slot, durably; None removes it. Raises `MediumError`."""
        if envelope is None:
            remove_durably(self._disk, self.path(slot))
        else:
            write_durably(self._disk, self.path(slot), envelope)

"""What lies in the slots, by the release envelopes beside them: for the hello, for the floor, and to know what runs.

An envelope was believed when it was put beside its slot, and what it says is shown for as long as it lies there: a root
that retires a release does not change what runs. Whatever is decided by it (the floor, a boot) believes it anew. A slot
without one holds something unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from narrowboat_protocol.documents import SlotInfo
from narrowboat_protocol.errors import NarrowboatError
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.suit import parse_envelope, read_manifest
from narrowboat_protocol.trust import NO_FLOOR, Floor, Trust

from .actions import SaveEnvelope
from .events import BootStatus
from .settings import Settings, SlotSettings


class Inventory:
    """The releases of both slots."""

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._settings = settings
        self._limits = limits
        self._envelopes: dict[str, bytes] = {}

    def begin(self, envelopes: Mapping[str, bytes]) -> None:
        self._envelopes = dict(envelopes)

    def change(self, action: SaveEnvelope) -> None:
        if action.envelope is None:
            self._envelopes.pop(action.slot, None)
        else:
            self._envelopes[action.slot] = action.envelope

    def release_in(self, slot: str) -> bytes | None:
        """The digest of the release in a slot, if it is known."""
        return self._slot_info(next(item for item in self._settings.slots if item.name == slot)).release

    def committed_floor(self, boot: BootStatus, trust: Trust) -> Floor:
        """That of the release that runs, unless it is on trial: a lost data partition does not lower the floor."""
        envelope = self._envelopes.get(boot.running) if boot.running == boot.primary else None
        if envelope is not None:
            with suppress(NarrowboatError):
                release = trust.open_release(envelope)
                image = trust.judge_release(release, self._settings.component, self._settings.hardware, NO_FLOOR)
                return Floor(image.epoch, release.sequence)
        return NO_FLOOR

    def slot_infos(self) -> tuple[SlotInfo, ...]:
        return tuple(self._slot_info(slot) for slot in self._settings.slots)

    def _slot_info(self, slot: SlotSettings) -> SlotInfo:
        unknown = SlotInfo(name=slot.name, size=slot.size_bytes)
        data = self._envelopes.get(slot.name)
        if data is None:
            return unknown
        try:
            envelope = parse_envelope(data, self._limits)
            images = read_manifest(envelope.manifest, self._limits).images
        except NarrowboatError:
            return unknown
        image = next((image for image in images if image.component == self._settings.component), None)
        if image is None:
            return unknown
        return SlotInfo(name=slot.name, size=slot.size_bytes, release=envelope.digest, version=image.version)

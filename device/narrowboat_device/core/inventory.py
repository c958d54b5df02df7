"""What lies in the slots, by the release envelopes beside them: for the hello, for the floor, and to know what runs.

An envelope says nothing without its signatures, so each is believed anew under the root of the moment. A slot without
one holds something unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from narrowboat_protocol.documents import SlotInfo
from narrowboat_protocol.errors import NarrowboatError
from narrowboat_protocol.suit import Release

from .actions import SaveEnvelope
from .settings import Settings, SlotSettings


class Inventory:
    """The releases of both slots. `believe` checks an envelope's signatures, and raises `PeerError`."""

    def __init__(self, settings: Settings, believe: Callable[[bytes], Release]) -> None:
        self._settings = settings
        self._believe = believe
        self._envelopes: dict[str, bytes] = {}

    def begin(self, envelopes: Mapping[str, bytes]) -> None:
        self._envelopes = dict(envelopes)

    def change(self, action: SaveEnvelope) -> None:
        if action.envelope is None:
            self._envelopes.pop(action.slot, None)
        else:
            self._envelopes[action.slot] = action.envelope

    def release_in(self, slot: str) -> Release | None:
        try:
            return self._believe(self._envelopes[slot])
        except (KeyError, NarrowboatError):
            return None

    def slot_infos(self) -> tuple[SlotInfo, ...]:
        return tuple(self._slot_info(slot) for slot in self._settings.slots)

    def _slot_info(self, slot: SlotSettings) -> SlotInfo:
        release = self.release_in(slot.name)
        images = release.images if release is not None else ()
        image = next((image for image in images if image.component == self._settings.component), None)
        if release is None or image is None:
            return SlotInfo(name=slot.name, size=slot.size_bytes)
        return SlotInfo(name=slot.name, size=slot.size_bytes, release=release.digest, version=image.version)

"""`verify-slot NAME`: proves that a slot holds, byte for byte, the release whose envelope lies beside it.

The envelope is believed by the newest root that this gateway trusts, then the slot is read past the page cache and
compared with the signed tree and digest. A running slot that is mounted for writing differs as soon as the kernel
updates its superblock; that is a finding, not a fault of the proof.
"""

from __future__ import annotations

from dataclasses import dataclass

from narrowboat_protocol.errors import Reason, TrustError, UsageError
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.suit import Image
from narrowboat_protocol.tree import merkle_root

from .config import Config, SlotConfig
from .disk import Disk
from .envelopes import EnvelopeFolder
from .known import trusted_root
from .slots import SlotFile


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found in a slot."""

    release: bytes
    version: str
    size_bytes: int
    matches: bool

    def __str__(self) -> str:
        verdict = "holds" if self.matches else "does not hold"
        return f"{verdict} release {self.release.hex()}, version {self.version}, {self.size_bytes} bytes"


def verify_slot(disk: Disk, config: Config, limits: Limits, name: str) -> Finding:
    """Compare a slot with its envelope. Raises `UsageError`, `TrustError` or `MediumError` if there is nothing to
    compare.
    """
    slot = next((slot for slot in config.slots if slot.name == name), None)
    if slot is None:
        raise UsageError(Reason.BAD_USE, f"expected slot {' or '.join(config.slot_names)}, got {name!r:.40}")
    envelopes = EnvelopeFolder(disk, config.storage.data_dir, limits)
    envelope = envelopes.load(name)
    if envelope is None:
        raise TrustError(
            Reason.MISSING_RELEASE, f"slot {name}: expected an envelope at {envelopes.path(name)}, found none"
        )
    release = trusted_root(disk, config, limits).open_release(envelope)
    image = next((image for image in release.images if image.component == config.gateway.component), None)
    if image is None:
        raise TrustError(Reason.MISSING_RELEASE, f"the release has no image for {config.gateway.component}")
    matches = slot_holds(disk, slot, image, limits)
    return Finding(release.digest, image.version, image.size_bytes, matches)


def slot_holds(disk: Disk, slot: SlotConfig, image: Image, limits: Limits) -> bool:
    """Whether a slot holds this image, as the medium has it. Raises `UsageError` or `MediumError`."""
    with SlotFile(disk, slot.name, slot.path, limits, writable=False) as file:
        if file.size_bytes < image.size_bytes:
            return False
        layer, image_sha256 = file.read_back(image.tree)
    return merkle_root(layer) == image.tree.root and image_sha256 == image.image_sha256

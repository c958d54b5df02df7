"""What a release says, as values: a manifest with its sequence number and images.

These are the types that the reader returns and the writer takes. A `Manifest` carries no claim of being
authentic; that is what `release.Release` adds.

The size of an image is the length of its chunk tree. A manifest says both, and the reader refuses one where
they differ, so here the size exists once.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import NAMESPACE_DNS, UUID, uuid5

from ..tree import Tree

PAYLOAD_URI = "#payload"
"""The URI of every image. Where its bytes are is for the assignment to say; a release is signed once."""

IMAGES_MAX = 8
CLASSES_MAX = 16
VERSION_BYTES_MAX = 64


@dataclass(frozen=True, slots=True)
class Image:
    """One component's image: for which hardware, what it is, and the tree that proves its chunks."""

    component: str
    vendor_id: UUID
    class_ids: tuple[UUID, ...]
    image_sha256: bytes
    tree: Tree
    version: str
    epoch: int

    @property
    def size_bytes(self) -> int:
        return self.tree.length


@dataclass(frozen=True, slots=True)
class Manifest:
    """The images that are installed together, and the security counter that they share."""

    sequence: int
    images: tuple[Image, ...]


def vendor_id(domain: str) -> UUID:
    """The vendor identifier of a DNS domain, as the draft advises: UUID version 5 (RFC 9562 section 5.5)."""
    return uuid5(NAMESPACE_DNS, domain)


def class_id(vendor: UUID, class_name: str) -> UUID:
    """The identifier of one class of hardware of a vendor."""
    return uuid5(vendor, class_name)

"""The assignment: what one device shall run. Signed by the director key, which is online."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, StringConstraints, model_validator

from ..limits import DEFAULT_LIMITS
from ..model import AS_TUPLE, Document, key, refusal
from ..suit.encryption import INFO_BYTES_MAX
from .fields import Counter, Digest, Name, Nonce, Seconds, Size
from .signed import SignedModel

SOURCE_MQTT = "mqtt:"
"""The one source that every device has: byte ranges from the bridge."""
SOURCE_LENGTH_MAX = 500

Window = Annotated[tuple[Annotated[int, Field(ge=0, lt=86_400)], Annotated[int, Field(ge=0, le=86_400)]], AS_TUPLE]
Source = Annotated[str, StringConstraints(min_length=1, max_length=SOURCE_LENGTH_MAX)]


class PayloadReference(Document):
    """A payload that yields the image. The head is named by length and digest, so that it is checked before the first
    frame.
    """

    digest: Digest = key(1)
    kind: int = key(2, ge=0, le=1)
    size: Size = key(3)
    head_size: int = key(4, ge=1, le=DEFAULT_LIMITS.head_bytes_max)
    head_sha256: Digest = key(5)
    sources: Annotated[tuple[Source, ...], AS_TUPLE] = key(6, (SOURCE_MQTT,), min_length=1, max_length=8)
    encryption: bytes | None = key(7, None, min_length=1, max_length=INFO_BYTES_MAX)
    """A SUIT_Encryption_Info with the key of the payload, sealed to this device; absent if it is not encrypted."""


class Target(Document):
    """One component and the release that it shall run, with the payloads to try in order."""

    component: Name = key(1)
    release: Digest = key(2)
    payloads: Annotated[tuple[PayloadReference, ...], AS_TUPLE] = key(3, min_length=1, max_length=8)


class Assignment(SignedModel):
    """The complete set for one device. A component not named is left as it is, and unfinished work on it ends."""

    KIND: ClassVar[str] = "assignment"

    device: Name = key(1)
    counter: Counter = key(2)
    issued_at: Seconds = key(3)
    expires_at: Seconds = key(4)
    """Bounds acceptance, not the work that follows it."""
    nonce: Nonce = key(5)
    root_version: Counter = key(6)
    targets: Annotated[tuple[Target, ...], AS_TUPLE] = key(7, max_length=8)
    campaign: Name | None = key(8, None)
    reboot_windows: Annotated[tuple[Window, ...], AS_TUPLE] = key(9, (), max_length=8)
    """Seconds after midnight UTC, [from, to); to may lie on the next day. Empty means any time."""
    byte_budget: Size | None = key(10, None)
    """The most bytes that this device may read from its socket for the campaign."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({target.component for target in self.targets}) != len(self.targets):
            raise refusal("each component must stand here once")
        return self

"""What a device says of itself. Signed by the device's own key."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from ..errors import DocumentError, Reason
from ..keys import public_key_from_cbor
from ..limits import KIB
from ..model import AS_TUPLE, Document, as_enum, key, refusal
from ..states import HoldReason, State
from .fields import Certificate, CoseKey, Counter, Digest, Name, Nonce, Seconds, Size, Text, Uuid, Version
from .signed import SignedModel

BootPair = Annotated[tuple[Counter, Counter], AS_TUPLE]
"""(boot number, n). The boot number is raised durably at each agent start; n counts in memory. Pairs order what a
device says.
"""


class SlotInfo(Document):
    """One slot as the device sees it."""

    name: Name = key(1)
    size: Size = key(2)
    release: Digest | None = key(3, None)
    version: Version | None = key(4, None)


class Hello(SignedModel):
    """Sent at each agent start and whenever something in it changes: who this is, what runs, what it speaks, what it
    heard last.
    """

    KIND: ClassVar[str] = "hello"
    BYTES_MAX: ClassVar[int] = 16 * KIB
    ITEMS_MAX: ClassVar[int] = 256

    device: Name = key(1)
    pair: BootPair = key(2)
    nonce: Nonce = key(3)
    """An assignment must carry it (or the one before it) to be fresh."""
    root_version: Counter = key(4)
    assignment_counter: Counter = key(5)
    """The highest accepted so far; a director that lost its memory goes on above it."""
    certificate: Certificate = key(6)
    component: Name = key(7)
    vendor_id: Uuid = key(8)
    class_id: Uuid = key(9)
    slots: Annotated[tuple[SlotInfo, ...], AS_TUPLE] = key(10, min_length=1, max_length=8)
    running_slot: Name = key(11)
    boot_id: Uuid = key(12)
    codecs: Annotated[tuple[Annotated[int, Field(ge=0, le=255)], ...], AS_TUPLE] = key(13, max_length=16)
    formats: Annotated[tuple[Annotated[int, Field(ge=1, le=255)], ...], AS_TUPLE] = key(14, min_length=1, max_length=16)
    """The document formats that this agent reads."""
    agent_version: Version = key(15)
    challenge: Nonce | None = key(16, None)
    """The answer to the challenge of the last Ack."""
    state: Annotated[State, as_enum(State)] | None = key(17, None)
    """Where the newest attempt stands, by assignment or from a file, ended or not. It tells a trial from what stays."""
    agreement_key: CoseKey | None = key(18, None)
    """The P-256 key to which the keys of encrypted payloads are sealed for this device, if it has one."""

    @field_validator("agreement_key")
    @classmethod
    def _agrees(cls, value: dict[int, object] | None) -> dict[int, object] | None:
        if value is not None:
            try:
                public_key_from_cbor(value).to_p256()
            except DocumentError:
                raise refusal("an agreement key must be a P-256 key") from None
        return value


class Hold(Document):
    """Why an attempt waits."""

    reason: Annotated[HoldReason, as_enum(HoldReason)] = key(1)
    since: Seconds = key(2)
    next_check: Seconds = key(3)


class Report(SignedModel):
    """One step of an attempt. Terminal ones are repeated until an Ack covers them."""

    KIND: ClassVar[str] = "report"
    BYTES_MAX: ClassVar[int] = 4 * KIB
    ITEMS_MAX: ClassVar[int] = 64

    device: Name = key(1)
    pair: BootPair = key(2)
    attempt: Counter = key(3)
    """The counter of the assignment that began it; 0 for a local installation."""
    component: Name = key(4)
    release: Digest = key(5)
    state: Annotated[State, as_enum(State)] = key(6)
    hold: Hold | None = key(7, None)
    slot: Name = key(8)
    """The slot that runs now."""
    boot_id: Uuid = key(9)
    done_bytes: Size = key(10)
    """How much of the image is proved and synced."""
    total_bytes: Size = key(11)
    wire_bytes: Size = key(12)
    """Bytes read from the socket for this attempt, useful or not."""
    reason: Annotated[Reason, as_enum(Reason)] | None = key(13, None)
    detail: Text | None = key(14, None)
    parked: Counter | None = key(15, None)
    """A newer assignment that came too late and is acted on after the end."""

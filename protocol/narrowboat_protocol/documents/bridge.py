"""What a bridge says. Signed by an online bridge key that the root names."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from ..errors import Reason
from ..model import as_enum, key
from ..states import HoldReason, State
from .device import BootPair
from .fields import Counter, Digest, Name, Nonce, Seconds, Size, Text, WireMap
from .signed import SignedModel


class Ack(SignedModel):
    """The statement under `pair` is stored. Only this, not a PUBACK, lets a device forget a terminal report.

    A pair alone would not do: a device that lost its state uses its pairs once more, and whoever kept an old Ack of it
    could have it forget what nobody heard.
    """

    KIND: ClassVar[str] = "ack"

    device: Name = key(1)
    pair: BootPair = key(2)
    """Of the hello or report that is answered; to a hello older than the newest one, the highest pair stored."""
    challenge: Nonce = key(3)
    """Made anew for each Ack; the next hello answers it."""
    statement: Digest = key(4)
    """SHA-256 of the content, without signatures, that is stored under the pair."""


class Reply(SignedModel):
    """The outcome of one command. `result` is the document that docs/protocol.md names for the verb."""

    KIND: ClassVar[str] = "reply"

    request_id: Nonce = key(1)
    reason: Annotated[Reason, as_enum(Reason)] | None = key(2, None)
    """Absent if the command was carried out."""
    message: Text | None = key(3, None)
    result: WireMap | None = key(4, None, max_length=24)


class EventKind(StrEnum):
    """What an event tells."""

    DEVICE_SEEN = "device_seen"
    REPORT = "report"
    CAMPAIGN_STARTED = "campaign_started"
    CAMPAIGN_APPROVED = "campaign_approved"
    CAMPAIGN_ENDED = "campaign_ended"
    RELEASE_ADDED = "release_added"
    COMMAND = "command"
    ALARM = "alarm"
    ENROLMENT = "enrolment"


class Event(SignedModel):
    """Something that happened, for everyone who watches. A gap in `sequence` says that something was missed."""

    KIND: ClassVar[str] = "event"

    sequence: Counter = key(1)
    at: Seconds = key(2)
    kind: Annotated[EventKind, as_enum(EventKind)] = key(3)
    device: Name | None = key(4, None)
    campaign: Name | None = key(5, None)
    release: Digest | None = key(6, None)
    state: Annotated[State, as_enum(State)] | None = key(7, None)
    hold: Annotated[HoldReason, as_enum(HoldReason)] | None = key(8, None)
    done_bytes: Size | None = key(9, None)
    total_bytes: Size | None = key(10, None)
    wire_bytes: Size | None = key(11, None)
    reason: Annotated[Reason, as_enum(Reason)] | None = key(12, None)
    operator: Name | None = key(13, None)
    detail: Text | None = key(14, None)

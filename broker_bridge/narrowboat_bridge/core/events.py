"""What can happen to the bridge: the closed set of inputs of `Campaigns.handle`.

Names are past tense. Documents in an event were read and their signatures verified by the shell; whether what
they say fits what was known before is the core's to judge. Randomness enters here too: whoever makes an event
that leads to an Ack draws the challenge.
"""

from __future__ import annotations

from dataclasses import dataclass

from narrowboat_protocol.documents import Assignment, Hello, Report, Request, Scope
from narrowboat_protocol.keys import PublicKey
from narrowboat_protocol.topics import Party

from .records import Attempt, Campaign, Claim, Device, Registration, Release


@dataclass(frozen=True, slots=True)
class Now:
    """The two clocks. `monotonic_s` times what the bridge does again; `wall_s` (seconds since 1970) is what it tells
    others.
    """

    monotonic_s: float
    wall_s: int


@dataclass(frozen=True, slots=True)
class Restored:
    """The process began, and this is what the store holds. Always the first event."""

    devices: tuple[Device, ...] = ()
    releases: tuple[Release, ...] = ()
    campaigns: tuple[Campaign, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    assignments: tuple[Assignment, ...] = ()
    """The newest of each device."""
    claims: tuple[Claim, ...] = ()
    registrations: tuple[Registration, ...] = ()


@dataclass(frozen=True, slots=True)
class HelloArrived:
    """A hello whose certificate the device CA vouches for, signed by the certificate's key."""

    hello: Hello
    key: PublicKey
    content: bytes
    """What was signed: two statements under one pair must agree in it."""
    challenge: bytes


@dataclass(frozen=True, slots=True)
class ReportArrived:
    """A report signed by the key that is pinned for its device."""

    report: Report
    content: bytes
    challenge: bytes


@dataclass(frozen=True, slots=True)
class EnrolmentRequested:
    """A key asks for a certificate, signed by itself and by all of `kids`."""

    party: Party
    name: str
    """Of the claim, or of the device that renews: as the broker vouches for it."""
    key: PublicKey
    kids: frozenset[bytes]
    nonce: bytes
    wish: str | None
    serial: str | None
    connects_only: bool = False


@dataclass(frozen=True, slots=True)
class CommandAccepted:
    """An operator whose role allows it asks for something. `request_id` names the question in the answer."""

    operator: str
    kid: bytes
    """Of the key that signed it: one person may have two names."""
    scope: Scope | None
    """Other devices do not exist for this operator. None: all do."""
    request_id: bytes
    request: Request
    approval_over: int | None = None
    """A campaign for more devices than this needs another operator's approval."""


@dataclass(frozen=True, slots=True)
class ReleaseAdded:
    """A release was verified, and its payload is in the payload store."""

    release: Release
    operator: str
    request_id: bytes


@dataclass(frozen=True, slots=True)
class TimeReached:
    """The deadline that the core named has come."""


@dataclass(frozen=True, slots=True)
class RootAdded:
    """The owner signed a newer root, and the bridge has it."""

    version: int


Event = (
    Restored
    | HelloArrived
    | ReportArrived
    | EnrolmentRequested
    | CommandAccepted
    | ReleaseAdded
    | RootAdded
    | TimeReached
)

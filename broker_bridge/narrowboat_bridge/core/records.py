"""What the bridge knows, as values: one record for each row of the store.

Records are never changed, only replaced, so a record that was handed out (to the store, to a summary) stays what it
was. All times are wall times in seconds since 1970. They are shown to people, and decide what is over (a claim, a
campaign that waits for an approval), whether a certificate is young, and whether an alarm is another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from narrowboat_protocol.documents import Admission, BootPair, Hello, PayloadReference, SlotInfo
from narrowboat_protocol.documents.director import Window
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.keys import PublicKey, public_key_from_cbor
from narrowboat_protocol.payload import Codec
from narrowboat_protocol.release_file import HEADER_BYTES, TRAILER_BYTES
from narrowboat_protocol.states import HoldReason, State

RECENT_PAIRS = 16
"""So many of a device's highest pairs are remembered with what they said, to tell a duplicate from a clone. The highest
and not the latest: whoever replays what is old must not make us forget what is new.
"""


@dataclass(frozen=True, slots=True)
class Device:
    """A gateway, as its own signed words describe it."""

    name: str
    key: PublicKey
    """Pinned by the first hello."""
    hello: Hello
    """The newest hello."""
    accepted_counter: int
    """The assignment that it holds, as far as we know."""
    pair: BootPair
    """The highest pair of all that it said."""
    recent: tuple[tuple[BootPair, bytes], ...]
    """The highest pairs, lowest first, with the digest of what each said."""
    challenge: bytes
    """Went with the last Ack; who answers it heard us lately."""
    first_seen_at: int
    last_seen_at: int
    alarmed_at: int
    reports_stored: int
    """How many reports were ever put into its history, which is a ring."""
    stopped: bool = False
    """It is given nothing until an operator decides: there may be two of it, or it is revoked."""

    @property
    def agreement_key(self) -> PublicKey | None:
        """The key to which the keys of encrypted payloads are sealed for it."""
        return public_key_from_cbor(self.hello.agreement_key) if self.hello.agreement_key is not None else None

    @property
    def running(self) -> SlotInfo | None:
        """The slot that runs; None if the hello names a slot that it does not list."""
        return next((slot for slot in self.hello.slots if slot.name == self.hello.running_slot), None)

    @property
    def running_release(self) -> bytes | None:
        return self.running.release if self.running else None

    @property
    def is_on_trial(self) -> bool:
        """When it said hello, what ran was not committed: it may go back by itself, or with the next boot where the way
        back could not be armed.
        """
        return self.hello.state in (State.REBOOTING, State.ON_TRIAL, State.ROLLBACK_FAILED)

    def slot_other_than_running(self) -> SlotInfo | None:
        """The inactive slot of a pair."""
        others = [slot for slot in self.hello.slots if slot.name != self.hello.running_slot]
        return others[0] if len(others) == 1 else None


@dataclass(frozen=True, slots=True)
class Claim:
    """What lets gateways in that nobody knows yet."""

    name: str
    digest: bytes
    """Of the request that made it."""
    count: int
    used: int
    expires_at: int | None
    kids: tuple[bytes, ...]
    """Thumbprints that may still be used."""
    listed: bool
    """It had a list: only keys on it count."""
    admits: bool
    revoked: bool
    created_at: int
    created_by: str


@dataclass(frozen=True, slots=True)
class Registration:
    """What the registry knows of one key, and of those that vouched for it."""

    kid: bytes
    """The key that certificates are issued for."""
    kids: tuple[bytes, ...]
    """Every key that may ask for it; the first one stays the first."""
    admission: Admission
    device: str
    """Its name; while it is not approved, the name that it wishes."""
    claim: str | None = None
    serial: str | None = None
    asked_at: int | None = None
    certified_at: int | None = None
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """A release that was verified and whose payload is in the store."""

    digest: bytes
    component: str
    version: str
    sequence: int
    vendor_id: UUID
    class_ids: tuple[UUID, ...]
    image_size_bytes: int
    payload: PayloadReference
    envelope: bytes
    file_digest: bytes
    """SHA-256 of the release file that brought it."""
    added_at: int
    codecs: tuple[Codec, ...]
    """What a device must be able to decode."""

    @property
    def file_size_bytes(self) -> int:
        """The size of that file, which is payload and envelope in a fixed frame."""
        info = self.payload.encryption or b""
        return HEADER_BYTES + len(info) + self.payload.size + TRAILER_BYTES + len(self.envelope)

    def is_for(self, device: Device) -> bool:
        """True if it is made for this device's component and hardware."""
        hello = device.hello
        return (
            hello.component == self.component
            and hello.vendor_id == self.vendor_id.bytes
            and UUID(bytes=hello.class_id) in self.class_ids
        )


class Ending(StrEnum):
    """How a campaign ended. The values are wire words."""

    COMPLETED = "completed"
    ABORTED = "aborted"
    EXPIRED = "expired"
    """Nobody approved it in time."""


@dataclass(frozen=True, slots=True)
class Campaign:
    """One release for one group of devices."""

    name: str
    serial: int
    """Counts campaigns: of two that want one device, the higher serial has it. An approval gives it a new one."""
    release: bytes
    devices: tuple[str, ...] | None
    """None: every device that the release is made for, those that come later too. Such a campaign runs until it is
    aborted.
    """
    reboot_windows: tuple[Window, ...]
    byte_budget: int | None
    started_at: int
    started_by: str
    starter_kid: bytes
    """The key of who started it."""
    content: bytes
    """The digest of what was asked for."""
    approval_ends_at: int | None = None
    """Another operator must approve it before. None: it needs no approval."""
    approved_by: str | None = None
    ended: Ending | None = None

    @property
    def waits(self) -> bool:
        """It awaits an approval: no device is its own yet."""
        return self.approval_ends_at is not None and self.approved_by is None and self.ended is None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One campaign's work on one device. There is one for each pair of them, however often it was assigned."""

    campaign: str
    device: str
    counters: tuple[int, ...] = ()
    """The assignments issued for it; reports name the one that began the work."""
    old_slot: str | None = None
    """The slot that ran when it was assigned: success must come from another one."""
    old_release: bytes | None = None
    """What ran in it."""
    accepted: bool = False
    """The device is known to hold, or to have held, an assignment for it."""
    withdrawn: bool = False
    """A newer campaign took the device, or this one was aborted."""
    overtaken: bool = False
    """The device reported on a newer one since: of the same release it goes on as that, of another it was dropped."""
    state: State | None = None
    pair: BootPair | None = None
    """The pair of the report, or hello, that `state` comes from."""
    hold: HoldReason | None = None
    reason: Reason | None = None
    detail: str | None = None
    done_bytes: int = 0
    total_bytes: int = 0
    wire_bytes: int = 0
    reported_at: int | None = None

    @property
    def has_end(self) -> bool:
        """The device reported an end."""
        return self.state is not None and self.state.terminal

    @property
    def settled(self) -> bool:
        """Nothing more is expected: it has an end, was overtaken, or was withdrawn before the device began."""
        return self.has_end or self.overtaken or (self.withdrawn and self.state is None and not self.accepted)

    @property
    def under_way(self) -> bool:
        """The device began it, or may have begun, and it has no end yet."""
        return self.accepted and not self.has_end and not self.overtaken

"""What can happen to an agent: the closed set of inputs of `Agent.handle`.

Names are past tense. Every event carries plain values; the shell made them from sockets, workers, files and clocks, and
none of them is trusted further than its type says.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from narrowboat_protocol.errors import Reason

from .actions import Action, Hook, Record


@dataclass(frozen=True, slots=True)
class Now:
    """The two clocks. `monotonic_s` orders and times; `wall_s` (seconds since 1970) may be wrong and decides no trust
    by itself.
    """

    monotonic_s: float
    wall_s: int


def earliest(*times_s: float | None) -> float | None:
    """The first of some times, each of which may be none. Asked for after every event, so it makes nothing."""
    first_s: float | None = None
    for time_s in times_s:
        if time_s is not None and (first_s is None or time_s < first_s):
            first_s = time_s
    return first_s


@dataclass(frozen=True, slots=True)
class BootStatus:
    """What boot control says: what runs, and what would run next."""

    running: str
    boot_id: bytes
    """16 bytes, new with each boot of the system."""
    primary: str
    """The slot that boots when no trial is on."""
    trial: str | None
    """The slot on trial, armed or running."""
    tries_left: int
    bootable: frozenset[str]


@dataclass(frozen=True, slots=True)
class Started:
    """The agent process began.

    `records` are the newest valid copies: empty where none was ever written, None where no copy can be read.
    """

    boot: BootStatus
    records: dict[Record, bytes | None]
    envelopes: dict[str, bytes]
    """The release envelope beside each slot, by slot name, where there is one."""
    newer: frozenset[Record] = frozenset()
    """Records whose file is in a format that only a newer agent knows; None in `records`."""


@dataclass(frozen=True, slots=True)
class LinkOpened:
    """CONNECT and SUBSCRIBE are on their way; what is published now follows them without waiting."""


@dataclass(frozen=True, slots=True)
class LinkLost:
    """The connection ended, or the broker refused it."""


@dataclass(frozen=True, slots=True)
class RootArrived:
    data: bytes
    retained: bool = False
    """The broker kept it for those who subscribe; else a bridge has published it now."""


@dataclass(frozen=True, slots=True)
class RootChainArrived:
    """Roots that this device missed, from a bridge or from the web."""

    data: bytes


@dataclass(frozen=True, slots=True)
class DeliveryArrived:
    data: bytes


@dataclass(frozen=True, slots=True)
class AckArrived:
    data: bytes


@dataclass(frozen=True, slots=True)
class BlockArrived:
    """A data message, from whichever source was asked."""

    message: bytes
    wire_bytes: int | None = None
    """As `WireBytesCounted`, when it came; so what brought the last block is counted before what follows from it."""
    arrived_s: float | None = None
    """When it came from the network, in monotonic seconds; None if it was read from a file."""


@dataclass(frozen=True, slots=True)
class WireBytesCounted:
    """Bytes read from the socket since the process began."""

    total: int


@dataclass(frozen=True, slots=True)
class LocalReleaseOffered:
    """A release file on this machine shall be installed."""

    path: str
    envelope: bytes
    payload_size: int
    head: bytes
    encryption: bytes = b""
    """To whom the key of the payload is sealed; empty if it is not encrypted."""


@dataclass(frozen=True, slots=True)
class SlotSynced:
    """Everything written to the slot before `SyncSlot(token)` is on the medium."""

    token: int


@dataclass(frozen=True, slots=True)
class SlotHashed:
    """The leaf hashes of the chunks that `HashSlot` named, 32 bytes each."""

    first_chunk: int
    leaves: bytes


@dataclass(frozen=True, slots=True)
class SlotReadBack:
    """The whole slot was read past the cache: its subtree roots, 32 bytes each, and the SHA-256 of the image."""

    layer: bytes
    image_sha256: bytes


@dataclass(frozen=True, slots=True)
class SlotCommitted:
    """`CommitSlot` was carried out and read back."""

    slot: str


class HookOutcome(Enum):
    """What an executable of the integrator said, by its exit status: 0, 21, anything else or no answer in time."""

    GO_ON = auto()
    NOT_NOW = auto()
    FAILED = auto()


@dataclass(frozen=True, slots=True)
class HookFinished:
    hook: Hook
    token: int
    outcome: HookOutcome
    output: str
    """The tail of what it printed, bounded."""


@dataclass(frozen=True, slots=True)
class ActionFailed:
    """An action could not be carried out. The actions that followed it in the same list were dropped."""

    action: Action
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class TimeReached:
    """The deadline that the agent named has come."""


Event = (
    Started
    | LinkOpened
    | LinkLost
    | RootArrived
    | RootChainArrived
    | DeliveryArrived
    | AckArrived
    | BlockArrived
    | WireBytesCounted
    | LocalReleaseOffered
    | SlotSynced
    | SlotHashed
    | SlotReadBack
    | SlotCommitted
    | HookFinished
    | ActionFailed
    | TimeReached
)

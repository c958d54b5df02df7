"""What an agent may ask for: the closed set of outputs of `Agent.handle`.

Names are imperatives. The shell performs the actions of one event in order and to completion, save those marked as
worker actions, which it starts and whose end comes back as an event. When one fails, the rest of the list is dropped
and `ActionFailed` is fed back. The order of actions is the durability of the agent: a `Save` that counts chunks comes
only after the `SlotSynced` that proves them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from narrowboat_protocol.errors import Reason
from narrowboat_protocol.states import HoldReason, State
from narrowboat_protocol.topics import Channel
from narrowboat_protocol.tree import Tree


class Record(StrEnum):
    """The files of fixed size, two checksummed copies each, that survive a power cut."""

    JOURNAL = "journal"
    TRUST = "trust"
    OUTBOX = "outbox"


class Hook(StrEnum):
    """When an executable of the integrator may be asked."""

    DOWNLOAD = "download"
    """Before the first byte is fetched."""
    REBOOT = "reboot"
    """Before the boot switch is written."""
    HEALTH = "health"
    """On trial: is the new system well?"""


@dataclass(frozen=True, slots=True)
class Publish:
    """Send a message if the link is up; else it is lost, and the core sends it again when the link opens."""

    channel: Channel
    payload: bytes
    qos: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask a source for byte ranges of a payload. The blocks come back as `BlockArrived`.

    `source` is `mqtt:` (the request is published on `channel`) or `file:` and a path (worker action).
    """

    source: str
    channel: Channel
    payload: bytes
    ranges: tuple[tuple[int, int], ...]
    block_bytes: int


@dataclass(frozen=True, slots=True)
class WriteChunks:
    """Write image bytes at `offset` of a slot. Not durable before a `SlotSynced`."""

    slot: str
    offset: int
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class SyncSlot:
    """Worker action: make every earlier write to the slot durable; answered by `SlotSynced(token)`."""

    slot: str
    token: int


@dataclass(frozen=True, slots=True)
class HashSlot:
    """Worker action: read chunks back and hash each as a leaf of the tree; answered by `SlotHashed`."""

    slot: str
    tree: Tree
    first_chunk: int
    chunk_count: int


@dataclass(frozen=True, slots=True)
class ReadBackSlot:
    """Worker action: read the image from the slot, past the cache; answered by `SlotReadBack`."""

    slot: str
    tree: Tree


@dataclass(frozen=True, slots=True)
class Save:
    """Make a record durable before the next action."""

    record: Record
    content: bytes
    both: bool = False
    """In both copies: no read that fails must lead to the one before."""


@dataclass(frozen=True, slots=True)
class SaveEnvelope:
    """Put the release envelope beside a slot, durably; None removes it."""

    slot: str
    envelope: bytes | None


@dataclass(frozen=True, slots=True)
class MarkUnbootable:
    """The slot is about to change: the boot loader must not choose it. Read back."""

    slot: str


@dataclass(frozen=True, slots=True)
class ArmTrial:
    """The next boot tries this slot, a bounded number of times. Read back."""

    slot: str


@dataclass(frozen=True, slots=True)
class CommitSlot:
    """The slot is good and boots from now on; the trial ends. Read back; answered by `SlotCommitted`."""

    slot: str


@dataclass(frozen=True, slots=True)
class RestoreBoot:
    """`slot` boots from now on and the other one does not; a trial ends. Read back."""

    slot: str


@dataclass(frozen=True, slots=True)
class RunHook:
    """Worker action: ask the integrator's executable; answered by `HookFinished` (go on, if there is none)."""

    hook: Hook
    token: int


@dataclass(frozen=True, slots=True)
class UseBroker:
    """Connect as the newest root says from the next connection on. What is empty is as the configuration says."""

    root_version: int
    anchors: tuple[bytes, ...] = ()
    """CAs of the broker's certificate, DER."""
    addresses: tuple[tuple[str, int], ...] = ()
    root_urls: tuple[str, ...] = ()
    """Where newer roots may lie."""


@dataclass(frozen=True, slots=True)
class BelieveTime:
    """Judge the broker's certificate by the machine's clock only while it says a time between these two, in seconds
    since 1970, from the next connection on.
    """

    floor_s: int
    """The time floor: a time that has passed, if no director lied."""
    latest_s: int


@dataclass(frozen=True, slots=True)
class Reboot:
    """Restart the system. Nothing follows."""


@dataclass(frozen=True, slots=True)
class ShowStatus:
    """Tell local programs where the agent stands. Best effort; never fails."""

    state: State | None
    hold: HoldReason | None
    release: bytes | None
    done_bytes: int
    total_bytes: int
    wire_bytes: int
    reason: Reason | None
    detail: str | None
    hold_since: int | None = None
    """When the hold began, and when the agent looks again, in seconds since 1970, by this machine's clock."""
    hold_next_check: int | None = None


@dataclass(frozen=True, slots=True)
class ShowTrust:
    """Tell local programs what is trusted, and how fresh it is. Best effort; never fails. Times are in seconds since
    1970.
    """

    fleet_id: bytes
    root_version: int
    root_expires_at: int
    certificate_ends_at: int
    assignment_counter: int
    assignment_issued_at: int | None
    """When the newest assignment that was accepted was signed, by the director's clock."""
    nonce_made_at: int | None
    """Since when an assignment can be answered with the newest nonce, by this machine's clock."""
    floor_epoch: int
    floor_sequence: int
    time_floor: int
    time_latest: int


@dataclass(frozen=True, slots=True)
class Log:
    """One line for the operator of this machine. Never contains what a peer sent, only what was made of it."""

    text: str
    warning: bool = False


Action = (
    Publish
    | Fetch
    | WriteChunks
    | SyncSlot
    | HashSlot
    | ReadBackSlot
    | Save
    | SaveEnvelope
    | MarkUnbootable
    | ArmTrial
    | CommitSlot
    | RestoreBoot
    | RunHook
    | UseBroker
    | BelieveTime
    | Reboot
    | ShowStatus
    | ShowTrust
    | Log
)

Told = UseBroker | BelieveTime | ShowStatus | ShowTrust | Log
"""What is told to this machine or its link. Nothing on a disk rests on it."""

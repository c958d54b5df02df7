"""What the bridge may decide to do: the closed set of outputs of `Campaigns.handle`.

Names are imperatives. There are two kinds, and their order is the bridge's durability: first everything that
is written, then `Commit`, then everything that is said. A shell may gather the writes of many events in one
transaction, but says nothing of an event before the transaction with its writes is on disk. `Turn` builds
lists in this order and no other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from narrowboat_protocol.documents import Assignment, BootPair, EnrolmentOutcome, EventKind
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.keys import PublicKey
from narrowboat_protocol.model import Document
from narrowboat_protocol.states import HoldReason, State

from .events import EnrolmentRequested
from .records import Attempt, Campaign, Claim, Device, Registration, Release


@dataclass(frozen=True, slots=True)
class StoreDevice:
    device: Device


@dataclass(frozen=True, slots=True)
class StoreReport:
    """Put a report into its device's history, a ring: `number` counts the reports of the device."""

    device: str
    number: int
    received_at: int
    content: bytes


@dataclass(frozen=True, slots=True)
class StoreRelease:
    release: Release


@dataclass(frozen=True, slots=True)
class StoreCampaign:
    campaign: Campaign


@dataclass(frozen=True, slots=True)
class ForgetCampaign:
    """Delete a campaign that ended long ago, with its attempts."""

    name: str


@dataclass(frozen=True, slots=True)
class StoreAttempt:
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class StoreAssignment:
    """Sign this assignment, with the keys of encrypted payloads sealed to the device, and keep it as its newest."""

    assignment: Assignment
    recipient: PublicKey | None
    """The device's agreement key."""


@dataclass(frozen=True, slots=True)
class StoreClaim:
    claim: Claim


@dataclass(frozen=True, slots=True)
class StoreRegistration:
    registration: Registration


@dataclass(frozen=True, slots=True)
class IssueCertificate:
    """Make a certificate for a device's key, and keep it as the newest of that key."""

    device: str
    key: PublicKey
    at: int
    voucher: bytes | None = None
    """The device's own key, if this one only connects. What takes that one's certificates back takes back this one."""


@dataclass(frozen=True, slots=True)
class RevokeCertificates:
    """Put every certificate of these keys on the list that the broker reads, for good."""

    kids: tuple[bytes, ...]
    certificate: bytes | None
    """The one that its hello brought, which may have been made by hand."""


@dataclass(frozen=True, slots=True)
class Record:
    """Append an entry to the audit log."""

    what: str
    """One word or two, the same for all entries of a kind."""
    who: str
    """The operator or device that it comes from."""
    facts: dict[str, str | int]


@dataclass(frozen=True, slots=True)
class Commit:
    """Everything above is on disk before anything below is said."""


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Send a signed Ack: what was said under `pair`, whose digest is `statement`, is stored."""

    device: str
    pair: BootPair
    statement: bytes
    challenge: bytes


@dataclass(frozen=True, slots=True)
class Deliver:
    """Send the device its newest assignment, as stored, with the envelopes of the releases in it."""

    device: str
    envelopes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SendRoots:
    """Send the device the roots that follow on `version`."""

    device: str
    version: int


@dataclass(frozen=True, slots=True)
class Emit:
    """Send a signed event to everyone who watches."""

    kind: EventKind
    device: str | None = None
    campaign: str | None = None
    release: bytes | None = None
    state: State | None = None
    hold: HoldReason | None = None
    done_bytes: int | None = None
    total_bytes: int | None = None
    wire_bytes: int | None = None
    reason: Reason | None = None
    operator: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a command was not carried out."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Reply to a command: with the document that its verb promises, or with a refusal."""

    operator: str
    request_id: bytes
    outcome: Document | Refusal


@dataclass(frozen=True, slots=True)
class AnswerEnrolment:
    """Send a signed reply to a key that asked; with the newest certificate of that key if it is issued."""

    request: EnrolmentRequested
    outcome: EnrolmentOutcome
    at: int
    device: str | None = None
    refusal: Refusal | None = None
    ask_again_at: int | None = None


Write = (
    StoreDevice
    | StoreReport
    | StoreRelease
    | StoreCampaign
    | ForgetCampaign
    | StoreAttempt
    | StoreAssignment
    | StoreClaim
    | StoreRegistration
    | IssueCertificate
    | RevokeCertificates
    | Record
)
Say = Acknowledge | Deliver | SendRoots | Emit | Answer | AnswerEnrolment
Action = Write | Commit | Say


@dataclass(slots=True)
class Turn:
    """The actions of one event, gathered in the order in which they may be carried out."""

    _writes: list[Write] = field(default_factory=list)
    _says: list[Say] = field(default_factory=list)

    def write(self, *writes: Write) -> None:
        self._writes += writes

    def say(self, *says: Say) -> None:
        self._says += says

    def actions(self) -> list[Action]:
        return [*self._writes, Commit(), *self._says] if self._writes or self._says else []

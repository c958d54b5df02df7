"""Operators: who they are, signed by admin keys, and what they command, signed by their own."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, ClassVar, Self

from pydantic import model_validator

from ..errors import DocumentError
from ..keys import PublicKey, public_key_from_cbor
from ..model import AS_TUPLE, Document, as_enum, key, refusal
from .director import Window
from .fields import CoseKey, Counter, Digest, Name, Nonce, Seconds, Size, Uuid, WireMap
from .signed import SignedModel


class OperatorRole(StrEnum):
    """What an operator may do: look; bring releases to devices as well; agree to what another operator began; or all of
    it, and say who is a device. `ROLES` says it verb by verb.
    """

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"


class Scope(Document):
    """Which devices an operator sees and steers: those that fit everything that is said here.

    A name is certified. Class and component are what the device says of itself in its hello.
    """

    name_prefix: Name | None = key(1, None)
    devices: Annotated[tuple[Name, ...], AS_TUPLE] | None = key(2, None, min_length=1, max_length=256)
    class_ids: Annotated[tuple[Uuid, ...], AS_TUPLE] | None = key(3, None, min_length=1, max_length=16)
    component: Name | None = key(4, None)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if all(getattr(self, name) is None for name in type(self).model_fields):
            raise refusal("a scope must say something; leave it out for all devices")
        return self

    def covers(self, device: str, class_id: bytes, component: str) -> bool:
        return (
            (self.name_prefix is None or device.startswith(self.name_prefix))
            and (self.devices is None or device in self.devices)
            and (self.class_ids is None or class_id in self.class_ids)
            and (self.component is None or component == self.component)
        )


class Operator(Document):
    """One person or program. The name is the common name of its certificate, so that topic and signature agree."""

    name: Name = key(1)
    cose_key: CoseKey = key(2)
    role: Annotated[OperatorRole, as_enum(OperatorRole)] = key(3)
    scope: Scope | None = key(4, None)
    """Absent means every device."""

    @model_validator(mode="after")
    def _readable_key(self) -> Self:
        try:
            public_key_from_cbor(self.cose_key)
        except DocumentError:
            raise refusal("cose_key must be a COSE_Key of Ed25519 or P-256") from None
        return self

    @property
    def public_key(self) -> PublicKey:
        return public_key_from_cbor(self.cose_key)


class Operators(SignedModel):
    """Everyone who may command the fleet."""

    KIND: ClassVar[str] = "operators"

    version: Counter = key(1)
    operators: Annotated[tuple[Operator, ...], AS_TUPLE] = key(2, min_length=1, max_length=256)
    approval_over: Counter | None = key(3, None)
    """A campaign for more devices than this waits for a second operator. Absent: only one that asks for it."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({operator.name for operator in self.operators}) != len(self.operators):
            raise refusal("each operator must stand here once")
        return self

    def find(self, name: str) -> Operator | None:
        return next((operator for operator in self.operators if operator.name == name), None)


class Verb(StrEnum):
    """What a command asks for."""

    DEVICE_LIST = "device_list"
    DEVICE_SHOW = "device_show"
    CAMPAIGN_START = "campaign_start"
    CAMPAIGN_SHOW = "campaign_show"
    CAMPAIGN_LIST = "campaign_list"
    CAMPAIGN_ABORT = "campaign_abort"
    CAMPAIGN_APPROVE = "campaign_approve"
    UPLOAD_BEGIN = "upload_begin"
    UPLOAD_FINISH = "upload_finish"
    CLAIM_CREATE = "claim_create"
    CLAIM_LIST = "claim_list"
    CLAIM_REVOKE = "claim_revoke"
    ENROLMENT_LIST = "enrolment_list"
    DEVICE_REGISTER = "device_register"
    DEVICE_APPROVE = "device_approve"
    DEVICE_REJECT = "device_reject"
    DEVICE_REVOKE = "device_revoke"
    DEVICE_RESOLVE = "device_resolve"
    AUDIT_LIST = "audit_list"


_ALL = frozenset(OperatorRole)
_CAMPAIGNS = frozenset({OperatorRole.OPERATOR, OperatorRole.ADMIN})
_ADMIN = frozenset({OperatorRole.ADMIN})
ROLES: dict[Verb, frozenset[OperatorRole]] = {
    Verb.DEVICE_LIST: _ALL,
    Verb.DEVICE_SHOW: _ALL,
    Verb.CAMPAIGN_START: _CAMPAIGNS,
    Verb.CAMPAIGN_SHOW: _ALL,
    Verb.CAMPAIGN_LIST: _ALL,
    Verb.CAMPAIGN_ABORT: _CAMPAIGNS,
    Verb.CAMPAIGN_APPROVE: frozenset({OperatorRole.APPROVER, OperatorRole.ADMIN}),
    Verb.UPLOAD_BEGIN: _CAMPAIGNS,
    Verb.UPLOAD_FINISH: _CAMPAIGNS,
    Verb.CLAIM_CREATE: _ADMIN,
    Verb.CLAIM_LIST: _ALL,
    Verb.CLAIM_REVOKE: _ADMIN,
    Verb.ENROLMENT_LIST: _ALL,
    Verb.DEVICE_REGISTER: _ADMIN,
    Verb.DEVICE_APPROVE: _ADMIN,
    Verb.DEVICE_REJECT: _ADMIN,
    Verb.DEVICE_REVOKE: _ADMIN,
    Verb.DEVICE_RESOLVE: _ADMIN,
    Verb.AUDIT_LIST: _ADMIN,
}
"""Who may ask for what. Blocks of an upload are taken from whoever began it."""

LOOKS = frozenset(
    {
        Verb.DEVICE_LIST,
        Verb.DEVICE_SHOW,
        Verb.CAMPAIGN_SHOW,
        Verb.CAMPAIGN_LIST,
        Verb.CLAIM_LIST,
        Verb.ENROLMENT_LIST,
        Verb.AUDIT_LIST,
    }
)
"""The verbs that change nothing. All others steer."""


class Request(Document):
    """Base of the arguments of a verb."""


class DeviceList(Request):
    """A page of devices in order of name."""

    after: Name | None = key(1, None)
    limit: int = key(2, 100, ge=1, le=200)


class DeviceShow(Request):
    device: Name = key(1)


class CampaignStart(Request):
    """Bring a release to devices. Repeating it with the same name and content changes nothing."""

    campaign: Name = key(1)
    release: Digest = key(2)
    devices: Annotated[tuple[Name, ...], AS_TUPLE] | None = key(3, None, min_length=1, max_length=1000)
    """Absent means every device of the release's hardware classes, now and while the campaign runs."""
    reboot_windows: Annotated[tuple[Window, ...], AS_TUPLE] = key(4, (), max_length=8)
    byte_budget: Size | None = key(5, None)
    approval: bool = key(6, default=False)
    """Wait until another operator approves it."""

    @property
    def content(self) -> bytes:
        """SHA-256 of what is asked for, in whatever order the devices are named: what an approval names."""
        devices = None if self.devices is None else tuple(sorted(set(self.devices)))
        return hashlib.sha256(self.model_copy(update={"devices": devices}).encode()).digest()


class CampaignShow(Request):
    campaign: Name = key(1)
    after: Name | None = key(2, None)
    """Show attempts of devices after this name."""
    limit: int = key(3, 100, ge=1, le=200)


class CampaignList(Request):
    """The newest campaigns."""


class CampaignAbort(Request):
    campaign: Name = key(1)


class CampaignApprove(Request):
    """Let a campaign begin that another operator started and that waits for it."""

    campaign: Name = key(1)
    content: Digest = key(2)
    """Of what is approved, as the campaign's summary names it."""


class UploadBegin(Request):
    """Announce a release file, or ask how much of it has arrived: the answer is an UploadState."""

    digest: Digest = key(1)
    """SHA-256 of the whole release file."""
    size: Size = key(2)


class UploadFinish(Request):
    """All blocks are sent: verify the release file and add it to the store."""

    digest: Digest = key(1)


class ClaimCreate(Request):
    """Let gateways enrol through the enrolment certificate of this name. Repeating it with the same content changes
    nothing.
    """

    claim: Name = key(1)
    count: int = key(2, ge=1, le=100_000)
    """How many gateways may be enrolled by it."""
    expires_at: Seconds | None = key(3, None)
    keys: Annotated[tuple[Digest, ...], AS_TUPLE] = key(4, (), max_length=1000)
    """Thumbprints, one of which must have signed a request; of keys made on the devices or from claim secrets."""
    admits: bool = key(5, default=False)
    """Whoever meets the limits is admitted. Else an operator decides, unless a key of the list signed."""


class ClaimList(Request):
    after: Name | None = key(1, None)
    limit: int = key(2, 100, ge=1, le=200)


class ClaimRevoke(Request):
    """Let nobody new in by a claim. Whoever was let in stays."""

    claim: Name = key(1)


class EnrolmentList(Request):
    """A page of what was asked for, approved or refused, in order of thumbprint."""

    after: Digest | None = key(1, None)
    limit: int = key(2, 100, ge=1, le=200)


class DeviceRegister(Request):
    """Admit a key before it asks: whoever signs with it becomes this device."""

    device: Name = key(1)
    kid: Digest = key(2)


class DeviceApprove(Request):
    """Admit a key that asked."""

    kid: Digest = key(1)
    device: Name | None = key(2, None)
    """Absent means the name that was wished."""
    replace: bool = key(3, default=False)
    """The name is another key's, which is revoked by this."""


class DeviceReject(Request):
    kid: Digest = key(1)


class DeviceRevoke(Request):
    """Believe nothing more under the key of this device. There is no way back: it may be registered anew, by another
    key.
    """

    device: Name = key(1)


class DeviceResolve(Request):
    """An alarm of this device was looked into, and it is honest."""

    device: Name = key(1)


class AuditList(Request):
    """A page of the audit log, in its order."""

    after: Counter = key(1, 0)
    limit: int = key(2, 100, ge=1, le=200)


REQUESTS: dict[Verb, type[Request]] = {
    Verb.DEVICE_LIST: DeviceList,
    Verb.DEVICE_SHOW: DeviceShow,
    Verb.CAMPAIGN_START: CampaignStart,
    Verb.CAMPAIGN_SHOW: CampaignShow,
    Verb.CAMPAIGN_LIST: CampaignList,
    Verb.CAMPAIGN_ABORT: CampaignAbort,
    Verb.CAMPAIGN_APPROVE: CampaignApprove,
    Verb.UPLOAD_BEGIN: UploadBegin,
    Verb.UPLOAD_FINISH: UploadFinish,
    Verb.CLAIM_CREATE: ClaimCreate,
    Verb.CLAIM_LIST: ClaimList,
    Verb.CLAIM_REVOKE: ClaimRevoke,
    Verb.ENROLMENT_LIST: EnrolmentList,
    Verb.DEVICE_REGISTER: DeviceRegister,
    Verb.DEVICE_APPROVE: DeviceApprove,
    Verb.DEVICE_REJECT: DeviceReject,
    Verb.DEVICE_REVOKE: DeviceRevoke,
    Verb.DEVICE_RESOLVE: DeviceResolve,
    Verb.AUDIT_LIST: AuditList,
}


class Command(SignedModel):
    """One request of one operator. The request id makes it happen once; the expiry bounds how long a copy of it is
    worth anything.
    """

    KIND: ClassVar[str] = "command"

    operator: Name = key(1)
    request_id: Nonce = key(2)
    issued_at: Seconds = key(3)
    expires_at: Seconds = key(4)
    verb: Annotated[Verb, as_enum(Verb)] = key(5)
    arguments: WireMap = key(6, max_length=24)

    @property
    def request(self) -> Request:
        """The arguments as the verb's document. Raises `DocumentError`."""
        return REQUESTS[self.verb].from_cbor(self.arguments)

    @classmethod
    def of(cls, request: Request, *, operator: str, request_id: bytes, issued_at: int, expires_at: int) -> Command:
        verb = next(verb for verb, kind in REQUESTS.items() if kind is type(request))
        return cls(
            operator=operator,
            request_id=request_id,
            issued_at=issued_at,
            expires_at=expires_at,
            verb=verb,
            arguments=request.to_cbor(),
        )

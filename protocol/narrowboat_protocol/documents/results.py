"""What a Reply carries, by verb. Not signed on their own: the Reply around them is."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from ..errors import Reason
from ..model import AS_TUPLE, Document, as_enum, key
from ..states import HoldReason, State
from .director import Window
from .fields import Counter, Digest, Name, Seconds, Size, Text, Version
from .operator import Verb

WAITING = "waiting"
"""Counts an attempt that the device has not reported on."""
AWAITING_APPROVAL = "awaiting_approval"
"""Counts a device of a campaign that waits for another operator."""
WITHDRAWN = "withdrawn"
"""Counts an attempt that gave way to another before it had an end, or was aborted before the device began."""


class DeviceSummary(Document):
    name: Name = key(1)
    last_seen_at: Seconds = key(2)
    running_slot: Name = key(3)
    version: Version | None = key(4, None)
    release: Digest | None = key(5, None)
    campaign: Name | None = key(6, None)
    state: Annotated[State, as_enum(State)] | None = key(7, None)


class DevicePage(Document):
    devices: Annotated[tuple[DeviceSummary, ...], AS_TUPLE] = key(1, max_length=200)
    more: bool = key(2)


class AttemptSummary(Document):
    """Where one device stands in one campaign."""

    device: Name = key(1)
    attempt: Counter = key(2)
    state: Annotated[State, as_enum(State)] | None = key(3, None)
    """Absent until the device reported."""
    hold: Annotated[HoldReason, as_enum(HoldReason)] | None = key(4, None)
    reason: Annotated[Reason, as_enum(Reason)] | None = key(5, None)
    detail: Text | None = key(6, None)
    done_bytes: Size = key(7, 0)
    total_bytes: Size = key(8, 0)
    wire_bytes: Size = key(9, 0)
    reported_at: Seconds | None = key(10, None)


class DeviceDetail(Document):
    summary: DeviceSummary = key(1)
    hardware: Text = key(2)
    agent_version: Version = key(3)
    attempts: Annotated[tuple[AttemptSummary, ...], AS_TUPLE] = key(4, max_length=50)
    """The newest attempts, newest first."""


class CampaignSummary(Document):
    """A campaign and how many of its attempts stand in each state, computed from the attempts."""

    name: Name = key(1)
    release: Digest = key(2)
    version: Version = key(3)
    started_at: Seconds = key(4)
    started_by: Name = key(5)
    ended: Text | None = key(6, None)
    """`completed`, `aborted` or `expired`; absent while it runs or waits."""
    counts: dict[str, Annotated[int, Field(ge=0)]] = key(7, max_length=32)
    """By the state of each attempt, or by one of the words above."""
    devices: int = key(8, ge=0)
    warning: Text | None = key(9, None)
    """What will fail as things stand, and at the start what cannot be taken back; absent from lists and from campaigns
    that have ended."""
    content: Digest = key(10)
    """SHA-256 of the request that started it, with its devices in order: what an approval names."""
    approval_ends_at: Seconds | None = key(11, None)
    """It awaits another operator's approval, and expires then."""
    approved_by: Name | None = key(12, None)


class CampaignPage(Document):
    campaigns: Annotated[tuple[CampaignSummary, ...], AS_TUPLE] = key(1, max_length=200)


class CampaignTerms(Document):
    """What was asked for beside name, release and devices; `content` covers it."""

    everybody: bool = key(1)
    """It is for all devices of the release's hardware classes, those that come later too."""
    reboot_windows: Annotated[tuple[Window, ...], AS_TUPLE] = key(2, (), max_length=8)
    byte_budget: Size | None = key(3, None)


class CampaignDetail(Document):
    summary: CampaignSummary = key(1)
    attempts: Annotated[tuple[AttemptSummary, ...], AS_TUPLE] = key(2, max_length=200)
    more: bool = key(3)
    terms: CampaignTerms = key(4)


class ReleaseSummary(Document):
    release: Digest = key(1)
    component: Name = key(2)
    version: Version = key(3)
    sequence: Counter = key(4)
    image_size: Size = key(5)
    payload_size: Size = key(6)


class UploadState(Document):
    """How far a release file has come."""

    offset: Size = key(1)
    """All bytes below it are stored durably; go on from here."""
    release: ReleaseSummary | None = key(2, None)
    """The release, once the file is verified and in the store."""


class ClaimSummary(Document):
    name: Name = key(1)
    count: int = key(2, ge=1, le=100_000)
    used: int = key(3, ge=0, le=100_000)
    expires_at: Seconds | None = key(4, None)
    keys: int = key(5, ge=0, le=1000)
    """How many thumbprints it lists."""
    admits: bool = key(6)
    revoked: bool = key(7)
    created_at: Seconds = key(8)
    created_by: Name = key(9)


class ClaimPage(Document):
    claims: Annotated[tuple[ClaimSummary, ...], AS_TUPLE] = key(1, max_length=200)
    more: bool = key(2)


class Admission(StrEnum):
    """How a key stands with the registry."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    REVOKED = "revoked"


class EnrolmentSummary(Document):
    kid: Digest = key(1)
    admission: Annotated[Admission, as_enum(Admission)] = key(2)
    device: Name | None = key(3, None)
    """Its name; of one that is pending, the name that it wishes."""
    claim: Name | None = key(4, None)
    serial: Annotated[str, Field(min_length=1, max_length=64)] | None = key(5, None)
    asked_at: Seconds | None = key(6, None)
    expires_at: Seconds | None = key(7, None)
    """Of the newest certificate."""


class EnrolmentPage(Document):
    enrolments: Annotated[tuple[EnrolmentSummary, ...], AS_TUPLE] = key(1, max_length=200)
    more: bool = key(2)


class AuditLink(Document):
    """One entry of the audit log, as it was hashed, and the hash of the chain up to it."""

    sequence: Counter = key(1)
    content: Annotated[bytes, Field(min_length=1, max_length=16_384)] = key(2)
    hash: Digest = key(3)


class AuditPage(Document):
    entries: Annotated[tuple[AuditLink, ...], AS_TUPLE] = key(1, max_length=200)
    more: bool = key(2)


RESULTS: dict[Verb, type[Document]] = {
    Verb.DEVICE_LIST: DevicePage,
    Verb.DEVICE_SHOW: DeviceDetail,
    Verb.CAMPAIGN_START: CampaignSummary,
    Verb.CAMPAIGN_SHOW: CampaignDetail,
    Verb.CAMPAIGN_LIST: CampaignPage,
    Verb.CAMPAIGN_ABORT: CampaignSummary,
    Verb.CAMPAIGN_APPROVE: CampaignSummary,
    Verb.UPLOAD_BEGIN: UploadState,
    Verb.UPLOAD_FINISH: UploadState,
    Verb.CLAIM_CREATE: ClaimSummary,
    Verb.CLAIM_LIST: ClaimPage,
    Verb.CLAIM_REVOKE: ClaimSummary,
    Verb.ENROLMENT_LIST: EnrolmentPage,
    Verb.DEVICE_REGISTER: EnrolmentSummary,
    Verb.DEVICE_APPROVE: EnrolmentSummary,
    Verb.DEVICE_REJECT: EnrolmentSummary,
    Verb.DEVICE_REVOKE: EnrolmentSummary,
    Verb.DEVICE_RESOLVE: DeviceSummary,
    Verb.AUDIT_LIST: AuditPage,
}

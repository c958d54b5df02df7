"""What a Reply carries, by verb. Not signed on their own: the Reply around them is."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..errors import Reason
from ..model import AS_TUPLE, Document, as_enum, key
from ..states import HoldReason, State
from .fields import Counter, Digest, Name, Seconds, Size, Text, Version
from .operator import Verb


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
    """`completed` or `aborted`; absent while it runs."""
    counts: dict[str, Annotated[int, Field(ge=0)]] = key(7, max_length=32)
    devices: int = key(8, ge=0)
    warning: Text | None = key(9, None)
    """What will fail as things stand; absent from lists and from campaigns that have ended."""


class CampaignPage(Document):
    campaigns: Annotated[tuple[CampaignSummary, ...], AS_TUPLE] = key(1, max_length=200)


class CampaignDetail(Document):
    summary: CampaignSummary = key(1)
    attempts: Annotated[tuple[AttemptSummary, ...], AS_TUPLE] = key(2, max_length=200)
    more: bool = key(3)


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


RESULTS: dict[Verb, type[Document]] = {
    Verb.DEVICE_LIST: DevicePage,
    Verb.DEVICE_SHOW: DeviceDetail,
    Verb.CAMPAIGN_START: CampaignSummary,
    Verb.CAMPAIGN_SHOW: CampaignDetail,
    Verb.CAMPAIGN_LIST: CampaignPage,
    Verb.CAMPAIGN_ABORT: CampaignSummary,
    Verb.UPLOAD_BEGIN: UploadState,
    Verb.UPLOAD_FINISH: UploadState,
}

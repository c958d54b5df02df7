"""What an operator is shown, of what it sees (`sight`), computed from the records when they ask.

Nothing here is counted along the way, so nothing can be counted wrongly: a summary is a function of the
attempts. Pages are bounded by number and by size, since a reply is one message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

from narrowboat_protocol.documents import (
    AttemptSummary,
    CampaignDetail,
    CampaignPage,
    CampaignSummary,
    CampaignTerms,
    ClaimPage,
    ClaimSummary,
    DeviceDetail,
    DevicePage,
    DeviceSummary,
    EnrolmentPage,
    EnrolmentSummary,
    ReleaseSummary,
    UploadState,
)
from narrowboat_protocol.documents.results import AWAITING_APPROVAL, WAITING, WITHDRAWN
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.model import Document

from .ledger import Ledger
from .records import Attempt, Campaign, Claim, Device, Registration, Release
from .sight import Sight
from .warnings import failures_ahead

PAGE_BYTES_MAX = 48 * 1024
"""Leaves a reply well below the size of a document."""
_CAMPAIGNS_SHOWN_MAX = 150
_ATTEMPTS_OF_DEVICE_SHOWN_MAX = 50

DocumentT = TypeVar("DocumentT", bound=Document)


def attempt_summary(attempt: Attempt) -> AttemptSummary:
    """What became of an attempt. One that the device left for a newer one has no end, and waits for nothing either."""
    left = attempt.overtaken and not attempt.has_end
    return AttemptSummary(
        device=attempt.device,
        attempt=attempt.counters[-1] if attempt.counters else 0,
        state=attempt.state,
        hold=None if left else attempt.hold,
        reason=Reason.SUPERSEDED if left else attempt.reason,
        detail=attempt.detail,
        done_bytes=attempt.done_bytes,
        total_bytes=attempt.total_bytes,
        wire_bytes=attempt.wire_bytes,
        reported_at=attempt.reported_at,
    )


def campaign_summary(sight: Sight, campaign: Campaign, warning: str | None = None) -> CampaignSummary:
    attempts = sight.attempts_in(campaign)
    words = Counter(AWAITING_APPROVAL if campaign.waits else standing_word(attempt) for attempt in attempts)
    return CampaignSummary(
        name=campaign.name,
        release=campaign.release,
        version=sight.ledger.releases[campaign.release].version,
        started_at=campaign.started_at,
        started_by=campaign.started_by,
        ended=campaign.ended,
        counts=dict(sorted(words.items())),
        devices=len(attempts),
        warning=warning,
        content=campaign.content,
        approval_ends_at=campaign.approval_ends_at if campaign.waits else None,
        approved_by=campaign.approved_by,
    )


def standing_word(attempt: Attempt) -> str:
    """The word that an attempt is counted under: its state, or why there is none to wait for."""
    if attempt.settled and not attempt.has_end:
        return WITHDRAWN
    return WAITING if attempt.state is None else attempt.state.value


def campaign_detail(sight: Sight, campaign: Campaign, after: str | None, limit: int) -> CampaignDetail:
    ordered = sorted(sight.attempts_in(campaign), key=lambda attempt: attempt.device)
    rest = [attempt for attempt in ordered if after is None or attempt.device > after]
    shown = fitting(map(attempt_summary, rest[:limit]))
    summary = campaign_summary(sight, campaign, failures_ahead(sight, campaign))
    terms = CampaignTerms(
        everybody=campaign.devices is None,
        reboot_windows=campaign.reboot_windows,
        byte_budget=campaign.byte_budget,
    )
    return CampaignDetail(summary=summary, attempts=shown, more=len(shown) < len(rest), terms=terms)


def campaign_page(sight: Sight) -> CampaignPage:
    """The newest campaigns, newest first."""
    newest = sight.campaigns()[::-1][:_CAMPAIGNS_SHOWN_MAX]
    return CampaignPage(campaigns=fitting(campaign_summary(sight, campaign) for campaign in newest))


def device_summary(ledger: Ledger, device: Device) -> DeviceSummary:
    attempt = ledger.newest_attempt(device.name)
    running = device.running
    return DeviceSummary(
        name=device.name,
        last_seen_at=device.last_seen_at,
        running_slot=device.hello.running_slot,
        version=running.version if running else None,
        release=running.release if running else None,
        campaign=attempt.campaign if attempt else None,
        state=attempt.state if attempt else None,
    )


def device_page(sight: Sight, after: str | None, limit: int) -> DevicePage:
    rest = [name for name in sight.names() if after is None or name > after]
    shown = fitting(device_summary(sight.ledger, sight.ledger.devices[name]) for name in rest[:limit])
    return DevicePage(devices=shown, more=len(shown) < len(rest))


def device_detail(ledger: Ledger, device: Device) -> DeviceDetail:
    newest = [attempt_summary(attempt) for attempt in ledger.attempts_of(device.name)]
    hello = device.hello
    return DeviceDetail(
        summary=device_summary(ledger, device),
        hardware=f"{hello.component} on vendor {hello.vendor_id.hex()} class {hello.class_id.hex()}",
        agent_version=hello.agent_version,
        attempts=fitting(newest[:_ATTEMPTS_OF_DEVICE_SHOWN_MAX]),
    )


def claim_summary(claim: Claim) -> ClaimSummary:
    return ClaimSummary(
        name=claim.name,
        count=claim.count,
        used=claim.used,
        expires_at=claim.expires_at,
        keys=len(claim.kids),
        admits=claim.admits,
        revoked=claim.revoked,
        created_at=claim.created_at,
        created_by=claim.created_by,
    )


def claim_page(ledger: Ledger, after: str | None, limit: int) -> ClaimPage:
    rest = sorted(name for name in ledger.claims if after is None or name > after)
    shown = fitting(claim_summary(ledger.claims[name]) for name in rest[:limit])
    return ClaimPage(claims=shown, more=len(shown) < len(rest))


def enrolment_summary(registration: Registration) -> EnrolmentSummary:
    return EnrolmentSummary(
        kid=registration.kid,
        admission=registration.admission,
        device=registration.device,
        claim=registration.claim,
        serial=registration.serial,
        asked_at=registration.asked_at,
        expires_at=registration.expires_at,
    )


def enrolment_page(ledger: Ledger, after: bytes | None, limit: int) -> EnrolmentPage:
    rest = sorted(kid for kid in ledger.registrations if after is None or kid > after)
    shown = fitting(enrolment_summary(ledger.registrations[kid]) for kid in rest[:limit])
    return EnrolmentPage(enrolments=shown, more=len(shown) < len(rest))


def release_summary(release: Release) -> ReleaseSummary:
    return ReleaseSummary(
        release=release.digest,
        component=release.component,
        version=release.version,
        sequence=release.sequence,
        image_size=release.image_size_bytes,
        payload_size=release.payload.size,
    )


def taken_in(release: Release) -> UploadState:
    """The answer about a release file whose release is in the store."""
    return UploadState(offset=release.file_size_bytes, release=release_summary(release))


def fitting(documents: Iterable[DocumentT]) -> tuple[DocumentT, ...]:
    """As many of the first documents as fit in one reply."""
    shown: list[DocumentT] = []
    size_bytes = 0
    for document in documents:
        size_bytes += len(document.encode())
        if size_bytes > PAGE_BYTES_MAX:
            break
        shown.append(document)
    return tuple(shown)

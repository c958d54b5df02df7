"""What the bridge answers, as JSON and as the words of tables.

JSON has the field names of the documents, digests in hex and times in ISO 8601, so that it reads like
docs/protocol.md and needs no key of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import TypeVar

from narrowboat_protocol.documents import AttemptSummary, CampaignSummary, DeviceSummary
from narrowboat_protocol.documents.results import AWAITING_APPROVAL, WAITING
from narrowboat_protocol.model import Document

from .output import JsonValue, human_bytes, iso_time, print_json, table_lines

DEVICE_HEADINGS = ("DEVICE", "LAST SEEN", "SLOT", "VERSION", "CAMPAIGN", "STATE")
CAMPAIGN_HEADINGS = ("CAMPAIGN", "VERSION", "STARTED", "BY", "DEVICES", "STANDING")

DocumentT = TypeVar("DocumentT", bound=Document)


def as_json(document: Document) -> dict[str, JsonValue]:
    return {name: _plain(name, getattr(document, name)) for name in type(document).model_fields}


def print_listing(
    documents: Sequence[DocumentT], headings: Sequence[str], row: Callable[[DocumentT], list[str]], *, as_array: bool
) -> None:
    """As a JSON array, or as a table with a row for each."""
    if as_array:
        print_json([as_json(document) for document in documents])
    else:
        print("\n".join(table_lines(headings, map(row, documents))))


def device_row(device: DeviceSummary) -> list[str]:
    return [
        device.name,
        iso_time(device.last_seen_at),
        device.running_slot,
        device.version or "-",
        device.campaign or "-",
        device.state.value if device.state else "-",
    ]


def campaign_row(campaign: CampaignSummary) -> list[str]:
    return [
        campaign.name,
        campaign.version,
        iso_time(campaign.started_at),
        campaign.started_by,
        str(campaign.devices),
        standing(campaign),
    ]


def standing(campaign: CampaignSummary) -> str:
    """`running: 2 downloading, 1 succeeded`, or `awaiting_approval: 3 awaiting_approval`."""
    running = "running" if campaign.approval_ends_at is None else AWAITING_APPROVAL
    return f"{campaign.ended or running}: {counts_text(campaign)}"


def counts_text(campaign: CampaignSummary) -> str:
    return ", ".join(f"{count} {word}" for word, count in campaign.counts.items() if count) or "no devices yet"


def attempt_state(attempt: AttemptSummary) -> str:
    state = attempt.state.value if attempt.state else WAITING
    return f"{state} (hold: {attempt.hold.value})" if attempt.hold else state


def attempt_reason(attempt: AttemptSummary) -> str:
    """Why it ended as it did, in a word for machines and maybe a sentence for people."""
    reason = attempt.reason.value if attempt.reason else ""
    return ": ".join(part for part in (reason, attempt.detail or "") if part)


def wire_text(attempt: AttemptSummary) -> str:
    return human_bytes(attempt.wire_bytes) if attempt.wire_bytes else "-"


def _plain(name: str, value: object) -> JsonValue:
    match value:
        case Document():
            return as_json(value)
        case Enum():
            return str(value.value)
        case bytes():
            return value.hex()
        case int() if name.endswith("_at"):
            return iso_time(value)
        case None | bool() | int() | str():
            return value
        case Mapping():
            return {str(key): _plain(str(key), item) for key, item in value.items()}
        case tuple() | list():
            return [_plain(name, item) for item in value]
        case _:
            raise TypeError(f"expected a value of a document, got {type(value).__name__}")

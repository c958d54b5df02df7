"""Records of the core as rows of the store, and back.

A row that does not read back is a store that something else wrote: everything here was valid when it was
written, so the fault is the medium's, not a peer's.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from narrowboat_protocol.cbor import decode, encode
from narrowboat_protocol.documents import Admission, Hello, PayloadReference
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.keys import KID_BYTES, public_key_from_cbor
from narrowboat_protocol.payload import Codec
from narrowboat_protocol.states import HoldReason, State

from ..core.records import Attempt, Campaign, Claim, Device, Ending, Registration, Release

Row = Mapping[str, Any]

_RECENT = struct.Struct(">QQ32s")
_COUNTER = struct.Struct(">Q")
_UUID_BYTES = 16
_LIST_BYTES_MAX = 256 * 1024


def device_row(device: Device) -> Row:
    """All of a device but its hello, which has a table of its own."""
    return {
        "name": device.name,
        "cose_key": device.key.cose_key,
        "accepted_counter": device.accepted_counter,
        "boot": device.pair[0],
        "n": device.pair[1],
        "recent": b"".join(_RECENT.pack(*pair, digest) for pair, digest in device.recent),
        "challenge": device.challenge,
        "first_seen_at": device.first_seen_at,
        "last_seen_at": device.last_seen_at,
        "alarmed_at": device.alarmed_at,
        "reports_stored": device.reports_stored,
        "stopped": device.stopped,
    }


def device_from(row: Row, hello: bytes) -> Device:
    return Device(
        name=row["name"],
        key=public_key_from_cbor(decode(row["cose_key"], max_bytes=_LIST_BYTES_MAX)),
        hello=Hello.decode(hello),
        accepted_counter=row["accepted_counter"],
        pair=(row["boot"], row["n"]),
        recent=tuple(((boot, n), digest) for boot, n, digest in _RECENT.iter_unpack(row["recent"])),
        challenge=row["challenge"],
        first_seen_at=row["first_seen_at"],
        last_seen_at=row["last_seen_at"],
        alarmed_at=row["alarmed_at"],
        reports_stored=row["reports_stored"],
        stopped=row["stopped"],
    )


def claim_row(claim: Claim) -> Row:
    return dataclasses.asdict(claim) | {"kids": b"".join(claim.kids)}


def claim_from(row: Row) -> Claim:
    return Claim(**(dict(row) | {"kids": _kids(row["kids"])}))


def registration_row(registration: Registration) -> Row:
    own = {"first_kid": registration.kids[0], "kids": b"".join(registration.kids)}
    return dataclasses.asdict(registration) | own | {"admission": registration.admission.value}


def registration_from(row: Row) -> Registration:
    values = dict(row) | {"kids": _kids(row["kids"]), "admission": Admission(row["admission"])}
    del values["first_kid"]
    return Registration(**values)


def _kids(joined: bytes) -> tuple[bytes, ...]:
    return tuple(joined[at : at + KID_BYTES] for at in range(0, len(joined), KID_BYTES))


def release_row(release: Release) -> Row:
    return {
        "digest": release.digest,
        "component": release.component,
        "version": release.version,
        "sequence": release.sequence,
        "vendor_id": release.vendor_id.bytes,
        "class_ids": b"".join(class_id.bytes for class_id in release.class_ids),
        "image_size_bytes": release.image_size_bytes,
        "payload": release.payload.encode(),
        "envelope": release.envelope,
        "file_digest": release.file_digest,
        "added_at": release.added_at,
        "codecs": bytes(release.codecs),
    }


def release_from(row: Row) -> Release:
    class_ids: bytes = row["class_ids"]
    starts = range(0, len(class_ids), _UUID_BYTES)
    return Release(
        digest=row["digest"],
        component=row["component"],
        version=row["version"],
        sequence=row["sequence"],
        vendor_id=UUID(bytes=row["vendor_id"]),
        class_ids=tuple(UUID(bytes=class_ids[start : start + _UUID_BYTES]) for start in starts),
        image_size_bytes=row["image_size_bytes"],
        payload=PayloadReference.decode(row["payload"]),
        envelope=row["envelope"],
        file_digest=row["file_digest"],
        added_at=row["added_at"],
        codecs=tuple(map(Codec, row["codecs"])),
    )


def campaign_row(campaign: Campaign) -> Row:
    return {
        "name": campaign.name,
        "serial": campaign.serial,
        "release": campaign.release,
        "devices": None if campaign.devices is None else encode(list(campaign.devices)),
        "reboot_windows": encode([list(window) for window in campaign.reboot_windows]),
        "byte_budget": campaign.byte_budget,
        "started_at": campaign.started_at,
        "started_by": campaign.started_by,
        "starter_kid": campaign.starter_kid,
        "content": campaign.content,
        "approval_ends_at": campaign.approval_ends_at,
        "approved_by": campaign.approved_by,
        "ended": campaign.ended,
    }


def campaign_from(row: Row) -> Campaign:
    return Campaign(
        name=row["name"],
        serial=row["serial"],
        release=row["release"],
        devices=None if row["devices"] is None else tuple(_list(row["devices"])),
        reboot_windows=tuple((start, end) for start, end in _list(row["reboot_windows"])),
        byte_budget=row["byte_budget"],
        started_at=row["started_at"],
        started_by=row["started_by"],
        starter_kid=row["starter_kid"],
        content=row["content"],
        approval_ends_at=row["approval_ends_at"],
        approved_by=row["approved_by"],
        ended=None if row["ended"] is None else Ending(row["ended"]),
    )


def attempt_row(attempt: Attempt) -> Row:
    boot, n = attempt.pair or (None, None)
    return {
        "campaign": attempt.campaign,
        "device": attempt.device,
        "counters": b"".join(map(_COUNTER.pack, attempt.counters)),
        "old_slot": attempt.old_slot,
        "old_release": attempt.old_release,
        "accepted": attempt.accepted,
        "withdrawn": attempt.withdrawn,
        "overtaken": attempt.overtaken,
        "state": attempt.state,
        "boot": boot,
        "n": n,
        "hold": attempt.hold,
        "reason": attempt.reason,
        "detail": attempt.detail,
        "done_bytes": attempt.done_bytes,
        "total_bytes": attempt.total_bytes,
        "wire_bytes": attempt.wire_bytes,
        "reported_at": attempt.reported_at,
    }


def attempt_from(row: Row) -> Attempt:
    return Attempt(
        campaign=row["campaign"],
        device=row["device"],
        counters=tuple(counter for (counter,) in _COUNTER.iter_unpack(row["counters"])),
        old_slot=row["old_slot"],
        old_release=row["old_release"],
        accepted=row["accepted"],
        withdrawn=row["withdrawn"],
        overtaken=row["overtaken"],
        state=None if row["state"] is None else State(row["state"]),
        pair=None if row["boot"] is None else (row["boot"], row["n"]),
        hold=None if row["hold"] is None else HoldReason(row["hold"]),
        reason=None if row["reason"] is None else Reason(row["reason"]),
        detail=row["detail"],
        done_bytes=row["done_bytes"],
        total_bytes=row["total_bytes"],
        wire_bytes=row["wire_bytes"],
        reported_at=row["reported_at"],
    )


def _list(data: bytes) -> list[Any]:
    value = decode(data, max_bytes=_LIST_BYTES_MAX)
    return value if isinstance(value, list) else []

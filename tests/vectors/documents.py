"""One document of every kind, full of values that another language has to read alike."""

from __future__ import annotations

import hashlib

from narrowboat_protocol import documents as doc
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.model import Document
from narrowboat_protocol.states import HoldReason, State
from narrowboat_protocol.suit import class_id, vendor_id
from narrowboat_protocol.transfer import FetchRequest

from .encryption import INFO, RECIPIENT
from .seeds import (
    DAY,
    DEVICE,
    NOW,
    OPERATOR,
    ROLES,
    SECOND_RELEASE_KEY,
    p256_key,
    seeded,
)


def root_document() -> doc.Root:
    keys = [*ROLES.values(), SECOND_RELEASE_KEY]
    kids: dict[doc.RoleName, tuple[bytes, ...]] = {name: (key.public.kid,) for name, key in ROLES.items()}
    kids[doc.RoleName.RELEASE] += (SECOND_RELEASE_KEY.public.kid,)
    return doc.Root(
        version=1,
        expires_at=NOW + 3650 * DAY,
        keys=tuple(key.public.to_cbor() for key in keys),
        roles=tuple(
            doc.Role(name=name, threshold=len(kids[name]), kids=kids[name], components=_only_for_releases(name))
            for name in doc.RoleName
        ),
        components=(doc.ComponentRule(component="rootfs", epoch=0, minimum_sequence=3),),
        broker_anchors=(seeded("certificate", 40),),
        broker_addresses=(doc.BrokerAddress(host="broker.example.com", port=8883),),
        root_urls=("http://roots.example.com/fleet",),
    )


def _only_for_releases(name: doc.RoleName) -> tuple[str, ...] | None:
    return ("rootfs",) if name is doc.RoleName.RELEASE else None


ROOT = root_document()
FLEET_ID = hashlib.sha256(ROOT.encode()).digest()

PAYLOAD = doc.PayloadReference(
    digest=seeded("payload"), kind=0, size=5_000_000, head_size=300, head_sha256=seeded("head")
)
ASSIGNMENT = doc.Assignment(
    device="gw-1",
    counter=7,
    issued_at=NOW,
    expires_at=NOW + 7 * DAY,
    nonce=seeded("nonce", 16),
    root_version=1,
    targets=(doc.Target(component="rootfs", release=seeded("release"), payloads=(PAYLOAD,)),),
    campaign="spring",
    reboot_windows=((3600, 7200), (82_800, 1800)),
    byte_budget=20_000_000,
)
ENCRYPTED = ASSIGNMENT.model_copy(
    update={
        "targets": (
            doc.Target(
                component="rootfs",
                release=seeded("release"),
                payloads=(PAYLOAD.model_copy(update={"encryption": INFO}),),
            ),
        )
    }
)
HELLO = doc.Hello(
    device="gw-1",
    pair=(12, 1),
    nonce=seeded("nonce", 16),
    root_version=1,
    assignment_counter=6,
    certificate=seeded("certificate", 40),
    component="rootfs",
    vendor_id=vendor_id("example.com").bytes,
    class_id=class_id(vendor_id("example.com"), "gateway-a").bytes,
    slots=(
        doc.SlotInfo(name="a", size=1 << 29, release=seeded("old release"), version="1.9.0"),
        doc.SlotInfo(name="b", size=1 << 29),
    ),
    running_slot="a",
    boot_id=seeded("boot", 16),
    codecs=(0, 1, 2),
    formats=(1,),
    agent_version="0.1.0",
    challenge=seeded("challenge", 16),
    state=State.SUCCEEDED,
)
REPORT = doc.Report(
    device="gw-1",
    pair=(12, 9),
    attempt=7,
    component="rootfs",
    release=seeded("release"),
    state=State.DOWNLOADING,
    hold=doc.Hold(reason=HoldReason.BYTE_BUDGET, since=NOW, next_check=NOW + 3600),
    slot="a",
    boot_id=seeded("boot", 16),
    done_bytes=4_194_304,
    total_bytes=67_108_864,
    wire_bytes=1_700_000,
)
FAILED = REPORT.model_copy(
    update={"pair": (12, 10), "state": State.FAILED, "hold": None, "reason": Reason.MEDIUM_FAILED, "detail": "chunk 7"}
)
COMMAND = doc.Command.of(
    doc.CampaignStart(campaign="spring", release=seeded("release"), devices=("gw-1", "gw-2"), byte_budget=20_000_000),
    operator="ada",
    request_id=seeded("request", 16),
    issued_at=NOW,
    expires_at=NOW + 300,
)
SUMMARY = doc.CampaignSummary(
    name="spring",
    release=seeded("release"),
    version="2.0.0",
    started_at=NOW,
    started_by="ada",
    counts={"failed": 1, "downloading": 1},
    devices=2,
    content=seeded("campaign"),
)
TERMS = doc.CampaignTerms(everybody=False, reboot_windows=((79_200, 16_200),), byte_budget=50_000_000)
WAITING_SUMMARY = SUMMARY.model_copy(
    update={"counts": {"awaiting_approval": 2}, "approval_ends_at": NOW + 7 * DAY},
)

REPLY = doc.Reply(request_id=seeded("request", 16), result=SUMMARY.to_cbor())

EVENT = doc.Event(
    sequence=5, at=NOW, kind=doc.EventKind.REPORT, hold=HoldReason.WINDOW, reason=Reason.HOOK_FAILED, detail="exit 1"
)

ENROLMENT = doc.EnrolmentRequest(
    csr=seeded("signing request", 40),
    nonce=seeded("nonce", 16),
    cose_key=DEVICE.public.to_cbor(),
    wish="gw-1",
    serial="SN 0001",
    vendor_id=vendor_id("example.com").bytes,
    class_id=class_id(vendor_id("example.com"), "gateway-a").bytes,
)
ISSUED = doc.EnrolmentReply(
    kid=DEVICE.public.kid,
    nonce=seeded("nonce", 16),
    outcome=doc.EnrolmentOutcome.ISSUED,
    device="gw-1",
    certificate=seeded("certificate", 40),
    at=NOW,
)
CLAIM = doc.ClaimSummary(
    name="batch-7", count=1000, used=12, expires_at=NOW + DAY, keys=0, admits=True, revoked=False, created_at=NOW,
    created_by="ada",
)  # fmt: skip
ENROLLED = doc.EnrolmentSummary(
    kid=DEVICE.public.kid,
    admission=doc.Admission.PENDING,
    device="gw-1",
    claim="batch-7",
    serial="SN 0001",
    asked_at=NOW,
    expires_at=NOW + 365 * DAY,
)

SIGNED: list[tuple[str, doc.SignedModel, PrivateKey]] = [
    ("root", ROOT, ROLES[doc.RoleName.ROOT]),
    ("assignment", ASSIGNMENT, ROLES[doc.RoleName.DIRECTOR]),
    (
        "assignment that withdraws everything",
        ASSIGNMENT.model_copy(update={"targets": (), "campaign": None, "reboot_windows": (), "byte_budget": None}),
        ROLES[doc.RoleName.DIRECTOR],
    ),
    ("assignment of an encrypted payload", ENCRYPTED, ROLES[doc.RoleName.DIRECTOR]),
    ("hello", HELLO, DEVICE),
    ("hello with an agreement key", HELLO.model_copy(update={"agreement_key": RECIPIENT.public.to_cbor()}), DEVICE),
    ("hello of a new device", HELLO.model_copy(update={"challenge": None, "state": None}), DEVICE),
    ("report with a hold", REPORT, DEVICE),
    ("terminal report", FAILED, DEVICE),
    (
        "ack",
        doc.Ack(device="gw-1", pair=(12, 9), challenge=seeded("challenge", 16), statement=seeded("statement", 32)),
        ROLES[doc.RoleName.BRIDGE],
    ),
    ("reply with a result", REPLY, ROLES[doc.RoleName.BRIDGE]),
    (
        "reply with a refusal",
        doc.Reply(request_id=seeded("request", 16), reason=Reason.UNKNOWN_RELEASE, message="push the release first"),
        ROLES[doc.RoleName.BRIDGE],
    ),
    (
        "event",
        doc.Event(
            sequence=4, at=NOW, kind=doc.EventKind.REPORT, device="gw-1", campaign="spring", state=State.ON_TRIAL
        ),
        ROLES[doc.RoleName.BRIDGE],
    ),
    ("event with a hold and a reason", EVENT, ROLES[doc.RoleName.BRIDGE]),
    ("command", COMMAND, OPERATOR),
    ("enrolment request", ENROLMENT, DEVICE),
    (
        "enrolment request of a key that only connects",
        ENROLMENT.model_copy(update={"connects_only": True}),
        DEVICE,
    ),
    ("enrolment reply with a certificate", ISSUED, ROLES[doc.RoleName.BRIDGE]),
    (
        "enrolment reply that tells to wait",
        doc.EnrolmentReply(
            kid=DEVICE.public.kid,
            nonce=seeded("nonce", 16),
            outcome=doc.EnrolmentOutcome.PENDING,
            reason=Reason.CONFLICT,
            message="an operator decides",
            ask_again_at=NOW + 600,
            at=NOW,
        ),
        ROLES[doc.RoleName.BRIDGE],
    ),
    (
        "operators",
        doc.Operators(
            version=2,
            operators=(
                doc.Operator(name="ada", cose_key=OPERATOR.public.to_cbor(), role=doc.OperatorRole.ADMIN),
                doc.Operator(
                    name="grace", cose_key=p256_key("operator grace").public.to_cbor(), role=doc.OperatorRole.VIEWER
                ),
                doc.Operator(
                    name="joan",
                    cose_key=p256_key("operator joan").public.to_cbor(),
                    role=doc.OperatorRole.OPERATOR,
                    scope=doc.Scope(
                        name_prefix="gw-",
                        devices=("gw-1", "gw-2"),
                        class_ids=(bytes(range(16)),),
                        component="rootfs",
                    ),
                ),
            ),
            approval_over=10,
        ),
        ROLES[doc.RoleName.ADMIN],
    ),
]

SIGNED_ASSIGNMENT = doc.sign_model(ASSIGNMENT, FLEET_ID, [ROLES[doc.RoleName.DIRECTOR]])
ATTEMPT = doc.AttemptSummary(
    device="gw-1", attempt=7, state=State.FAILED, reason=Reason.MEDIUM_FAILED, detail="chunk 7", reported_at=NOW
)
DEVICE_SUMMARY = doc.DeviceSummary(name="gw-1", last_seen_at=NOW, running_slot="a", version="1.9.0", campaign="spring")
PLAIN: list[tuple[str, Document]] = [
    (
        "root chain",
        doc.RootChain(roots=(doc.sign_model(ROOT, FLEET_ID, [ROLES[doc.RoleName.ROOT]]), seeded("next root", 20))),
    ),
    ("delivery", doc.Delivery(assignment=SIGNED_ASSIGNMENT, envelopes=(seeded("envelope", 20),))),
    ("device list", doc.DeviceList(after="gw-1", limit=50)),
    ("device show", doc.DeviceShow(device="gw-1")),
    ("campaign start", doc.CampaignStart(campaign="spring", release=seeded("release"), reboot_windows=((0, 60),))),
    ("campaign show", doc.CampaignShow(campaign="spring")),
    ("campaign list", doc.CampaignList()),
    ("campaign approve", doc.CampaignApprove(campaign="spring", content=seeded("campaign"))),
    ("campaign abort", doc.CampaignAbort(campaign="spring")),
    ("upload begin", doc.UploadBegin(digest=seeded("file"), size=5_000_400)),
    ("upload finish", doc.UploadFinish(digest=seeded("file"))),
    ("claim create", doc.ClaimCreate(claim="batch-7", count=1000, expires_at=NOW + DAY, admits=True)),
    ("claim create with a list", doc.ClaimCreate(claim="gw-1", count=1, keys=(DEVICE.public.kid,))),
    ("claim list", doc.ClaimList()),
    ("claim revoke", doc.ClaimRevoke(claim="batch-7")),
    ("enrolment list", doc.EnrolmentList(after=DEVICE.public.kid)),
    ("device register", doc.DeviceRegister(device="gw-1", kid=DEVICE.public.kid)),
    ("device approve", doc.DeviceApprove(kid=DEVICE.public.kid, device="gw-1", replace=True)),
    ("device reject", doc.DeviceReject(kid=DEVICE.public.kid)),
    ("device revoke", doc.DeviceRevoke(device="gw-1")),
    ("device resolve", doc.DeviceResolve(device="gw-1")),
    ("audit list", doc.AuditList(after=41)),
    (
        "audit page",
        doc.AuditPage(
            entries=(doc.AuditLink(sequence=42, content=seeded("entry", 40), hash=seeded("chain")),), more=False
        ),
    ),
    ("claim page", doc.ClaimPage(claims=(CLAIM,), more=False)),
    ("enrolment page", doc.EnrolmentPage(enrolments=(ENROLLED,), more=False)),
    ("device page", doc.DevicePage(devices=(DEVICE_SUMMARY,), more=True)),
    (
        "device detail",
        doc.DeviceDetail(summary=DEVICE_SUMMARY, hardware="gateway-a", agent_version="0.1.0", attempts=(ATTEMPT,)),
    ),
    ("campaign summary", SUMMARY),
    ("campaign summary with a warning", SUMMARY.model_copy(update={"warning": "1 device cannot decode zstd: gw-2"})),
    ("campaign summary that waits for approval", WAITING_SUMMARY),
    ("campaign summary of one that was approved", SUMMARY.model_copy(update={"approved_by": "grace"})),
    ("campaign page", doc.CampaignPage(campaigns=(SUMMARY,))),
    ("campaign detail", doc.CampaignDetail(summary=SUMMARY, attempts=(ATTEMPT,), more=False, terms=TERMS)),
    (
        "upload state",
        doc.UploadState(
            offset=5_000_400,
            release=doc.ReleaseSummary(
                release=seeded("release"),
                component="rootfs",
                version="2.0.0",
                sequence=3,
                image_size=67_108_864,
                payload_size=5_000_000,
            ),
        ),
    ),
    ("fetch request", FetchRequest(payload=seeded("payload"), ranges=((0, 300), (16_684, 65_536)), block_bytes=16_384)),
]

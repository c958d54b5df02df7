"""Writes the language-neutral vectors: `python -m tests.vectors.generate`. A test compares its output with the files.

Everything comes from fixed seeds, and Ed25519 signatures are deterministic (RFC 8032), so the same library gives the
same files. What depends on the release of a compressor (encoded frames) is a constant here: vectors say what must be
readable, not how to compress.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from narrowboat_protocol import documents as doc
from narrowboat_protocol.cbor import encode
from narrowboat_protocol.cose import document_aad, sign1, sign_document
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.model import Document
from narrowboat_protocol.payload import Codec, encode_head
from narrowboat_protocol.payload.head import pack_entry
from narrowboat_protocol.states import HoldReason, State
from narrowboat_protocol.suit import Image, Manifest, add_signature, build_envelope, class_id, parse_envelope, vendor_id
from narrowboat_protocol.topics import READ_BY_OWNER, WRITTEN_BY_OWNER, Topic
from narrowboat_protocol.transfer import Block, FetchRequest
from narrowboat_protocol.tree import Tree, TreeBuilder

HERE = Path(__file__).parent
NOW = 1_800_000_000
DAY = 86_400
Vectors = dict[str, Any]


def seeded(label: str, size: int = 32) -> bytes:
    """Bytes that are the same everywhere and mean nothing."""
    return hashlib.shake_128(label.encode()).digest(size)


def ed25519_key(label: str) -> PrivateKey:
    return PrivateKey(ed25519.Ed25519PrivateKey.from_private_bytes(seeded(label)))


def p256_key(label: str) -> PrivateKey:
    return PrivateKey(ec.derive_private_key(int.from_bytes(seeded(label), "big") >> 1, ec.SECP256R1()))


ROLES = {name: ed25519_key(f"role {name}") for name in doc.RoleName}
SECOND_RELEASE_KEY = p256_key("role release 2")
DEVICE, OPERATOR = ed25519_key("device gw-1"), ed25519_key("operator ada")


def notation(value: object) -> str:
    """Return CBOR diagnostic notation (RFC 8949 section 8)."""
    match value:
        case bytes():
            return f"h'{value.hex()}'"
        case dict():
            return "{" + ", ".join(f"{notation(key)}: {notation(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(notation, value)) + "]"
        case cbor2.CBORTag():
            return f"{value.tag}({notation(value.value)})"
        case _:
            return json.dumps(value, ensure_ascii=False)


# -- Documents


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
    last_end=State.SUCCEEDED,
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
)

REPLY = doc.Reply(request_id=seeded("request", 16), result=SUMMARY.to_cbor())

SIGNED: list[tuple[str, doc.SignedModel, PrivateKey]] = [
    ("root", ROOT, ROLES[doc.RoleName.ROOT]),
    ("assignment", ASSIGNMENT, ROLES[doc.RoleName.DIRECTOR]),
    (
        "assignment that withdraws everything",
        ASSIGNMENT.model_copy(update={"targets": (), "campaign": None, "reboot_windows": (), "byte_budget": None}),
        ROLES[doc.RoleName.DIRECTOR],
    ),
    ("hello", HELLO, DEVICE),
    ("hello of a new device", HELLO.model_copy(update={"challenge": None, "last_end": None}), DEVICE),
    ("report with a hold", REPORT, DEVICE),
    ("terminal report", FAILED, DEVICE),
    ("ack", doc.Ack(device="gw-1", pair=(12, 9), challenge=seeded("challenge", 16)), ROLES[doc.RoleName.BRIDGE]),
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
    ("command", COMMAND, OPERATOR),
    (
        "operators",
        doc.Operators(
            version=1,
            operators=(
                doc.Operator(name="ada", cose_key=OPERATOR.public.to_cbor(), role=doc.OperatorRole.OPERATOR),
                doc.Operator(
                    name="grace", cose_key=p256_key("operator grace").public.to_cbor(), role=doc.OperatorRole.VIEWER
                ),
            ),
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
    ("delivery", doc.Delivery(assignment=SIGNED_ASSIGNMENT, envelopes=(seeded("envelope", 20),))),
    ("device list", doc.DeviceList(after="gw-1", limit=50)),
    ("device show", doc.DeviceShow(device="gw-1")),
    ("campaign start", doc.CampaignStart(campaign="spring", release=seeded("release"), reboot_windows=((0, 60),))),
    ("campaign show", doc.CampaignShow(campaign="spring")),
    ("campaign list", doc.CampaignList()),
    ("campaign abort", doc.CampaignAbort(campaign="spring")),
    ("upload begin", doc.UploadBegin(digest=seeded("file"), size=5_000_400)),
    ("upload finish", doc.UploadFinish(digest=seeded("file"))),
    ("device page", doc.DevicePage(devices=(DEVICE_SUMMARY,), more=True)),
    (
        "device detail",
        doc.DeviceDetail(summary=DEVICE_SUMMARY, hardware="gateway-a", agent_version="0.1.0", attempts=(ATTEMPT,)),
    ),
    ("campaign summary", SUMMARY),
    ("campaign summary with a warning", SUMMARY.model_copy(update={"warning": "1 device cannot decode zstd: gw-2"})),
    ("campaign page", doc.CampaignPage(campaigns=(SUMMARY,))),
    ("campaign detail", doc.CampaignDetail(summary=SUMMARY, attempts=(ATTEMPT,), more=False)),
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


def rule_of(document: Document) -> str:
    """The CDDL rule of a document: its class name with hyphens."""
    name = type(document).__name__
    return "".join(f"-{letter}" if letter.isupper() and at else letter for at, letter in enumerate(name))


def refused_documents() -> Iterable[Vectors]:
    report, root = REPORT.to_cbor(), ROOT.to_cbor()
    shapes: list[tuple[str, Document, object, Reason]] = [
        ("an unknown key", REPORT, report | {22: 0}, Reason.BAD_DOCUMENT),
        ("a missing key", REPORT, {k: v for k, v in report.items() if k != 5}, Reason.BAD_DOCUMENT),
        ("null for what is absent", REPORT, report | {13: None}, Reason.BAD_DOCUMENT),
        ("a name with a capital", REPORT, report | {1: "GW-1"}, Reason.BAD_DOCUMENT),
        ("a short digest", REPORT, report | {5: bytes(31)}, Reason.BAD_DOCUMENT),
        ("an unknown state", REPORT, report | {6: "done"}, Reason.BAD_DOCUMENT),
        ("a boolean for a number", REPORT, report | {3: True}, Reason.BAD_DOCUMENT),
        ("a negative counter", REPORT, report | {3: -1}, Reason.BAD_DOCUMENT),
        ("a counter of 2^53", REPORT, report | {3: 1 << 53}, Reason.BAD_DOCUMENT),
        ("text for bytes", REPORT, report | {9: "0" * 16}, Reason.BAD_DOCUMENT),
        ("a root without one of the roles", ROOT, root | {4: ROOT.to_cbor()[4][:4]}, Reason.BAD_DOCUMENT),  # type: ignore[index]
        ("a root with an unknown key below 16", ROOT, root | {15: 0}, Reason.BAD_DOCUMENT),
        ("a root with an unknown key above 23", ROOT, root | {24: 0}, Reason.BAD_DOCUMENT),
        ("an unknown reason", FAILED, FAILED.to_cbor() | {13: "because"}, Reason.BAD_DOCUMENT),
        ("a broker address with a path", ROOT, root | {7: [{1: "broker/x", 2: 8883}]}, Reason.BAD_DOCUMENT),
        ("an empty certificate", HELLO, HELLO.to_cbor() | {6: b""}, Reason.BAD_DOCUMENT),
        ("an argument below 0", COMMAND, COMMAND.to_cbor() | {6: {-1: 0}}, Reason.BAD_DOCUMENT),
        ("an argument above 23", COMMAND, COMMAND.to_cbor() | {6: {24: 0}}, Reason.BAD_DOCUMENT),
        ("a result below 0", REPLY, REPLY.to_cbor() | {4: {-1: 0}}, Reason.BAD_DOCUMENT),
        ("a count below 0", SUMMARY, SUMMARY.to_cbor() | {7: {"failed": -1}}, Reason.BAD_DOCUMENT),
        ("an empty source", PAYLOAD, PAYLOAD.to_cbor() | {6: [""]}, Reason.BAD_DOCUMENT),
        ("a window that begins tomorrow", ASSIGNMENT, ASSIGNMENT.to_cbor() | {9: [[86_400, 0]]}, Reason.BAD_DOCUMENT),
        ("a default left out", PLAIN[1][1], {1: "gw-1"}, Reason.BAD_DOCUMENT),
        ("too many ranges", PLAIN[-1][1], {1: bytes(32), 2: [[0, 1]] * 33, 3: 1024}, Reason.BAD_DOCUMENT),
    ]
    for name, document, value, reason in shapes:
        yield {"name": name, "rule": rule_of(document), "hex": encode(value).hex(), "refused": reason}
    raw = REPORT.encode()
    yield {
        "name": "a byte after the document",
        "rule": "Report",
        "hex": (raw + b"\0").hex(),
        "refused": "not_deterministic",
    }
    yield {"name": "a document cut short", "rule": "Report", "hex": raw[:-1].hex(), "refused": "not_deterministic"}


def documents_file() -> Vectors:
    cases: list[Vectors] = []
    for name, document, key in SIGNED:
        content = document.encode()
        signed = sign_document(content, document.FORMAT, document.KIND, FLEET_ID, [key]).encode()
        cases.append(
            {
                "name": name,
                "rule": rule_of(document),
                "kind": document.KIND,
                "format": document.FORMAT,
                "notation": notation(document.to_cbor()),
                "content": content.hex(),
                "external_aad": document_aad(document.KIND, document.FORMAT, FLEET_ID).hex(),
                "signer": key.public.cose_key.hex(),
                "signed": signed.hex(),
            }
        )
    for name, plain in PLAIN:
        cases.append(
            {
                "name": name,
                "rule": rule_of(plain),
                "notation": notation(plain.to_cbor()),
                "content": plain.encode().hex(),
            }
        )
    about = "Documents: content, and for signed kinds what travels. Rules are those of docs/narrowboat.cddl."
    return {"about": about, "fleet_id": FLEET_ID.hex(), "accepted": cases, "refused": list(refused_documents())}


# -- Everything else


def signatures_file() -> Vectors:
    key, other = ed25519_key("device gw-1"), ed25519_key("stranger")
    aad, content = document_aad("report", 1, FLEET_ID), REPORT.encode()
    block = cbor2.loads(sign1(key, content, external_aad=aad))
    protected, _, _, signature = block.value

    def formed(*parts: object, tag: int = 18) -> bytes:
        return cbor2.dumps(cbor2.CBORTag(tag, list(parts)), canonical=True)

    kid = key.public.kid
    refused = {
        "another content's signature": sign1(key, content + b"\0", external_aad=aad),
        "another kind's signature": sign1(key, content, external_aad=document_aad("hello", 1, FLEET_ID)),
        "another format's signature": sign1(key, content, external_aad=document_aad("report", 2, FLEET_ID)),
        "another fleet's signature": sign1(key, content, external_aad=document_aad("report", 1, bytes(32))),
        "a stranger's signature": sign1(other, content, external_aad=aad),
        "a flipped bit": formed(protected, {}, None, bytes([signature[0] ^ 1]) + signature[1:]),
        "an attached payload": formed(protected, {}, content, signature),
        "an unprotected algorithm": formed(protected, {1: -19}, None, signature),
        "no thumbprint": formed(encode({1: -19}), {}, None, signature),
        "a critical header": formed(encode({1: -19, 2: [4], 4: kid}), {}, None, signature),
        "a COSE_Sign": formed(protected, {}, None, signature, tag=98),
    }
    return {
        "about": "COSE_Sign1 blocks over a detached content. `refused` blocks do not count for `key`.",
        "key": key.public.cose_key.hex(),
        "kid": kid.hex(),
        "content": content.hex(),
        "external_aad": aad.hex(),
        "accepted": formed(protected, {}, None, signature).hex(),
        "refused": [{"name": name, "hex": data.hex()} for name, data in refused.items()],
    }


def keys_file() -> Vectors:
    keys = {"Ed25519": ed25519_key("device gw-1"), "P-256": p256_key("operator grace")}
    return {
        "about": "COSE_Keys and their thumbprints (RFC 9679): SHA-256 over the COSE_Key.",
        "accepted": [
            {"name": name, "cose_key": key.public.cose_key.hex(), "kid": key.public.kid.hex()}
            for name, key in keys.items()
        ],
        "refused": [
            {"name": name, "cose_key": encode(value).hex()}
            for name, value in {
                "a key with an algorithm member": keys["Ed25519"].public.to_cbor() | {3: -19},
                "a private key": keys["Ed25519"].public.to_cbor() | {-4: bytes(32)},
                "another curve": keys["P-256"].public.to_cbor() | {-1: 2},
                "a point off the curve": keys["P-256"].public.to_cbor() | {-3: bytes(31) + b"\1"},
                "true for a one": {1: True, -1: 6, -2: keys["Ed25519"].public.to_cbor()[-2]},
                "a short coordinate": keys["Ed25519"].public.to_cbor() | {-2: bytes(31)},
            }.items()
        ],
    }


def topics_file() -> Vectors:
    both = (WRITTEN_BY_OWNER, READ_BY_OWNER)
    topics = [
        (Topic(party, "gw-1", channel), "written" if table is WRITTEN_BY_OWNER else "read")
        for table in both
        for party, channels in table.items()
        for channel in channels
    ]
    refused = [
        "nb",
        "nb/d/gw-1",
        "nb/d/gw-1/command",
        "nb/x/gw-1/hello",
        "nb/d/GW-1/hello",
        "nb/d/+/hello",
        "nb/d/gw-1/hello/",
    ]
    return {
        "about": "Topics of a party: what its owner writes and reads. nb/root and nb/event stand beside them.",
        "accepted": [
            {"topic": str(topic), "party": topic.party, "name": topic.name, "channel": topic.channel, "owner": owner}
            for topic, owner in topics
        ],
        "refused": refused,
    }


def blocks_file() -> Vectors:
    blocks = [
        Block(seeded("payload", 8), offset, seeded(f"data {size}", size))
        for offset, size in ((0, 1), (23, 23), (24, 24), (65_536, 256), ((1 << 40) - 1, 300))
    ]
    good = blocks[2].encode()
    refused = {
        "no data": encode([seeded("payload", 8), 0, b""]),
        "a prefix of seven bytes": encode([seeded("payload", 7), 0, b"x"]),
        "an offset that is not shortest": good.replace(b"\x18\x18", b"\x19\x00\x18", 1),
        "data cut short": good[:-1],
        "a byte too many": good + b"\0",
        "a fourth element": encode([seeded("payload", 8), 0, b"x", 0]),
        "an offset of 2^40": encode([seeded("payload", 8), 1 << 40, b"x"]),
    }
    return {
        "about": "Blocks of a payload, as data messages carry them.",
        "accepted": [
            {
                "digest_prefix": block.digest_prefix.hex(),
                "offset": block.offset,
                "data": bytes(block.data).hex(),
                "message": block.encode().hex(),
            }
            for block in blocks
        ],
        "refused": [{"name": name, "message": data.hex()} for name, data in refused.items()],
    }


def patterned(length: int) -> bytes:
    """The images of the vectors: byte i is (7 i + i // 251) mod 256."""
    return bytes((7 * at + at // 251) % 256 for at in range(length))


def trees_file() -> Vectors:
    cases = []
    for length in (1, 65_535, 65_536, 65_537, 3 * 65_536, 64 * 65_536, 64 * 65_536 + 1, 150 * 65_536 - 9):
        builder = TreeBuilder(DEFAULT_LIMITS)
        builder.update(patterned(length))
        built = builder.finish()
        cases.append(
            {
                "length": length,
                "root": built.tree.root.hex(),
                "layer": built.layer.hex(),
                "leaves_sha256": hashlib.sha256(built.leaves).hexdigest(),
                "image_sha256": built.image_sha256.hex(),
            }
        )
    refused = [
        {"name": name, "tree": encode(value).hex()}
        for name, value in {
            "length 0": [-16, 16, 0, bytes(32)],
            "another hash": [-43, 16, 1, bytes(32)],
            "another chunk size": [-16, 12, 1, bytes(32)],
            "a short root": [-16, 16, 1, bytes(31)],
        }.items()
    ]
    about = (
        "Chunk trees (RFC 9162 section 2.1.1) over images whose byte i is (7 i + i // 251) mod 256; chunks of 64 KiB."
    )
    return {"about": about, "accepted": cases, "refused": refused}


ENCODED_ZEROS: dict[Codec, bytes] = {
    Codec.STORED: bytes(300),
    Codec.ZSTD: bytes.fromhex("28b52ffd602c0045000008000100282a1002"),
    Codec.LZMA: bytes.fromhex("00006ffdf7c54cf6fffffdf09000"),
}
"""300 zero bytes, as each codec once encoded them."""


def payloads_file() -> Vectors:
    image = bytes(300)
    cases = []
    for codec, encoded in ENCODED_ZEROS.items():
        builder = TreeBuilder(DEFAULT_LIMITS)
        builder.update(image)
        built = builder.finish()
        head = encode_head(built.image_sha256, built.tree, pack_entry(codec, 1, encoded))
        payload = head + built.layer + built.leaves + encoded
        cases.append(
            {
                "name": codec.name.lower(),
                "image": image.hex(),
                "head_size": len(head),
                "head_sha256": hashlib.sha256(head).hexdigest(),
                "payload": payload.hex(),
            }
        )
    tree = Tree(16, 300, seeded("root"))
    entry = pack_entry(Codec.STORED, 1, image)
    refused: dict[str, tuple[bytes, Reason]] = {
        "no frame": (encode_head(bytes(32), tree, b""), Reason.BAD_HEAD),
        "a frame too many": (encode_head(bytes(32), tree, entry * 2), Reason.BAD_HEAD),
        "a stored frame of another length": (
            encode_head(bytes(32), tree, pack_entry(Codec.STORED, 1, image[1:])),
            Reason.BAD_HEAD,
        ),
        "an unknown codec": (encode_head(bytes(32), tree, b"\x09" + entry[1:]), Reason.UNSUPPORTED_CODEC),
        "a delta": (
            encode_head(bytes(32), tree, entry).replace(b"\x02\x00", b"\x02\x01", 1),
            Reason.UNSUPPORTED_CODEC,
        ),
        "another format": (
            encode_head(bytes(32), tree, entry).replace(b"\x01\x01", b"\x01\x02", 1),
            Reason.UNKNOWN_FORMAT,
        ),
    }
    return {
        "about": "Whole payloads, one for each codec, and heads that are refused.",
        "accepted": cases,
        "refused": [{"name": name, "head": data.hex(), "refused": reason} for name, (data, reason) in refused.items()],
    }


def releases_file() -> Vectors:
    builder = TreeBuilder(DEFAULT_LIMITS)
    builder.update(patterned(70_000))
    built = builder.finish()
    vendor = vendor_id("example.com")
    accepted = []
    for classes in (("gateway-a",), ("gateway-a", "gateway-b")):
        ids = tuple(class_id(vendor, name) for name in classes)
        image = Image("rootfs", vendor, ids, built.image_sha256, built.tree, "2.0.0", 0)
        envelope = build_envelope(Manifest(3, (image,)))
        payload = parse_envelope(envelope).signed_payload
        key = ROLES[doc.RoleName.RELEASE]
        envelope = add_signature(envelope, sign1(key, payload, external_aad=b""))
        accepted.append(
            {
                "classes": list(classes),
                "vendor_id": str(vendor),
                "class_ids": [str(number) for number in ids],
                "sequence": 3,
                "component": "rootfs",
                "version": "2.0.0",
                "tree": encode(built.tree.to_cbor()).hex(),
                "fetch_arguments": encode({1: built.tree.to_cbor(), 2: "2.0.0", 3: 0}).hex(),
                "image_sha256": built.image_sha256.hex(),
                "release": parse_envelope(envelope).digest.hex(),
                "signer": key.public.cose_key.hex(),
                "envelope": envelope.hex(),
            }
        )
    return {"about": "Releases: SUIT envelopes in profile OTA-1, with one signature.", "accepted": accepted}


FILES: dict[str, Callable[[], Vectors]] = {
    "blocks.json": blocks_file,
    "documents.json": documents_file,
    "keys.json": keys_file,
    "payloads.json": payloads_file,
    "releases.json": releases_file,
    "signatures.json": signatures_file,
    "topics.json": topics_file,
    "trees.json": trees_file,
}


def render(vectors: Vectors) -> str:
    return json.dumps(vectors, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    for name, make in FILES.items():
        (HERE / name).write_text(render(make()), encoding="utf-8")


if __name__ == "__main__":
    main()

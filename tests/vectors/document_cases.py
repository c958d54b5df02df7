"""Vectors of documents: what is read and written alike, what is refused for its shape, and what is not believed."""

from __future__ import annotations

from collections.abc import Iterable

from narrowboat_protocol import documents as doc
from narrowboat_protocol.cbor import encode
from narrowboat_protocol.cose import document_aad, sign1, sign_document
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.model import Document

from .documents import (
    ASSIGNMENT,
    COMMAND,
    EVENT,
    FAILED,
    FLEET_ID,
    HELLO,
    ISSUED,
    PAYLOAD,
    PLAIN,
    REPLY,
    REPORT,
    ROOT,
    SIGNED,
    SUMMARY,
)
from .seeds import DEVICE, ROLES, Vectors, ed25519_key, notation


def rule_of(document: Document) -> str:
    """The CDDL rule of a document: its class name with hyphens."""
    name = type(document).__name__
    return "".join(f"-{letter}" if letter.isupper() and at else letter for at, letter in enumerate(name))


def _without(document: Document, number: int) -> dict[int, object]:
    return {key: value for key, value in document.to_cbor().items() if key != number}


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
        ("a root address that is no URL", ROOT, root | {8: ["ftp://roots"]}, Reason.BAD_DOCUMENT),
        ("an empty chain of roots", PLAIN[0][1], {1: []}, Reason.BAD_DOCUMENT),
        ("five roots in a chain", PLAIN[0][1], {1: [b"root"] * 5}, Reason.BAD_DOCUMENT),
        ("an empty certificate", HELLO, HELLO.to_cbor() | {6: b""}, Reason.BAD_DOCUMENT),
        (
            "an agreement key that only signs",
            HELLO,
            HELLO.to_cbor() | {18: DEVICE.public.to_cbor()},
            Reason.BAD_DOCUMENT,
        ),
        ("a hold of another word", EVENT, EVENT.to_cbor() | {8: "weather"}, Reason.BAD_DOCUMENT),
        ("an event for a reason of another word", EVENT, EVENT.to_cbor() | {12: "because"}, Reason.BAD_DOCUMENT),
        ("an argument below 0", COMMAND, COMMAND.to_cbor() | {6: {-1: 0}}, Reason.BAD_DOCUMENT),
        ("an argument above 23", COMMAND, COMMAND.to_cbor() | {6: {24: 0}}, Reason.BAD_DOCUMENT),
        ("a result below 0", REPLY, REPLY.to_cbor() | {4: {-1: 0}}, Reason.BAD_DOCUMENT),
        ("an issued certificate that is not there", ISSUED, _without(ISSUED, 5), Reason.BAD_DOCUMENT),
        ("a certificate that is not issued", ISSUED, ISSUED.to_cbor() | {3: "pending"}, Reason.BAD_DOCUMENT),
        ("a count below 0", SUMMARY, SUMMARY.to_cbor() | {7: {"failed": -1}}, Reason.BAD_DOCUMENT),
        ("an empty source", PAYLOAD, PAYLOAD.to_cbor() | {6: [""]}, Reason.BAD_DOCUMENT),
        ("a window that begins tomorrow", ASSIGNMENT, ASSIGNMENT.to_cbor() | {9: [[86_400, 0]]}, Reason.BAD_DOCUMENT),
        ("a default left out", doc.DeviceList(after="gw-1"), {1: "gw-1"}, Reason.BAD_DOCUMENT),
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


_BAD = Reason.BAD_DOCUMENT


def disbelieved_documents() -> Iterable[Vectors]:
    """Whole documents that are read well and not believed, or not read since they could not be."""
    director, second = ROLES[doc.RoleName.DIRECTOR], ed25519_key("role director 2")
    content, kind = ASSIGNMENT.encode(), ASSIGNMENT.KIND
    aad = document_aad(kind, 1, FLEET_ID)
    one, other = sign1(director, content, external_aad=aad), FAILED.encode()
    bad = sign1(second, content + b"\0", external_aad=aad)

    def by_director(kind: str = kind, form: int = 1, fleet_id: bytes = FLEET_ID, content: bytes = content) -> bytes:
        return sign1(director, content, external_aad=document_aad(kind, form, fleet_id))

    cases: list[tuple[str, int, object, Reason]] = [
        ("signed for another fleet", 1, [1, content, [by_director(fleet_id=bytes(32))]], Reason.BAD_SIGNATURE),
        ("signed as another kind", 1, [1, content, [by_director("hello")]], Reason.BAD_SIGNATURE),
        ("signed as another format", 1, [1, content, [by_director(form=2)]], Reason.BAD_SIGNATURE),
        ("of a format to come", 1, [2, content, [by_director(form=2)]], Reason.UNKNOWN_FORMAT),
        ("altered after signing", 1, [1, other, [one]], Reason.BAD_SIGNATURE),
        ("signed by a stranger", 1, [1, content, [sign1(DEVICE, content, external_aad=aad)]], Reason.UNKNOWN_KEY),
        ("one signature where two are needed", 2, [1, content, [one]], Reason.BAD_SIGNATURE),
        ("one key twice where two are needed", 2, [1, content, [one, one]], Reason.BAD_SIGNATURE),
        ("a bad signature beside enough good ones", 1, [1, content, [one, bad]], Reason.BAD_SIGNATURE),
        ("no signature", 1, [1, content, []], _BAD),
        ("seventeen signatures", 1, [1, content, [one] * 17], _BAD),
        ("a signature that is text", 1, [1, content, [one, "two"]], _BAD),
        ("content that is no byte string", 1, [1, ASSIGNMENT.to_cbor(), [one]], _BAD),
        (
            "a report that the director signed as an assignment",
            1,
            [1, FAILED.encode(), [by_director(content=FAILED.encode())]],
            Reason.BAD_DOCUMENT,
        ),
    ]
    for name, threshold, value, reason in cases:
        yield {
            "name": name,
            "rule": "Assignment",
            "keys": [key.public.cose_key.hex() for key in (director, second)],
            "threshold": threshold,
            "signed": encode(value).hex(),
            "refused": reason,
        }


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
    return {
        "about": about,
        "fleet_id": FLEET_ID.hex(),
        "accepted": cases,
        "refused": list(refused_documents()),
        "disbelieved": list(disbelieved_documents()),
    }

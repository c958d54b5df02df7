"""Writes the language-neutral vectors: `python -m tests.vectors.generate`. A test compares its output with the files.

Everything comes from fixed seeds, and Ed25519 signatures are deterministic (RFC 8032), so the same library gives the
same files.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cbor2

from narrowboat_protocol.cbor import encode
from narrowboat_protocol.cose import document_aad, sign1
from narrowboat_protocol.topics import READ_BY_OWNER, WRITTEN_BY_OWNER, Channel, Party, Topic, has_thumbprint
from narrowboat_protocol.transfer import Block

from .document_cases import documents_file
from .documents import FLEET_ID, REPORT
from .encryption import encryption_file
from .images import payloads_file, trees_file
from .releases import release_files_file, releases_file
from .seeds import Vectors, ed25519_key, p256_key, seeded

HERE = Path(__file__).parent


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
                "a point of order 1": keys["Ed25519"].public.to_cbor() | {-2: b"\1" + bytes(31)},
            }.items()
        ],
    }


def _kid(party: Party, channel: Channel) -> str | None:
    return seeded("thumbprint").hex() if has_thumbprint(party, channel) else None


def topics_file() -> Vectors:
    both = (WRITTEN_BY_OWNER, READ_BY_OWNER)
    topics = [
        (Topic(party, "gw-1", channel, _kid(party, channel)), "written" if table is WRITTEN_BY_OWNER else "read")
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
        "nb/e/gw-1/reply",
        "nb/e/gw-1/reply/+",
        f"nb/e/gw-1/reply/{seeded('thumbprint').hex()[:-1]}",
        f"nb/e/gw-1/reply/{seeded('thumbprint').hex()}/x",
        f"nb/e/gw-1/request/{seeded('thumbprint').hex()}",
        f"nb/d/gw-1/reply/{seeded('thumbprint').hex()}",
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


FILES: dict[str, Callable[[], Vectors]] = {
    "blocks.json": blocks_file,
    "documents.json": documents_file,
    "encryption.json": encryption_file,
    "keys.json": keys_file,
    "payloads.json": payloads_file,
    "release_files.json": release_files_file,
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

"""Vectors of releases: SUIT envelopes that are believed and refused, and the file that carries one with its payload."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import cbor2

from narrowboat_protocol.cbor import encode
from narrowboat_protocol.cose import document_aad, sign1
from narrowboat_protocol.documents import RoleName
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.release_file import MAGIC, encode_header, encode_trailer
from narrowboat_protocol.suit import Image, Manifest, add_signature, build_envelope, class_id, parse_envelope, vendor_id
from narrowboat_protocol.suit.encryption import INFO_BYTES_MAX
from tests.support.suit_manifests import Parts, authentication, dump, sign, with_members

from .images import built
from .seeds import ROLES, Vectors, ed25519_key, patterned, seeded

KEYS = (ROLES[RoleName.RELEASE], ed25519_key("role release 3"), ed25519_key("role release 4"))
VENDOR = vendor_id("example.com")
TREE = built(patterned(70_000))
GATEWAY_A = class_id(VENDOR, "gateway-a")


def manifest(*classes: str) -> Manifest:
    ids = tuple(class_id(VENDOR, name) for name in classes)
    return Manifest(3, (Image("rootfs", VENDOR, ids, TREE.image_sha256, TREE.tree, "2.0.0", 0),))


def releases_file() -> Vectors:
    accepted = [
        (("gateway-a",), 1, KEYS[:1]),
        (("gateway-a", "gateway-b"), 1, KEYS[:1]),
        (("gateway-a",), 2, (KEYS[0], KEYS[2])),
    ]
    return {
        "about": "Releases: SUIT envelopes in profile OTA-1, under a threshold of these keys. Those that are refused"
        " are signed as well as can be.",
        "keys": [key.public.cose_key.hex() for key in KEYS],
        "accepted": [_release(classes, threshold, signers) for classes, threshold, signers in accepted],
        "refused": [*_disbelieved(), *_outside_the_profile()],
    }


def _release(classes: tuple[str, ...], threshold: int, signers: tuple[PrivateKey, ...]) -> Vectors:
    envelope = sign(build_envelope(manifest(*classes)), *signers)
    return {
        "classes": list(classes),
        "vendor_id": str(VENDOR),
        "class_ids": [str(class_id(VENDOR, name)) for name in classes],
        "sequence": 3,
        "component": "rootfs",
        "version": "2.0.0",
        "tree": encode(TREE.tree.to_cbor()).hex(),
        "fetch_arguments": encode({1: TREE.tree.to_cbor(), 2: "2.0.0", 3: 0}).hex(),
        "image_sha256": TREE.image_sha256.hex(),
        "release": parse_envelope(envelope).digest.hex(),
        "threshold": threshold,
        "signers": [signer.public.kid.hex() for signer in signers],
        "envelope": envelope.hex(),
    }


def _refused(name: str, envelope: bytes, reason: Reason, threshold: int = 1) -> Vectors:
    return {"name": name, "threshold": threshold, "envelope": envelope.hex(), "refused": reason}


def _disbelieved() -> Iterable[Vectors]:
    unsigned = build_envelope(manifest("gateway-a"))
    good = sign(unsigned, KEYS[0])
    inner: bytes = cbor2.loads(good).value[3]
    digest, block = authentication(good)

    def over(payload: bytes, aad: bytes = b"") -> bytes:
        return with_members(good, {2: dump([payload, sign1(KEYS[0], payload, external_aad=aad)])})

    bare = encode([-16, hashlib.sha256(inner).digest()])
    longer = encode([-44, bytes(64)])
    bad = Reason.BAD_SIGNATURE
    yield _refused("the digest of the manifest without its byte string", over(bare), bad)
    yield _refused("a signature with an AAD", over(digest, document_aad("release", 1, bytes(32))), bad)
    yield _refused("a manifest with one bit flipped", with_members(good, {3: inner[:-1] + bytes([inner[-1] ^ 1])}), bad)
    yield _refused("a signature over the manifest", add_signature(good, sign1(KEYS[0], inner, external_aad=b"")), bad)
    yield _refused("one signature where two are needed", good, bad, threshold=2)
    yield _refused("one key twice where two are needed", with_members(good, {2: dump([digest, block, block])}), bad, 2)
    yield _refused("a stranger's signature", sign(unsigned, ed25519_key("stranger")), Reason.UNKNOWN_KEY)
    yield _refused("no signature", unsigned, Reason.UNKNOWN_KEY)
    yield _refused("SHA-512 over the manifest", over(longer), Reason.UNSUPPORTED_MANIFEST)
    yield _refused("a member after the end of the map", good[:2] + b"\xa1" + good[3:], Reason.NOT_DETERMINISTIC)
    yield _refused("the tag of a COSE_Sign1", b"\xd2" + good[2:], Reason.NOT_DETERMINISTIC)
    yield _refused("a byte after the envelope", good + b"\0", Reason.NOT_DETERMINISTIC)


def _outside_the_profile() -> Iterable[Vectors]:
    branch = dump([20, {2: GATEWAY_A.bytes}, 2, 15])

    def by_classes(*branches: object) -> Callable[[Parts], object]:
        def change(parts: Parts) -> None:
            del parts.shared[3][2]
            parts.shared[-2:] = [15, list(branches)]

        return change

    def arguments(changes: dict[int, object]) -> Callable[[Parts], object]:
        return lambda parts: parts.install[3].update({25: dump(parts.fetch_arguments() | changes)})

    tree = TREE.tree.to_cbor()
    changes: dict[str, Callable[[Parts], object]] = {
        "another manifest version": lambda p: p.manifest.update({1: 2}),
        "a sequence number of 2^53": lambda p: p.manifest.update({2: 1 << 53}),
        "an install sequence that is severed": lambda p: p.manifest.update({20: [-16, bytes(32)]}),
        "a payload in the envelope": lambda p: p.envelope.update({"#payload": b"x"}),
        "a payload-fetch sequence": lambda p: p.manifest.update({16: dump([21, 2])}),
        "an unknown command": lambda p: p.install.extend([77, 0]),
        "run-sequence": lambda p: p.install.extend([32, dump([21, 2])]),
        "the image not matched after the fetch": lambda p: p.install.__delitem__(slice(6, 8)),
        "the class not tested": lambda p: p.shared.__delitem__(slice(6, 8)),
        "a component of two parts": lambda p: p.common.update({2: [[b"rootfs", b"a"]]}),
        "nine components": lambda p: p.common.update({2: [[b"rootfs-%d" % at] for at in range(9)]}),
        "try-each with null at its end": by_classes(branch, dump([20, {2: bytes(16)}, 2, 15]), None),
        "one class twice": by_classes(branch, branch),
        "an encryption": lambda p: p.install[3].update({19: b""}),
        "another URI": lambda p: p.install[3].update({21: "https://example.com/image"}),
        "SHA-512 of the image": lambda p: p.shared[3].update({3: dump([-44, bytes(64)])}),
        "no fetch-arguments": lambda p: p.install[3].pop(25),
        "a fetch argument too many": arguments({4: 0}),
        "a version of 65 bytes": arguments({2: "v" * 65}),
        "a tree over another length than the image": arguments({1: [*tree[:2], 70_001, tree[3]]}),
        "an epoch that is true": arguments({3: True}),
    }
    for name, change in changes.items():
        yield _refused(name, _changed(change), Reason.UNSUPPORTED_MANIFEST)
    encodings: dict[str, Callable[[Parts], object]] = {
        "a float for an index": lambda p: p.install.__setitem__(1, 0.0),
        "a tag in a sequence": lambda p: p.install.__setitem__(1, cbor2.CBORTag(4, [0, 0])),
    }
    for name, change in encodings.items():
        yield _refused(name, _changed(change), Reason.NOT_DETERMINISTIC)


def _changed(change: Callable[[Parts], object]) -> bytes:
    parts = Parts.of(manifest("gateway-a"))
    change(parts)
    return parts.sign(KEYS[0])


def release_files_file() -> Vectors:
    payload, envelope = seeded("payload of a release file", 40), sign(build_envelope(manifest("gateway-a")), KEYS[0])
    header, trailer = encode_header(len(payload), DEFAULT_LIMITS), encode_trailer(envelope, DEFAULT_LIMITS)
    good = header + payload + trailer
    refused: dict[str, tuple[bytes, Reason]] = {
        "another format": (b"NBRELS2\n" + good[8:], Reason.UNKNOWN_FORMAT),
        "lines ended by another system": (good.replace(b"\n", b"\r\n", 1), Reason.UNKNOWN_FORMAT),
        "no payload": (MAGIC + bytes(8) + trailer, Reason.BAD_DOCUMENT),
        "a payload longer than the file": (MAGIC + (len(good)).to_bytes(8, "big") + good[16:], Reason.BAD_DOCUMENT),
        "a payload longer than any": (MAGIC + b"\xff" * 8 + good[16:], Reason.BAD_DOCUMENT),
        "no envelope": (header + payload + bytes(8), Reason.BAD_DOCUMENT),
        "an encryption info longer than any": (
            header
            + payload
            + (INFO_BYTES_MAX + 1).to_bytes(4, "big")
            + trailer[4:8]
            + bytes(INFO_BYTES_MAX + 1)
            + envelope,
            Reason.BAD_DOCUMENT,
        ),
        "an envelope cut short": (good[:-1], Reason.BAD_DOCUMENT),
        "a byte after the envelope": (good + b"\0", Reason.BAD_DOCUMENT),
        "an envelope longer than any": (
            header + payload + bytes(4) + (16_385).to_bytes(4, "big") + bytes(16_385 - 16_000),
            Reason.BAD_DOCUMENT,
        ),
        "cut in its header": (good[:15], Reason.BAD_DOCUMENT),
        "empty": (b"", Reason.BAD_DOCUMENT),
    }
    return {
        "about": "Release files: what is found in them, before any of it is believed, and files that are refused.",
        "accepted": [{"file": good.hex(), "payload": payload.hex(), "envelope": envelope.hex()}],
        "refused": [{"name": name, "file": data.hex(), "refused": reason} for name, (data, reason) in refused.items()],
    }

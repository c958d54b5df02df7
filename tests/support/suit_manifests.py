"""Releases and hostile manifests for tests.

A `Parts` is a good manifest taken apart into plain values. A test changes one of them and signs the result properly, so
that what refuses it is the reader and not the signature.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import cbor2

from narrowboat_protocol.cose import sign1
from narrowboat_protocol.keys import Algorithm, PrivateKey, PublicKey, Signer
from narrowboat_protocol.limits import DEFAULT_LIMITS, Limits
from narrowboat_protocol.suit import (
    Image,
    Manifest,
    Release,
    add_signature,
    build_envelope,
    class_id,
    open_release,
    parse_envelope,
    vendor_id,
)
from narrowboat_protocol.tree import TreeBuilder

KEYS = tuple(PrivateKey.generate(Algorithm.ED25519) for _ in range(3))
P256_KEY = PrivateKey.generate(Algorithm.ESP256)
STRANGER = PrivateKey.generate(Algorithm.ED25519)
RELEASE_KEYS: dict[bytes, PublicKey] = {key.public.kid: key.public for key in (*KEYS, P256_KEY)}

VENDOR = vendor_id("boats.example")
GATEWAY, BIG_GATEWAY = class_id(VENDOR, "gateway"), class_id(VENDOR, "big-gateway")


def image(component: str = "rootfs", class_ids: tuple[UUID, ...] = (GATEWAY,), content: bytes = b"image") -> Image:
    builder = TreeBuilder(DEFAULT_LIMITS)
    builder.update(content)
    built = builder.finish()
    return Image(component, VENDOR, class_ids, built.image_sha256, built.tree, version="2.4.1", epoch=1)


ONE_IMAGE = Manifest(7, (image(),))
TWO_IMAGES = Manifest(7, (image(class_ids=(GATEWAY, BIG_GATEWAY)), image("modem", content=b"other")))


def sign(envelope: bytes, *keys: PrivateKey) -> bytes:
    for key in keys:
        block = sign1(key, parse_envelope(envelope).signed_payload, external_aad=b"")
        envelope = add_signature(envelope, block)
    return envelope


def believe(envelope: bytes, threshold: int = 1) -> Release:
    return open_release(envelope, RELEASE_KEYS, threshold)


@dataclass
class Parts:
    """A manifest with the byte strings opened that wrap its maps and sequences."""

    manifest: dict[Any, Any]
    common: dict[Any, Any]
    shared: list[Any]
    install: list[Any]
    validate: list[Any]
    envelope: dict[Any, Any]
    digest_algorithm: int = -16

    @classmethod
    def of(cls, manifest: Manifest) -> Parts:
        members = cbor2.loads(parse_envelope(build_envelope(manifest)).manifest)
        common = cbor2.loads(members.pop(3))
        shared = cbor2.loads(common.pop(4))
        install, validate = cbor2.loads(members.pop(20)), cbor2.loads(members.pop(7))
        return cls(members, common, shared, install, validate, {})

    def seal(self) -> bytes:
        common = {**self.common, 4: dump(self.shared)}
        manifest = dump({3: dump(common), 7: dump(self.validate), 20: dump(self.install), **self.manifest})
        digest = dump([self.digest_algorithm, hashlib.sha256(dump(manifest)).digest()])
        return dump(cbor2.CBORTag(107, {2: dump([digest]), 3: manifest, **self.envelope}))

    def sign(self, key: PrivateKey = KEYS[0]) -> bytes:
        sealed = self.seal()
        digest, *_ = authentication(sealed)
        return with_members(sealed, {2: dump([digest, sign1(key, digest, external_aad=b"")])})

    def fetch_arguments(self) -> dict[Any, Any]:
        value: dict[Any, Any] = cbor2.loads(self.install[3][25])
        return value


def dump(value: object) -> bytes:
    return cbor2.dumps(value, canonical=True)


def authentication(envelope: bytes) -> list[bytes]:
    """The encoded digest and the signatures, unchecked."""
    value: list[bytes] = cbor2.loads(cbor2.loads(envelope).value[2])
    return value


def with_members(envelope: bytes, changes: dict[int, bytes]) -> bytes:
    """The envelope with other members, without regard to its digest and signatures."""
    return dump(cbor2.CBORTag(107, {**cbor2.loads(envelope).value, **changes}))


def sign_envelope(envelope: bytes, signer: Signer, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Add one release signature."""
    payload = parse_envelope(envelope, limits).signed_payload
    return add_signature(envelope, sign1(signer, payload, external_aad=b""), limits)

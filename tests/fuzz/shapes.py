"""How a valid input is taken apart into a value, and how a changed value becomes an input that passes every check that
stands before it: encoded, hashed and signed anew with the right keys.

Taking apart may fail with any error, as may putting together what was changed: then the bytes are changed instead.
"""

from __future__ import annotations

import hashlib
import json
import struct
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from narrowboat_protocol.cose import SignedDocument, sign1, sign_document
from narrowboat_protocol.documents import SignedModel
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.payload import measure_head
from narrowboat_protocol.payload.head import hash8
from narrowboat_protocol.suit.envelope import Envelope, digest_of
from tests.vectors.documents import FLEET_ID

from .mutation import INPUT_BYTES_MAX, loosely
from .owner import RELEASE_KEYS, authority

_ENTRY = struct.Struct(">BHI8s")
_COPY = struct.Struct(">4sIQI")
_DIGEST_BYTES = 32
_SEQUENCE, _BIT_STRING = 0x30, 0x03


@dataclass(frozen=True, slots=True)
class Shape:
    """Two functions, each the other's reverse for valid input."""

    take_apart: Callable[[bytes], Any]
    put_together: Callable[[Any], bytes]


CBOR = Shape(cbor2.loads, loosely)
JSON = Shape(json.loads, lambda value: json.dumps(value).encode())


def signed_by(kind: type[SignedModel], *keys: PrivateKey) -> Shape:
    """A signed document: the content is the value."""
    return Shape(
        lambda data: cbor2.loads(SignedDocument.decode(data).content),
        lambda value: sign_document(loosely(value), kind.FORMAT, kind.KIND, FLEET_ID, keys).encode(),
    )


def after_selector(shape: Shape) -> Shape:
    """A first byte that says what follows, and an input of another shape behind it."""
    return Shape(
        lambda data: [data[0], shape.take_apart(data[1:])],
        lambda value: bytes([value[0] % 256]) + shape.put_together(value[1]),
    )


def _take_envelope(data: bytes) -> Any:
    return cbor2.loads(cbor2.loads(data).value[3])


def _put_envelope(manifest: Any) -> bytes:
    data = loosely(manifest)
    bare = Envelope(digest_of(data), (), data)
    blocks = sorted((key.public.kid, sign1(key, bare.signed_payload, external_aad=b"")) for key in RELEASE_KEYS)
    return Envelope(bare.digest, tuple(block for _, block in blocks), data).encode()


ENVELOPE = Shape(_take_envelope, _put_envelope)
"""A SUIT envelope: the manifest is the value."""


def _take_payload(data: bytes) -> Any:
    length = measure_head(data[:128], DEFAULT_LIMITS)
    head = cbor2.loads(data[:length])
    entries = [list(entry[:3]) for entry in _ENTRY.iter_unpack(head[5])]
    frames, end = [], len(data)
    for entry in reversed(entries):
        frames.append(data[end - entry[2] : end])
        end -= entry[2]
    return [{number: head[number] for number in (1, 2, 3, 4)}, entries, data[length:end], frames[::-1]]


def _put_payload(value: Any) -> bytes:
    head, entries, hashes, frames = value
    encoded = [*frames, *[b""] * len(entries)]
    index = b"".join(_ENTRY.pack(*entry, hash8(frame)) for entry, frame in zip(entries, encoded, strict=False))
    return b"".join([loosely(head | {5: index}), hashes, *frames])


PAYLOAD = Shape(_take_payload, _put_payload)
"""A payload: members of the head, index entries without hashes, layer and leaves, frames."""


def _take_record(data: bytes) -> Any:
    copies = []
    for half in (data[: len(data) // 2], data[len(data) // 2 :]):
        magic, form, generation, length = _COPY.unpack_from(half)
        start = _COPY.size + _DIGEST_BYTES
        copies.append([magic, form, generation, half[start : start + length]])
    return [len(data) // 2, *copies]


def _put_record(value: Any) -> bytes:
    half_bytes, *copies = value
    data = b""
    for magic, form, generation, content in copies:
        start = _COPY.pack(magic, form, generation, len(content))
        data += (start + hashlib.sha256(start + content).digest() + content).ljust(half_bytes % INPUT_BYTES_MAX, b"\0")
    return data


RECORD = Shape(_take_record, _put_record)
"""A record file: the length of a half and two copies, with checksums that are right."""


def _put_certificate(tbs: Any) -> bytes:
    signature = authority().key.sign(tbs, ec.ECDSA(SHA256()))
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    return _der(_SEQUENCE, tbs + algorithm + _der(_BIT_STRING, b"\0" + signature))


def _der(tag: int, content: bytes) -> bytes:
    length = len(content)
    size = bytes([length]) if length < 128 else b"\x82" + length.to_bytes(2, "big")
    return bytes([tag]) + size + content


CERTIFICATE = Shape(lambda data: x509.load_der_x509_certificate(data).tbs_certificate_bytes, _put_certificate)
"""A certificate: what its authority signs is the value."""


def _put_toml(value: Any) -> bytes:
    """Every table inline but the outermost."""
    return "".join(f"{json.dumps(str(name))} = {_toml(item)}\n" for name, item in value.items()).encode()


def _toml(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{json.dumps(str(name))} = {_toml(item)}" for name, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case bytes():
            return json.dumps(value.hex())
        case _:
            return json.dumps(value)


TOML = Shape(lambda data: tomllib.loads(data.decode()), _put_toml)

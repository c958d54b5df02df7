"""What all vectors are made of: bytes and keys from public seeds, a moment in time, and CBOR as people read it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from narrowboat_protocol.documents import RoleName
from narrowboat_protocol.keys import PrivateKey

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


ROLES = {name: ed25519_key(f"role {name}") for name in RoleName}
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


def patterned(length: int) -> bytes:
    """The images of the vectors: byte i is (7 i + i // 251) mod 256."""
    return bytes((7 * at + at // 251) % 256 for at in range(length))

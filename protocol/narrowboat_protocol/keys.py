"""Signing keys: what they are on the wire, by what name they go, and how they sign and verify.

Two algorithms exist, by the fully specified numbers of RFC 9864: Ed25519 (-19) and ECDSA on P-256 with SHA-256 (ESP256,
-9). A public key travels as a COSE_Key (RFC 9052 section 7) with its required members only, and goes by its thumbprint
(RFC 9679): SHA-256 over exactly those bytes. The thumbprint finds a key; it gives no authority.

`Signer` is all that the rest of the code asks of a private key, so that a key may live in a file, a token or another
machine. ECDSA signatures travel as the 64 raw bytes r || s (RFC 9053 section 2.1), never as DER.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol, cast

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from .cbor import encode
from .errors import DocumentError, Reason, UsageError

SIGNATURE_BYTES = 64
KID_BYTES = 32
_KTY, _CRV, _X, _Y = 1, -1, -2, -3
_KTY_OKP, _KTY_EC2 = 1, 2
_CRV_P256, _CRV_ED25519 = 1, 6
_COORDINATE_BYTES = 32
_FIELD_ED25519 = (1 << 255) - 19
_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER = frozenset(
    {0, 1, _ORDER_8, _FIELD_ED25519 - _ORDER_8, _FIELD_ED25519 - 1, _FIELD_ED25519, _FIELD_ED25519 + 1}
)
"""The y of the points whose order divides 8, in each of their encodings. Anybody can make signatures under such a key,
good for any message, so whoever hands one in can deny what it signed.
"""


class Algorithm(IntEnum):
    """COSE algorithm identifiers (RFC 9864)."""

    ED25519 = -19
    ESP256 = -9


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A verification key. `kid` is its RFC 9679 thumbprint, `cose_key` the bytes that the thumbprint covers."""

    algorithm: Algorithm
    cose_key: bytes
    kid: bytes = field(init=False)
    _key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kid", hashlib.sha256(self.cose_key).digest())

    def verify(self, signature: bytes, message: bytes) -> bool:
        """True if `signature` (64 bytes) is this key's over `message`. Never raises for bad signatures."""
        if len(signature) != SIGNATURE_BYTES:
            return False
        try:
            if isinstance(self._key, ed25519.Ed25519PublicKey):
                self._key.verify(signature, message)
            else:
                r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
                self._key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True

    def to_cbor(self) -> dict[int, object]:
        """The COSE_Key as a map, for embedding in a document."""
        return _members(self._key)

    def to_p256(self) -> ec.EllipticCurvePublicKey:
        """The key as the cryptography library has it, to agree with. Raises `DocumentError` if it is no P-256 key."""
        if isinstance(self._key, ed25519.Ed25519PublicKey):
            raise _bad_key("a P-256 key, with which secrets can be agreed on")
        return self._key

    def to_pem(self) -> bytes:
        return self._key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def raw_signature(key: PublicKey, signature: bytes) -> bytes:
    """The 64 raw bytes of a signature that another program made: raw already, or DER as ECDSA often comes. Raises
    `UsageError` for anything else.
    """
    if len(signature) == SIGNATURE_BYTES:
        return signature
    if key.algorithm is Algorithm.ESP256:
        with suppress(ValueError, OverflowError):
            r, s = decode_dss_signature(signature)
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    raise UsageError(
        Reason.BAD_USE, f"expected {SIGNATURE_BYTES} raw bytes or, of ECDSA, DER, got {len(signature)} other bytes"
    )


class Signer(Protocol):
    """Anything that holds a private key and signs with it."""

    @property
    def public(self) -> PublicKey: ...

    def sign(self, message: bytes) -> bytes:
        """Return the 64 raw bytes of a signature over `message`. Raises `SigningError` if the key is not there."""
        ...


class PrivateKey:
    """A private key in memory. Neither its repr nor its errors show it."""

    __slots__ = ("_key", "_public")

    def __init__(self, key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self._public = public_key_from_cryptography(key.public_key())

    def __repr__(self) -> str:
        return f"PrivateKey({self._public.algorithm.name}, kid={self._public.kid.hex()[:16]})"

    @property
    def public(self) -> PublicKey:
        return self._public

    @property
    def in_cryptography(self) -> ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey:
        """For what the cryptography library itself builds and signs: certificates, requests, revocation lists."""
        return self._key

    def sign(self, message: bytes) -> bytes:
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(message)
        r, s = decode_dss_signature(self._key.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def to_pem(self, passphrase: bytes | None = None) -> bytes:
        """PKCS#8 PEM, encrypted if a passphrase is given. Raises `UsageError` for a key in a token, which keeps it."""
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase is not None:
            encryption = serialization.BestAvailableEncryption(passphrase)
        return self._key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)

    @classmethod
    def generate(cls, algorithm: Algorithm) -> PrivateKey:
        """A new key from the operating system's random source."""
        if algorithm is Algorithm.ED25519:
            return cls(ed25519.Ed25519PrivateKey.generate())
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, pem: bytes, passphrase: bytes | None = None) -> PrivateKey:
        """Raises `UsageError` if `pem` is not an Ed25519 or P-256 private key, or the passphrase does not open it."""
        try:
            key = serialization.load_pem_private_key(pem, passphrase)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise UsageError(
                Reason.BAD_USE,
                "expected a PEM private key that this passphrase opens; check file and passphrase",
            ) from None
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return cls(key)
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
            return cls(key)
        raise UsageError(Reason.BAD_USE, "expected an Ed25519 or P-256 private key, got another kind")


def public_key_from_cryptography(key: object) -> PublicKey:
    """Wrap a key of the cryptography library. Raises `DocumentError` for other kinds of key."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return PublicKey(Algorithm.ED25519, encode(_members(key)), key)
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return PublicKey(Algorithm.ESP256, encode(_members(key)), key)
    raise DocumentError(Reason.BAD_DOCUMENT, "expected an Ed25519 or P-256 public key, got another kind")


def public_key_from_pem(pem: bytes) -> PublicKey:
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(Reason.BAD_USE, "expected a PEM public key (SubjectPublicKeyInfo)") from None
    return public_key_from_cryptography(key)


def public_key_from_cbor(value: object) -> PublicKey:
    """Read a COSE_Key map that holds the required members and nothing else. Raises `DocumentError`."""
    if not isinstance(value, Mapping):
        raise _bad_key("a map")
    members = cast(Mapping[int, object], value)
    if any(isinstance(member, bool) for member in members.values()):
        raise _bad_key("numbers, not truth values")
    if members.get(_KTY) == _KTY_OKP and set(members) == {_KTY, _CRV, _X} and members[_CRV] == _CRV_ED25519:
        return public_key_from_cryptography(_load_ed25519(_coordinate(members, _X)))
    if members.get(_KTY) == _KTY_EC2 and set(members) == {_KTY, _CRV, _X, _Y} and members[_CRV] == _CRV_P256:
        return public_key_from_cryptography(_load_p256(_coordinate(members, _X), _coordinate(members, _Y)))
    raise _bad_key("exactly the required members of an Ed25519 or P-256 key")


def _members(key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey) -> dict[int, object]:
    if isinstance(key, ed25519.Ed25519PublicKey):
        return {_KTY: _KTY_OKP, _CRV: _CRV_ED25519, _X: key.public_bytes_raw()}
    numbers = key.public_numbers()
    x, y = (n.to_bytes(_COORDINATE_BYTES, "big") for n in (numbers.x, numbers.y))
    return {_KTY: _KTY_EC2, _CRV: _CRV_P256, _X: x, _Y: y}


def _coordinate(members: Mapping[int, object], label: int) -> bytes:
    value = members[label]
    if not isinstance(value, bytes) or len(value) != _COORDINATE_BYTES:
        raise _bad_key(f"{_COORDINATE_BYTES} bytes at label {label}")
    return value


def _load_ed25519(x: bytes) -> ed25519.Ed25519PublicKey:
    if int.from_bytes(x, "little") & (1 << 255) - 1 in _SMALL_ORDER:
        raise _bad_key("a point of large order on Ed25519")
    try:
        return ed25519.Ed25519PublicKey.from_public_bytes(x)
    except (ValueError, UnsupportedAlgorithm):
        raise _bad_key("a point on Ed25519") from None


def _load_p256(x: bytes, y: bytes) -> ec.EllipticCurvePublicKey:
    numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1())
    try:
        return numbers.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise _bad_key("a point on P-256") from None


def _bad_key(expected: str) -> DocumentError:
    return DocumentError(Reason.BAD_DOCUMENT, f"COSE_Key: expected {expected}")

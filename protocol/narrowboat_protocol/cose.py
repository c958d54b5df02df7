"""COSE_Sign1 (RFC 9052 section 4.2) in the one form that the protocol uses.

A signature is a tagged COSE_Sign1 whose payload is detached, whose protected header holds the algorithm (1) and the
key's thumbprint (4), and whose unprotected header is empty. The set of headers is closed: there is no `crit`, no
unprotected algorithm and no second way to name a key. The algorithm that counts is the key's own; the header must agree
with it.

A signed document is `[format, content, signatures]`. Its external AAD is `[kind, format, fleet id]`, so that no
signature counts for another kind of document, another format, or another fleet (a staging root never speaks for
production). The format stands outside the content because it must be known before the content may be read; the AAD
authenticates it.

A SUIT envelope wants empty AAD (draft-ietf-suit-manifest-37), which is why a release key signs nothing but SUIT
digests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cbor2

from .cbor import decode, encode
from .errors import DocumentError, EncodingError, Reason, TrustError
from .keys import KID_BYTES, SIGNATURE_BYTES, PublicKey, Signer
from .limits import DEFAULT_LIMITS, Limits

_TAG_SIGN1 = 18
_HEADER_ALG, _HEADER_KID = 1, 4
_ES256 = -7
_SIGNATURE_BLOCK_BYTES_MAX = 256
_PARTS_KEPT = 64
"""Encodings that are the same for every document of a kind, or every signature of a key."""
_OUTER_ITEMS_MAX = 64
"""Of a signed document, without what the content holds: enough to say that it has too many signatures."""


@dataclass(frozen=True, slots=True)
class SignedDocument:
    """A document as it travels: not believed until its signatures are verified."""

    format: int
    content: bytes
    signatures: tuple[bytes, ...]

    def encode(self) -> bytes:
        return encode([self.format, self.content, list(self.signatures)])

    @classmethod
    def decode(cls, data: bytes, limits: Limits = DEFAULT_LIMITS) -> SignedDocument:
        """Take the outer array apart without reading the content. Raises `EncodingError` or `DocumentError`."""
        value = decode(data, max_bytes=limits.document_bytes_max, max_items=_OUTER_ITEMS_MAX)
        match value:
            case [int(form), bytes(content), list(signatures)] if not isinstance(form, bool):
                pass
            case _:
                raise DocumentError(Reason.BAD_DOCUMENT, "expected [format, content, signatures]")
        if not 1 <= len(signatures) <= limits.signatures_max:
            raise DocumentError(
                Reason.BAD_DOCUMENT,
                f"expected 1 to {limits.signatures_max} signatures, got {len(signatures)}",
            )
        if not all(isinstance(block, bytes) for block in signatures):
            raise DocumentError(Reason.BAD_DOCUMENT, "expected every signature to be a byte string")
        return cls(form, content, tuple(signatures))


@lru_cache(maxsize=_PARTS_KEPT)
def document_aad(kind: str, form: int, fleet_id: bytes) -> bytes:
    """The external AAD that binds a signature to one kind and format of document in one fleet."""
    return encode([kind, form, fleet_id])


def fleet_id_of(first_root_content: bytes) -> bytes:
    """The name of a fleet: SHA-256 of the content of its root version 1."""
    return hashlib.sha256(first_root_content).digest()


def sign_document(content: bytes, form: int, kind: str, fleet_id: bytes, signers: Iterable[Signer]) -> SignedDocument:
    """Sign `content` with every signer. The blocks stand in order of thumbprint, whatever the order of signing."""
    aad = document_aad(kind, form, fleet_id)
    ordered = sorted(signers, key=lambda signer: signer.public.kid)
    return SignedDocument(form, content, tuple(sign1(signer, content, external_aad=aad) for signer in ordered))


def sign1(signer: Signer, payload: bytes, *, external_aad: bytes) -> bytes:
    """Return a tagged COSE_Sign1 over the detached `payload`."""
    return sign1_of(signer.public, signer.sign(bytes_to_sign(signer.public, payload, external_aad=external_aad)))


def bytes_to_sign(key: PublicKey, payload: bytes, *, external_aad: bytes) -> bytes:
    """What `key` signs to sign `payload`, for a signer that is elsewhere. It names the key, so each signs its own."""
    return _to_be_signed(_protected_of(key), external_aad, payload)


def sign1_of(key: PublicKey, signature: bytes) -> bytes:
    """The tagged COSE_Sign1 that the 64 raw bytes of a signature by `key` make."""
    return encode(cbor2.CBORTag(_TAG_SIGN1, [_protected_of(key), {}, None, signature]))


def _protected_of(key: PublicKey) -> bytes:
    return _protected(key.algorithm, key.kid)


@lru_cache(maxsize=_PARTS_KEPT)
def _protected(algorithm: int, kid: bytes) -> bytes:
    return encode({_HEADER_ALG: int(algorithm), _HEADER_KID: kid})


def verify_signatures(
    content: bytes,
    signatures: Sequence[bytes],
    *,
    keys: Mapping[bytes, PublicKey],
    threshold: int,
    external_aad: bytes,
    accept_es256: bool = False,
) -> frozenset[bytes]:
    """Return the thumbprints of the distinct `keys` that validly signed `content`; at least `threshold` of them.

    Every block must have the one allowed form. Blocks by keys that are not in `keys` are ignored (they may be another
    role's); a block that names a key in `keys` and does not verify is refused, since nobody honest writes one.
    `accept_es256` admits the deprecated number -7 for P-256 keys and, as the examples of the SUIT working group need
    it, blocks without a thumbprint. Raises `TrustError` with reason `unknown_key` (nobody known signed) or
    `bad_signature`, and `DocumentError` for a block of any other form.
    """
    assert threshold >= 1
    valid: set[bytes] = set()
    known = False
    for block in signatures:
        algorithm, kid, protected, signature = _read_block(block, accept_es256=accept_es256)
        candidates = keys.values() if kid is None else [keys[kid]] if kid in keys else []
        known = known or bool(candidates)
        message = _to_be_signed(protected, external_aad, content)
        signer = next(
            (key for key in candidates if _counts(key, algorithm, signature, message, accept_es256=accept_es256)), None
        )
        if signer is not None:
            valid.add(signer.kid)
        elif kid is not None and candidates:
            raise TrustError(Reason.BAD_SIGNATURE, f"the signature of key {kid.hex()[:16]} does not verify")
    if len(valid) < threshold:
        reason = Reason.BAD_SIGNATURE if known else Reason.UNKNOWN_KEY
        raise TrustError(reason, f"expected valid signatures of {threshold} known keys, got {len(valid)}")
    return frozenset(valid)


def signature_kid(block: bytes) -> bytes:
    """The thumbprint that a signature block names. Raises `DocumentError` if the block has not the one allowed form."""
    _, kid, _, _ = _read_block(block, accept_es256=False)
    if kid is None:
        raise DocumentError(Reason.BAD_DOCUMENT, "COSE_Sign1: expected a key thumbprint in the protected header")
    return kid


def _counts(key: PublicKey, algorithm: int, signature: bytes, message: bytes, *, accept_es256: bool) -> bool:
    if algorithm != key.algorithm and not (accept_es256 and algorithm == _ES256):
        return False
    return key.verify(signature, message)


def _to_be_signed(protected: bytes, external_aad: bytes, payload: bytes) -> bytes:
    return encode(["Signature1", protected, external_aad, payload])


def _read_block(block: bytes, *, accept_es256: bool) -> tuple[int, bytes | None, bytes, bytes]:
    """Take a COSE_Sign1 apart: algorithm, thumbprint, protected header as signed, signature."""
    match _decode_part(block, frozenset({_TAG_SIGN1})):
        case cbor2.CBORTag(tag=18, value=[bytes(protected), dict(unprotected), None, bytes(signature)]) if (
            not unprotected
        ):
            pass
        case _:
            raise DocumentError(
                Reason.BAD_DOCUMENT,
                "COSE_Sign1: expected tag 18, a protected header, no unprotected one, a detached payload, a signature",
            )
    if len(signature) != SIGNATURE_BYTES:
        raise DocumentError(
            Reason.BAD_DOCUMENT,
            f"COSE_Sign1: expected a {SIGNATURE_BYTES} byte signature, got {len(signature)}",
        )
    algorithm, kid = _read_protected(protected, accept_es256=accept_es256)
    return algorithm, kid, protected, signature


def _decode_part(data: bytes, tags: frozenset[int] = frozenset()) -> object:
    try:
        return decode(data, max_bytes=_SIGNATURE_BLOCK_BYTES_MAX, tags=tags)
    except EncodingError as error:
        raise DocumentError(Reason.BAD_DOCUMENT, f"COSE_Sign1: {error}") from None


def _read_protected(protected: bytes, *, accept_es256: bool) -> tuple[int, bytes | None]:
    match _decode_part(protected):
        case {1: int(algorithm), 4: bytes(kid), **others} if not others and len(kid) == KID_BYTES:
            return algorithm, kid
        case {1: int(algorithm), **others} if not others and accept_es256 and algorithm == _ES256:
            return algorithm, None
        case _:
            raise DocumentError(
                Reason.BAD_DOCUMENT,
                "COSE_Sign1: expected exactly algorithm (1) and key thumbprint (4) in the header",
            )

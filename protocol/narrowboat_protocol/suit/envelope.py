"""The outside of a SUIT envelope: digest, signatures and the manifest as bytes.

An envelope is a tagged map of two members that we use: the authentication wrapper, `[digest, block, ...]`,
and the manifest. Each is wrapped in a byte string, which is what lets us authenticate a manifest before
anything parses it. Two points of the draft are easy to get wrong:

- The digest covers the byte string that wraps the manifest, CBOR header included, not the bare manifest.
- The blocks are COSE_Sign1 with a detached payload, and that payload is the encoded SUIT_Digest array, with
  empty external AAD.

The digest's algorithm is the one thing that is refused before authentication: without it there is nothing to
authenticate against. Severed members and integrated payloads, which live in the same map, are noted by key
only. They are refused once the manifest is authentic, so that the refusal tells about a release and not about
noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import cbor2

from ..cbor import decode, encode
from ..cose import verify_signatures
from ..errors import DocumentError, Reason, TrustError, UsageError
from ..keys import PublicKey
from ..limits import DEFAULT_LIMITS, Limits
from .numbers import ENVELOPE_TAG, SHA256, EnvelopeKey

_NO_AAD = b""
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Envelope:
    """An envelope whose digest fits its manifest. Nobody vouches for it yet."""

    digest: bytes
    authentication: tuple[bytes, ...]
    manifest: bytes
    other_members: tuple[object, ...] = ()
    """Keys of severed members and integrated payloads."""

    @property
    def signed_payload(self) -> bytes:
        """What every signature is over: the encoded SUIT_Digest."""
        return encode([SHA256, self.digest])

    def encode(self) -> bytes:
        """The envelope with its two members. `other_members` are known by key only and must be empty."""
        if self.other_members:
            raise UsageError(
                Reason.BAD_USE,
                f"expected only 2 (authentication) and 3 (manifest), got {len(self.other_members)} others",
            )
        members = {
            EnvelopeKey.AUTHENTICATION: encode([self.signed_payload, *self.authentication]),
            EnvelopeKey.MANIFEST: self.manifest,
        }
        return encode(cbor2.CBORTag(ENVELOPE_TAG, members))


@dataclass(frozen=True, slots=True)
class Authenticated:
    """An envelope that enough keys vouch for. Only `authenticate` makes one."""

    envelope: Envelope
    signers: frozenset[bytes]


def digest_of(manifest: bytes) -> bytes:
    """The digest by which a release goes: SHA-256 of the manifest wrapped in a byte string."""
    return hashlib.sha256(encode(manifest)).digest()


def parse_envelope(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Envelope:
    """Take the outer map apart and compare the digest. The manifest stays bytes.

    Raises `EncodingError`, `DocumentError`, or `TrustError` if the digest is of another manifest.
    """
    value = decode(data, max_bytes=limits.envelope_bytes_max, tags=frozenset({ENVELOPE_TAG}))
    match value:
        case cbor2.CBORTag(
            value={
                EnvelopeKey.AUTHENTICATION: bytes(wrapper),
                EnvelopeKey.MANIFEST: bytes(manifest),
                **others,
            }
        ):
            pass
        case _:
            raise DocumentError(
                Reason.BAD_DOCUMENT,
                f"expected a SUIT envelope: tag {ENVELOPE_TAG} on a map with the byte strings"
                " 2 (authentication) and 3 (manifest)",
            )
    digest, authentication = _read_authentication(wrapper, limits)
    if digest != digest_of(manifest):
        raise TrustError(
            Reason.BAD_SIGNATURE,
            "the signed digest is not that of the manifest; one of them was altered, get the release anew",
        )
    return Envelope(digest, authentication, manifest, tuple(others))


def authenticate(
    envelope: Envelope, keys: Mapping[bytes, PublicKey], threshold: int, *, accept_es256: bool = False
) -> Authenticated:
    """Demand valid signatures of at least `threshold` distinct keys of `keys` (by thumbprint).

    Raises `TrustError`, or `DocumentError` for a block that is no signature. `accept_es256` is for the
    working group's examples.
    """
    if threshold < 1:
        raise UsageError(Reason.BAD_USE, f"expected a threshold of at least 1 signature, got {threshold}")
    signers = verify_signatures(
        envelope.signed_payload,
        envelope.authentication,
        keys=keys,
        threshold=threshold,
        external_aad=_NO_AAD,
        accept_es256=accept_es256,
    )
    return Authenticated(envelope, signers)


def read_digest(encoded: bytes) -> bytes:
    """Read a SUIT_Digest. Raises `TrustError` for any algorithm but SHA-256."""
    match decode(encoded, max_bytes=len(encoded)):
        case [int(algorithm), bytes(digest)] if algorithm == SHA256 and len(digest) == _DIGEST_BYTES:
            return digest
        case _:
            raise TrustError(
                Reason.UNSUPPORTED_MANIFEST,
                f"expected a SHA-256 digest, [{SHA256}, {_DIGEST_BYTES} bytes], got another kind",
            )


def _read_authentication(wrapper: bytes, limits: Limits) -> tuple[bytes, tuple[bytes, ...]]:
    value = decode(wrapper, max_bytes=len(wrapper))
    if not isinstance(value, list) or not value or not all(isinstance(item, bytes) for item in value):
        raise DocumentError(
            Reason.BAD_DOCUMENT,
            "SUIT authentication: expected a list of byte strings, a digest and signatures",
        )
    encoded_digest, *blocks = value
    if len(blocks) > limits.signatures_max:
        raise DocumentError(Reason.TOO_LARGE, f"expected at most {limits.signatures_max} signatures, got {len(blocks)}")
    return read_digest(encoded_digest), tuple(blocks)

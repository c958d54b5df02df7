"""The key of an encrypted payload, sealed to those who may have it: SUIT_Encryption_Info
(draft-ietf-suit-firmware-encryption-25).

A payload is encrypted once, under a random content key. That key is wrapped for each recipient by ECDH-ES+A128KW
(RFC 9053 section 6.4): an ephemeral P-256 key and the recipient's agree on a secret, HKDF-SHA256 makes a key of it, AES
Key Wrap (RFC 3394) wraps the content key under that. The wrap has a check of 64 bits, so what opens is what was sealed.

The structure is a COSE_Encrypt whose ciphertext is elsewhere. A128CTR authenticates nothing, so its header is
unprotected (RFC 9459 section 4), and what makes the plaintext count is never this: the signed tree does. The set of
headers is closed, and recipients are named by thumbprint, as signers are.

An agreement key is made for this use alone. It signs nothing, and no key that signs is used to agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import cbor2
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ..cbor import decode, encode
from ..errors import DocumentError, NarrowboatError, Reason, TrustError, UsageError
from ..keys import KID_BYTES, PublicKey, public_key_from_cbor, public_key_from_cryptography
from .numbers import A128CTR, A128KW, ECDH_ES_A128KW, ENCRYPT_TAG

CONTENT_KEY_BYTES = 16
IV_BYTES = 16
INFO_BYTES_MAX = 3072
RECIPIENTS_MAX = 16

_ALG, _KID, _IV, _EPHEMERAL = 1, 4, 5, -1
_ITEMS_MAX = 12 + 20 * RECIPIENTS_MAX
_WRAPPED_BYTES = CONTENT_KEY_BYTES + 8
_PROTECTED = encode({_ALG: ECDH_ES_A128KW})
_NOBODY = [None, None, None]
_KDF_CONTEXT = encode([A128KW, _NOBODY, _NOBODY, [8 * CONTENT_KEY_BYTES, _PROTECTED, b"SUIT Payload Encryption"]])


@dataclass(frozen=True, slots=True)
class ContentKey:
    """What encrypts one payload and no other: an AES-128 key, and the first value of the counter."""

    key: bytes = field(repr=False)
    iv: bytes

    def __post_init__(self) -> None:
        if (len(self.key), len(self.iv)) != (CONTENT_KEY_BYTES, IV_BYTES):
            raise UsageError(
                Reason.BAD_USE, f"expected a key of {CONTENT_KEY_BYTES} bytes and an IV of {IV_BYTES}, got other sizes"
            )


class AgreementKey:
    """A P-256 private key that opens what is sealed to it. Neither its repr nor its errors show it."""

    __slots__ = ("_key", "public")

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self.public = public_key_from_cryptography(key.public_key())

    def __repr__(self) -> str:
        return f"AgreementKey(kid={self.public.kid.hex()[:16]})"

    @classmethod
    def generate(cls) -> AgreementKey:
        """A new key from the operating system's random source."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, pem: bytes, passphrase: bytes | None = None) -> AgreementKey:
        """Raises `UsageError` if `pem` is not a P-256 private key, or the passphrase does not open it."""
        try:
            key = serialization.load_pem_private_key(pem, passphrase)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
            return cls(key)
        raise UsageError(
            Reason.BAD_USE, "expected a PEM P-256 private key that this passphrase opens; check file and passphrase"
        )

    def to_pem(self) -> bytes:
        """PKCS#8 PEM, not encrypted."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def wrap(self, content_key: bytes, recipient: PublicKey) -> bytes:
        """Wrap a content key, with this key as the ephemeral one."""
        from cryptography.hazmat.primitives.keywrap import aes_key_wrap

        return aes_key_wrap(self._wrapping_key(recipient), content_key)

    def unwrap(self, wrapped: bytes, ephemeral: PublicKey) -> bytes:
        """Raises `TrustError` (`no_key`) if it was wrapped for another key, or altered since."""
        from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

        try:
            return aes_key_unwrap(self._wrapping_key(ephemeral), wrapped)
        except InvalidUnwrap:
            raise TrustError(
                Reason.NO_KEY, "expected a content key that was wrapped for this key, got one that it does not unwrap"
            ) from None

    def _wrapping_key(self, other: PublicKey) -> bytes:
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        secret = self._key.exchange(ec.ECDH(), other.to_p256())
        return HKDF(hashes.SHA256(), CONTENT_KEY_BYTES, None, _KDF_CONTEXT).derive(secret)


def seal(
    content: ContentKey,
    recipients: Iterable[PublicKey],
    ephemeral: Callable[[], AgreementKey] = AgreementKey.generate,
) -> bytes:
    """Return the SUIT_Encryption_Info that lets each recipient have the content key. Each gets an ephemeral key of its
    own.
    """
    listed = [_sealed_to(recipient, content, ephemeral()) for recipient in recipients]
    if not 1 <= len(listed) <= RECIPIENTS_MAX:
        raise UsageError(Reason.BAD_USE, f"expected 1 to {RECIPIENTS_MAX} recipients, got {len(listed)}")
    return encode(cbor2.CBORTag(ENCRYPT_TAG, [b"", {_ALG: A128CTR, _IV: content.iv}, None, listed]))


def recipients_of(info: bytes) -> tuple[bytes, ...]:
    """The thumbprints of those to whom a content key is sealed. Raises `PeerError`."""
    return tuple(_read_recipient(recipient)[0] for recipient in _read(info)[1])


def unseal(info: bytes, key: AgreementKey) -> ContentKey:
    """Open a SUIT_Encryption_Info. Raises `DocumentError` if it is not one in our profile, and `TrustError` (`no_key`)
    if it is not for this key.
    """
    iv, recipients = _read(info)
    for recipient in recipients:
        kid, ephemeral, wrapped = _read_recipient(recipient)
        if kid == key.public.kid:
            return ContentKey(key.unwrap(wrapped, ephemeral), iv)
    raise TrustError(
        Reason.NO_KEY,
        f"expected a content key sealed to key {key.public.kid.hex()[:16]}, got one for {len(recipients)} others; build"
        " the release with --encrypt-to that key",
    )


def _sealed_to(recipient: PublicKey, content: ContentKey, ephemeral: AgreementKey) -> list[object]:
    headers = {_KID: recipient.kid, _EPHEMERAL: ephemeral.public.to_cbor()}
    return [_PROTECTED, headers, ephemeral.wrap(content.key, recipient)]


def _read(info: bytes) -> tuple[bytes, list[object]]:
    """IV and recipients. The recipients' own shape is looked at one by one."""
    try:
        value = decode(info, max_bytes=INFO_BYTES_MAX, tags=frozenset({ENCRYPT_TAG}), max_items=_ITEMS_MAX)
    except NarrowboatError as error:
        raise _refused(str(error)) from None
    match value:
        case cbor2.CBORTag(tag=96, value=[b"", {1: int(alg), 5: bytes(iv), **others}, None, list(recipients)]) if (
            alg == A128CTR and not others and len(iv) == IV_BYTES and 1 <= len(recipients) <= RECIPIENTS_MAX
        ):
            return iv, recipients
    raise _refused(f"expected A128CTR with an IV in the unprotected header, and 1 to {RECIPIENTS_MAX} recipients")


def _read_recipient(value: object) -> tuple[bytes, PublicKey, bytes]:
    match value:
        case [bytes(protected), {4: bytes(kid), -1: dict(ephemeral), **others}, bytes(wrapped)] if (
            protected == _PROTECTED and not others and len(kid) == KID_BYTES and len(wrapped) == _WRAPPED_BYTES
        ):
            try:
                key = public_key_from_cbor(ephemeral)
                key.to_p256()
            except DocumentError as error:
                raise _refused(str(error)) from None
            return kid, key, wrapped
    raise _refused("expected recipients by ECDH-ES+A128KW, each with a thumbprint and an ephemeral P-256 key")


def _refused(what: str) -> DocumentError:
    return DocumentError(Reason.BAD_DOCUMENT, f"encryption info: {what}")

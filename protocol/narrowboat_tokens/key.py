"""A private key in a token, with the interface of the cryptography library's keys.

`cryptography` builds certificates, requests and revocation lists for any key that counts as one of its own and has
`public_key` and `sign` (tested with 42 and 50). The classes here are registered with its abstract classes, not derived
from them: what else those come to demand in later versions is of no concern to a key that only signs.

Whatever the token returns is verified with the public key before it is handed on. A module that is broken, or a public
key beside the private one that belongs to another, is thus found here and not by a fleet that refuses the document.

PKCS#11 ties a login to the process, and python-pkcs11 tells the module that one thread uses it (C_Initialize without
arguments). So one lock goes around whatever is asked of any module.
"""

from __future__ import annotations

import hashlib
from threading import Lock
from typing import Generic, Never, TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import Mechanism, Session
from pkcs11.exceptions import PKCS11Error
from pkcs11.types import SignMixin

from narrowboat_protocol.errors import Reason, SigningError, UsageError
from narrowboat_protocol.keys import public_key_from_cryptography
from narrowboat_protocol.token_uri import TokenUri

ONE_AT_A_TIME = Lock()
_COORDINATE_BYTES = 32


PublicT = TypeVar("PublicT", bound=ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey)


class _TokenKey(Generic[PublicT]):
    """What both kinds have in common. The session is open as long as the key lives."""

    _mechanism: Mechanism

    def __init__(self, uri: TokenUri, session: Session, key: SignMixin, public: PublicT) -> None:
        self._uri = uri
        self._session = session
        self._key = key
        self._public = public
        self._verifier = public_key_from_cryptography(public)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._uri})"

    def public_key(self) -> PublicT:
        return self._public

    def private_bytes(self, *_: object, **__: object) -> Never:
        raise UsageError(Reason.BAD_USE, f"{self._uri}: expected a key in a file, got one in a token, which keeps it")

    def _signature(self, data: bytes, message: bytes) -> bytes:
        """The 64 raw bytes over `message`, of which the token sees `data`."""
        try:
            with ONE_AT_A_TIME:
                signature = self._key.sign(data, mechanism=self._mechanism)
        except PKCS11Error as error:
            raise SigningError(
                f"{self._uri}: expected a signature, got {type(error).__name__}; see that the token is there, and start"
                " again",
            ) from None
        if not self._verifier.verify(signature, message):
            raise SigningError(
                f"{self._uri}: expected a signature that its public key verifies, got another; see that the public key"
                " in the token belongs to the private one",
            )
        return signature


class TokenEd25519Key(_TokenKey[ed25519.Ed25519PublicKey]):
    """An Ed25519 key."""

    _mechanism = Mechanism.EDDSA

    def sign(self, data: bytes) -> bytes:
        return self._signature(data, data)


class TokenP256Key(_TokenKey[ec.EllipticCurvePublicKey]):
    """An ECDSA key on P-256, for SHA-256. The hash is made here, since not every token makes it."""

    _mechanism = Mechanism.ECDSA

    def sign(self, data: bytes, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """DER, as the library's own keys return it."""
        if not isinstance(signature_algorithm.algorithm, hashes.SHA256):
            raise UsageError(Reason.BAD_USE, f"{self._uri}: expected to sign with SHA-256, got another algorithm")
        raw = self._signature(hashlib.sha256(data).digest(), data)
        r, s = raw[:_COORDINATE_BYTES], raw[_COORDINATE_BYTES:]
        return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))


ed25519.Ed25519PrivateKey.register(TokenEd25519Key)
ec.EllipticCurvePrivateKey.register(TokenP256Key)

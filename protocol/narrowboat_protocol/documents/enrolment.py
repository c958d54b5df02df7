"""How a gateway becomes somebody: what it asks for with a key, and what a bridge answers that key.

A request carries a PKCS#10 signing request (RFC 2986) and is signed, under kind `enrolment`, by the key in it. Whatever
else vouches for that key signs the same request and has its public half in `vouchers`: the birth key of the factory,
or the key that is made from a claim secret by `claim_key`. So no secret leaves the gateway, not even as a keyed hash
that a bridge would need the secret for, and a list of thumbprints is all that a bridge keeps of either.

A reply is signed by a bridge key and names thumbprint and nonce of the request. It holds nothing secret: a thousand
gateways with one batch claim may all read it, and each listens to the topic that ends in its own thumbprint.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import Field, model_validator

from ..cose import SignedDocument, document_aad, verify_signatures
from ..errors import DocumentError, Reason, UsageError
from ..keys import PrivateKey, PublicKey, public_key_from_cbor
from ..limits import KIB
from ..model import AS_TUPLE, as_enum, key, refusal
from .fields import Certificate, CoseKey, Digest, Name, Nonce, Seconds, Text, Uuid
from .signed import SignedModel

CERTIFICATE_DAYS = 365
"""How long a certificate lasts that a fleet gives to a device. What is made by hand, also for operators and bridges,
lasts as long.
"""
VOUCHERS_MAX = 3
SECRET_BYTES_MIN = 16
Serial = Annotated[str, Field(min_length=1, max_length=64)]


class EnrolmentRequest(SignedModel):
    """Sent by a gateway without a certificate, or with one that shall be renewed."""

    KIND: ClassVar[str] = "enrolment"
    BYTES_MAX: ClassVar[int] = 4 * KIB
    ITEMS_MAX: ClassVar[int] = 64

    csr: Annotated[bytes, Field(min_length=1, max_length=2 * KIB)] = key(1)
    """A signing request in DER. Its subject is not looked at."""
    nonce: Nonce = key(2)
    cose_key: CoseKey = key(3)
    """The key in the signing request."""
    vouchers: Annotated[tuple[CoseKey, ...], AS_TUPLE] = key(4, (), max_length=VOUCHERS_MAX)
    """Other keys that signed this request."""
    wish: Name | None = key(5, None)
    """The name that the gateway would like; the registry chooses."""
    serial: Serial | None = key(6, None)
    """For people. It admits nobody."""
    vendor_id: Uuid = key(7)
    class_id: Uuid = key(8)
    connects_only: bool = key(9, default=False)
    """The key makes connections, and another one, in a token, signs what the gateway says: it is among the vouchers."""

    @model_validator(mode="after")
    def _readable_keys(self) -> Self:
        try:
            kids = {each.kid for each in map(public_key_from_cbor, (self.cose_key, *self.vouchers))}
        except DocumentError:
            raise refusal("every key must be a COSE_Key of Ed25519 or P-256") from None
        if len(kids) != 1 + len(self.vouchers):
            raise refusal("each key must stand here once")
        return self

    @property
    def public_key(self) -> PublicKey:
        return public_key_from_cbor(self.cose_key)


class EnrolmentOutcome(StrEnum):
    """What became of a request."""

    ISSUED = "issued"
    PENDING = "pending"
    REFUSED = "refused"


class EnrolmentReply(SignedModel):
    """The answer to one request of one key."""

    KIND: ClassVar[str] = "enrolment_reply"
    BYTES_MAX: ClassVar[int] = 8 * KIB
    ITEMS_MAX: ClassVar[int] = 32

    kid: Digest = key(1)
    """Thumbprint of the key that asked."""
    nonce: Nonce = key(2)
    outcome: Annotated[EnrolmentOutcome, as_enum(EnrolmentOutcome)] = key(3)
    device: Name | None = key(4, None)
    """The name that the registry chose."""
    certificate: Certificate | None = key(5, None)
    reason: Annotated[Reason, as_enum(Reason)] | None = key(6, None)
    message: Text | None = key(7, None)
    ask_again_at: Seconds | None = key(8, None)
    """Not before this time, by the clock of the bridge that says `at`."""
    at: Seconds = key(9)

    @model_validator(mode="after")
    def _certificate_if_issued(self) -> Self:
        issued = self.outcome is EnrolmentOutcome.ISSUED
        if (self.device is not None, self.certificate is not None) != (issued, issued):
            raise refusal("an issued certificate and the name in it stand here together, or neither")
        if issued and (self.reason or self.message or self.ask_again_at) is not None:
            raise refusal("what is issued needs no reason")
        return self


def open_request(data: bytes, fleet_id: bytes) -> tuple[EnrolmentRequest, frozenset[bytes]]:
    """A request that the key in it and all its vouchers signed, and their thumbprints. The keys must be read before
    anybody can be asked for a signature. Raises a `PeerError`.
    """
    signed = SignedDocument.decode(data)
    if signed.format != EnrolmentRequest.FORMAT:
        raise DocumentError(
            Reason.UNKNOWN_FORMAT, f"enrolment: expected format {EnrolmentRequest.FORMAT}, got {signed.format}"
        )
    request = EnrolmentRequest.decode(signed.content, max_bytes=EnrolmentRequest.BYTES_MAX)
    keys = {each.kid: each for each in map(public_key_from_cbor, (request.cose_key, *request.vouchers))}
    kids = verify_signatures(
        signed.content,
        signed.signatures,
        keys=keys,
        threshold=len(keys),
        external_aad=document_aad(EnrolmentRequest.KIND, signed.format, fleet_id),
    )
    return request, kids


def claim_key(secret: bytes, fleet_id: bytes) -> PrivateKey:
    """The signing key that a claim secret stands for (HKDF, RFC 5869, and Ed25519). Raises `UsageError` for a secret
    short enough to be guessed from the public half.
    """
    if len(secret) < SECRET_BYTES_MIN:
        raise UsageError(Reason.BAD_USE, f"expected a claim secret of at least {SECRET_BYTES_MIN} bytes, got less")
    seed = HKDF(hashes.SHA256(), 32, fleet_id, b"narrowboat claim secret").derive(secret)
    return PrivateKey(ed25519.Ed25519PrivateKey.from_private_bytes(seed))

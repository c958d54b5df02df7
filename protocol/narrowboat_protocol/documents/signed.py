"""Signing a model and opening a signed one: the only way from bytes to a believed document.

`open_signed` checks size, outer shape, format and signatures, and only then reads the content. What must be read before
anybody can be asked for a signature (a root, a hello, the request id of a refused command) is named in docs/protocol.md
and is bounded by its `BYTES_MAX` and `ITEMS_MAX`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, TypeVar

from ..cose import SignedDocument, document_aad, sign_document, verify_signatures
from ..errors import DocumentError, Reason, UsageError
from ..keys import PublicKey, Signer
from ..limits import DEFAULT_LIMITS, KIB, Limits
from ..model import Document

SIGNATURES_BYTES = 2 * KIB
"""Room for as many signatures as a document may have, so that one that may be signed may be signed by all."""


class SignedModel(Document):
    """A document that travels signed."""

    KIND: ClassVar[str]
    FORMAT: ClassVar[int] = 1
    BYTES_MAX: ClassVar[int] = DEFAULT_LIMITS.document_bytes_max - SIGNATURES_BYTES


SignedT = TypeVar("SignedT", bound=SignedModel)


def sign_model(document: SignedModel, fleet_id: bytes, signers: Iterable[Signer]) -> bytes:
    """Encode and sign a document; the result is what travels. Raises `UsageError` for one too long to be read."""
    content = document.encode()
    if len(content) > document.BYTES_MAX:
        raise UsageError(
            Reason.TOO_LARGE,
            f"{type(document).__name__}: expected at most {document.BYTES_MAX} bytes, got {len(content)}",
        )
    return sign_document(content, document.FORMAT, document.KIND, fleet_id, signers).encode()


def open_signed(
    kind: type[SignedT],
    data: bytes | SignedDocument,
    *,
    fleet_id: bytes,
    keys: Mapping[bytes, PublicKey],
    threshold: int = 1,
    limits: Limits = DEFAULT_LIMITS,
) -> SignedT:
    """Return the document in `data` if at least `threshold` of `keys` signed it as this kind, in this fleet.

    Raises `EncodingError`, `DocumentError` or `TrustError`.
    """
    signed = data if isinstance(data, SignedDocument) else SignedDocument.decode(data, limits)
    if signed.format != kind.FORMAT:
        raise DocumentError(
            Reason.UNKNOWN_FORMAT,
            f"{kind.__name__}: expected format {kind.FORMAT}, got {signed.format}; update this side",
        )
    aad = document_aad(kind.KIND, signed.format, fleet_id)
    verify_signatures(signed.content, signed.signatures, keys=keys, threshold=threshold, external_aad=aad)
    return kind.decode(signed.content, max_bytes=min(kind.BYTES_MAX, limits.document_bytes_max))

"""Pure functions of the product, remembered while a world runs.

A world says the same bytes to many parties, many times, and each of them scans, decodes and verifies them anew: half
of a simulation would go there. What is remembered depends on nothing but its arguments, so a world is the same
with and without it, and a test shows that. Only what succeeded is remembered; whatever is refused is looked at again.
What the product encoded is known to decode to the same, which its own tests show of every kind of document.

Signatures are made of a hash instead of curve points: whoever holds the private key gets a seal over the message, which
verifies under its public key, and any other bytes go through the real check. No party of a world makes seals of its
own, so what it could not sign it cannot seal. Seals mean nothing outside, so what all worlds share is made before.
"""

from __future__ import annotations

import hashlib
import io
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import cbor2

from narrowboat_device.core import inventory, offers
from narrowboat_protocol import cbor, cose
from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.keys import PrivateKey, PublicKey
from narrowboat_protocol.limits import DEFAULT_LIMITS, Limits
from narrowboat_protocol.model import Document
from narrowboat_protocol.suit import Envelope, Manifest, parse_envelope, read_manifest, release

from .site import site

_KEPT_MAX = 20_000


class _Memory:
    """Results by arguments. When it is full it begins anew."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Any] = {}

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        return key in self._known

    def get(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        try:
            return self._known[key]
        except KeyError:
            made = make()
            self.put(key, made)
            return made

    def put(self, key: tuple[Any, ...], value: Any) -> None:
        if len(self._known) >= _KEPT_MAX:
            self._known.clear()
        self._known[key] = value


_scans, _verdicts, _documents, _signed = _Memory(), _Memory(), _Memory(), _Memory()
_envelopes, _manifests, _blocks, _messages = _Memory(), _Memory(), _Memory(), _Memory()
_beginnings = _Memory()
"""Of signature blocks: all but the signature itself."""
_scan, _verify = cbor._Scanner.scan, PublicKey.verify  # noqa: SLF001  # the one pure step that all the rest waits for
_read_block, _to_be_signed = cose._read_block, cose._to_be_signed  # noqa: SLF001
_secret = secrets.token_bytes(64)
"""Of this process: nothing that a world logs depends on the bytes of a signature."""
_encoder = cbor2.CBOREncoder(io.BytesIO())
"""Making one for each value takes longer than encoding it."""
_decode, _decode_signed = Document.decode.__func__, SignedDocument.decode.__func__  # type: ignore[attr-defined]
_sign1_of = cose.sign1_of
_encode, _encode_signed = Document.encode, SignedDocument.encode


def _scan_once(scanner: cbor._Scanner) -> None:
    if scanner._tags is cbor._TAGS_WRITTEN:  # noqa: SLF001
        return  # what the product wrote is scanned by whoever reads it
    key = (scanner._data, scanner._tags, scanner._max_depth, scanner._max_items)  # noqa: SLF001
    if key not in _scans:
        _scans.get(key, lambda: _scan(scanner))


def _verify_once(key: PublicKey, signature: bytes, message: bytes) -> bool:
    verdict: bool = _verdicts.get(
        (key.kid, signature, message), lambda: signature == _seal(key, message) or _verify(key, signature, message)
    )
    return verdict


def _sign_by_seal(key: PrivateKey, message: bytes) -> bytes:
    return _seal(key.public, message)


def _seal(key: PublicKey, message: bytes) -> bytes:
    """As long as a signature."""
    return hashlib.blake2b(key.kid + message, key=_secret).digest()


def _to_be_signed_once(protected: bytes, external_aad: bytes, payload: bytes) -> bytes:
    message: bytes = _messages.get(
        (protected, external_aad, payload), lambda: _to_be_signed(protected, external_aad, payload)
    )
    return message


def _read_block_once(block: bytes, *, accept_es256: bool) -> tuple[int, bytes | None, bytes, bytes]:
    parts: tuple[int, bytes | None, bytes, bytes] = _blocks.get(
        (block, accept_es256), lambda: _read_block(block, accept_es256=accept_es256)
    )
    return parts


def _sign1_known(key: PublicKey, signature: bytes) -> bytes:
    beginning = _beginnings.get((key.kid, len(signature)), lambda: _sign1_of(key, signature)[: -len(signature)])
    block: bytes = beginning + signature
    _blocks.put((block, False), (key.algorithm, key.kid, cose._protected_of(key), signature))  # noqa: SLF001
    return block


def _decode_once(cls: type[Document], /, data: bytes, *, max_bytes: int | None = None) -> Document:
    if len(data) > (cls.BYTES_MAX if max_bytes is None else max_bytes):
        _decode(cls, data, max_bytes=max_bytes)
    document: Document = _documents.get((cls, data), lambda: _decode(cls, data, max_bytes=max_bytes))
    return document


def _encode_known(document: Document) -> bytes:
    """An item takes a byte at least, so what is short enough has no more of them than a reader allows."""
    data = _encode(document)
    if len(data) <= document.ITEMS_MAX:
        _documents.put((type(document), data), document)
    return data


def _decode_signed_once(cls: type[SignedDocument], /, data: bytes, limits: Limits = DEFAULT_LIMITS) -> SignedDocument:
    if len(data) > limits.document_bytes_max:
        _decode_signed(cls, data, limits)
    document: SignedDocument = _signed.get((data,), lambda: _decode_signed(cls, data, limits))
    return document if len(document.signatures) <= limits.signatures_max else _decode_signed(cls, data, limits)


def _encode_signed_known(document: SignedDocument) -> bytes:
    data = _encode_signed(document)
    if document.signatures:
        _signed.put((data,), document)
    return data


def _parse_once(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Envelope:
    envelope: Envelope = _envelopes.get((data, limits), lambda: parse_envelope(data, limits))
    return envelope


def _read_once(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Manifest:
    manifest: Manifest = _manifests.get((data, limits), lambda: read_manifest(data, limits))
    return manifest


@contextmanager
def remembering() -> Iterator[None]:
    """Remember inside."""
    site()
    with ExitStack() as stack:
        for target, name, instead in (
            (cbor2, "dumps", _encoder.encode_to_bytes),
            (cose, "_read_block", _read_block_once),
            (cose, "sign1_of", _sign1_known),
            (cbor._Scanner, "scan", _scan_once),  # noqa: SLF001
            (PublicKey, "verify", _verify_once),
            (PrivateKey, "sign", _sign_by_seal),
            (cose, "_to_be_signed", _to_be_signed_once),
            (inventory, "parse_envelope", _parse_once),
            (inventory, "read_manifest", _read_once),
            (offers, "parse_envelope", _parse_once),
            (release, "parse_envelope", _parse_once),
            (release, "read_manifest", _read_once),
            (Document, "decode", classmethod(_decode_once)),
            (Document, "encode", _encode_known),
            (SignedDocument, "encode", _encode_signed_known),
            (SignedDocument, "decode", classmethod(_decode_signed_once)),
        ):
            stack.enter_context(patch.object(target, name, instead))
        yield

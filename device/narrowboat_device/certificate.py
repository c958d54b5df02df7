"""The gateway's certificate: what the agent needs to know of it, and that it is this gateway's and this key's.

Reading X.509 takes 2 MiB of memory that a process does not give back, a fair part of what the agent may take. So a
certificate is read once, in the first start with it, and what was found is noted in the data folder. The note carries
a hash over the file, the name and the key that it was judged by, and over itself: another certificate, a damaged note
or none, and the certificate is read anew. Nothing rests on the note but memory, so it is written without a sync, and a
folder that takes no note costs nothing else.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from narrowboat_protocol import cbor
from narrowboat_protocol.documents.fields import CERTIFICATE_BYTES_MAX
from narrowboat_protocol.errors import EncodingError, MediumError, PeerError, Reason, UsageError
from narrowboat_protocol.keys import PublicKey, public_key_from_cryptography
from narrowboat_protocol.limits import KIB

from .disk import Disk
from .files import read_bounded, write_atomically

_log = logging.getLogger(__name__)

_PEM_BYTES_MAX = 64 * KIB
_NOTE_BYTES_MAX = CERTIFICATE_BYTES_MAX + 64


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the agent tells and asks of its own certificate."""

    der: bytes
    ends_s: int
    """Until when it is valid, in seconds since 1970."""

    def note(self, judged: bytes) -> bytes:
        """What is kept of a certificate that was found good, given what it was judged by."""
        return cbor.encode([_seal(judged, self), self.ends_s, self.der])

    @classmethod
    def from_note(cls, note: bytes, judged: bytes) -> Self | None:
        """The certificate that a note tells of; None if it is about another one, or damaged."""
        try:
            fields = cbor.decode(note, max_bytes=_NOTE_BYTES_MAX)
        except EncodingError:
            return None
        match fields:
            case [bytes(seal), int(ends_s), bytes(der)] if seal == _seal(judged, found := cls(der, ends_s)):
                return found
        return None


def _seal(judged: bytes, certificate: Certificate) -> bytes:
    return hashlib.sha256(cbor.encode([judged, certificate.ends_s, certificate.der])).digest()


def note_path(data_dir: Path) -> Path:
    return data_dir / "certificate.note"


def read_certificate(disk: Disk, path: Path, note: Path, name: str, key: PublicKey) -> Certificate:
    """The certificate in a PEM file, the first one there, once it is known to be of this name and this key. Raises
    `UsageError`.
    """
    pem = read_bounded(disk, path, _PEM_BYTES_MAX, "[broker] certificate")
    judged = hashlib.sha256(cbor.encode([pem, name, key.kid])).digest()
    if disk.exists(note):
        try:
            noted = Certificate.from_note(read_bounded(disk, note, _NOTE_BYTES_MAX, "note"), judged)
        except UsageError:
            noted = None
        if noted is not None:
            return noted
    certificate = _judge(pem, path, name, key)
    try:
        write_atomically(disk, note, certificate.note(judged))
    except MediumError as error:
        _log.warning("%s; the certificate is read anew at each start, which takes 2 MiB of memory", error)
    return certificate


def _judge(pem: bytes, path: Path, name: str, key: PublicKey) -> Certificate:
    from cryptography import x509  # here, since it is what takes the memory

    try:
        read = x509.load_pem_x509_certificate(pem)
        names = [found.value for found in read.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
        public = public_key_from_cryptography(read.public_key())
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm, PeerError):
        raise _refused(f"PEM, of an Ed25519 or P-256 key, in {path}") from None
    if names != [name]:
        raise _refused(f"one for {name}, as [gateway] says, got {names!r:.80}")
    if public != key:
        raise _refused("one for the key in [broker] key, got another; ask for a new one")
    der = read.public_bytes(Encoding.DER)
    if len(der) > CERTIFICATE_BYTES_MAX:
        most = CERTIFICATE_BYTES_MAX
        raise _refused(
            f"one of at most {most} bytes, got {len(der)}, which no hello can carry; ask for one with fewer extensions"
        )
    return Certificate(der, int(read.not_valid_after_utc.timestamp()))


def _refused(what: str) -> UsageError:
    return UsageError(Reason.BAD_CONFIG, f"[broker] certificate: expected {what}")

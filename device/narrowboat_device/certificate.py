"""The gateway's certificate: what the agent needs to know of it, and that it is this gateway's key's.

Reading X.509 takes 2 MiB of memory that a process does not give back, a fair part of what the agent may take. So a
process of its own reads a certificate once, and notes in the data folder what it found: `python -m
narrowboat_device.certificate CERTIFICATE NOTE KEY`. The note carries a hash over the file, the key and itself: another
certificate, a damaged note or none, and the certificate is read anew. Nothing rests on the note but memory, so it is
written without a sync; where it cannot be written, the agent reads the certificate itself. Whether the name in it is
the right one is the caller's to say.
"""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from narrowboat_protocol import cbor
from narrowboat_protocol.documents.fields import CERTIFICATE_BYTES_MAX
from narrowboat_protocol.errors import EncodingError, NarrowboatError, PeerError, Reason, UsageError
from narrowboat_protocol.keys import PublicKey, public_key_from_cryptography
from narrowboat_protocol.limits import KIB

from .disk import Disk, SystemDisk
from .files import read_bounded, write_atomically

_log = logging.getLogger(__name__)

_PEM_BYTES_MAX = 64 * KIB
_NOTE_BYTES_MAX = CERTIFICATE_BYTES_MAX + KIB
_READING_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the agent tells and asks of its own certificate. Times are in seconds since 1970."""

    name: str
    """The one common name in its subject."""
    der: bytes
    begins_s: int
    ends_s: int

    @property
    def renewal_at_s(self) -> int:
        """When two thirds of its life are over."""
        return self.begins_s + (self.ends_s - self.begins_s) * 2 // 3

    def note(self, judged: bytes) -> bytes:
        """What is kept of a certificate that was found good, given what it was judged by."""
        return cbor.encode([_seal(judged, self), *_values(self)])

    @classmethod
    def from_note(cls, note: bytes, judged: bytes) -> Self | None:
        """The certificate that a note tells of; None if it is about another one, or damaged."""
        try:
            fields = cbor.decode(note, max_bytes=_NOTE_BYTES_MAX)
        except EncodingError:
            return None
        match fields:
            case [bytes(seal), str(name), bytes(der), int(begins_s), int(ends_s)]:
                found = cls(name, der, begins_s, ends_s)
                return found if seal == _seal(judged, found) else None
        return None


def _values(certificate: Certificate) -> list[object]:
    return [certificate.name, certificate.der, certificate.begins_s, certificate.ends_s]


def _seal(judged: bytes, certificate: Certificate) -> bytes:
    return hashlib.sha256(cbor.encode([judged, *_values(certificate)])).digest()


def note_path(data_dir: Path) -> Path:
    return data_dir / "certificate.note"


def read_certificate(disk: Disk, path: Path, note: Path, key: PublicKey) -> Certificate:
    """The certificate in a PEM file, the first one there, once it is known to be of this key. Raises `UsageError`."""
    pem = read_bounded(disk, path, _PEM_BYTES_MAX, "[broker] certificate")
    judged = _judged_by(pem, key.kid)
    noted = _noted(disk, note, judged)
    if noted is None and sys.executable:
        command = [sys.executable, "-m", __name__, str(path), str(note), key.kid.hex()]
        with suppress(OSError, subprocess.SubprocessError):
            quiet = subprocess.DEVNULL
            subprocess.run(command, check=False, stdin=quiet, stdout=quiet, stderr=quiet, timeout=_READING_S_MAX)
        noted = _noted(disk, note, judged)
    if noted is not None:
        return noted
    certificate = _read(pem, path, key.kid)
    _log.warning("no note can be kept at %s; the certificate is read at each start, which takes 2 MiB of memory", note)
    return certificate


def _judged_by(pem: bytes, kid: bytes) -> bytes:
    return hashlib.sha256(cbor.encode([pem, kid])).digest()


def _noted(disk: Disk, note: Path, judged: bytes) -> Certificate | None:
    if not disk.exists(note):
        return None
    try:
        return Certificate.from_note(read_bounded(disk, note, _NOTE_BYTES_MAX, "note"), judged)
    except UsageError:
        return None


def _read(pem: bytes, path: Path, kid: bytes) -> Certificate:
    from cryptography import x509  # here, since it is what takes the memory

    try:
        read = x509.load_pem_x509_certificate(pem)
        names = [found.value for found in read.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
        key = public_key_from_cryptography(read.public_key())
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm, PeerError):
        raise _refused(f"PEM, of an Ed25519 or P-256 key, in {path}") from None
    match names:
        case [str(name)]:
            pass
        case _:
            raise _refused(f"one with one common name, got {names!r:.80}")
    if key.kid != kid:
        raise _refused("one for the key in [broker] key, got another; ask for a new one")
    der = read.public_bytes(Encoding.DER)
    if len(der) > CERTIFICATE_BYTES_MAX:
        most = CERTIFICATE_BYTES_MAX
        raise _refused(
            f"one of at most {most} bytes, got {len(der)}, which no hello can carry; ask for one with fewer extensions"
        )
    begins, ends = read.not_valid_before_utc, read.not_valid_after_utc
    return Certificate(name, der, int(begins.timestamp()), int(ends.timestamp()))


def _refused(what: str) -> UsageError:
    return UsageError(Reason.BAD_CONFIG, f"[broker] certificate: expected {what}")


def main() -> int:
    """Read a certificate and write the note. Exit status 1 if there is nothing to note, whatever the cause: the agent
    looks for itself and says it.
    """
    path, note, kid = Path(sys.argv[1]), Path(sys.argv[2]), bytes.fromhex(sys.argv[3])
    disk = SystemDisk()
    try:
        pem = read_bounded(disk, path, _PEM_BYTES_MAX, "[broker] certificate")
        write_atomically(disk, note, _read(pem, path, kid).note(_judged_by(pem, kid)))
    except NarrowboatError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

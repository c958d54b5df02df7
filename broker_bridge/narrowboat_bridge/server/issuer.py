"""The issuer: makes certificates for devices with the device authority's key, and remembers them.

The authority can make devices and nothing else: staff, bridges and applicants have authorities of their own, whose keys
this process never sees. Signing one certificate takes less than a millisecond, so it is done where it is decided, in
the batch that stores it, and a reply never carries a certificate that is not on disk. A key in a token takes as long as
its token does. One that does not sign ends the process: nothing of the batch is stored or answered, and who asked asks
again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key

from narrowboat_protocol.errors import Reason, UsageError

from ..core.actions import IssueCertificate
from ..pki import Authority, issue_client


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """One certificate that this bridge made."""

    serial: str
    """In hex: it has up to 160 bits."""
    device: str
    kid: bytes
    issued_at: int
    content: bytes
    """DER."""
    voucher: bytes | None = None
    """The key that vouches for one that only connects."""


def serial_of(certificate: bytes) -> int:
    """The serial number of a certificate in DER, which was verified."""
    return x509.load_der_x509_certificate(certificate).serial_number


class Issuer:
    """Issues certificates for the keys that the core admits."""

    def __init__(self, authority: Authority, issued: Iterable[IssuedCertificate]) -> None:
        self._authority = authority
        self._newest: dict[bytes, IssuedCertificate] = {}
        self._serials: dict[bytes, set[int]] = {}
        for certificate in sorted(issued, key=lambda each: each.issued_at):
            self._note(certificate)

    def issue(self, wanted: IssueCertificate) -> IssuedCertificate:
        device, key, now_s = wanted.device, wanted.key, wanted.at
        public = load_pem_public_key(key.to_pem())
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise UsageError(Reason.BAD_USE, "expected a P-256 key, as the intake demands, got another")
        connects_only = wanted.voucher is not None
        pem = issue_client(self._authority, device, public, now_s, connects_only=connects_only)
        made = x509.load_pem_x509_certificate(pem)
        content = made.public_bytes(Encoding.DER)
        certificate = IssuedCertificate(f"{made.serial_number:x}", device, key.kid, now_s, content, wanted.voucher)
        self._note(certificate)
        return certificate

    def newest(self, kid: bytes) -> bytes | None:
        """The newest certificate of a key, DER."""
        found = self._newest.get(kid)
        return None if found is None else found.content

    def serials_of(self, kids: Iterable[bytes], certificate: bytes | None) -> frozenset[int]:
        """Of every certificate of some keys and of those that they vouched for: made here, and one that was shown."""
        made = {serial for kid in kids for serial in self._serials.get(kid, ())}
        return frozenset(made if certificate is None else {*made, serial_of(certificate)})

    def _note(self, certificate: IssuedCertificate) -> None:
        self._newest[certificate.kid] = certificate
        for kid in (certificate.kid, certificate.voucher):
            if kid is not None:
                self._serials.setdefault(kid, set()).add(int(certificate.serial, 16))

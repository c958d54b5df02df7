"""What the tests of fleet folders read out of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from narrowboat_protocol.documents import Operators, RoleName
from narrowboat_protocol.trust import Trust

AUTHORITIES = ("device", "enrol", "staff", "bridge", "server")


@dataclass(frozen=True, slots=True)
class Made:
    """A fleet that `init` made."""

    path: Path

    @property
    def trust(self) -> Trust:
        return Trust((self.path / "root" / "1.root").read_bytes())

    def operators(self, place: str = "root") -> Operators:
        data = (self.path / place / "operators.signed").read_bytes()
        return self.trust.open_by_role(Operators, data, RoleName.ADMIN)

    def certificate(self, *parts: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.path.joinpath(*parts).read_bytes())

    def issued_by(self, party: str, *parts: str) -> bool:
        try:
            self.certificate(*parts).verify_directly_issued_by(self.certificate("pki", f"{party}-ca.pem"))
        except ValueError:
            return False
        return True

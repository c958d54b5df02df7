"""Which certificates of operators no longer open the broker.

The staff authority signs them where the owner keeps it, so its revocation list is written there too, pki/staff-crl.pem,
and copied into the broker's home, which reads it on SIGHUP. A copy of each certificate that was issued stays in
pki/staff-issued/, since a renewed one is good until it ends by itself. The list only grows: what the owner's copy or
the broker's says stays on both, whichever was put back to an older one.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from ..broker_home import Listener
from ..files import read_bounded, write_atomically
from ..pki import Authority, issue_crl, read_crl
from .fleet_folder import FleetFolder
from .key_files import load_certificate

_CRL_BYTES_MAX = 16 * 1024 * 1024


def crl_file(fleet: FleetFolder) -> Path:
    """The owner's copy."""
    return fleet.path / "pki" / "staff-crl.pem"


def note_issued(fleet: FleetFolder, name: str, certificate_pem: bytes) -> None:
    """Keep a copy of a certificate, before anybody has it."""
    folder = _issued(fleet)
    folder.mkdir(exist_ok=True)
    serial = x509.load_pem_x509_certificate(certificate_pem).serial_number
    write_atomically(folder / f"{name}.{serial:x}.pem", certificate_pem)


def listed(fleet: FleetFolder) -> frozenset[int]:
    """The serial numbers of all that is revoked. Raises `UsageError` for a list that is not the authority's."""
    return _read(fleet)[1]


def unlisted_of(fleet: FleetFolder, name: str) -> frozenset[int]:
    """The serial numbers of an operator's certificates that are not revoked."""
    files = _issued(fleet).glob(f"{name}.*.pem")
    return frozenset(load_certificate(file).serial_number for file in files) - listed(fleet)


def is_revoked(fleet: FleetFolder, certificate: Path) -> bool:
    return certificate.exists() and load_certificate(certificate).serial_number in listed(fleet)


def revoke(fleet: FleetFolder, authority: Authority, serials: frozenset[int], now_s: int) -> bool:
    """Put these on the list, here and in the broker's home; False if that is elsewhere."""
    number, before = _read(fleet)
    content = issue_crl(authority, number + 1, before | serials, now_s)
    write_atomically(crl_file(fleet), content)
    if not _broker_file(fleet).parent.is_dir():
        return False
    write_atomically(_broker_file(fleet), content)
    return True


def _read(fleet: FleetFolder) -> tuple[int, frozenset[int]]:
    """The highest number, and all that either copy says."""
    authority = fleet.authority_certificate(Listener.STAFF)
    files = [file for file in (crl_file(fleet), _broker_file(fleet)) if file.exists()]
    lists = [read_crl(read_bounded(file, _CRL_BYTES_MAX), authority) for file in files]
    return max((number for number, _ in lists), default=0), frozenset[int]().union(*(serials for _, serials in lists))


def _broker_file(fleet: FleetFolder) -> Path:
    return fleet.broker_home / "tls" / "staff-crl.pem"


def _issued(fleet: FleetFolder) -> Path:
    return fleet.path / "pki" / "staff-issued"

"""X.509 certificates: the authorities of a fleet, and what they issue.

Each listener of the broker trusts one authority and no other, so what a certificate is for follows from who issued it:
devices, applicants for enrolment, staff, and bridges. A fifth authority signs the broker's own certificate. All keys
are P-256, which every TLS stack on a gateway speaks. The common name is the party's name everywhere: user name at the
broker, level of its topics, name in its documents; whatever subject a request asks for is ignored. Serial numbers are
random (RFC 5280 section 4.1.2.2), so issuing needs no state.

Functions here take the time and return PEM; nothing reads a clock or a file. A birth certificate has no expiry, which
RFC 5280 section 4.1.2.5 writes as 99991231235959Z; it outlives its authority in name only, so the authority that
issues birth certificates must have none either. Every other certificate ends with its authority at the latest. A
certificate is valid from a day before it is issued, since a gateway's clock may be behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from narrowboat_protocol.documents.enrolment import CERTIFICATE_DAYS
from narrowboat_protocol.errors import DocumentError, Reason, TrustError, UsageError
from narrowboat_protocol.keys import PrivateKey, PublicKey, public_key_from_cryptography
from narrowboat_protocol.topics import is_name

AUTHORITY_DAYS = 20 * 365
SERVER_DAYS = 5 * 365

_NO_EXPIRY = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_BACKDATED = timedelta(days=1)
_CERTIFICATE_BYTES_MAX = 4096
_CONNECTS_ONLY = "connection"
# All that cryptography raises for certificates and requests that it cannot read; it has no common base for them.
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_UNDERSTOOD = frozenset({x509.BasicConstraints.oid, x509.KeyUsage.oid, x509.ExtendedKeyUsage.oid})


class Usage(Enum):
    """What a certificate lets its holder be in TLS."""

    CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
    SERVER = ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority with its private key, which its repr does not show. The key may be in a token."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return key_to_pem(self.key)

    @classmethod
    def of(cls, certificate_pem: bytes, private: PrivateKey) -> Authority:
        """Raises `UsageError` unless these are a P-256 authority's certificate and its key."""
        key = private.in_cryptography
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise UsageError(Reason.BAD_USE, "expected an authority's certificate, in PEM, got other bytes") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise UsageError(Reason.BAD_USE, "expected an authority's certificate and the P-256 key that belongs to it")
        return cls(certificate, key)

    @classmethod
    def create(
        cls,
        common_name: str,
        now_s: int,
        days: int | None = AUTHORITY_DAYS,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Authority:
        """A new self-signed authority, of a new key if none is given, that can issue certificates and no further
        authorities; without expiry if `days` is None, as the one that issues birth certificates must be.
        """
        key = key or new_key()
        name = _name(common_name)
        begins, ends = _validity(now_s, days)
        builder = _builder(name, name, key.public_key(), begins, ends)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
        return cls(builder.sign(key, hashes.SHA256()), key)


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key from the operating system's random source."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def issue_client(
    authority: Authority,
    name: str,
    key: ec.EllipticCurvePublicKey,
    now_s: int,
    days: int | None = CERTIFICATE_DAYS,
    *,
    connects_only: bool = False,
) -> bytes:
    """A certificate (PEM) for a device, operator, bridge or applicant; without expiry if `days` is None. One that only
    connects says so in its subject, and no hello with it is believed.

    Raises `UsageError` for a name outside the grammar, and if the authority has ended.
    """
    if not is_name(name):
        raise UsageError(Reason.BAD_USE, "expected a name of 1 to 64 characters of a-z, 0-9 and '-'")
    subject = _name(name, _CONNECTS_ONLY if connects_only else None)
    return _issue(authority, subject, key, now_s, days, Usage.CLIENT, ())


def issue_server(
    authority: Authority, hosts: Sequence[str], key: ec.EllipticCurvePublicKey, now_s: int, days: int = SERVER_DAYS
) -> bytes:
    """A certificate (PEM) for the broker under each of its host names and addresses."""
    if not hosts:
        raise UsageError(Reason.BAD_USE, "expected at least one host name or address of the broker")
    return _issue(authority, _name(hosts[0][:64]), key, now_s, days, Usage.SERVER, hosts)


def read_request(request_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The key in a certificate request, whose holder proved to have it by signing. The subject is not looked at."""
    return _read_request(x509.load_pem_x509_csr, request_pem)


def read_request_der(request_der: bytes) -> ec.EllipticCurvePublicKey:
    """As `read_request`."""
    return _read_request(x509.load_der_x509_csr, request_der)


def issue_crl(authority: Authority, number: int, serials: Iterable[int], now_s: int) -> bytes:
    """The list (PEM) of what an authority takes back. It has no end, since a broker lets nobody in by one that is over
    (RFC 5280 section 5.1.2.5 demands a date).
    """
    now = datetime.fromtimestamp(now_s, UTC)
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=authority.certificate.subject, last_update=now - _BACKDATED, next_update=_NO_EXPIRY
    ).add_extension(x509.CRLNumber(number), critical=False)
    for serial in sorted(serials):
        builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder(serial, now).build())
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def read_crl(crl_pem: bytes, authority: x509.Certificate) -> tuple[int, frozenset[int]]:
    """The number of a list and the serial numbers on it. Raises `UsageError` if the authority did not sign it."""
    key = authority.public_key()
    try:
        crl = x509.load_pem_x509_crl(crl_pem)
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        if isinstance(key, ec.EllipticCurvePublicKey) and crl.is_signature_valid(key):
            return number, frozenset(entry.serial_number for entry in crl)
    except (*_UNREADABLE, x509.ExtensionNotFound):
        pass
    raise UsageError(Reason.BAD_CONFIG, "expected a revocation list that its authority signed, in PEM; bring it back")


def _read_request(load: Callable[[bytes], x509.CertificateSigningRequest], data: bytes) -> ec.EllipticCurvePublicKey:
    try:
        request = load(data)
        signed = request.is_signature_valid
        key = request.public_key()
    except _UNREADABLE:
        raise DocumentError(Reason.BAD_DOCUMENT, "expected a certificate request") from None
    if not signed:
        raise TrustError(Reason.BAD_SIGNATURE, "the certificate request is not signed by the key that it holds")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise DocumentError(Reason.BAD_DOCUMENT, "expected a certificate request for a P-256 key")
    return key


def read_authorities(authorities_pem: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates of authorities: one, or several while one replaces another. Raises `UsageError`."""
    try:
        return tuple(x509.load_pem_x509_certificates(authorities_pem))
    except _UNREADABLE:
        raise UsageError(
            Reason.BAD_CONFIG, "expected certificates of authorities in PEM, got other bytes; is it the right file?"
        ) from None


def verify_device_certificate(
    certificate_der: bytes, authorities: Sequence[x509.Certificate], now_s: int
) -> tuple[str, PublicKey]:
    """The name and key of a device, if one of the authorities issued the certificate and both are valid now.

    Raises `TrustError` for whatever is wrong with the device's certificate: it came with a hello, and that hello is
    then nobody's.
    """
    if len(certificate_der) > _CERTIFICATE_BYTES_MAX:
        raise TrustError(
            Reason.TOO_LARGE, f"expected a certificate of at most {_CERTIFICATE_BYTES_MAX} bytes, got more"
        )
    try:
        certificate = x509.load_der_x509_certificate(certificate_der)
        issuer = next((each for each in authorities if _has_issued(each, certificate)), None)
        if issuer is None:
            raise TrustError(Reason.UNKNOWN_KEY, "the certificate was not issued by this fleet's device authority")
        for each in (certificate, issuer):
            _check_dates(each, datetime.fromtimestamp(now_s, UTC))
        _check_use(certificate.extensions)
        return _subject_name(certificate), public_key_from_cryptography(certificate.public_key())
    except (*_UNREADABLE, DocumentError) as error:
        raise TrustError(
            Reason.BAD_DOCUMENT, f"expected a certificate of a P-256 or Ed25519 key, got none: {type(error).__name__}"
        ) from None


def _has_issued(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (*_UNREADABLE, InvalidSignature):
        return False
    return True


def _check_dates(certificate: x509.Certificate, now: datetime) -> None:
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begins <= now <= ends:
        raise TrustError(
            Reason.EXPIRED,
            f"expected a certificate valid on {now:%Y-%m-%d}, got one from {begins:%Y-%m-%d} to {ends:%Y-%m-%d}",
        )


def _check_use(extensions: x509.Extensions) -> None:
    """An end entity for client authentication, with nothing critical that is unknown here (RFC 5280 section 4.2)."""
    unknown = [each.oid.dotted_string for each in extensions if each.critical and each.oid not in _UNDERSTOOD]
    if unknown:
        raise TrustError(Reason.NOT_PERMITTED, f"the certificate has unknown critical extensions: {', '.join(unknown)}")
    values = [each.value for each in extensions]
    if any(value.ca for value in values if isinstance(value, x509.BasicConstraints)):
        raise TrustError(Reason.NOT_PERMITTED, "expected a device's certificate, got an authority's")
    uses = [use for value in values if isinstance(value, x509.ExtendedKeyUsage) for use in value]
    if ExtendedKeyUsageOID.CLIENT_AUTH not in uses:
        raise TrustError(
            Reason.NOT_PERMITTED, "expected a certificate for client authentication, got one for other uses"
        )


def _subject_name(certificate: x509.Certificate) -> str:
    attributes = list(certificate.subject)
    value = attributes[0].value if len(attributes) == 1 and attributes[0].oid == NameOID.COMMON_NAME else None
    if not isinstance(value, str) or not is_name(value):
        raise TrustError(Reason.NOT_PERMITTED, "expected a subject of one common name, the name of a device")
    return value


def _validity(now_s: int, days: int | None) -> tuple[datetime, datetime]:
    now = datetime.fromtimestamp(now_s, UTC)
    return now - _BACKDATED, _NO_EXPIRY if days is None else now + timedelta(days=days)


def _issue(
    authority: Authority,
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now_s: int,
    days: int | None,
    usage: Usage,
    hosts: Sequence[str],
) -> bytes:
    begins, ends = _validity(now_s, days)
    last = authority.certificate.not_valid_after_utc
    if last <= begins + _BACKDATED:
        raise UsageError(
            Reason.EXPIRED, f"expected an authority that is still valid, got one that ended on {last:%Y-%m-%d}"
        )
    ends = ends if days is None else min(ends, last)
    builder = _builder(subject, authority.certificate.subject, key, begins, ends)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage.value]), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(map(_host, hosts)), critical=False)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=begins,
        not_valid_after=ends,
    ).add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _name(common_name: str, unit: str | None = None) -> x509.Name:
    units = [] if unit is None else [x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit)]
    return x509.Name([*units, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )

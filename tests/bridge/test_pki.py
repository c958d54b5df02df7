"""Certificates: what is issued is what was meant, and a hello with anything else is nobody's.

Certificates that our own code cannot make are made with `cryptography` from its own parts. That TLS stacks accept what
is issued is shown by the tests in tests/broker.
"""

from __future__ import annotations

from base64 import encodebytes
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from narrowboat_bridge.pki import (
    AUTHORITY_DAYS,
    Authority,
    issue_client,
    issue_server,
    key_to_pem,
    new_key,
    read_authorities,
    read_request,
    verify_device_certificate,
)
from narrowboat_protocol.documents.enrolment import CERTIFICATE_DAYS
from narrowboat_protocol.errors import DocumentError, Reason, TrustError, UsageError
from narrowboat_protocol.keys import PrivateKey, public_key_from_cryptography

NOW_S = 1_800_000_000
DAY_S = 86_400
NOW = datetime.fromtimestamp(NOW_S, UTC)
NAME = "gw-1"
CA = Authority.create("device CA", NOW_S)
OTHER_CA = Authority.create("other CA", NOW_S)
SAME_NAME_CA = Authority.create("device CA", NOW_S)
KEY = new_key()


def der(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)


def common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


CLIENT_USE = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


def forged(
    subject: x509.Name | None = None,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = ((CLIENT_USE, False),),
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey | None = None,
    begins: datetime = NOW - timedelta(days=1),
) -> bytes:
    """A certificate, DER, that the device CA has signed and its code would not make."""
    builder = x509.CertificateBuilder(
        subject_name=common_name(NAME) if subject is None else subject,
        issuer_name=CA.certificate.subject,
        public_key=KEY.public_key() if key is None else key,
        serial_number=x509.random_serial_number(),
        not_valid_before=begins,
        not_valid_after=NOW + timedelta(days=1),
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(CA.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def issued(authority: Authority = CA, days: int | None = CERTIFICATE_DAYS, now_s: int = NOW_S) -> x509.Certificate:
    return x509.load_pem_x509_certificate(issue_client(authority, NAME, KEY.public_key(), now_s, days))


# What is issued.


def test_a_device_is_known_by_the_name_that_was_issued_and_by_its_own_key() -> None:
    certificate = der(issue_client(CA, NAME, KEY.public_key(), NOW_S))
    assert verify_device_certificate(certificate, [CA.certificate], NOW_S) == (
        NAME,
        public_key_from_cryptography(KEY.public_key()),
    )


def test_a_client_certificate_lasts_a_year_and_cannot_issue_or_serve() -> None:
    certificate = issued()
    assert certificate.not_valid_after_utc == NOW + timedelta(days=365)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign


def test_a_birth_certificate_and_an_authority_for_it_have_no_expiry_as_rfc_5280_writes_it() -> None:
    authority = Authority.create("enrol CA", NOW_S, days=None)
    for certificate in (authority.certificate, issued(authority, days=None)):
        assert b"99991231235959Z" in certificate.public_bytes(serialization.Encoding.DER)


def test_an_authority_signs_end_entities_for_more_than_ten_years_and_no_further_authority() -> None:
    constraints = CA.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    assert CA.certificate.not_valid_after_utc > NOW + timedelta(days=3660)


def test_no_certificate_but_a_birth_certificate_outlives_its_authority() -> None:
    last_day_s = NOW_S + (AUTHORITY_DAYS - 1) * DAY_S
    assert issued(now_s=last_day_s).not_valid_after_utc == CA.certificate.not_valid_after_utc


def test_an_authority_that_has_ended_issues_nothing() -> None:
    with pytest.raises(UsageError):
        issued(now_s=NOW_S + AUTHORITY_DAYS * DAY_S)


def test_serial_numbers_do_not_repeat() -> None:
    assert len({issued().serial_number for _ in range(50)}) == 50


@pytest.mark.parametrize("name", ["", "a" * 65, "Gw-1", "gw_1", "gw/1", "gw+1", "#", "gw-1\n", "gw\x001", "gw-ä"])
def test_no_certificate_is_issued_for_a_name_that_would_break_out_of_its_topics(name: str) -> None:
    with pytest.raises(UsageError):
        issue_client(CA, name, KEY.public_key(), NOW_S)


def test_clients_find_the_broker_under_each_of_its_names_and_addresses() -> None:
    pem = issue_server(CA, ["broker.example.com", "192.0.2.1", "2001:db8::1"], KEY.public_key(), NOW_S)
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.example.com"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.1", "2001:db8::1"]
    uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_a_broker_without_a_name_gets_no_certificate() -> None:
    with pytest.raises(UsageError):
        issue_server(CA, [], KEY.public_key(), NOW_S)


# Signing requests.


def request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, name: str = "somebody-else") -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(common_name(name))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_of_a_signing_request_only_the_key_counts() -> None:
    assert read_request(request(KEY)) == KEY.public_key()


def flipped(good: bytes) -> Iterator[bytes]:
    """Each way to flip one bit."""
    for position in range(len(good) * 8):
        bad = bytearray(good)
        bad[position // 8] ^= 1 << position % 8
        yield bytes(bad)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_no_flipped_bit_of_a_request_gives_a_certificate_to_another_key() -> None:
    good = x509.load_pem_x509_csr(request(KEY)).public_bytes(serialization.Encoding.DER)
    for bad in flipped(good):
        armoured = b"-----BEGIN CERTIFICATE REQUEST-----\n%s-----END CERTIFICATE REQUEST-----\n" % encodebytes(bad)
        # The count of unused bits in the signature is all that may change.
        with suppress(DocumentError, TrustError):
            assert read_request(armoured) == KEY.public_key()


def test_a_request_for_a_key_that_its_sender_does_not_hold_is_refused() -> None:
    data = bytearray(x509.load_pem_x509_csr(request(KEY)).public_bytes(serialization.Encoding.DER))
    data[data.index(b"somebody")] ^= 1
    with pytest.raises(TrustError):
        read_request(x509.load_der_x509_csr(bytes(data)).public_bytes(serialization.Encoding.PEM))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no PEM",
        b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        request(rsa.generate_private_key(65537, 2048)),
        request(ec.generate_private_key(ec.SECP384R1())),
    ],
)
def test_a_request_that_cannot_be_read_or_has_another_kind_of_key_is_refused(data: bytes) -> None:
    with pytest.raises(DocumentError):
        read_request(data)


# Keys.


def test_the_key_of_an_authority_never_shows() -> None:
    secret = str(CA.key.private_numbers().private_value)
    assert secret not in repr(CA)
    assert "key" not in repr(CA)


def test_an_authority_is_read_back_from_its_files() -> None:
    again = Authority.of(CA.certificate_pem, PrivateKey.from_pem(CA.key_pem))
    assert verify_device_certificate(der(issue_client(again, NAME, KEY.public_key(), NOW_S)), [CA.certificate], NOW_S)


@pytest.mark.parametrize(
    ("certificate", "key"),
    [(CA.certificate_pem, OTHER_CA.key_pem), (b"", CA.key_pem), (CA.key_pem, CA.key_pem)],
)
def test_a_certificate_with_the_key_of_another_is_no_authority(certificate: bytes, key: bytes) -> None:
    with pytest.raises(UsageError):
        Authority.of(certificate, PrivateKey.from_pem(key))


def test_a_certificate_that_only_connects_names_the_device_and_no_hello_with_it_is_believed() -> None:
    certificate = der(issue_client(CA, NAME, KEY.public_key(), NOW_S, connects_only=True))
    names = x509.load_der_x509_certificate(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert [name.value for name in names] == [NAME]
    with pytest.raises(TrustError) as caught:
        verify_device_certificate(certificate, [CA.certificate], NOW_S)
    assert caught.value.reason is Reason.NOT_PERMITTED


# Verification.


@pytest.mark.parametrize(
    ("what", "certificate", "reason"),
    [
        ("another authority's", der(issue_client(OTHER_CA, NAME, KEY.public_key(), NOW_S)), Reason.UNKNOWN_KEY),
        ("a namesake's", der(issue_client(SAME_NAME_CA, NAME, KEY.public_key(), NOW_S)), Reason.UNKNOWN_KEY),
        ("the authority itself", der(CA.certificate_pem), Reason.NOT_PERMITTED),
        ("a server's", der(issue_server(CA, [NAME], KEY.public_key(), NOW_S)), Reason.NOT_PERMITTED),
        ("without a use", forged(extensions=()), Reason.NOT_PERMITTED),
        ("unknown critical extension", forged(extensions=((CLIENT_USE, False), (UNKNOWN, True))), Reason.NOT_PERMITTED),
        ("name outside the grammar", forged(common_name("gw/1")), Reason.NOT_PERMITTED),
        ("no name", forged(x509.Name([])), Reason.NOT_PERMITTED),
        ("two names", forged(x509.Name([*common_name(NAME), *common_name("gw-2")])), Reason.NOT_PERMITTED),
        ("a key of another kind", forged(key=rsa.generate_private_key(65537, 2048).public_key()), Reason.BAD_DOCUMENT),
        ("not yet valid", forged(begins=NOW + timedelta(hours=1)), Reason.EXPIRED),
        ("a year old", der(issue_client(CA, NAME, KEY.public_key(), NOW_S - 366 * DAY_S)), Reason.EXPIRED),
        ("nothing", b"", Reason.BAD_DOCUMENT),
        ("garbage", b"\x30\x03\x02\x01\x01", Reason.BAD_DOCUMENT),
        ("too large", bytes(4097), Reason.TOO_LARGE),
    ],
)
def test_a_hello_with_any_other_certificate_is_nobodys(what: str, certificate: bytes, reason: Reason) -> None:
    with pytest.raises(TrustError) as refused:
        verify_device_certificate(certificate, [CA.certificate], NOW_S)
    assert refused.value.reason is reason


def test_an_extension_that_is_not_critical_may_be_unknown() -> None:
    certificate = forged(extensions=((CLIENT_USE, False), (UNKNOWN, False)))
    assert verify_device_certificate(certificate, [CA.certificate], NOW_S)[0] == NAME


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_no_flipped_bit_of_a_certificate_changes_who_a_device_is_or_escapes_as_another_error() -> None:
    good = der(issue_client(CA, NAME, KEY.public_key(), NOW_S))
    right = verify_device_certificate(good, [CA.certificate], NOW_S)
    for bad in flipped(good):
        with suppress(TrustError):
            assert verify_device_certificate(bad, [CA.certificate], NOW_S) == right


def test_devices_of_the_old_and_of_the_new_authority_are_known_while_one_replaces_the_other() -> None:
    both = read_authorities(CA.certificate_pem + OTHER_CA.certificate_pem)
    for authority in (CA, OTHER_CA):
        certificate = der(issue_client(authority, NAME, KEY.public_key(), NOW_S))
        assert verify_device_certificate(certificate, both, NOW_S)[0] == NAME


def test_a_device_is_not_believed_once_its_authority_has_ended() -> None:
    certificate = der(issue_client(CA, NAME, KEY.public_key(), NOW_S, days=None))
    assert verify_device_certificate(certificate, [CA.certificate], NOW_S + 10 * 365 * DAY_S)[0] == NAME
    with pytest.raises(TrustError):
        verify_device_certificate(certificate, [CA.certificate], NOW_S + (AUTHORITY_DAYS + 1) * DAY_S)


def test_a_new_key_is_written_as_pkcs8() -> None:
    assert key_to_pem(KEY).startswith(b"-----BEGIN PRIVATE KEY-----")

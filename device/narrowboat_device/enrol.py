"""Enrolment: a key without a certificate asks the fleet for one, and asks again until it has it.

    provision      the key, durably, once
    enrol          request, reply, certificate, durably

No more than that is written here; the way to a bridge (`enrol_link`) may store newer roots before.

Whatever is cut off in between is done again from the beginning: the request is made anew with a new nonce, the bridge
knows the key by then and gives it the same certificate. Nothing is believed but a reply that a bridge key of the root
signed for this key and this nonce, with a certificate for this key in it. What the fleet named this gateway is the
common name of that certificate, and `[gateway] name` is only what it would like.

A certificate is renewed when a third of its life is left, and at any age after that, by the same key, which signs the
request. A wrong clock does no harm: too early costs a request, too late is what it was before.

A gateway that has a key in a token and another one for TLS asks twice: first for the one that it is, and then for the
one that only connects, for which the first vouches.

Rests between requests have full jitter above a floor, grow to an hour, and never end before the time that the bridge
named, unless that is absurd: a thousand gateways that are switched on together are a normal day.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from narrowboat_protocol.documents import EnrolmentOutcome, EnrolmentReply, EnrolmentRequest, RoleName, sign_model
from narrowboat_protocol.documents.enrolment import claim_key
from narrowboat_protocol.errors import PeerError, Reason, TrustError, UsageError
from narrowboat_protocol.keys import PrivateKey, public_key_from_cryptography
from narrowboat_protocol.limits import KIB, Limits
from narrowboat_protocol.topics import is_name
from narrowboat_protocol.trust import Trust

from .assembly import hardware_of, read_connection_key, read_signer
from .config import Config
from .disk import Disk
from .files import read_bounded, write_durably
from .known import trusted_root
from .provision import request_for

REST_FLOOR_S = 2.0
_REST_MAX_S = 3600.0
_ASKED_REST_MAX_S = 86_400.0
_PEM_BYTES_MAX = 64 * KIB
_SECRET_BYTES_MAX = KIB
_NONCE_BYTES = 16
_log = logging.getLogger(__name__)


class Exchange(Protocol):
    """The way to a bridge and back."""

    def ask(self, kid: bytes, request: bytes, /) -> bytes | None:
        """Send a request, and wait for what comes on the topic of this key. None if nothing came in time."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an applicant needs of the world."""

    random: Callable[[int], bytes]
    jitter: Callable[[float, float], float]
    rest: Callable[[float], bool]
    """Wait; False if the agent is to stop."""


def enrol(
    disk: Disk,
    config: Config,
    limits: Limits,
    exchange: Exchange,
    around: Surroundings,
    attempts_max: int | None = None,
    *,
    connects_only: bool = False,
) -> bool:
    """Ask until there is a certificate, and store it. False if it was stopped, or came to nothing in `attempts_max`."""
    applicant = Applicant(disk, config, limits, connects_only=connects_only)
    failures = 0
    while attempts_max is None or failures < attempts_max:
        nonce = around.random(_NONCE_BYTES)
        data = exchange.ask(applicant.kid, applicant.request(nonce))
        rest_s = 0.0
        if data is not None:
            try:
                reply = applicant.read(data, nonce)
            except PeerError as error:
                _log.warning("enrolment: the answer is not believed: %s", error)
            else:
                if reply.outcome is EnrolmentOutcome.ISSUED:
                    applicant.keep(reply)
                    return True
                _log.warning("enrolment %s: %s: %s", reply.outcome, reply.reason, reply.message)
                rest_s = min(_ASKED_REST_MAX_S, max(0, (reply.ask_again_at or 0) - reply.at))
        failures += 1
        longest_s = min(_REST_MAX_S, REST_FLOOR_S * 2 ** min(failures, 12))
        if not around.rest(REST_FLOOR_S + rest_s + around.jitter(0.0, longest_s)):
            return False
    return False


class Applicant:
    """One key that asks."""

    def __init__(self, disk: Disk, config: Config, limits: Limits, *, connects_only: bool = False) -> None:
        self._disk = disk
        self._config = config
        self._trust: Trust = trusted_root(disk, config, limits)
        self._connects_only = connects_only
        signer = read_signer(disk, config)
        self._key = read_connection_key(disk, config) if connects_only else signer
        self._vouchers = [signer] if connects_only else _vouchers(disk, config, self._trust.fleet_id, signer)

    @property
    def kid(self) -> bytes:
        return self._key.public.kid

    def request(self, nonce: bytes) -> bytes:
        config, hardware = self._config, hardware_of(self._config)
        request = EnrolmentRequest(
            csr=x509.load_pem_x509_csr(request_for(config.gateway.name, self._key)).public_bytes(Encoding.DER),
            nonce=nonce,
            cose_key=self._key.public.to_cbor(),
            vouchers=tuple(key.public.to_cbor() for key in self._vouchers),
            wish=config.gateway.name,
            serial=None if config.enrolment is None else config.enrolment.serial,
            vendor_id=hardware.vendor_id.bytes,
            class_id=hardware.class_id.bytes,
            connects_only=self._connects_only,
        )
        return sign_model(request, self._trust.fleet_id, [self._key, *self._vouchers])

    def read(self, data: bytes, nonce: bytes) -> EnrolmentReply:
        """Believe a reply, or raise a `PeerError`."""
        reply = self._trust.open_by_role(EnrolmentReply, data, RoleName.BRIDGE)
        if reply.kid != self.kid or reply.nonce != nonce:
            raise TrustError(Reason.STALE, "expected the answer to this request, got another")
        if reply.certificate is not None:
            certificate = _load_der(reply.certificate)
            if public_key_from_cryptography(certificate.public_key()) != self._key.public:
                raise TrustError(Reason.UNKNOWN_KEY, "expected a certificate for this gateway's key, got another")
            if name_in(certificate) != reply.device:
                raise TrustError(Reason.WRONG_DEVICE, "expected the name of the reply in the certificate, got another")
        return reply

    def keep(self, reply: EnrolmentReply) -> None:
        assert reply.certificate is not None
        pem = _load_der(reply.certificate).public_bytes(Encoding.PEM)
        path = self._config.broker.certificate if self._connects_only else self._config.identity_certificate
        write_durably(self._disk, path, pem)
        _log.info("enrolled as %s", reply.device)


def name_in(certificate: x509.Certificate) -> str | None:
    names = [name.value for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return names[0] if len(names) == 1 and isinstance(names[0], str) and is_name(names[0]) else None


def _vouchers(disk: Disk, config: Config, fleet_id: bytes, own: PrivateKey) -> list[PrivateKey]:
    """The birth key, if it is another than the own one, and the key of the claim secret, if there is one."""
    vouchers: list[PrivateKey] = []
    if config.enrolment is None:
        return vouchers
    if config.enrolment.vouches:
        birth = config.enrolment.key
        vouchers.append(own if birth is None else _read_birth_key(disk, birth))
    if config.enrolment.secret is not None:
        secret = read_bounded(disk, config.enrolment.secret, _SECRET_BYTES_MAX, "[enrolment] secret")
        vouchers.append(claim_key(secret.strip(), fleet_id))
    return [key for key in vouchers if key.public != own.public]


def _read_birth_key(disk: Disk, path: Path) -> PrivateKey:
    return PrivateKey.from_pem(read_bounded(disk, path, _PEM_BYTES_MAX, "[enrolment] key"))


def _load_der(certificate: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(certificate)
    except (ValueError, x509.InvalidVersion):
        raise TrustError(Reason.BAD_DOCUMENT, "expected a certificate in DER, got other bytes") from None


def claim_name(disk: Disk, config: Config) -> str:
    """The common name of the certificate for the enrolment listener, under which requests are published."""
    assert config.enrolment is not None
    pem = read_bounded(disk, config.enrolment.certificate, _PEM_BYTES_MAX, "[enrolment] certificate")
    try:
        name = name_in(x509.load_pem_x509_certificate(pem))
    except (ValueError, x509.InvalidVersion):
        name = None
    if name is None:
        raise UsageError(
            Reason.BAD_CONFIG, "[enrolment] certificate: expected one, in PEM, with the name of a claim or birth"
        )
    return name

"""What a bridge issues and takes back: the list that the broker reads, whenever the bridge died, and how it ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from narrowboat_bridge.pki import Authority, read_crl
from narrowboat_protocol.documents import (
    ClaimCreate,
    DeviceRevoke,
    EnrolmentOutcome,
    EnrolmentReply,
    EnrolmentRequest,
    Request,
    sign_model,
)
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.keys import Algorithm, PrivateKey
from tests.bridge.kit import BridgeKit, running_bridge
from tests.support.fleet import NOW, CertificateAuthority, FleetKit

FLEET = FleetKit.create()
ANNA = FLEET.operator("anna")
DAY_S = 86_400


def order(bridge: BridgeKit, request: Request) -> None:
    at = bridge.clock[0].wall_s
    command = ANNA.command(request, request_id=bridge.request_id(), issued_at=at, expires_at=at + 60)
    bridge.take("nb/o/anna/command", command)
    reply = bridge.replies()[-1]
    assert reply.reason is None, reply.message


def enrol(bridge: BridgeKit, key: PrivateKey, wish: str) -> EnrolmentReply:
    own = load_pem_private_key(key.to_pem(), None)
    assert isinstance(own, ec.EllipticCurvePrivateKey)
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(own, hashes.SHA256())
    request = EnrolmentRequest(
        csr=csr.public_bytes(Encoding.DER), nonce=bytes(16), cose_key=key.public.to_cbor(), vouchers=(), wish=wish,
        serial=None, vendor_id=bytes(16), class_id=bytes(16),
    )  # fmt: skip
    bridge.take("nb/e/batch/request", sign_model(request, FLEET.fleet_id, [key]))
    return bridge.said(EnrolmentReply, f"nb/e/batch/reply/{key.public.kid.hex()}")[-1]


def certificate_of(bridge: BridgeKit, key: PrivateKey, wish: str) -> int:
    """The serial number of what it is given."""
    reply = enrol(bridge, key, wish)
    assert reply.outcome is EnrolmentOutcome.ISSUED
    assert reply.certificate is not None
    return x509.load_der_x509_certificate(reply.certificate).serial_number


def listed(path: Path) -> set[int]:
    return set(read_crl(path.read_bytes(), FLEET.device_ca.authority.certificate)[1])


def new_key() -> PrivateKey:
    return PrivateKey.generate(Algorithm.ESP256)


def test_a_bridge_that_died_before_it_wrote_the_list_makes_up_for_it_at_its_next_start(tmp_path: Path) -> None:
    """By the key: another one has the name by then, and is not revoked."""
    shown, old, new = FLEET.device("gw-1"), new_key(), new_key()
    with running_bridge(tmp_path, FLEET, ANNA) as bridge:
        path = bridge.config.crl_path
        before = path.read_bytes()
        order(bridge, ClaimCreate(claim="batch", count=9, admits=True))
        bridge.take("nb/d/gw-1/hello", shown.hello())
        revoked = {x509.load_der_x509_certificate(shown.certificate).serial_number, certificate_of(bridge, old, "gw-2")}
        order(bridge, DeviceRevoke(device="gw-1"))
        order(bridge, DeviceRevoke(device="gw-2"))
        kept = certificate_of(bridge, new, "gw-2")
    assert listed(path) == revoked
    path.write_bytes(before)
    with running_bridge(tmp_path, FLEET, ANNA):
        pass
    assert listed(path) == revoked
    assert kept not in revoked
    written = path.read_bytes()
    with running_bridge(tmp_path, FLEET, ANNA):
        pass
    assert path.read_bytes() == written, "nothing is missing, and nothing is written"


def test_a_revocation_may_be_repeated(tmp_path: Path) -> None:
    with running_bridge(tmp_path, FLEET, ANNA) as bridge:
        bridge.take("nb/d/gw-1/hello", FLEET.device("gw-1").hello())
        for _ in range(2):
            order(bridge, DeviceRevoke(device="gw-1"))


def test_a_bridge_whose_device_authority_has_ended_says_so_and_serves_everybody_else(tmp_path: Path) -> None:
    short = replace(FLEET, device_ca=CertificateAuthority(Authority.create("device", NOW, days=2)))
    with running_bridge(tmp_path, short, ANNA) as bridge:
        order(bridge, ClaimCreate(claim="batch", count=9, admits=True))
        reply = enrol(bridge, new_key(), "gw-1")
        assert reply.certificate is not None
        end = x509.load_der_x509_certificate(reply.certificate).not_valid_after_utc
        assert int(end.timestamp()) == NOW + 2 * DAY_S
        bridge.sleep(2 * DAY_S)
        reply = enrol(bridge, new_key(), "gw-2")
        assert (reply.outcome, reply.reason) == (EnrolmentOutcome.REFUSED, Reason.EXPIRED)
        assert bridge.metrics.value("refused.request.expired") == 1
        order(bridge, ClaimCreate(claim="later", count=1))

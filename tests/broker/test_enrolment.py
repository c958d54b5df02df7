"""Gateways become somebody over a real broker and bridge: alone, by the thousand, again after years, and not twice."""

from __future__ import annotations

import ssl
import time
from threading import Event as Flag

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from narrowboat_bridge.broker_home import Listener
from narrowboat_bridge.pki import Authority, issue_client
from narrowboat_device.assembly import read_signer
from narrowboat_device.certificate import note_path, read_certificate
from narrowboat_device.enrol import Applicant, held_certificate
from narrowboat_device.enrol_link import EnrolmentLink
from narrowboat_device.identity import be_somebody
from narrowboat_device.rendezvous import Papers
from narrowboat_protocol.documents import EnrolmentReply, EnrolmentRequest, RoleName, sign_model
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.topics import enrolment_reply_topic, enrolment_request_topic
from narrowboat_protocol.trust import Trust
from tests.support.mqtt_client import SUCCESS, MqttClient
from tests.support.mqtt_swarm import Greeter, greet_all

from .enrolling import applicant, ask_once, ask_operator, kid_of
from .lab import DISK, Lab

SWARM = 1000
SWARM_DEADLINE_S = 300.0


def test_a_gateway_with_a_claim_enrols_and_is_let_in_under_the_name_that_it_was_given(lab: Lab) -> None:
    claim = lab.credentials(Listener.ENROL, "one-claim")
    ask_operator(lab, "claim", "create", "one-claim", "--count", 1, "--admit")
    config = applicant(lab, "enrol-one", claim)
    somebody = be_somebody(DISK, config, DEFAULT_LIMITS, Flag())
    assert somebody is not None
    assert somebody.gateway.name == "enrol-one"
    note = note_path(config.storage.data_dir)
    read_certificate(DISK, config.broker.certificate, note, read_signer(DISK, config).public)
    tls = Papers(config.broker.server_ca, config.broker.certificate, config.broker.key).context()
    with MqttClient(tls, lab.fleet.ports.device) as client:
        assert client.connect() == SUCCESS


def test_a_gateway_waits_until_an_operator_approves_it(lab: Lab) -> None:
    claim = lab.credentials(Listener.ENROL, "waiting-claim")
    ask_operator(lab, "claim", "create", "waiting-claim", "--count", 2)
    config = applicant(lab, "enrol-waits", claim, 'serial = "SN 7"\n')
    assert not ask_once(config)
    (waiting,) = [each for each in ask_operator(lab, "device", "keys") if each["device"] == "enrol-waits"]
    assert (waiting["kid"], waiting["admission"], waiting["serial"]) == (kid_of(config), "pending", "SN 7")
    ask_operator(lab, "device", "approve", kid_of(config), "--name", "enrol-approved")
    somebody = be_somebody(DISK, config, DEFAULT_LIMITS, Flag())
    assert somebody is not None
    assert somebody.gateway.name == "enrol-approved"


def test_a_key_that_was_registered_by_its_request_needs_no_claim(lab: Lab) -> None:
    config = applicant(lab, "enrol-known", lab.credentials(Listener.ENROL, "no-claim-at-all"))
    assert not ask_once(config)
    ask_operator(lab, "device", "register", "enrol-known", "--key", kid_of(config))
    assert ask_once(config)


@pytest.mark.parametrize("age_days", [-250, -400, -4000], ids=["due", "over", "over for years"])
def test_a_certificate_is_renewed_at_any_age_by_the_key_alone(lab: Lab, age_days: int) -> None:
    name = f"enrol-old{age_days}"
    claim = lab.credentials(Listener.ENROL, name)
    ask_operator(lab, "claim", "create", name, "--count", 1, "--admit")
    config = applicant(lab, name, claim)
    ask_operator(lab, "device", "register", name, "--key", kid_of(config))
    pki = lab.fleet.path / "pki"
    authority = Authority.from_pem((pki / "device-ca.pem").read_bytes(), (pki / "device-ca-key.pem").read_bytes())
    key = read_signer(DISK, config).public
    public = ec.EllipticCurvePublicNumbers(
        int.from_bytes(key.to_cbor()[-2], "big"), int.from_bytes(key.to_cbor()[-3], "big"), ec.SECP256R1()  # type: ignore[arg-type]
    ).public_key()  # fmt: skip
    old = issue_client(authority, name, public, int(time.time()) + age_days * 86_400)
    config.broker.certificate.write_bytes(old)
    ask_operator(lab, "claim", "revoke", name)
    assert ask_once(config)
    held = held_certificate(DISK, config)
    assert held is not None
    assert held.not_valid_after_utc > x509.load_pem_x509_certificate(old).not_valid_after_utc


def test_a_thousand_gateways_of_one_batch_enrol_at_once(lab: Lab) -> None:
    claim = lab.credentials(Listener.ENROL, "batch")
    ask_operator(lab, "claim", "create", "batch", "--count", SWARM, "--admit")
    tls = claim.tls()
    greeters = [_greeter(lab, tls, number) for number in range(SWARM)]
    greet_all(greeters, lab.fleet.ports.enrol, SWARM_DEADLINE_S)
    (batch,) = [each for each in ask_operator(lab, "claim", "list") if each["name"] == "batch"]
    assert batch["used"] == SWARM
    enrolled = [each for each in ask_operator(lab, "device", "keys") if each["claim"] == "batch"]
    assert {each["admission"] for each in enrolled} == {"approved"}
    assert len({each["device"] for each in enrolled}) == SWARM


def _greeter(lab: Lab, tls: ssl.SSLContext, number: int) -> Greeter:
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    own = PrivateKey(key)
    request = EnrolmentRequest(
        csr=csr.public_bytes(Encoding.DER),
        nonce=number.to_bytes(16, "big"),
        cose_key=own.public.to_cbor(),
        vendor_id=bytes(16),
        class_id=bytes(16),
    )
    signed = sign_model(request, lab.kit.fleet_id, [own])
    topic = enrolment_reply_topic("batch", own.public.kid)
    return Greeter(tls, topic, enrolment_request_topic("batch"), signed)


def test_an_answer_is_signed_by_the_bridge_and_names_the_request(lab: Lab) -> None:
    claim = lab.credentials(Listener.ENROL, "signed-claim")
    config = applicant(lab, "enrol-signed", claim)
    own, nonce = read_signer(DISK, config), b"n" * 16
    request = Applicant(DISK, config, DEFAULT_LIMITS).request(nonce)
    link = EnrolmentLink(config.broker.host, lab.fleet.ports.enrol, "signed-claim", claim.tls())
    data = link.ask(own.public.kid, request)
    assert data is not None
    reply = Trust(lab.kit.root_data).open_by_role(EnrolmentReply, data, RoleName.BRIDGE)
    assert (reply.kid, reply.nonce, reply.outcome.value) == (own.public.kid, nonce, "refused")

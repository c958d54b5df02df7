"""Gateways become somebody over a real broker and bridge: alone, by the thousand, again after years, and not twice."""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from threading import Event as Flag

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from narrowboat_bridge.broker_home import Listener
from narrowboat_bridge.pki import Authority as OurAuthority
from narrowboat_bridge.pki import issue_client
from narrowboat_device.assembly import read_signer
from narrowboat_device.certificate import note_path, read_certificate
from narrowboat_device.enrol import Applicant
from narrowboat_device.enrol_link import EnrolmentLink
from narrowboat_device.identity import ensure_certificate
from narrowboat_device.import_roots import import_roots
from narrowboat_device.rendezvous import Papers
from narrowboat_protocol.documents import BrokerAddress, EnrolmentReply, EnrolmentRequest, RoleName, sign_model
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.limits import DEFAULT_LIMITS, KIB
from narrowboat_protocol.topics import enrolment_reply_topic, enrolment_request_topic
from narrowboat_protocol.trust import Trust
from tests.support.broker import Credentials
from tests.support.live_fleet import NARROWBOAT_DEVICE
from tests.support.mqtt_client import SUCCESS, MqttClient
from tests.support.mqtt_swarm import Greeter, greet_all
from tests.support.processes import wait_for
from tests.support.relay import RelayThread
from tests.support.rogue import PATIENCE_S
from tests.support.scripted_broker import PUBLISH, Authority, Connection, ScriptedBroker
from tests.support.web import serving_folder

from .enrolling import applicant, ask_once, ask_operator, kid_of
from .lab import DISK, Lab

SWARM = 1000
SWARM_DEADLINE_S = 300.0


def test_a_gateway_with_a_claim_enrols_and_is_let_in_under_the_name_that_it_was_given(lab: Lab) -> None:
    claim = lab.credentials(Listener.ENROL, "one-claim")
    ask_operator(lab, "claim", "create", "one-claim", "--count", 1, "--admit")
    config = applicant(lab, "enrol-one", claim)
    enrolled = ensure_certificate(DISK, config, DEFAULT_LIMITS, Flag())
    assert enrolled is not None
    assert enrolled.gateway.name == "enrol-one"
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
    enrolled = ensure_certificate(DISK, config, DEFAULT_LIMITS, Flag())
    assert enrolled is not None
    assert enrolled.gateway.name == "enrol-approved"


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
    authority = OurAuthority.of(
        (pki / "device-ca.pem").read_bytes(), PrivateKey.from_pem((pki / "device-ca-key.pem").read_bytes())
    )
    key = read_signer(DISK, config).public
    public = ec.EllipticCurvePublicNumbers(
        int.from_bytes(key.to_cbor()[-2], "big"), int.from_bytes(key.to_cbor()[-3], "big"), ec.SECP256R1()  # type: ignore[arg-type]
    ).public_key()  # fmt: skip
    old = issue_client(authority, name, public, int(time.time()) + age_days * 86_400)
    config.broker.certificate.write_bytes(old)
    ask_operator(lab, "claim", "revoke", name)
    assert ask_once(config)
    held = read_certificate(DISK, config.broker.certificate, note_path(config.storage.data_dir), key)
    assert held.ends_s > x509.load_pem_x509_certificate(old).not_valid_after_utc.timestamp()


def newer_root(lab: Lab, folder: Path, **changes: object) -> Path:
    """A folder with version 2 of the lab's root, which differs from the first in what it says of the broker."""
    root = lab.kit.root.model_copy(update={"version": 2, **changes})
    (folder / "2.root").write_bytes(sign_model(root, lab.kit.fleet_id, lab.kit.root_signers))
    return folder


def test_a_gateway_that_slept_through_another_broker_ca_finds_it_on_the_web_and_enrols(
    lab: Lab, tmp_path: Path
) -> None:
    names = ("server-ca", "staff-ca")
    anchors = [x509.load_pem_x509_certificate((lab.fleet.path / "pki" / f"{each}.pem").read_bytes()) for each in names]
    folder = newer_root(lab, tmp_path, broker_anchors=tuple(anchor.public_bytes(Encoding.DER) for anchor in anchors))
    claim = lab.credentials(Listener.ENROL, "slept-claim")
    ask_operator(lab, "claim", "create", "slept-claim", "--count", 1, "--admit")
    with serving_folder(folder) as url:
        config = applicant(lab, "enrol-slept", claim, f'\n[trust]\nroot_urls = ["{url}"]\n')
        config.broker.server_ca.write_bytes((lab.fleet.path / "pki" / "device-ca.pem").read_bytes())
        assert ask_once(config, attempts_max=2)


def test_a_gateway_enrols_where_the_newest_root_says(lab: Lab, tmp_path: Path) -> None:
    addresses = (BrokerAddress(host="127.0.0.1", port=1),)
    folder = newer_root(lab, tmp_path, broker_addresses=addresses)
    claim = lab.credentials(Listener.ENROL, "moved-claim")
    ask_operator(lab, "claim", "create", "moved-claim", "--count", 1, "--admit")
    config = applicant(lab, "enrol-moved", claim)
    gone = config.model_copy(update={"broker": config.broker.model_copy(update={"host": "127.0.0.9"})})
    assert not ask_once(gone)
    import_roots(DISK, gone, DEFAULT_LIMITS, str(folder), lambda _line: None)
    assert ask_once(gone)


def test_a_broker_that_announces_an_endless_answer_is_left_before_it_is_read(lab: Lab, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "false")

    def announce(connection: Connection) -> None:
        connection.greet()
        connection.send(bytes([PUBLISH, 0xFF, 0xFF, 0xFF, 0x7F]) + bytes(KIB))
        connection.wait_for_hang_up()

    broker = ScriptedBroker(authority, authority.issue("broker"), announce)
    papers = authority.issue("endless")
    claim = Credentials("endless", papers.certificate, papers.key, authority.path)
    config = applicant(lab, "enrol-endless", claim, port=broker.port)
    config.broker.server_ca.write_bytes(authority.path.read_bytes())
    assert not ask_once(config)
    broker.check()


def test_a_gateway_that_is_told_to_stop_stops_in_the_middle_of_a_request(lab: Lab) -> None:
    """As a service manager expects: else it is killed, or the machine's shutdown waits for it."""
    with RelayThread(lab.fleet.ports.enrol) as relay:
        relay.stall_at(0)
        claim = lab.credentials(Listener.ENROL, "stopped-claim")
        config = applicant(lab, "enrol-stopped", claim, port=relay.port)
        toml = str(config.broker.certificate.with_name("device.toml"))
        asking = lab.children.start("stopped", [NARROWBOAT_DEVICE, "enrol", "--config", toml])
        wait_for(lambda: relay.counts.up_bytes > 0, PATIENCE_S, "a handshake that is not answered")
        asking.stop()
        lab.children.forget(asking)
    assert asking.status == 1, "it ended by itself"


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
    data = EnrolmentLink(DISK, config, DEFAULT_LIMITS, Flag()).ask(own.public.kid, request)
    assert data is not None
    reply = Trust(lab.kit.root_data).open_by_role(EnrolmentReply, data, RoleName.BRIDGE)
    assert (reply.kid, reply.nonce, reply.outcome.value) == (own.public.kid, nonce, "refused")

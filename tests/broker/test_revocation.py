"""What is revoked is believed no more by the bridge at once, let in no more by the broker, and stays so."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

from cryptography import x509

from narrowboat_bridge.broker_home import Listener
from narrowboat_bridge.pki import Authority, issue_crl, read_crl
from narrowboat_bridge.server.crew import Crew
from narrowboat_bridge.server.revocation import RevocationList
from tests.support.broker import ISSUED_AT, Broker, Credentials, running_broker
from tests.support.mqtt_client import SUCCESS, MqttClient
from tests.support.processes import wait_for

from .lab import Lab

PATIENCE_S = 30.0


def serial_of(credentials: Credentials) -> int:
    return x509.load_pem_x509_certificate(credentials.certificate.read_bytes()).serial_number


def is_let_in(broker: Broker, credentials: Credentials) -> bool:
    with MqttClient(credentials.tls(), broker.port(Listener.DEVICE)) as client:
        return client.connect() == SUCCESS


def test_mosquitto_lets_a_revoked_certificate_in_no_more_once_it_was_told(tmp_path: Path) -> None:
    with running_broker(tmp_path) as broker:
        kept, lost = (broker.issue(Listener.DEVICE, name) for name in ("gw-1", "gw-2"))
        assert is_let_in(broker, lost)
        path = broker.home / "tls" / "device-crl.pem"
        command = ["kill", f"-{signal.SIGHUP.value}", str(broker.pid)]
        revoked = RevocationList(path, broker.authorities[Listener.DEVICE], command, lambda: ISSUED_AT)
        revoked.start(Crew())
        revoked.add([serial_of(lost)])
        revoked.stop()
        wait_for(lambda: not is_let_in(broker, lost), PATIENCE_S, "the broker to refuse it")
        assert is_let_in(broker, kept)


def test_a_list_only_grows_whatever_the_bridge_has_forgotten(tmp_path: Path) -> None:
    authority, path = Authority.create("device", ISSUED_AT), tmp_path / "crl.pem"
    path.write_bytes(issue_crl(authority, 41, [7, 8], ISSUED_AT))
    for serial in (9, 10):
        restored = RevocationList(path, authority, None, lambda: ISSUED_AT)
        restored.start(Crew())
        restored.add([serial])
        restored.stop()
    assert read_crl(path.read_bytes(), authority.certificate) == (43, frozenset({7, 8, 9, 10}))


def test_openssl_reads_the_list_that_we_write(tmp_path: Path) -> None:
    authority, crl, ca = Authority.create("device", ISSUED_AT), tmp_path / "crl.pem", tmp_path / "ca.pem"
    crl.write_bytes(issue_crl(authority, 2, [0xAB], ISSUED_AT))
    ca.write_bytes(authority.certificate_pem)
    command = ["openssl", "crl", "-in", str(crl), "-CAfile", str(ca), "-noout", "-text", "-verify"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "verify OK" in told.stdout + told.stderr
    assert "Serial Number: AB" in told.stdout


def test_a_device_is_revoked_by_an_operator_and_its_hellos_count_no_more(lab: Lab) -> None:
    with lab.gateway("revoked-1"):
        lab.wait_until_known("revoked-1")
        outcome = lab.type("device", "revoke", "revoked-1", "--json")
        assert outcome.status == 0, outcome.err
        assert json.loads(outcome.out)["admission"] == "revoked"
    certificate = x509.load_pem_x509_certificate((lab.folder / "revoked-1" / "certificate.pem").read_bytes())
    authority = x509.load_pem_x509_certificate((lab.fleet.path / "pki" / "device-ca.pem").read_bytes())
    crl = lab.fleet.path / "broker" / "tls" / "device-crl.pem"
    wait_for(
        lambda: certificate.serial_number in read_crl(crl.read_bytes(), authority)[1], PATIENCE_S, "the list to have it"
    )
    assert ("device revoked", "operator", "revoked-1") in [
        (what, who, facts.get("device")) for what, who, facts in lab.audit()
    ]

"""A gateway whose key is in a token signs what it says with it: its request for a certificate, hellos, and reports."""

from __future__ import annotations

from pathlib import Path
from threading import Event as Flag

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from narrowboat_bridge.broker_home import Listener
from narrowboat_device.assembly import read_connection_key, read_signer
from narrowboat_device.certificate import note_path, read_certificate
from narrowboat_device.config import load_config
from narrowboat_device.identity import ensure_certificate, start_renewal
from narrowboat_device.provision import provision
from narrowboat_device.rendezvous import Papers
from narrowboat_protocol.errors import UsageError
from narrowboat_protocol.keys import Algorithm, PrivateKey
from narrowboat_protocol.limits import DEFAULT_LIMITS, MIB
from narrowboat_protocol.topics import Channel, device_topic
from tests.support.agent_thread import AgentThread
from tests.support.fleet import DeviceKit
from tests.support.images import small_image
from tests.support.live_fleet import Gateway
from tests.support.markers import forms_of, leaks
from tests.support.mqtt_client import SUCCESS, MqttClient
from tests.support.processes import wait_for
from tests.support.rogue import PATIENCE_S
from tests.support.softhsm import SoftToken

from .enrolling import applicant, ask_once, ask_operator
from .lab import BASE_SEQUENCE, DISK, Lab


def put_key_into(token: SoftToken, gateway: Gateway) -> None:
    """SoftHSM has no OpenSSL provider here: the file is what such a provider would read the key in the token by."""
    token.add("identity", key=PrivateKey.from_pem((gateway.folder / "key.pem").read_bytes()))
    with gateway.config.open("a") as config:
        config.write(f'\n[identity]\nkey = "{token.uri("identity")}"\n')


def test_a_gateway_updates_with_its_key_in_a_token(lab: Lab, token: SoftToken) -> None:
    gateway = lab.make_gateway("token-updates")
    put_key_into(token, gateway)
    assert provision(DISK, load_config(gateway.config), DEFAULT_LIMITS) == []
    pushed = lab.push(small_image(81, MIB), "8.1.0", sequence=BASE_SEQUENCE + 1)
    with AgentThread(gateway.config):
        lab.start(pushed, "token-updates", gateway.name)
        assert lab.wait_for_end("token-updates", gateway.name)["state"] == "succeeded"


def test_a_gateway_enrols_with_its_key_in_a_token(lab: Lab, token: SoftToken) -> None:
    claim = lab.credentials(Listener.ENROL, "token-claim")
    ask_operator(lab, "claim", "create", "token-claim", "--count", 1, "--admit")
    path = applicant(lab, "token-enrols", claim).broker.certificate.with_name("device.toml")
    put_key_into(token, Gateway("token-enrols", path.parent, 0))
    config = load_config(path)
    assert ask_once(config)
    key = read_signer(DISK, config).public
    assert key == token.keys["identity"].public
    read_certificate(DISK, config.broker.certificate, note_path(config.storage.data_dir), key)


def test_an_agent_ends_when_its_token_is_pulled_out_and_goes_on_when_it_is_back(lab: Lab, token: SoftToken) -> None:
    """It would else go on in silence, and look like a gateway that lost its link."""
    gateway = lab.make_gateway("token-out")
    put_key_into(token, gateway)
    pushed = lab.push(small_image(82, MIB), "8.2.0", sequence=BASE_SEQUENCE + 1)
    lab.fleet.switch_on(gateway)
    machine = gateway.machine
    assert machine is not None
    lab.wait_until_known(gateway.name)
    token.pull_out()
    lab.start(pushed, "token-out", gateway.name)
    wait_for(lambda: "see that the token is there" in machine.log.read_text(), PATIENCE_S, "the agent to end")
    token.plug_in()
    assert lab.wait_for_end("token-out", gateway.name)["state"] == "succeeded"
    said = {"log": machine.log.read_bytes()}
    assert b"Traceback" not in said["log"]
    said |= {path.name: path.read_bytes() for path in gateway.folder.rglob("*") if path.is_file()}
    assert list(leaks({"pin": forms_of(token.pin.encode())}, said)) == []


@pytest.fixture
def two_keys(lab: Lab, token: SoftToken) -> Gateway:
    """A gateway that is a key in a token, connects with one in a file, and has no certificate yet for either."""
    name = f"two-keys-{token.label}"
    claim = lab.credentials(Listener.ENROL, name)
    ask_operator(lab, "claim", "create", name, "--count", 1, "--admit")
    folder = applicant(lab, name, claim).broker.certificate.parent
    token.add("identity", Algorithm.ESP256)
    gateway = Gateway(name, folder, lab.fleet.ports.device)
    with gateway.config.open("a") as config:
        config.write(f'\n[identity]\nkey = "{token.uri("identity")}"\ncertificate = "identity.pem"\n')
    return gateway


class DeadLine:
    """The link of an agent that has an enrolment listener to ask at."""

    def __init__(self) -> None:
        self.expired = Flag()

    def ask(self, _kid: bytes, _request: bytes, /) -> None:
        raise AssertionError


def serial_of(path: Path) -> int:
    return x509.load_pem_x509_certificate(path.read_bytes()).serial_number


def serials_on(crl: Path) -> set[int]:
    return {entry.serial_number for entry in x509.load_pem_x509_crl(crl.read_bytes())}


def test_a_gateway_signs_with_a_key_in_a_token_and_connects_with_another_in_a_file(
    lab: Lab, token: SoftToken, two_keys: Gateway
) -> None:
    config = ensure_certificate(DISK, load_config(two_keys.config), DEFAULT_LIMITS, Flag())
    assert config is not None
    keys = [read_signer(DISK, config).public, read_connection_key(DISK, config).public]
    assert keys[0] == token.keys["identity"].public != keys[1]
    pushed = lab.push(small_image(83, MIB), "8.3.0", sequence=BASE_SEQUENCE + 1)
    with AgentThread(two_keys.config):
        lab.start(pushed, two_keys.name, two_keys.name)
        assert lab.wait_for_end(two_keys.name, two_keys.name)["state"] == "succeeded"
    serials = {serial_of(config.identity_certificate), serial_of(config.broker.certificate)}
    ask_operator(lab, "device", "revoke", two_keys.name)
    crl = lab.fleet.path / "broker" / "tls" / "device-crl.pem"
    wait_for(lambda: serials <= serials_on(crl), PATIENCE_S, "both certificates to be on the list")


def test_both_certificates_of_a_gateway_are_renewed_when_they_are_due(lab: Lab, two_keys: Gateway) -> None:
    config = ensure_certificate(DISK, load_config(two_keys.config), DEFAULT_LIMITS, Flag())
    assert config is not None
    connection = config.broker.certificate
    connection.unlink()
    renewed, stop = Flag(), Flag()
    start_renewal(DISK, config, DEFAULT_LIMITS, DeadLine(), stop, renewed.set)
    wait_for(renewed.is_set, PATIENCE_S, "the certificate of the connection to be there again")
    stop.set()
    Papers(config.broker.server_ca, connection, config.broker.key).context()


def test_the_copy_of_a_key_that_only_connects_says_nothing_that_is_believed(lab: Lab, two_keys: Gateway) -> None:
    config = ensure_certificate(DISK, load_config(two_keys.config), DEFAULT_LIMITS, Flag())
    assert config is not None
    certificate = x509.load_pem_x509_certificate(config.broker.certificate.read_bytes()).public_bytes(Encoding.DER)
    thief = DeviceKit(two_keys.name, read_connection_key(DISK, config), certificate, lab.kit.fleet_id)
    tls = Papers(config.broker.server_ca, config.broker.certificate, config.broker.key).context()
    with MqttClient(tls, lab.fleet.ports.device) as client:
        assert client.connect() == SUCCESS
        assert client.publish(device_topic(two_keys.name, Channel.HELLO), thief.hello()) == "Success"
    pushed = lab.push(small_image(84, MIB), "8.4.0", sequence=BASE_SEQUENCE + 1)
    with AgentThread(two_keys.config):
        lab.start(pushed, two_keys.name, two_keys.name)
        assert lab.wait_for_end(two_keys.name, two_keys.name)["state"] == "succeeded"


def test_provisioning_says_what_is_missing_of_a_key_in_a_token(lab: Lab, token: SoftToken) -> None:
    gateway = lab.make_gateway("token-missing")
    put_key_into(token, gateway)
    (gateway.folder / "key.pem").unlink()
    with pytest.raises(UsageError, match="expected a file by which OpenSSL finds the key in the token"):
        provision(DISK, load_config(gateway.config), DEFAULT_LIMITS)
    text = gateway.config.read_text().replace("object=identity", "object=another")
    gateway.config.write_text(text)
    with pytest.raises(UsageError, match="expected one private key that fits, got 0"):
        provision(DISK, load_config(gateway.config), DEFAULT_LIMITS)


@pytest.mark.parametrize(
    ("uri", "complaint"),
    [
        ("key.pem", "begins with pkcs11:"),
        ("pkcs11:object=k?module-path=/m.so&pin-value=4711", "got pin-value"),
    ],
)
def test_a_configuration_with_a_bad_uri_is_refused_without_repeating_it(
    lab: Lab, tmp_path: Path, uri: str, complaint: str
) -> None:
    text = lab.make_gateway(f"token-bad-{len(uri)}").config.read_text()
    (tmp_path / "device.toml").write_text(f'{text}\n[identity]\nkey = "{uri}"\n')
    with pytest.raises(UsageError, match=complaint) as caught:
        load_config(tmp_path / "device.toml")
    assert "[identity] key" in str(caught.value)
    assert "4711" not in str(caught.value)

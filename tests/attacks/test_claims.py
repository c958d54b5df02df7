"""Claims in the wrong hands: one that is used again, by somebody else, or in the name of another."""

from __future__ import annotations

from pathlib import Path

from narrowboat_bridge.broker_home import Listener
from narrowboat_device.rendezvous import Papers
from narrowboat_protocol.topics import enrolment_request_topic
from tests.broker.enrolling import applicant, ask_once, ask_operator, kid_of
from tests.broker.lab import Lab
from tests.support.mqtt_client import SUCCESS, MqttClient


def test_claim_reuse_admits_nobody_but_the_first(lab: Lab) -> None:
    claim = lab.credentials(Listener.ENROL, "one-claim")
    ask_operator(lab, "claim", "create", "one-claim", "--count", 1, "--admit")
    owner, thief = applicant(lab, "claim-owner", claim), applicant(lab, "claim-thief", claim)
    assert ask_once(owner)
    assert not ask_once(thief), "the claim is spent"
    assert ask_once(owner), "its owner may ask again"
    admissions = {each["kid"]: each["admission"] for each in ask_operator(lab, "device", "keys")}
    assert admissions[kid_of(owner)] == "approved"
    assert admissions.get(kid_of(thief)) != "approved"


def test_a_claim_secret_lets_one_gateway_in_and_is_seen_nowhere(lab: Lab, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("marker-of-a-secret-7f3a91")
    ask_operator(lab, "claim", "create", "secret-claim", "--count", 9, "--secret-file", secret)
    claim = lab.credentials(Listener.ENROL, "secret-claim")
    line = f'secret = "{secret}"\n'
    honest, thief = applicant(lab, "enrol-secret", claim, line), applicant(lab, "enrol-thief", claim, line)
    assert ask_once(honest)
    assert not ask_once(thief)
    assert not ask_once(applicant(lab, "enrol-nosecret", claim))
    for file in (lab.fleet.path / "bridge" / "data").iterdir():
        assert not file.is_file() or b"marker-of-a-secret" not in file.read_bytes()
    assert "marker-of-a-secret" not in lab.bridge.log.read_text()


def test_a_name_of_another_device_is_not_given_away(lab: Lab) -> None:
    claim = lab.credentials(Listener.ENROL, "name-claim")
    ask_operator(lab, "claim", "create", "name-claim", "--count", 9, "--admit")
    first = applicant(lab, "enrol-taken", claim)
    assert ask_once(first)
    second = applicant(lab, "enrol-taken-2", claim)
    wishful = second.named("enrol-taken")
    assert not ask_once(wishful)
    ask_operator(lab, "device", "approve", kid_of(second), "--replace")
    assert ask_once(wishful)
    assert not ask_once(first), "its key was revoked by that"


def test_a_request_on_the_topic_of_another_claim_reaches_nobody(lab: Lab) -> None:
    ask_operator(lab, "claim", "create", "rich-claim", "--count", 9, "--admit")
    config = applicant(lab, "enrol-cuckoo", lab.credentials(Listener.ENROL, "poor-claim"))
    assert config.enrolment is not None
    key = config.enrolment.key or config.broker.key
    tls = Papers(config.broker.server_ca, config.enrolment.certificate, key).context()
    with MqttClient(tls, lab.fleet.ports.enrol) as client:
        assert client.connect() == SUCCESS
        assert client.publish(enrolment_request_topic("rich-claim"), b"request") == "Not authorized"

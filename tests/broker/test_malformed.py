"""Bytes that mean nothing, on every topic that there is, and documents that mean harm.

Each is counted, its cause is logged once, nothing else happens, and everybody else is served as before. Counters are
read out of the bridge's last words and out of the agent, so this fleet is not shared with other tests.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from narrowboat_bridge.broker_home import Listener
from narrowboat_protocol.documents import Ack, Assignment, Delivery, sign_model
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.keys import Algorithm, PrivateKey, Signer
from narrowboat_protocol.limits import DEFAULT_LIMITS, MIB
from narrowboat_protocol.states import State
from narrowboat_protocol.topics import (
    READ_BY_OWNER,
    ROOT_TOPIC,
    WRITTEN_BY_OWNER,
    Channel,
    Party,
    Topic,
    device_topic,
)
from tests.support.agent_thread import AgentThread
from tests.support.images import small_image
from tests.support.mqtt_client import SUCCESS, MqttClient
from tests.support.processes import Child, wait_for
from tests.support.relay import RelayThread
from tests.support.rogue import PATIENCE_S, Rogue

from .lab import BASE_SEQUENCE, Lab, running_lab

DEVICE, OPERATOR, APPLICANT = "gw-babble", "babbler", "batch-1"
STRANGER = PrivateKey.generate(Algorithm.ED25519)
JUNK = {
    "nothing": b"",
    "noise": bytes(range(256)) * 4,
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "null": b"\xf6",
    "a map without keys": b"\xa0",
    "a long form of a short length": b"\x98\x01\x00",
    "endless nesting": b"\x81" * 5000,
    "a length beyond the message": b"\x9b" + b"\xff" * 8,
    "a date": b"\xc1\x00",
    "a block of nothing": b"\x83\x48" + bytes(8) + b"\x00\x40",
    "as much as a message may hold": bytes(DEFAULT_LIMITS.message_bytes_max),
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(tmp_path_factory.mktemp("malformed")) as lab:
        yield lab


def update(lab: Lab, device: str, seed: int) -> None:
    """A whole update of a gateway that runs: everybody is still served."""
    pushed = lab.push(small_image(seed, MIB), f"7.{seed}.0")
    lab.start(pushed, device, device)
    assert lab.wait_for_end(device, device)["state"] == "succeeded"


def test_junk_on_every_topic_of_every_party_is_counted_and_each_cause_logged_once(lab: Lab) -> None:
    """The broker gives every channel to the bridge: 4 of devices, 2 of operators, 1 of applicants."""
    kit, credentials = lab.impostor(DEVICE)
    clients = {
        Party.DEVICE: (DEVICE, credentials, lab.fleet.ports.device),
        Party.OPERATOR: (OPERATOR, lab.credentials(Listener.STAFF, OPERATOR), lab.fleet.ports.staff),
        Party.ENROLMENT: (APPLICANT, lab.credentials(Listener.ENROL, APPLICANT), lab.fleet.ports.enrol),
    }
    lab.counts()
    with lab.gateway("gw-quiet"), ExitStack() as stack:
        for party, (name, own, port) in clients.items():
            client = stack.enter_context(MqttClient(own.tls(), port))
            assert client.connect() == SUCCESS
            if party is Party.DEVICE:
                client.publish(device_topic(name, Channel.HELLO), kit.hello())
                lab.wait_until_known(name)
            for channel in WRITTEN_BY_OWNER[party]:
                for junk in JUNK.values():
                    assert client.publish(str(Topic(party, name, channel)), junk) == SUCCESS
        update(lab, "gw-quiet", 70)
    known, recorded = lab.device(DEVICE), [what for what, who, _ in lab.audit() if who in (DEVICE, OPERATOR)]
    log = lab.bridge.log.read_text()
    counts = lab.counts()
    refused = {
        channel: sum(count for name, count in counts.items() if name.startswith(f"refused.{channel}."))
        for channel in ("hello", "report", "get", "get-any", "command", "upload")
    }
    assert refused == dict.fromkeys(refused, len(JUNK))
    assert counts["unexpected.request"] == len(JUNK)
    causes = re.findall(r"(\S+ refused: \w+):", log)
    assert len(causes) == len(set(causes)), "one line for each cause"
    assert known is not None
    assert recorded == ["device admitted"]


def test_junk_on_every_topic_of_a_gateway_is_counted_and_each_cause_logged_once(lab: Lab) -> None:
    """Whoever owns the broker may say anything there."""
    topics = [str(Topic(Party.DEVICE, "gw-calm", channel)) for channel in READ_BY_OWNER[Party.DEVICE]]
    with lab.rogue() as rogue, lab.gateway("gw-calm") as gateway:
        rogue.wait_for_hello("gw-calm")
        for topic in (*topics, ROOT_TOPIC):
            for junk in JUNK.values():
                rogue.say(topic, junk)
        sent = len(JUNK) * (len(topics) + 1)
        wait_for(lambda: gateway.refusals.total() == sent, PATIENCE_S, f"{sent} refusals, got {gateway.refusals}")
        assert len(gateway.warnings) == len(gateway.refusals)
        assert gateway.state is None
        assert gateway.boot.bootable == {"a"}
        update(lab, "gw-calm", 71)


# Documents that are well-formed and false.


def assignment(lab: Lab, rogue: Rogue, name: str, signer: Signer, **changes: object) -> bytes:
    """A delivery that withdraws everything, fresh unless `changes` say otherwise."""
    now_s = int(time.time())
    fields: dict[str, object] = {
        "device": name,
        "counter": 5,
        "issued_at": now_s,
        "expires_at": now_s + 3600,
        "nonce": rogue.wait_for_hello(name).nonce,
        "root_version": 1,
        "targets": (),
    }
    signed = sign_model(Assignment.model_validate(fields | changes), lab.kit.fleet_id, [signer])
    return Delivery(assignment=signed).encode()


def refuses(gateway: AgentThread, rogue: Rogue, data: bytes, channel: Channel = Channel.ASSIGN) -> Reason:
    """Say it to the gateway; return the reason why it was refused."""
    before = gateway.refusals
    rogue.say(device_topic(gateway.name, channel), data)
    wait_for(lambda: gateway.refusals != before, PATIENCE_S, "a refusal")
    ((reason, number),) = (gateway.refusals - before).items()
    assert number == 1
    return reason


def test_a_forged_or_stale_assignment_is_ignored(lab: Lab) -> None:
    director, name = lab.kit.director, "gw-deaf"
    with lab.rogue() as rogue, lab.gateway(name) as gateway:
        forgeries = {
            Reason.UNKNOWN_KEY: [
                assignment(lab, rogue, name, STRANGER),
                assignment(lab, rogue, name, lab.kit.bridge),
                assignment(lab, rogue, name, lab.kit.release_signers[0]),
            ],
            Reason.WRONG_DEVICE: [assignment(lab, rogue, name, director, device="gw-calm")],
            Reason.EXPIRED: [assignment(lab, rogue, name, director, expires_at=1)],
            Reason.STALE: [
                assignment(lab, rogue, name, director, nonce=secrets.token_bytes(16)),
                assignment(lab, rogue, name, director, root_version=2),
            ],
        }
        for reason, deliveries in forgeries.items():
            assert [refuses(gateway, rogue, delivery) for delivery in deliveries] == [reason] * len(deliveries)
        withheld = assignment(lab, rogue, name, director, counter=9)
        older = assignment(lab, rogue, name, director, counter=4)
        rogue.say(device_topic(name, Channel.ASSIGN), assignment(lab, rogue, name, director))
        assert refuses(gateway, rogue, older) is Reason.STALE
        nonce = rogue.hellos(name)[-1].nonce
        gateway.switch_off()
        gateway.switch_on()
        wait_for(lambda: rogue.hellos(name)[-1].nonce != nonce, PATIENCE_S, "a hello of the new start")
        assert rogue.hellos(name)[-1].assignment_counter == 5, "the true one was accepted, and none of the others"
        assert refuses(gateway, rogue, withheld) is Reason.STALE
        assert gateway.state is None


def test_an_end_is_told_until_its_true_ack_has_come_and_no_longer(lab: Lab) -> None:
    name = "gw-herald"
    lab.bridge.stop()
    with lab.rogue() as rogue, RelayThread(lab.fleet.ports.device) as relay, lab.gateway(name, relay) as gateway:
        unfit = lab.kit.make_release(small_image(72, 1000), sequence=BASE_SEQUENCE - 1)
        rogue.assign(lab.kit.director, name, unfit.target(), counter=1, envelopes=(unfit.envelope,))
        end = rogue.wait_for_end(name, 1)
        forged = [
            (ack(lab, name, end.pair, STRANGER), Reason.UNKNOWN_KEY),
            (ack(lab, name, end.pair, lab.kit.director), Reason.UNKNOWN_KEY),
            (ack(lab, "gw-calm", end.pair, lab.kit.bridge), Reason.WRONG_DEVICE),
        ]
        for data, reason in forged:
            assert refuses(gateway, rogue, data, Channel.ACK) is reason
        rogue.say(device_topic(name, Channel.ACK), ack(lab, name, (0, 1), lab.kit.bridge))
        relay.cut()
        wait_for(lambda: ends(rogue, name) > 1, PATIENCE_S, "the end, said again on the new connection")
        assert len(gateway.outbox) == 1
        lab.restart_bridge(Child.stop)
        lab.wait_until_served()
        relay.cut()
        wait_for(lambda: not gateway.outbox, PATIENCE_S, "the true Ack")
        said = ends(rogue, name)
        gateway.switch_off()
        gateway.switch_on()
        update(lab, name, 73)
        assert ends(rogue, name) == said
        assert gateway.state is State.SUCCEEDED


def ends(rogue: Rogue, device: str) -> int:
    """How often the end of attempt 1 was said."""
    return sum(report.attempt == 1 and report.state.terminal for report in rogue.reports(device))


def ack(lab: Lab, device: str, pair: tuple[int, int], signer: Signer) -> bytes:
    return sign_model(Ack(device=device, pair=pair, challenge=bytes(16)), lab.kit.fleet_id, [signer])

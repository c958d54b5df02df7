"""Bytes that mean nothing, on every topic that there is.

Each is counted, its cause is logged once, nothing else happens, and everybody else is served as before. Counters are
read out of the bridge's last words and out of the agent, so this fleet is not shared with other tests.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain

import pytest

from narrowboat_bridge.broker_home import Listener
from narrowboat_protocol.limits import DEFAULT_LIMITS, MIB
from narrowboat_protocol.topics import (
    WRITTEN_BY_OWNER,
    Channel,
    Party,
    Topic,
    device_subscriptions,
    device_topic,
)
from tests.support.images import small_image
from tests.support.mqtt_client import SUCCESS, MqttClient
from tests.support.processes import wait_for
from tests.support.rogue import PATIENCE_S

from .lab import Lab, running_lab

DEVICE, OPERATOR, APPLICANT = "gw-babble", "babbler", "batch-1"
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
    """The broker gives every channel to the bridge, whoever writes it."""
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
        for channel in chain.from_iterable(WRITTEN_BY_OWNER.values())
    }
    assert refused == {
        channel: len(JUNK) * times for channel, times in Counter(chain.from_iterable(WRITTEN_BY_OWNER.values())).items()
    }
    causes = re.findall(r"(\S+ refused: \w+):", log)
    assert len(causes) == len(set(causes)), "one line for each cause"
    assert known is not None
    assert recorded == ["device admitted"]


def test_junk_on_every_topic_of_a_gateway_is_counted_and_each_cause_logged_once(lab: Lab) -> None:
    """Whoever owns the broker may say anything there."""
    with lab.rogue() as rogue, lab.gateway("gw-calm") as gateway:
        rogue.wait_for_hello("gw-calm")
        topics = [topic for topic in device_subscriptions("gw-calm") if topic != device_topic("gw-calm", Channel.REPLY)]
        for topic in topics:
            for junk in JUNK.values():
                rogue.say(topic, junk)
        sent = len(JUNK) * len(topics)
        wait_for(lambda: gateway.refusals.total() == sent, PATIENCE_S, f"{sent} refusals, got {gateway.refusals}")
        assert len(gateway.warnings) == len(gateway.refusals)
        assert gateway.state is None
        assert gateway.boot.bootable == {"a"}
        update(lab, "gw-calm", 71)

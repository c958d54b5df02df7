"""Devices that are not what they say, and that want what is not theirs.

Each has a certificate that the broker accepts, and speaks for itself. What must not come is shown by what must come
after it: the bridge answers in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from narrowboat_bridge.broker_home import Listener
from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import Assignment, Delivery
from narrowboat_protocol.keys import Algorithm, PrivateKey
from narrowboat_protocol.limits import KIB, MIB
from narrowboat_protocol.states import State
from narrowboat_protocol.topics import Channel, device_subscriptions, device_topic
from narrowboat_protocol.transfer import DIGEST_PREFIX_BYTES, FetchRequest, decode_block
from tests.broker.lab import Lab, Pushed
from tests.support.broker import Credentials
from tests.support.fleet import CertificateAuthority, DeviceKit
from tests.support.images import small_image
from tests.support.mqtt_client import SUCCESS, MqttClient
from tests.support.relay import RelayThread

OWNER, THIEF = "gw-owner", "gw-thief"


@dataclass(frozen=True, slots=True)
class Stranger:
    """A device that the test plays."""

    lab: Lab
    kit: DeviceKit
    mqtt: MqttClient

    def say(self, channel: Channel, data: bytes) -> None:
        assert self.mqtt.publish(device_topic(self.kit.name, channel), data) == SUCCESS

    def next_on(self, channel: Channel) -> bytes:
        """The next message of a channel; others are passed over."""
        while True:
            topic, data = self.mqtt.next_message()
            if topic == device_topic(self.kit.name, channel):
                return data

    def next_assignment(self) -> int:
        """The counter of the next one."""
        delivery = Delivery.decode(self.next_on(Channel.ASSIGN))
        return Assignment.decode(SignedDocument.decode(delivery.assignment).content).counter


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def admit(lab: Lab, stack: ExitStack, kit: DeviceKit, credentials: Credentials) -> Stranger:
    """Connect and subscribe to everything that a device may read."""
    mqtt = stack.enter_context(MqttClient(credentials.tls(), lab.fleet.ports.device))
    assert mqtt.connect() == SUCCESS
    mqtt.subscribe(*device_subscriptions(kit.name))
    return Stranger(lab, kit, mqtt)


def get(pushed: Pushed) -> bytes:
    payload = pushed.made.payload_digest
    return FetchRequest(payload=payload, ranges=((0, 2 * KIB),), block_bytes=KIB).encode()


def test_a_device_gets_the_payload_that_it_was_assigned_and_no_other(lab: Lab, stack: ExitStack) -> None:
    theirs, own = (lab.push(small_image(seed, MIB), f"6.{seed}.0") for seed in (60, 61))
    with lab.gateway(OWNER):
        lab.start(theirs, "owner", OWNER)
        assert lab.wait_for_end("owner", OWNER)["state"] == "succeeded"
    thief = admit(lab, stack, *lab.impostor(THIEF))
    thief.say(Channel.HELLO, thief.kit.hello())
    lab.start(own, "thief", THIEF)
    assert Delivery.decode(thief.next_on(Channel.ASSIGN)).envelopes == (own.made.envelope,)
    for channel in (Channel.GET, Channel.GET_ANY):
        thief.say(channel, get(theirs))
        thief.say(channel, get(own))
        blocks = [decode_block(thief.next_on(Channel.DATA)) for _ in range(2)]
        assert {block.digest_prefix for block in blocks} == {own.made.payload_digest[:DIGEST_PREFIX_BYTES]}
    lab.abort("thief")


def test_a_device_neither_asks_nor_listens_under_the_name_of_another(lab: Lab, stack: ExitStack) -> None:
    spy, pushed = admit(lab, stack, *lab.impostor("gw-spy")), lab.push(small_image(62, MIB), "6.2.0")
    spy.mqtt.subscribe(*device_subscriptions("gw-spied"))
    with lab.gateway("gw-spied"):
        lab.start(pushed, "spied", "gw-spied")
        for channel in (Channel.GET, Channel.HELLO, Channel.REPORT):
            assert spy.mqtt.publish(device_topic("gw-spied", channel), get(pushed)) == "Not authorized"
        assert lab.wait_for_end("spied", "gw-spied")["state"] == "succeeded"
    spy.say(Channel.HELLO, spy.kit.hello())
    topics = set()
    while device_topic("gw-spy", Channel.ACK) not in topics:
        topics.add(spy.mqtt.next_message()[0])
    assert topics <= {"nb/root", device_topic("gw-spy", Channel.ACK)}


def test_a_hello_that_is_not_the_senders_own_admits_nobody(lab: Lab, stack: ExitStack) -> None:
    """The words of another device, another device's certificate, a certificate of another authority, another key."""
    kit, credentials = lab.impostor("gw-liar")
    liar = admit(lab, stack, kit, credentials)
    other, _ = lab.impostor("gw-victim")
    stray = lab.kit.device("gw-liar", ca=CertificateAuthority.create("device-ca"))
    stolen = DeviceKit("gw-liar", kit.key, other.certificate, kit.fleet_id)
    forged = DeviceKit("gw-liar", PrivateKey.generate(Algorithm.ESP256), kit.certificate, kit.fleet_id)
    lies = [other.hello(), kit.hello(device="gw-victim"), stray.hello(), stolen.hello(), forged.hello()]
    for lie in lies:
        liar.say(Channel.HELLO, lie)
    assert lab.device("gw-victim") is None
    assert lab.device("gw-liar") is None
    liar.say(Channel.HELLO, kit.hello())
    lab.wait_until_known("gw-liar")
    ack = lab.kit.trust().open_ack(liar.next_on(Channel.ACK), "gw-liar")
    assert ack.pair == (1, 1)
    assert lab.device("gw-victim") is None


def test_a_second_key_under_a_name_raises_the_alarm_and_changes_nothing(lab: Lab, stack: ExitStack) -> None:
    with lab.gateway("gw-pinned"):
        lab.wait_until_known("gw-pinned")
    before = lab.device("gw-pinned")
    clone = admit(lab, stack, *lab.impostor("gw-pinned"))
    clone.say(Channel.HELLO, clone.kit.hello(pair=(1 << 20, 1), assignment_counter=1 << 20))
    assert lab.device("gw-pinned") == before
    assert [facts for what, who, facts in lab.audit() if (what, who) == ("alarm", "gw-pinned")] == [
        {"text": "a hello under another key than the one pinned"}
    ]


def test_client_id_theft_throws_no_gateway_out(lab: Lab, stack: ExitStack) -> None:
    name, ports = "gw-seated", lab.fleet.ports
    relay = stack.enter_context(RelayThread(ports.device))
    stack.enter_context(lab.gateway(name, relay))
    lab.wait_until_known(name)
    for listener, port in zip(Listener, (ports.device, ports.enrol, ports.staff, ports.bridge), strict=True):
        credentials = lab.credentials(listener, "chair-thief")
        assert stack.enter_context(MqttClient(credentials.tls(), port, name)).connect() == "Not authorized"
    lab.start(lab.push(small_image(63, MIB), "6.3.0"), name, name)
    assert lab.wait_for_end(name, name)["state"] == "succeeded"
    assert relay.counts.connections == 2, "one before the reboot, and one after it"


def test_an_old_report_replayed_moves_nothing(lab: Lab, stack: ExitStack) -> None:
    """Whoever owns the broker kept what a gateway said, and says it again after the gateway went on."""
    pushed = [lab.push(small_image(seed, MIB), f"6.{seed}.0") for seed in (64, 65)]
    kit, credentials = lab.impostor("gw-parrot")
    device = admit(lab, stack, kit, credentials)
    device.say(Channel.HELLO, kit.hello())
    lab.start(pushed[0], "parrot", "gw-parrot")
    first = device.next_assignment()
    said = [
        kit.report(pushed[0].made.digest, state, attempt=first, pair=(1, n))
        for n, state in enumerate((State.DOWNLOADING, State.FAILED), 2)
    ]
    for report in said:
        device.say(Channel.REPORT, report)
    lab.wait_for_end("parrot", "gw-parrot")
    lab.start(pushed[1], "parrot-2", "gw-parrot")
    second = device.next_assignment()
    device.say(Channel.REPORT, kit.report(pushed[1].made.digest, State.DOWNLOADING, attempt=second, pair=(1, 4)))
    lab.wait_for_state("parrot-2", "gw-parrot", "downloading")
    before = [lab.attempt(name, "gw-parrot") for name in ("parrot", "parrot-2")]
    for report in said:
        device.say(Channel.REPORT, report)
    device.say(Channel.REPORT, kit.report(pushed[1].made.digest, State.VERIFYING, attempt=second, pair=(1, 5)))
    lab.wait_for_state("parrot-2", "gw-parrot", "verifying")
    assert lab.attempt("parrot", "gw-parrot") == before[0]
    assert not [entry for entry in lab.audit() if entry[:2] == ("alarm", "gw-parrot")]
    lab.abort("parrot-2")

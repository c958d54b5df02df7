"""Who may do what at the reference broker: a real Mosquitto, mutual TLS, and clients of every kind.

The tables of topics are written out here and not taken from the topic grammar, so that a mistake there cannot hide.
What a client must not receive is shown by a message that it must: the broker hands out messages in the order in which
it took them, so when the last one published has come, none before it is still on its way.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import permutations
from pathlib import Path

import pytest

from narrowboat_bridge.broker_home import Listener
from narrowboat_bridge.pki import Authority, issue_client, issue_server, key_to_pem, new_key
from narrowboat_protocol.limits import DEFAULT_LIMITS
from tests.support.broker import HOST, ISSUED_AT, Broker, Credentials, running_broker
from tests.support.mqtt_client import DEADLINE_S, SUCCESS, MqttClient

NOT_AUTHORIZED = "Not authorized"
KID = "ab" * 32
OPEN = {SUCCESS, "No matching subscribers"}
BRIDGE_NAME = "bridge-1"
BRIDGES_MAX = 50
NAMES = {Listener.DEVICE: ("gw-1", "gw-2"), Listener.STAFF: ("ann", "bob"), Listener.ENROL: ("batch-1", "batch-2")}

WRITTEN = {
    Listener.DEVICE: {"nb/d/{}/hello", "nb/d/{}/report", "nb/d/{}/get", "nb/d/{}/get-any", "nb/d/{}/request"},
    Listener.STAFF: {"nb/o/{}/command", "nb/o/{}/upload"},
    Listener.ENROL: {"nb/e/{}/request"},
}
READ = {
    Listener.DEVICE: {"nb/d/{}/assign", "nb/d/{}/ack", "nb/d/{}/data", "nb/d/{}/root", "nb/d/{}/reply"},
    Listener.STAFF: {"nb/o/{}/reply"},
    Listener.ENROL: {f"nb/e/{{}}/reply/{KID}"},
}
PUBLIC = {Listener.DEVICE: {"nb/root"}, Listener.STAFF: {"nb/root", "nb/event"}, Listener.ENROL: set[str]()}
OUTSIDE = {"nb", "nb/e/batch-1/reply", "nb/d", "nb/d/gw-1", "nb/d/gw-1/assign/x", "other", "$SYS/broker/version"}


def topics_of(table: dict[Listener, set[str]]) -> set[str]:
    """The topics of a table for both names of each kind of party."""
    return {
        pattern.format(name) for listener, patterns in table.items() for pattern in patterns for name in NAMES[listener]
    }


WRITTEN_TO_BRIDGE = topics_of(WRITTEN)
WRITTEN_BY_BRIDGE = topics_of(READ) | {"nb/root", "nb/event"}
EVERY_TOPIC = WRITTEN_TO_BRIDGE | WRITTEN_BY_BRIDGE | OUTSIDE


def writable(listener: Listener, name: str) -> set[str]:
    if listener is Listener.BRIDGE:
        return WRITTEN_BY_BRIDGE
    return {pattern.format(name) for pattern in WRITTEN[listener]}


def readable(listener: Listener, name: str) -> set[str]:
    if listener is Listener.BRIDGE:
        return WRITTEN_TO_BRIDGE
    return {pattern.format(name) for pattern in READ[listener]} | PUBLIC[listener]


PARTIES = [(listener, names[0]) for listener, names in NAMES.items()] + [(Listener.BRIDGE, BRIDGE_NAME)]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with running_broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


Connect = Callable[..., MqttClient]


@pytest.fixture
def connect(broker: Broker) -> Iterator[Connect]:
    """Connect a client that the broker must accept."""
    with ExitStack() as clients:

        def connect(listener: Listener, who: str | Credentials, client_id: str = "") -> MqttClient:
            credentials = broker.issue(listener, who) if isinstance(who, str) else who
            client = clients.enter_context(MqttClient(credentials.tls(), broker.port(listener), client_id))
            assert client.connect() == SUCCESS
            return client

        yield connect


def assert_alive(client: MqttClient, listener: Listener, name: str) -> None:
    """The client is still connected, and the broker still does what it asks."""
    assert client.publish(min(writable(listener, name)), b"alive") in OPEN
    assert client.is_connected


# Who gets in.


@pytest.mark.parametrize(("role", "target"), list(permutations(Listener, 2)))
def test_a_certificate_of_one_role_opens_no_listener_of_another(
    broker: Broker, connect: Connect, role: Listener, target: Listener
) -> None:
    live_id = "auto:live"
    live = connect(target, "gw-1", live_id)
    for client_id in ("gw-1", live_id, ""):
        with MqttClient(broker.issue(role, "gw-1").tls(), broker.port(target), client_id) as intruder:
            assert intruder.connect() is None
    assert_alive(live, target, "gw-1")


def test_a_crowd_on_one_listener_is_turned_away_and_keeps_nobody_out_of_another(tmp_path: Path) -> None:
    """A broker of its own, since Mosquitto 2.0 takes those who leave before their CONNECT off its count twice."""
    with running_broker(tmp_path) as broker, ExitStack() as stack:
        for _ in range(BRIDGES_MAX):
            stack.enter_context(socket.create_connection((HOST, broker.port(Listener.BRIDGE))))
        one_too_many = stack.enter_context(
            socket.create_connection((HOST, broker.port(Listener.BRIDGE)), timeout=DEADLINE_S)
        )
        assert one_too_many.recv(1) == b""
        for listener in (Listener.DEVICE, Listener.ENROL, Listener.STAFF):
            tls = broker.issue(listener, NAMES[listener][0]).tls()
            assert stack.enter_context(MqttClient(tls, broker.port(listener))).connect() == SUCCESS


@pytest.mark.parametrize("listener", Listener)
def test_nobody_gets_in_without_a_certificate(broker: Broker, listener: Listener) -> None:
    tls = ssl.create_default_context(cafile=str(broker.server_ca))
    with MqttClient(tls, broker.port(listener)) as client:
        assert client.connect() is None


@pytest.mark.parametrize("listener", Listener)
def test_an_authority_of_the_same_name_opens_nothing(broker: Broker, tmp_path: Path, listener: Listener) -> None:
    key = new_key()
    forger = Authority.create(f"Narrowboat {listener}", ISSUED_AT)
    certificate = issue_client(forger, "gw-1", key.public_key(), ISSUED_AT, None)
    with MqttClient(tls_of(broker, tmp_path, certificate, key_to_pem(key)), broker.port(listener)) as client:
        assert client.connect() is None


@pytest.mark.parametrize("listener", Listener)
def test_a_certificate_for_servers_makes_nobody_a_client(broker: Broker, tmp_path: Path, listener: Listener) -> None:
    key = new_key()
    certificate = issue_server(broker.authorities[listener], ["gw-1"], key.public_key(), ISSUED_AT, 7300)
    with MqttClient(tls_of(broker, tmp_path, certificate, key_to_pem(key)), broker.port(listener)) as client:
        assert client.connect() is None


@pytest.mark.parametrize("listener", Listener)
def test_a_certificate_that_has_ended_opens_nothing(broker: Broker, tmp_path: Path, listener: Listener) -> None:
    key = new_key()
    certificate = issue_client(broker.authorities[listener], "gw-1", key.public_key(), ISSUED_AT, days=1)
    with MqttClient(tls_of(broker, tmp_path, certificate, key_to_pem(key)), broker.port(listener)) as client:
        assert client.connect() is None


def test_a_birth_certificate_without_expiry_opens_the_enrolment_listener(broker: Broker, tmp_path: Path) -> None:
    key = new_key()
    certificate = issue_client(broker.authorities[Listener.ENROL], "gw-1", key.public_key(), ISSUED_AT, days=None)
    with MqttClient(tls_of(broker, tmp_path, certificate, key_to_pem(key)), broker.port(Listener.ENROL)) as client:
        assert client.connect() == SUCCESS


def tls_of(broker: Broker, folder: Path, certificate: bytes, key: bytes) -> ssl.SSLContext:
    credentials = Credentials("", folder / "cert.pem", folder / "key.pem", broker.server_ca)
    credentials.certificate.write_bytes(certificate)
    credentials.key.write_bytes(key)
    return credentials.tls()


# Who throws out whom.


def test_a_device_that_asks_for_the_client_id_of_another_throws_nobody_out(broker: Broker, connect: Connect) -> None:
    client_id = "auto:gw-1"
    live = connect(Listener.DEVICE, "gw-1", client_id)
    connect(Listener.DEVICE, "gw-2", client_id)
    assert_alive(live, Listener.DEVICE, "gw-1")


@pytest.mark.parametrize(("listener", "name"), [party for party in PARTIES if party[0] is not Listener.DEVICE])
def test_nobody_throws_a_gateway_out_by_asking_for_its_client_id_on_their_own_listener(
    broker: Broker, connect: Connect, listener: Listener, name: str
) -> None:
    live = connect(Listener.DEVICE, "gw-1")
    with MqttClient(broker.issue(listener, name).tls(), broker.port(listener), "gw-1") as thief:
        assert thief.connect() == NOT_AUTHORIZED
    assert_alive(live, Listener.DEVICE, "gw-1")


def test_a_second_client_with_the_same_device_certificate_takes_over_that_session_and_no_other(
    broker: Broker, connect: Connect
) -> None:
    credentials = broker.issue(Listener.DEVICE, "gw-1")
    first, bystander = connect(Listener.DEVICE, credentials), connect(Listener.DEVICE, "gw-2")
    second = connect(Listener.DEVICE, credentials)
    first.wait_until_ended()
    assert_alive(second, Listener.DEVICE, "gw-1")
    assert_alive(bystander, Listener.DEVICE, "gw-2")


@pytest.mark.parametrize(("listener", "name"), [(Listener.STAFF, "ann"), (Listener.ENROL, "batch-1")])
def test_an_operators_second_terminal_and_a_second_gateway_of_a_batch_leave_the_first_alone(
    broker: Broker, connect: Connect, listener: Listener, name: str
) -> None:
    credentials = broker.issue(listener, name)
    first, second = connect(listener, credentials), connect(listener, credentials)
    assert_alive(first, listener, name)
    assert_alive(second, listener, name)


# Who writes and reads what.


@pytest.mark.parametrize(("listener", "name"), PARTIES)
def test_nobody_writes_to_a_topic_that_is_not_theirs(connect: Connect, listener: Listener, name: str) -> None:
    client = connect(listener, name)
    answers = {topic: client.publish(topic, b"x") for topic in sorted(EVERY_TOPIC)}
    assert {topic for topic, answer in answers.items() if answer in OPEN} == writable(listener, name)
    assert {answer for answer in answers.values() if answer not in OPEN} == {NOT_AUTHORIZED}


@pytest.mark.parametrize(("listener", "name"), PARTIES)
def test_nobody_reads_a_topic_that_is_not_theirs_whatever_they_subscribe(
    connect: Connect, listener: Listener, name: str
) -> None:
    """The broker grants every one of these filters. What counts is what it then delivers."""
    reader = connect(listener, name)
    reader.subscribe("#", "nb/#", "nb/+/+/+", "nb/+/+/+/+", "$share/thieves/nb/#", "$SYS/#", *sorted(EVERY_TOPIC))
    for other, names in {**NAMES, Listener.BRIDGE: (BRIDGE_NAME,)}.items():
        for writer_name in names:
            if (other, writer_name) != (listener, name):
                writer = connect(other, writer_name)
                for topic in writable(other, writer_name):
                    assert writer.publish(topic, b"early") in OPEN
    last = min(readable(listener, name))
    author = connect(*author_of(last))
    assert author.publish(last, b"last") == SUCCESS
    received = set()
    while (message := reader.next_message()) != (last, b"last"):
        received.add(message[0])
    assert received == readable(listener, name)


def author_of(topic: str) -> tuple[Listener, str]:
    """Somebody who may write to a topic."""
    everybody = [(listener, name) for listener, names in NAMES.items() for name in names]
    return next((party for party in everybody if topic in writable(*party)), (Listener.BRIDGE, BRIDGE_NAME))


# How much.


def test_a_message_above_the_limit_reaches_nobody_and_the_largest_allowed_one_does(
    broker: Broker, connect: Connect
) -> None:
    bridge = connect(Listener.BRIDGE, BRIDGE_NAME)
    bridge.subscribe("nb/d/+/report")
    largest = bytes(DEFAULT_LIMITS.message_bytes_max)
    assert connect(Listener.DEVICE, "gw-1").publish("nb/d/gw-1/report", largest) == SUCCESS
    assert bridge.next_message() == ("nb/d/gw-1/report", largest)
    flooder = connect(Listener.DEVICE, "gw-1")
    assert flooder.publish("nb/d/gw-1/report", bytes(128 * 1024 + 1)) != SUCCESS
    assert connect(Listener.DEVICE, "gw-2").publish("nb/d/gw-2/report", b"next") == SUCCESS
    assert bridge.next_message() == ("nb/d/gw-2/report", b"next")


# What a restart leaves.


def test_a_retained_root_survives_a_restart_and_the_ports_stay(tmp_path: Path) -> None:
    with running_broker(tmp_path) as broker:
        bridge, gateway = broker.issue(Listener.BRIDGE, BRIDGE_NAME), broker.issue(Listener.DEVICE, "gw-1")
        with MqttClient(bridge.tls(), broker.port(Listener.BRIDGE)) as client:
            assert client.connect() == SUCCESS
            assert client.publish("nb/root", b"root", retain=True) in OPEN
        with MqttClient(gateway.tls(), broker.port(Listener.DEVICE)) as client:
            assert client.connect() == SUCCESS
            broker.stop()
            client.wait_until_ended()
        broker.start()
        with MqttClient(gateway.tls(), broker.port(Listener.DEVICE)) as client:
            assert client.connect() == SUCCESS
            client.subscribe("nb/root")
            assert client.next_message() == ("nb/root", b"root")


def test_clients_find_a_killed_broker_where_it_was_and_sigkill_is_noticed_at_once(tmp_path: Path) -> None:
    with running_broker(tmp_path) as broker:
        gateway = broker.issue(Listener.DEVICE, "gw-1")
        with MqttClient(gateway.tls(), broker.port(Listener.DEVICE)) as client:
            assert client.connect() == SUCCESS
            broker.kill()
            client.wait_until_ended()
        with MqttClient(gateway.tls(), broker.port(Listener.DEVICE)) as client:
            assert client.connect() is None
        broker.start()
        with MqttClient(gateway.tls(), broker.port(Listener.DEVICE)) as client:
            assert client.connect() == SUCCESS


def test_an_operator_who_is_denied_the_events_hears_none_and_keeps_its_replies(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    access_list = broker.home / "acl" / "staff.acl"
    access_list.write_text(access_list.read_text() + "\nuser ann\ntopic deny nb/event\n")
    with ExitStack() as stack:
        stack.enter_context(broker)

        def enter(listener: Listener, name: str) -> MqttClient:
            client = stack.enter_context(MqttClient(broker.issue(listener, name).tls(), broker.port(listener)))
            assert client.connect() == SUCCESS
            return client

        ann, bob, bridge = enter(Listener.STAFF, "ann"), enter(Listener.STAFF, "bob"), enter(Listener.BRIDGE, "b")
        for client, name in ((ann, "ann"), (bob, "bob")):
            client.subscribe("nb/event", f"nb/o/{name}/reply")
        for topic in ("nb/event", "nb/o/ann/reply", "nb/o/bob/reply"):
            bridge.publish(topic, b"said")
        assert ann.next_message() == ("nb/o/ann/reply", b"said")
        assert bob.next_message() == ("nb/event", b"said")

"""The bridge's connection, against a broker that does what a test tells it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Event

import pytest

from narrowboat_bridge.server.config import BrokerConfig
from narrowboat_bridge.server.crew import Crew
from narrowboat_bridge.server.link import Link, LinkSettings, tls_context
from narrowboat_bridge.server.metrics import Metrics
from narrowboat_protocol.limits import KIB, MIB
from tests.support.scripted_broker import (
    ANSWERED,
    CONNACK,
    CONNECT,
    PATIENCE_S,
    SUBSCRIBE,
    UNREADABLE,
    Authority,
    Connection,
    Script,
    ScriptedBroker,
    ask_for_answers,
    publish_packet,
    until_closed,
)

TOPIC = "nb/d/gw-1/hello"
REQUESTS, BLOCKS_MAX, EVENTS_MAX = 500, 250, 40_000


def greet(connection: Connection) -> None:
    """Let a bridge in; it waits for the answer before it subscribes."""
    assert connection.packet()[0] == CONNECT
    connection.send(CONNACK)
    assert connection.packet()[0] == SUBSCRIBE


@contextmanager
def linked(
    folder: Path, metrics: Metrics, *scripts: Script, narrow: bool = False
) -> Iterator[tuple[Link, SimpleQueue[tuple[str, bytes]]]]:
    """A link to a broker that plays these scripts, which all end well, and the messages that it hands on."""
    authority = Authority(folder, "ca")
    broker = ScriptedBroker(authority, authority.issue("broker"), *scripts, narrow=narrow)
    own = authority.issue("bridge-1")
    config = BrokerConfig(
        host="127.0.0.1", port=broker.port, ca=authority.path, certificate=own.certificate, key=own.key
    )
    link = Link(config, tls_context(config), LinkSettings("bridge-1", [("nb/d/+/hello", 1)], 100, MIB), metrics, Crew())
    arrived: SimpleQueue[tuple[str, bytes]] = SimpleQueue()
    link.start(lambda topic, data: arrived.put((topic, data)), lambda: None)
    try:
        yield link, arrived
    finally:
        link.stop()
    broker.check()


@pytest.mark.parametrize("hostile", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_packets_that_no_broker_sends_cost_the_connection_and_the_next_one_is_heard(
    tmp_path: Path, hostile: bytes
) -> None:
    def lie(connection: Connection) -> None:
        greet(connection)
        connection.send(hostile)
        until_closed(connection)

    def speak(connection: Connection) -> None:
        greet(connection)
        connection.send(publish_packet(TOPIC, b"hello"))
        until_closed(connection)

    with linked(tmp_path, Metrics(), lie, speak) as (_, arrived):
        assert arrived.get(timeout=PATIENCE_S) == (TOPIC, b"hello")


def test_a_packet_above_the_limit_is_refused_unread_counted_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics()

    def lie(connection: Connection) -> None:
        greet(connection)
        connection.send(UNREADABLE["a packet of 200 MiB"])
        until_closed(connection)

    def speak(connection: Connection) -> None:
        greet(connection)
        connection.send(publish_packet(TOPIC, b"hello"))
        until_closed(connection)

    with linked(tmp_path, metrics, lie, lie, speak) as (_, arrived):
        arrived.get(timeout=PATIENCE_S)
    assert metrics.value("refused.packet") == 2
    assert caplog.text.count("the largest packet that was announced") == 1


@pytest.mark.parametrize("packets", ANSWERED.values(), ids=ANSWERED.keys())
def test_a_broker_that_reads_no_answers_costs_the_connection_and_no_memory(
    tmp_path: Path, packets: list[bytes]
) -> None:
    metrics = Metrics()

    def ask(connection: Connection) -> None:
        greet(connection)
        ask_for_answers(packets, connection)

    def speak(connection: Connection) -> None:
        greet(connection)
        connection.send(publish_packet(TOPIC, b"hello"))
        until_closed(connection)

    with linked(tmp_path, metrics, ask, speak, narrow=True) as (_, arrived):
        while arrived.get(timeout=PATIENCE_S) != (TOPIC, b"hello"):
            pass
    assert metrics.value("refused.packet") == 1


def test_what_is_said_at_qos_0_to_a_broker_that_does_not_read_is_dropped_at_a_bound_and_counted(
    tmp_path: Path,
) -> None:
    metrics, over = Metrics(), Event()

    def do_not_read(connection: Connection) -> None:
        greet(connection)
        connection.send(publish_packet(TOPIC, b"the link stands"))
        assert over.wait(PATIENCE_S)

    with linked(tmp_path, metrics, do_not_read, narrow=True) as (link, arrived):
        arrived.get(timeout=PATIENCE_S)
        for _ in range(EVENTS_MAX):
            link.publish("nb/event", b"event", qos=0)
        over.set()
    assert metrics.value("dropped.publish_qos0") > 0


def test_requests_are_read_while_a_payload_server_keeps_the_link_full(tmp_path: Path) -> None:
    """Counted in blocks: a link that reads one packet for each round of writing sends one at least for each request."""

    def ask(connection: Connection) -> None:
        greet(connection)
        connection.send(publish_packet(TOPIC, b"the link stands"))
        assert connection.packet()[1].endswith(b"first block"), "the link is full from here on"
        connection.send(b"".join(publish_packet(TOPIC, b"request") for _ in range(REQUESTS)))
        until_closed(connection)

    with linked(tmp_path, Metrics(), ask) as (link, arrived):
        arrived.get(timeout=PATIENCE_S)
        assert link.publish_data("nb/d/gw-1/data", b"first block")
        blocks = 0
        while arrived.qsize() < REQUESTS:
            assert link.publish_data("nb/d/gw-1/data", bytes(64 * KIB))
            blocks += 1
    assert blocks < BLOCKS_MAX

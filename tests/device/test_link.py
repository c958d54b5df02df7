"""The link, against a broker that does what a test tells it: over real sockets and real mutual TLS."""

from __future__ import annotations

import itertools
import os
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import pytest

from narrowboat_device.core import events as ev
from narrowboat_device.core.actions import BelieveTime
from narrowboat_device.core.events import Event
from narrowboat_device.inbox import Inbox
from narrowboat_device.link import Link, reconnect_wait_s
from narrowboat_device.rendezvous import Endpoint, Rendezvous
from narrowboat_device.rendezvous import Papers as DevicePapers
from narrowboat_device.tls_time import TlsTime
from narrowboat_protocol.errors import UsageError
from narrowboat_protocol.limits import DEFAULT_LIMITS, KIB, MIB
from narrowboat_protocol.topics import Channel
from tests.support.scripted_broker import (
    ANSWERED,
    CONNACK,
    CONNECT,
    DISCONNECT,
    PATIENCE_S,
    PUBLISH,
    SUBSCRIBE,
    UNREADABLE,
    Authority,
    Connection,
    Papers,
    Script,
    ScriptedBroker,
    ask_for_answers,
    publish_packet,
    until_closed,
)

DEVICE = "gw-1"
KEEPALIVE_S = 60


@dataclass
class Rig:
    """Papers, an inbox, and what the link asked for between connections."""

    authority: Authority
    device: Papers
    server: Papers
    inbox: Inbox
    waits: list[tuple[int, bool]]
    connections_max: int = 1
    root_urls: tuple[str, ...] = ()

    @contextmanager
    def linked(self, *scripts: Script, server: Papers | None = None, narrow: bool = False) -> Iterator[Link]:
        """A link to a broker that plays these scripts, which all end well."""
        self.connections_max = len(scripts)
        broker = ScriptedBroker(self.authority, server or self.server, *scripts, narrow=narrow)
        link = self.link_to(broker.port)
        link.start()
        try:
            yield link
        finally:
            link.close()
        broker.check()

    def link_to(self, port: int) -> Link:
        papers = DevicePapers(self.authority.path, self.device.certificate, self.device.key)
        endpoint = Endpoint("127.0.0.1", port, DEVICE, papers.context(), keepalive_s=KEEPALIVE_S)
        monotonic_s = itertools.count(0.0, 0.5).__next__
        rendezvous = Rendezvous(endpoint, papers, self.root_urls, DEFAULT_LIMITS, monotonic_s, lambda _: 0.0)
        tls_time = TlsTime(BelieveTime(0, 1 << 40), 0, lambda: int(time.time()))
        return Link(rendezvous, tls_time, self.inbox, DEFAULT_LIMITS, monotonic_s, self._wait_s)

    def _wait_s(self, attempt: int, was_refused: bool) -> float:
        """Connect again at once, as long as the broker has another script; then not before the link is closed."""
        self.waits.append((attempt, was_refused))
        return 0.0 if len(self.waits) < self.connections_max else 600.0

    def next(self, kind: type[Event]) -> Event:
        """The next event of a kind; the others before it are passed over."""
        while True:
            event = self.inbox.get(PATIENCE_S)
            assert event is not None, f"no {kind.__name__}"
            if isinstance(event, kind):
                return event


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "ca")


@pytest.fixture
def rig(authority: Authority) -> Rig:
    return Rig(authority, authority.issue(DEVICE), authority.issue("broker"), Inbox(MIB), [])


def test_the_first_requests_leave_before_the_broker_has_said_a_word(rig: Rig) -> None:
    def script(connection: Connection) -> None:
        kinds = [connection.packet() for _ in range(3)]
        assert [kind for kind, _ in kinds] == [CONNECT, SUBSCRIBE, PUBLISH]
        topics = (b"nb/d/gw-1/assign", b"nb/d/gw-1/ack", b"nb/d/gw-1/data", b"nb/root")
        assert all(topic in kinds[1][1] for topic in topics)
        assert kinds[2][1] == struct.pack(">H", 13) + b"nb/d/gw-1/get" + b"\x00request"
        connection.send(CONNACK + publish_packet("nb/d/gw-1/data", b"block"))
        until_closed(connection)

    with rig.linked(script) as link:
        rig.next(ev.LinkOpened)
        link.publish(Channel.GET, b"request", 0)
        rig.next(ev.BlockArrived)


def test_a_link_asks_for_its_old_session_and_for_no_packet_above_the_limit(rig: Rig) -> None:
    connects: SimpleQueue[bytes] = SimpleQueue()

    def script(connection: Connection) -> None:
        connects.put(connection.packet()[1])
        until_closed(connection)

    with rig.linked(script):
        connect = connects.get(timeout=PATIENCE_S)
    session_expiry_s = struct.pack(">BI", 0x11, 3600)
    packet_bytes_max = struct.pack(">BI", 0x27, DEFAULT_LIMITS.message_bytes_max + KIB)
    clean_start_and_keepalive = struct.pack(">BH", 0x00, KEEPALIVE_S)
    assert connect[:7] == b"\x00\x04MQTT\x05"
    assert connect[7:10] == clean_start_and_keepalive
    assert connect[10:21] in {
        b"\x0a" + session_expiry_s + packet_bytes_max,
        b"\x0a" + packet_bytes_max + session_expiry_s,
    }


def socket_of(address: tuple[str, int]) -> socket.socket:
    """The socket in this process that has this address of its own."""
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            if str(entry.readlink()).startswith("socket:"):
                candidate = socket.socket(fileno=os.dup(int(entry.name)))
                if candidate.getsockname() == address:
                    return candidate
                candidate.close()
    raise AssertionError(f"no socket with address {address}")


def test_what_is_sent_leaves_at_once_and_a_dead_path_is_given_up_in_time(rig: Rig) -> None:
    addresses: SimpleQueue[tuple[str, int]] = SimpleQueue()

    def script(connection: Connection) -> None:
        connection.greet()
        addresses.put(connection.peer)
        until_closed(connection)

    with rig.linked(script), socket_of(addresses.get(timeout=PATIENCE_S)) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == KEEPALIVE_S * 1000


def test_each_topic_becomes_its_event(rig: Rig) -> None:
    def script(connection: Connection) -> None:
        connection.greet()
        for topic, payload in [
            ("nb/d/gw-1/elsewhere", b"?"),
            ("nb/d/gw-1/assign", b"delivery"),
            ("nb/d/gw-1/ack", b"ack"),
            ("nb/root", b"root"),
            ("nb/d/gw-1/data", b"block"),
        ]:
            connection.send(publish_packet(topic, payload))
        until_closed(connection)

    with rig.linked(script):
        rig.next(ev.LinkOpened)
        got: list[Event] = []
        while len(got) < 4:
            event = rig.inbox.get(PATIENCE_S)
            assert event is not None
            if not isinstance(event, ev.WireBytesCounted):
                got.append(event)
    block = got.pop()
    assert got == [ev.DeliveryArrived(b"delivery"), ev.AckArrived(b"ack"), ev.RootArrived(b"root", retained=False)]
    assert isinstance(block, ev.BlockArrived)
    assert block.message == b"block"
    assert block.wire_bytes, "what a block cost comes with it, not some time later"


def test_a_lost_link_comes_back_and_says_so(rig: Rig) -> None:
    def hang_up(connection: Connection) -> None:
        connection.packet()

    def stay(connection: Connection) -> None:
        assert connection.packet()[0] == CONNECT
        until_closed(connection)

    with rig.linked(hang_up, hang_up, stay):
        for _ in range(2):
            rig.next(ev.LinkOpened)
            rig.next(ev.LinkLost)
        rig.next(ev.LinkOpened)
    assert rig.waits[:2] == [(1, False), (2, False)]


def test_a_link_that_carried_data_is_tried_again_soon(rig: Rig) -> None:
    def nothing(connection: Connection) -> None:
        connection.greet()

    def some_data(connection: Connection) -> None:
        connection.greet()
        connection.send(publish_packet("nb/d/gw-1/data", b"block"))

    with rig.linked(nothing, nothing, some_data, nothing, until_closed):
        for _ in range(4):
            rig.next(ev.LinkLost)
        rig.next(ev.LinkOpened)
    assert rig.waits[:4] == [(1, False), (2, False), (1, False), (2, False)]


def test_what_is_published_without_a_link_is_lost_and_not_sent_later(rig: Rig) -> None:
    def hang_up(connection: Connection) -> None:
        connection.packet()

    def second(connection: Connection) -> None:
        connection.greet()
        assert connection.packet()[1].endswith(b"new")
        connection.send(publish_packet("nb/d/gw-1/ack", b"ack"))
        until_closed(connection)

    with rig.linked(hang_up, second) as link:
        link.publish(Channel.REPORT, b"before any link", 1)
        rig.next(ev.LinkLost)
        rig.next(ev.LinkOpened)
        link.publish(Channel.REPORT, b"new", 1)
        rig.next(ev.AckArrived)


@pytest.mark.parametrize(
    ("packet", "was_refused"),
    [
        (bytes([0x20, 3, 0, 0x87, 0]), True),  # CONNACK: not authorized
        (CONNACK + bytes([DISCONNECT, 1, 0x8E]), True),  # session taken over
        (CONNACK + bytes([DISCONNECT, 1, 0x82]), True),  # protocol error
        (CONNACK + bytes([DISCONNECT, 1, 0x8B]), False),  # server shutting down
        (CONNACK, False),
    ],
)
def test_a_broker_that_says_no_is_not_met_with_haste(rig: Rig, packet: bytes, was_refused: bool) -> None:
    def script(connection: Connection) -> None:
        for _ in range(2):
            connection.packet()
        connection.send(packet)

    with rig.linked(script):
        rig.next(ev.LinkLost)
    assert rig.waits[0] == (1, was_refused)


def test_waits_have_a_floor_a_cap_and_a_longer_floor_after_a_refusal() -> None:
    for attempt in range(1, 200):
        for _ in range(20):
            assert 0.1 <= reconnect_wait_s(attempt, False) <= min(60.0, 0.5 * 2 ** (attempt - 1))
            assert 30.1 <= reconnect_wait_s(attempt, True) <= 90.0
    assert len({reconnect_wait_s(5, False) for _ in range(20)}) > 10


@pytest.mark.parametrize("hostile", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_packets_that_no_broker_sends_cost_the_link_and_nothing_else(rig: Rig, hostile: bytes) -> None:
    def script(connection: Connection) -> None:
        connection.greet()
        connection.send(hostile)
        until_closed(connection)

    with rig.linked(script, until_closed):
        rig.next(ev.LinkLost)
        rig.next(ev.LinkOpened)


@pytest.mark.parametrize("packets", ANSWERED.values(), ids=ANSWERED.keys())
def test_a_broker_that_reads_no_answers_costs_the_link_and_no_memory(rig: Rig, packets: list[bytes]) -> None:
    def ask(connection: Connection) -> None:
        connection.greet()
        ask_for_answers(packets, connection)

    def speak(connection: Connection) -> None:
        connection.greet()
        connection.send(publish_packet("nb/d/gw-1/data", b"block"))
        until_closed(connection)

    with rig.linked(ask, speak, narrow=True):
        arrived = rig.next(ev.BlockArrived)
        assert isinstance(arrived, ev.BlockArrived)
        assert arrived.message == b"block"


def test_bytes_on_the_wire_are_counted_with_their_tls(rig: Rig) -> None:
    data_bytes = 50 * 1000

    def script(connection: Connection) -> None:
        connection.greet()
        for _ in range(50):
            connection.send(publish_packet("nb/d/gw-1/data", bytes(1000 - 20)))

    with rig.linked(script):
        counted = rig.next(ev.WireBytesCounted)
        while isinstance(counted, ev.WireBytesCounted) and counted.total < data_bytes:
            counted = rig.next(ev.WireBytesCounted)
        rig.next(ev.LinkLost)
    assert isinstance(counted, ev.WireBytesCounted)
    assert data_bytes < counted.total < data_bytes + 50 * 40 + 5000


def test_the_count_goes_on_over_connections(rig: Rig) -> None:
    def script(connection: Connection) -> None:
        connection.greet()

    totals: list[int] = []
    with rig.linked(script, script, until_closed):
        for _ in range(2):
            last = 0
            while not isinstance(event := rig.inbox.get(PATIENCE_S), ev.LinkLost):
                last = event.total if isinstance(event, ev.WireBytesCounted) else last
            totals.append(last)
        rig.next(ev.LinkOpened)
    assert 0 < totals[0] < totals[1]


@pytest.mark.parametrize("fault", ["another host", "another authority"])
def test_a_server_that_is_not_our_broker_is_not_spoken_to(rig: Rig, tmp_path: Path, fault: str) -> None:
    stranger = Authority(tmp_path, "stranger")
    server = rig.authority.issue("other", "127.0.0.9") if fault == "another host" else stranger.issue("broker")
    broker = ScriptedBroker(rig.authority, server, until_closed)
    link = rig.link_to(broker.port)
    link.start()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        broker.check()
    link.close()
    assert rig.waits[0] == (1, True)
    counted = rig.inbox.get(0.0)
    assert isinstance(counted, ev.WireBytesCounted), "the bytes of a failed handshake cost as much as any"
    assert counted.total > 0
    assert rig.inbox.get(0.0) is None


def test_closing_says_goodbye(rig: Rig) -> None:
    def script(connection: Connection) -> None:
        assert [connection.packet()[0] for _ in range(3)] == [CONNECT, SUBSCRIBE, DISCONNECT]

    with rig.linked(script) as link:
        rig.next(ev.LinkOpened)
        link.close()
        rig.next(ev.LinkLost)


@pytest.mark.parametrize("missing", ["server_ca", "certificate", "key", "fit"])
def test_papers_that_do_not_fit_are_told_before_connecting(rig: Rig, tmp_path: Path, missing: str) -> None:
    absent = tmp_path / "absent"
    papers = {"server_ca": rig.authority.path, "certificate": rig.device.certificate, "key": rig.device.key}
    papers |= {"key": rig.server.key} if missing == "fit" else {missing: absent}
    with pytest.raises(UsageError, match="server_ca, certificate, key"):
        DevicePapers(papers["server_ca"], papers["certificate"], papers["key"]).context()

"""The connection to the broker: MQTT 5 over mutual TLS, made again whenever it is lost.

A bridge holds two: one for documents (control) and one for payload data, so that a full data connection
delays no document. Each has a client of paho's and a thread that connects, drives the connection until it
ends, waits a little (tenacity's full jitter) and starts again; other threads only publish, which appends to
paho's queue and wakes the thread. Sessions are clean: what a broker
would have kept for us is said again by devices and operators, who wait for our signed answers and not for the
broker's.

paho queues QoS 1 messages without a bound and QoS 0 ones while its socket is full, so both are bounded here.
Messages beyond the bound are dropped; the sender of a data message waits a moment for room first, which paces
the payload server to the speed of the broker. Room is given back once for each round of writing,
and then everything that came is read: paho reads one packet a round and writes until its queue is empty, so a
server that kept refilling the queue would answer one device and hear no other.

A broker is not trusted to keep MQTT's rules. A packet above the size that we announced is refused before its
bytes are read; one that paho cannot read, or one too many while the broker reads no answers, costs this connection
and nothing else. All are counted.

TCP_NODELAY is set, as QoS 1 is six times slower without it.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Condition, Event, Thread

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.exception import MQTTException
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from tenacity import RetryCallState, Retrying, wait_random_exponential

from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.limits import DEFAULT_LIMITS, KIB

from .config import BrokerConfig
from .crew import Crew
from .metrics import Metrics

_WAIT = wait_random_exponential(multiplier=0.5, min=0.2, max=30)
_CONNECT_TIMEOUT_S = 20.0
_ROOM_WAIT_S = 2.0
_STOP_WAIT_S = 5.0
_LOOP_S = 1.0
_READS_PER_ROUND = 256
_PACKETS_WAITING_MAX = 32_768
_UNACKNOWLEDGED_WAITING_MAX = _PACKETS_WAITING_MAX // 2
"""Above it nothing more is said at QoS 0, so that what we say ourselves leaves room for what we have to answer."""
_MESSAGE_COST_BYTES_MIN = KIB
"""What paho holds for the smallest message. It also keeps those under way fewer than there are message ids."""
_PACKET_BYTES_MAX = DEFAULT_LIMITS.message_bytes_max + KIB
# What paho raises at bytes that it cannot read. Its newer versions do so only for a topic that is no text.
_UNREADABLE = (ValueError, IndexError, KeyError, struct.error, MQTTException)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """What one of the two connections is for."""

    name: str
    subscriptions: Sequence[tuple[str, int]]
    """Topic filter and QoS."""
    queued_messages_max: int
    outstanding_bytes_max: int


def tls_context(broker: BrokerConfig) -> ssl.SSLContext:
    """Mutual TLS, 1.2 or newer, against one CA and the host's name. Raises `UsageError`."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(broker.ca)
        context.load_cert_chain(broker.certificate, broker.key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            Reason.BAD_CONFIG,
            f"[broker] ca, certificate, key: expected PEM files that fit together: {type(error).__name__}: "
            f"{error.strerror}",
        ) from None
    return context


class _LinkClient(Client):
    """paho's client, bounded in what a broker can make it keep.

    Without QoS 2: each such message would be kept until the broker releases it, 65,535 in all, and the broker need not
    care for what we subscribed to. And with an end to the answers (PUBACK, PINGRESP, PUBCOMP) that wait to be sent: a
    broker that sends and never reads would have them pile up without one.
    """

    @property
    def packets_waiting(self) -> int:
        """How many packets wait to be sent."""
        return len(self._out_packet)

    def _packet_handle(self) -> MQTTErrorCode:
        if self.packets_waiting >= _PACKETS_WAITING_MAX:
            raise MQTTException("more to answer than the broker reads")
        return super()._packet_handle()

    def _handle_publish(self) -> MQTTErrorCode:
        if self._in_packet["command"] & 0x04:
            raise MQTTException("a message at QoS 2")
        return super()._handle_publish()


class Link:
    """Keeps one connection to the broker."""

    def __init__(
        self,
        broker: BrokerConfig,
        tls: ssl.SSLContext,
        settings: LinkSettings,
        metrics: Metrics,
        crew: Crew,
    ) -> None:
        self._broker = broker
        self._settings = settings
        self._on_message: Callable[[str, bytes], None] = _nothing
        self._on_connected: Callable[[], None] = _nothing
        self._metrics = metrics
        self._crew = crew
        self._stopping = Event()
        self._established = False
        self._room = Condition()
        self._outstanding: dict[int, int] = {}
        self._outstanding_bytes = 0
        self._written_bytes = 0
        tls.sslsocket_class = _socket_class(metrics)
        self._client = self._new_client(tls)
        self._thread: Thread | None = None

    def start(self, on_message: Callable[[str, bytes], None], on_connected: Callable[[], None]) -> None:
        """Connect, now and whenever the connection is lost. Both functions run in its thread and must be quick."""
        self._on_message = on_message
        self._on_connected = on_connected
        self._thread = self._crew.start(f"link {self._settings.name}", self._run)

    def stop(self) -> None:
        """Say goodbye and end the thread; nothing is published after it. What paho still holds is lost, and will be
        asked for again.
        """
        self._stopping.set()
        self._client.disconnect()
        if self._thread is not None:
            self._thread.join(_STOP_WAIT_S)
        with self._room:
            self._established = False
            self._room.notify_all()
        # paho closes its wake-up sockets when it is collected: now, once the cycle through our callbacks is cut.
        del self._client

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Queue a message; drop it if too many wait."""
        if qos == 0 and self._client.packets_waiting >= _UNACKNOWLEDGED_WAITING_MAX:
            self._metrics.limit("dropped.publish_qos0", "packets that wait to be sent")
            return
        info = self._client.publish(topic, payload, qos, retain)
        if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            self._metrics.limit("dropped.publish", "publishes_queued_max")

    def publish_data(self, topic: str, payload: bytes) -> bool:
        """Send a data message at QoS 0. Waits a moment if too many bytes are on their way; False if it was dropped."""
        with self._room:
            ready = self._room.wait_for(lambda: not self._established or self._has_room(), _ROOM_WAIT_S)
            if not ready or not self._established:
                return False
            info = self._client.publish(topic, payload, qos=0)
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return False
            cost_bytes = max(len(payload), _MESSAGE_COST_BYTES_MIN)
            self._outstanding[info.mid] = cost_bytes
            self._outstanding_bytes += cost_bytes
            return True

    def _has_room(self) -> bool:
        return self._outstanding_bytes < self._settings.outstanding_bytes_max

    def _run(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            self._established = False
            self._hold_connection()
            attempt = 1 if self._established else attempt + 1
            self._stopping.wait(wait_s(attempt))

    def _hold_connection(self) -> None:
        """Connect, and drive the connection until it ends."""
        try:
            self._client.connect(
                self._broker.host,
                self._broker.port,
                self._broker.keepalive_s,
                clean_start=True,
                properties=_connect_properties(),
            )
        except OSError as error:
            _log.warning(
                "no connection to %s:%d: %s",
                self._broker.host,
                self._broker.port,
                error.strerror or type(error).__name__,
            )
            return
        self._drive()
        self._forget_outstanding()

    def _drive(self) -> None:
        if self._stopping.is_set():  # `stop` came too early to end this connection
            self._client.disconnect()
        status = MQTTErrorCode.MQTT_ERR_SUCCESS
        while status == MQTTErrorCode.MQTT_ERR_SUCCESS:
            try:
                status = self._client.loop(_LOOP_S)
                if status == MQTTErrorCode.MQTT_ERR_SUCCESS:
                    status = self._read_what_waits()
            except _UNREADABLE as error:
                self._metrics.count("refused.packet")
                _log.warning("the broker sent what no broker sends: %s", type(error).__name__)
                sock = self._client.socket()
                if sock is not None:
                    sock.close()
                return
            self._return_room()

    def _read_what_waits(self) -> MQTTErrorCode:
        for _ in range(_READS_PER_ROUND):
            sock = self._client.socket()
            if not isinstance(sock, ssl.SSLSocket):
                return MQTTErrorCode.MQTT_ERR_SUCCESS  # the connection has ended, which the next round says
            if not sock.pending() and not select.select([sock], [], [], 0)[0]:
                return MQTTErrorCode.MQTT_ERR_SUCCESS
            status = self._client.loop_read()
            if status != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return status
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _return_room(self) -> None:
        """What this round wrote makes room for as much."""
        with self._room:
            if self._written_bytes:
                self._outstanding_bytes -= self._written_bytes
                self._written_bytes = 0
                self._room.notify_all()

    def _forget_outstanding(self) -> None:
        with self._room:
            self._outstanding.clear()
            self._outstanding_bytes = self._written_bytes = 0
            self._room.notify_all()

    def _new_client(self, tls: ssl.SSLContext) -> _LinkClient:
        client = _LinkClient(
            CallbackAPIVersion.VERSION2,
            client_id="",  # the broker gives a random one; nobody can ask for it
            protocol=MQTTv5,
            reconnect_on_failure=False,
        )
        client.connect_timeout = _CONNECT_TIMEOUT_S
        client.max_queued_messages_set(self._settings.queued_messages_max)
        client.tls_set_context(tls)
        client.on_socket_open = _set_no_delay
        # With this set, publishing from other threads only queues and wakes ours: paho would else write to the socket
        # from there, in the middle of a packet of ours.
        client.on_socket_register_write = _nothing
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_message = self._message_arrived
        client.on_publish = self._published
        return client

    # What paho calls, in the link's thread.

    def _connected(
        self, client: Client, _data: object, _flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            _log.warning("the broker refused the connection of %s: %s", self._settings.name, reason)
            return
        self._established = True
        _log.info("connected to %s:%d as %s", self._broker.host, self._broker.port, self._settings.name)
        client.subscribe(list(self._settings.subscriptions))
        with self._crew.guard(f"link {self._settings.name}"):
            self._on_connected()

    def _disconnected(
        self,
        _client: Client,
        _data: object,
        _flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        _log.info("the connection of %s ended: %s", self._settings.name, reason)

    def _message_arrived(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        topic = message.topic  # decoded here, so what is no text is the broker's fault and not ours
        with self._crew.guard(f"link {self._settings.name}"):
            self._on_message(topic, bytes(message.payload))

    def _published(
        self, _client: Client, _data: object, message_id: int, _reason: ReasonCode, _properties: Properties | None
    ) -> None:
        with self._room:
            self._written_bytes += self._outstanding.pop(message_id, 0)


def wait_s(attempt: int) -> float:
    """How long to wait before the next connection, after `attempt` in a row that came to nothing."""
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = attempt
    return _WAIT(state)


def _socket_class(metrics: Metrics) -> type[ssl.SSLSocket]:
    """The sockets of a link, which read no more at once than one packet may have.

    paho has no bound of its own on packets below 256 MiB. It asks the socket for the whole rest of a packet, before
    anything of that size is allocated; here the request is refused, which paho takes for a lost connection.
    """

    class LinkSocket(ssl.SSLSocket):
        def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
            if buflen > _PACKET_BYTES_MAX:
                metrics.limit("refused.packet", "the largest packet that was announced to the broker")
                raise OSError(errno.EMSGSIZE, "the broker announced a packet above the limit")
            return super().recv(buflen, flags)

    return LinkSocket


def _connect_properties() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho gives it no types
    properties.MaximumPacketSize = _PACKET_BYTES_MAX
    return properties


def _set_no_delay(_client: Client, _data: object, sock: object) -> None:
    if isinstance(sock, socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _nothing(*_: object) -> None:
    pass

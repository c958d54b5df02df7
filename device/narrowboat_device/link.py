"""The connection to the broker: MQTT 5 over mutual TLS, made to be lost and made again.

One thread owns paho's client and drives it; other threads only publish, which appends to paho's queue and
wakes the thread. Each connection gets a new client, so nothing of a dead connection on our side (half-read
packets, QoS 1 messages waiting for a PUBACK) leaks into the next: the core says again what must be said
again. The broker keeps the session for an hour, so that a document sent while the link was down waits for
it; data blocks, at QoS 0, do not. Nothing depends on that session.

Connecting is pipelined. CONNECT and SUBSCRIBE are queued before anything is sent, and the core hears
`LinkOpened` at once, so that its first requests follow in the same flight; MQTT 5 allows it (section
3.1.4), and it saves the two round trips that waiting for CONNACK and SUBACK would take. A broker that
refuses closes the connection, and what was sent is lost, as on any other link that breaks.

Waiting before the next attempt follows full jitter (tenacity's `wait_random_exponential`) with a hard
floor. A connection that carried data starts the series anew, since links that break every few seconds are
the normal case here, and so are brokers that say they shut down. A broker that says no, or another client
that takes our session over, is not met with haste: then the wait is at least half a minute.

The dates of the broker's certificate are judged by the machine's clock only if it can be right; see `tls_time`.

Data blocks and documents go to the inbox by its own rules; nothing that is received is ever logged.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, Full, Queue
from threading import Event as Flag
from threading import Thread

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from tenacity import RetryCallState, Retrying, wait_random_exponential

from narrowboat_protocol.limits import KIB, Limits
from narrowboat_protocol.topics import ROOT_TOPIC, Channel, device_subscriptions, device_topic

from .connection import UNREADABLE, Meter, bounded_sockets, connect_properties, new_client
from .core.actions import BelieveTime, UseBroker
from .core.events import (
    AckArrived,
    BlockArrived,
    DeliveryArrived,
    LinkLost,
    LinkOpened,
    RootArrived,
    RootChainArrived,
    WireBytesCounted,
)
from .inbox import Inbox
from .rendezvous import Rendezvous
from .tls_time import TlsTime

_WAIT = wait_random_exponential(multiplier=0.5, min=0.1, max=60)
_REFUSED_WAIT_S_MIN = 30.0
_SERVER_SHUTTING_DOWN = 0x8B  # MQTT 5, section 3.14.2.1
_LOOP_S = 1.0
_SESSION_S = 3600
_CLOSE_WAIT_S = 2.0
_REPLY_TIMEOUT_S = 30.0
_COUNT_INTERVAL_S = 0.25
_QUEUED_MESSAGES_MAX = 64
_PACKET_OVERHEAD_BYTES = KIB

_log = logging.getLogger(__name__)


def reconnect_wait_s(attempt: int, was_refused: bool) -> float:  # noqa: FBT001  # one of two values that are handed on
    """How long to wait before the next connection, after `attempt` in a row that came to nothing."""
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = attempt
    wait = _WAIT(state)
    return _REFUSED_WAIT_S_MIN + wait if was_refused else wait


class Link:
    """Keeps one device connected, until it is closed."""

    def __init__(
        self,
        rendezvous: Rendezvous,
        tls_time: TlsTime,
        inbox: Inbox,
        limits: Limits,
        monotonic_s: Callable[[], float],
        wait_s: Callable[[int, bool], float] = reconnect_wait_s,
    ) -> None:
        self._rendezvous = rendezvous
        self._endpoint = rendezvous.endpoint()
        self._tls_time = tls_time
        self._inbox = inbox
        self._monotonic_s = monotonic_s
        self._wait_s = wait_s
        self._client: Client | None = None
        self._closing = Flag()
        self.expired = Flag()
        """Set when a broker says that our certificate is over."""
        self._meter = Meter()
        self._packet_bytes_max = limits.message_bytes_max + _PACKET_OVERHEAD_BYTES
        self._endpoint.tls.sslsocket_class = bounded_sockets(
            self._packet_bytes_max, self._meter, tls_time, self.expired
        )
        self._told_bytes = 0
        self._carried_data = False
        self._was_refused = False
        device = self._endpoint.device
        self._data_topic = device_topic(device, Channel.DATA)
        self._reply_topic = device_topic(device, Channel.REPLY)
        self._replies: Queue[bytes] | None = None
        self._documents: dict[str, Callable[[bytes], DeliveryArrived | AckArrived | RootChainArrived]] = {
            device_topic(device, Channel.ASSIGN): DeliveryArrived,
            device_topic(device, Channel.ACK): AckArrived,
            device_topic(device, Channel.ROOT): RootChainArrived,
        }
        self._thread = Thread(target=self._run, name="link", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def publish(self, channel: Channel, payload: bytes, qos: int) -> None:
        """Send a message if the link is up, else drop it."""
        client = self._client
        if client is not None:
            client.publish(device_topic(self._endpoint.device, channel), payload, qos)

    def ask(self, _kid: bytes, request: bytes, /) -> bytes | None:
        """Send a request for a certificate over the connection that stands; the first reply, if one comes in time. May
        be called from any thread, by one at a time.
        """
        if self._client is None:
            return None
        replies = self._replies = Queue[bytes](maxsize=1)
        self.publish(Channel.REQUEST, request, qos=1)
        try:
            return replies.get(timeout=_REPLY_TIMEOUT_S)
        except Empty:
            return None
        finally:
            self._replies = None

    def use_broker(self, broker: UseBroker) -> None:
        """Connect as the newest root says from the next connection on."""
        self._rendezvous.use(broker)

    def believe_time(self, known: BelieveTime) -> None:
        """Judge certificates by what is known of the time from the next connection on."""
        self._tls_time.believe(known)

    def close(self) -> None:
        """Say goodbye, if there is somebody to say it to, and end the thread."""
        self._closing.set()
        client = self._client
        if client is not None:
            client.disconnect()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_WAIT_S)

    def _run(self) -> None:
        try:
            attempt = 0
            while not self._closing.is_set():
                self._carried_data = self._was_refused = False
                self._hold_connection()
                attempt = 1 if self._carried_data else attempt + 1
                self._closing.wait(self._wait_s(attempt, self._was_refused))
        except BaseException as error:  # noqa: BLE001  # a mistake of ours must end the process, not the link alone
            self._inbox.fail(error)

    def _hold_connection(self) -> None:
        """Connect, and drive the connection until it ends."""
        self._endpoint = self._rendezvous.endpoint()
        self._tls_time.prepare(self._endpoint.tls)
        client = self._new_client()
        try:
            client.connect(
                self._endpoint.host,
                self._endpoint.port,
                self._endpoint.keepalive_s,
                clean_start=False,
                properties=self._connect_properties(),
            )
        except OSError as error:
            self._was_refused = isinstance(error, ssl.SSLCertVerificationError)
            _log.info("no connection to %s: %s", self._endpoint.host, error.strerror or type(error).__name__)
            self._tell_count()
            chain = self._rendezvous.failed(error)
            if chain is not None:
                self._was_refused = False  # it may be trusted as soon as the core has walked through these
                self._inbox.put_from_peer(RootChainArrived(chain.encode()))
            return
        self._rendezvous.connected()
        client.subscribe([(topic, 0 if topic == self._data_topic else 1) for topic in self._topics()])
        self._client = client
        self._inbox.put(LinkOpened())
        self._drive(client)
        self._client = None
        self._tell_count()
        self._inbox.put(LinkLost())

    def _drive(self, client: Client) -> None:
        next_count_s = 0.0
        status = MQTTErrorCode.MQTT_ERR_SUCCESS
        while status == MQTTErrorCode.MQTT_ERR_SUCCESS:
            try:
                status = client.loop(_LOOP_S)
            except UNREADABLE as error:
                _log.warning("the broker sent what no broker sends: %s", type(error).__name__)
                return
            now_s = self._monotonic_s()
            if now_s >= next_count_s:
                next_count_s = now_s + _COUNT_INTERVAL_S
                self._meter.read(client.socket())
                self._tell_count()
        _log.info("the connection to %s ended: %s", self._endpoint.host, status.name)

    def _tell_count(self) -> None:
        if self._meter.total != self._told_bytes:
            self._told_bytes = self._meter.total
            self._inbox.put(WireBytesCounted(self._told_bytes))

    def _topics(self) -> tuple[str, ...]:
        return device_subscriptions(self._endpoint.device)

    def _new_client(self) -> Client:
        client = new_client(self._endpoint.tls)
        client.max_queued_messages_set(_QUEUED_MESSAGES_MAX)
        client.on_socket_open = self._socket_opened
        client.on_socket_close = self._socket_closing
        # With this set, publishing from another thread only queues and wakes the loop: paho would else write to
        # the socket from there, in the middle of a packet of ours.
        client.on_socket_register_write = _nothing
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_message = self._message_arrived
        return client

    def _connect_properties(self) -> Properties:
        properties = connect_properties(self._packet_bytes_max)
        properties.SessionExpiryInterval = _SESSION_S
        return properties

    # What paho calls, in the link's thread.

    def _socket_opened(self, _client: Client, _data: object, sock: object) -> None:
        if isinstance(sock, socket.socket):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._endpoint.keepalive_s * 1000)

    def _socket_closing(self, _client: Client, _data: object, sock: object) -> None:
        self._meter.read(sock)

    def _connected(
        self, _client: Client, _data: object, _flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._was_refused = True
            _log.warning("the broker refused the connection: %s", reason)

    def _disconnected(
        self, _client: Client, _data: object, flags: DisconnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._was_refused = reason.is_failure and reason.value != _SERVER_SHUTTING_DOWN
            _log.warning("the broker ended the connection: %s", reason)

    def _message_arrived(self, client: Client, _data: object, message: MQTTMessage) -> None:
        self._carried_data = True
        if message.topic == self._data_topic:
            self._meter.read(client.socket())
            self._inbox.offer_block(BlockArrived(bytes(message.payload), self._meter.total, self._monotonic_s()))
        elif message.topic == self._reply_topic:
            replies = self._replies
            if replies is not None:
                with suppress(Full):
                    replies.put_nowait(bytes(message.payload))
        elif message.topic == ROOT_TOPIC:
            self._inbox.put_from_peer(RootArrived(bytes(message.payload), retained=message.retain))
        elif (event := self._documents.get(message.topic)) is not None:
            self._inbox.put_from_peer(event(bytes(message.payload)))


def _nothing(*_: object) -> None:
    pass

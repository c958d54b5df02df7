"""An operator's connection to the broker: MQTT 5 over mutual TLS, driven by whoever waits for something.

A command line waits for one thing at a time, so there is no thread and no queue between threads: `receive`
and `publish` drive paho's client while they wait, and return when there is something to return.

Connections break. Each new one is a new client with a clean start and a higher `connection` number; what the
old one had not delivered is forgotten, and the caller, who sees the number change, says again what must be
said again. Waits between attempts are tenacity's full jitter above a floor. Two answers end the waiting at
once, since time cures neither: a broker whose certificate is not believed, and a broker that says no.
"""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections import deque
from dataclasses import dataclass

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from tenacity import RetryCallState, Retrying, wait_random_exponential

from narrowboat_protocol.errors import Reason, TrustError, UsageError
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.topics import operator_subscriptions

from .exits import NoAnswerError
from .operator_toml import OperatorToml

WINDOW_MESSAGES = 16
"""So many messages may wait for the broker's PUBACK. Below paho's own bound, so that paho never holds one back."""

_WAIT = wait_random_exponential(multiplier=0.5, min=0.1, max=10)
_CONNECT_TIMEOUT_S = 10.0
_KEEPALIVE_S = 30
_LOOP_S = 0.2
_MESSAGES_HELD_MAX = 10_000
_PACKET_BYTES_MAX = DEFAULT_LIMITS.message_bytes_max + 1024
_LOST = "the connection was lost"
_TURNED_AWAY = "it ended the connection without a word; see whether the staff listener trusts the CA of `certificate`"


@dataclass(frozen=True, slots=True)
class Message:
    """A message from the broker. Nobody vouches for it yet."""

    topic: str
    data: bytes


class StaffLink:
    """Stays connected while it is used. Errors name the broker."""

    def __init__(self, config: OperatorToml, timeout_s: float) -> None:
        self._config = config
        self._timeout_s = timeout_s
        self._tls = _tls_context(config)
        self._client: Client | None = None
        self._attempts = 0
        self._next_attempt_s = 0.0
        self._heard_s = time.monotonic()
        self._unacknowledged: set[int] = set()
        self._messages: deque[Message] = deque(maxlen=_MESSAGES_HELD_MAX)
        self._accepted = False
        self._refusal: str | None = None
        self._trouble = "nothing was heard of it"
        self.connection = 0

    @property
    def peer(self) -> str:
        return f"{self._config.host}:{self._config.port}"

    def receive(self, timeout_s: float) -> Message | None:
        """The next message, or None if none came in time or the connection is another now."""
        deadline_s = time.monotonic() + timeout_s
        connection = self.connection
        while not self._messages and connection == self.connection and time.monotonic() < deadline_s:
            self._drive(deadline_s)
        return self._messages.popleft() if self._messages else None

    def publish(self, topic: str, data: bytes) -> bool:
        """Send at QoS 1, once there is room in the window. False if the connection was lost instead.

        Raises `NoAnswerError` if the broker acknowledges nothing for too long.
        """
        connection = self._require_connection()
        if not self._await_acknowledged(WINDOW_MESSAGES - 1, connection) or self._client is None:
            return False
        self._unacknowledged.add(self._client.publish(topic, data, qos=1).mid)
        return True

    def flush(self) -> bool:
        """Wait until the broker has acknowledged everything. False if the connection was lost instead."""
        return self._await_acknowledged(0, self.connection)

    def close(self) -> None:
        if self._client is not None:
            self._client.disconnect()
            self._client = None

    def silence(self) -> NoAnswerError:
        """The error that says that nothing came, and how far the connection got."""
        if not self._accepted:
            return NoAnswerError(f"expected a broker at {self.peer}, got no connection in time: {self._trouble}")
        return NoAnswerError(
            f"expected an answer from the bridge by way of {self.peer}, got none in time;"
            " the broker is there, so see whether `narrowboat bridge run` runs"
        )

    def _require_connection(self) -> int:
        """Connect if need be; the number of the connection."""
        deadline_s = time.monotonic() + self._timeout_s
        while not self._accepted:
            if time.monotonic() >= deadline_s:
                raise self.silence()
            self._drive(deadline_s)
        return self.connection

    def _await_acknowledged(self, most: int, connection: int) -> bool:
        self._heard_s = time.monotonic()
        while len(self._unacknowledged) > most and connection == self.connection and self._client is not None:
            if time.monotonic() - self._heard_s > self._timeout_s:
                raise self.silence()
            self._drive(time.monotonic() + _LOOP_S)
        return connection == self.connection and self._client is not None

    def _drive(self, until_s: float) -> None:
        """Do what there is to do on the connection, or towards one, for a moment."""
        now_s = time.monotonic()
        if self._client is None and now_s < self._next_attempt_s:
            time.sleep(max(0.0, min(until_s, self._next_attempt_s) - now_s))
        elif self._client is None:
            self._connect()
        else:
            status = self._client.loop(max(0.0, min(until_s - now_s, _LOOP_S)))
            if self._refusal is not None:
                raise TrustError(
                    Reason.NOT_PERMITTED, f"the broker at {self.peer} refused {self._config.name}: {self._refusal}"
                )
            if status != MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._lose(_LOST if self._accepted else _TURNED_AWAY)

    def _connect(self) -> None:
        client = self._new_client()
        try:
            client.connect(self._config.host, self._config.port, _KEEPALIVE_S, clean_start=True)
        except ssl.SSLCertVerificationError as error:
            raise TrustError(
                Reason.UNKNOWN_KEY,
                f"the certificate of the broker at {self.peer} is not believed: {error.verify_message};"
                " check `ca` and `host` in operator.toml",
            ) from None
        except OSError as error:
            self._lose(error.strerror or type(error).__name__)
            return
        client.subscribe([(topic, 1) for topic in operator_subscriptions(self._config.name)])
        self._client = client
        self.connection += 1

    def _lose(self, trouble: str) -> None:
        """Forget the connection, and plan the next one."""
        self._attempts = 1 if self._accepted else self._attempts + 1
        self._client, self._accepted, self._trouble = None, False, trouble
        self._unacknowledged.clear()
        state = RetryCallState(Retrying(), None, (), {})
        state.attempt_number = self._attempts
        self._next_attempt_s = time.monotonic() + _WAIT(state)
        self.connection += 1

    def _new_client(self) -> Client:
        # A name of its own for each connection: an operator may have several terminals open.
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id="",
            protocol=MQTTv5,
            reconnect_on_failure=False,
        )
        client.connect_timeout = _CONNECT_TIMEOUT_S
        client.tls_set_context(self._tls)
        client.on_socket_open = _without_delay
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_publish = self._acknowledged
        client.on_message = self._arrived
        return client

    # What paho calls from within `loop`.

    def _connected(
        self, _client: Client, _data: object, _flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._refusal = str(reason)
        else:
            self._accepted = True

    def _disconnected(
        self, _client: Client, _data: object, flags: DisconnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._trouble = f"the broker ended the connection: {reason}"

    def _acknowledged(
        self, _client: Client, _data: object, mid: int, reason: ReasonCode, _properties: Properties
    ) -> None:
        if reason.is_failure:
            self._refusal = f"{reason}; is `name` in operator.toml the name in its certificate?"
        self._unacknowledged.discard(mid)
        self._heard_s = time.monotonic()

    def _arrived(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        if len(message.payload) <= DEFAULT_LIMITS.document_bytes_max:
            self._messages.append(Message(message.topic, bytes(message.payload)))


class _StaffSocket(ssl.SSLSocket):
    """Does what paho leaves undone: bounds what the broker may announce, and closes after a handshake that failed."""

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        if buflen > _PACKET_BYTES_MAX:
            raise OSError(errno.EMSGSIZE, "the broker announced a packet above the limit")
        return super().recv(buflen, flags)

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002  (the signature is ssl's)
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def _tls_context(config: OperatorToml) -> ssl.SSLContext:
    """Mutual TLS, 1.2 or newer, against one CA and the host's name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = _StaffSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(config.ca)
        context.load_cert_chain(config.certificate, config.key)
    except OSError as error:
        raise UsageError(
            Reason.BAD_CONFIG,
            "operator.toml: expected PEM files that fit together at `ca`, `certificate` and `key`,"
            f" got {error.strerror or type(error).__name__}",
        ) from None
    return context


def _without_delay(_client: Client, _data: object, sock: object) -> None:
    """Small messages leave at once: QoS 1 is several times slower with Nagle's algorithm."""
    if isinstance(sock, socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

"""An MQTT client for tests, whose every step waits for the broker's answer.

It wraps paho's threaded client. Whatever paho reports is put into queues, and each method takes its answer out of one,
or fails when none comes within a deadline that is far longer than any answer takes. So no test has to sleep.

A connection that the broker does not want ends in one of two ways: with a CONNACK that says why, or, if the certificate
is not accepted, without any. With TLS 1.3 the client learns that only when it reads after its handshake. Here both are
`connect()` not returning success: it returns the reason, or None if no CONNACK came.
"""

from __future__ import annotations

import ssl
from queue import Queue
from threading import Event
from typing import Self

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

DEADLINE_S = 30.0
SUCCESS = "Success"
_HOST = "127.0.0.1"
_KEEPALIVE_S = 60


class MqttClient:
    """One connection."""

    def __init__(
        self, tls: ssl.SSLContext, port: int, client_id: str = "", *, clean_start: bool = True, session_s: int = 0
    ) -> None:
        self._port = port
        self._clean_start = clean_start
        self._session_s = session_s
        self._outcomes: Queue[ReasonCode | None] = Queue()
        self._acknowledged: Queue[ReasonCode | None] = Queue()
        self._granted: Queue[list[ReasonCode]] = Queue()
        self._messages: Queue[tuple[str, bytes]] = Queue()
        self._ended = Event()
        self.end_reason: ReasonCode | None = None
        self._client = Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=MQTTv5, reconnect_on_failure=False
        )
        self._client.tls_set_context(tls)
        self._client.on_connect = self._connected
        self._client.on_disconnect = self._disconnected
        self._client.on_publish = self._published
        self._client.on_subscribe = self._subscribed
        self._client.on_message = self._arrived

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        # paho closes its wake-up sockets when it is collected: now, once the cycle through our callbacks is cut.
        del self._client

    def connect(self) -> str | None:
        """The reason in the broker's CONNACK, or None if it ended the connection without one."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho gives it no types
        properties.SessionExpiryInterval = self._session_s
        try:
            self._client.connect(_HOST, self._port, _KEEPALIVE_S, clean_start=self._clean_start, properties=properties)
        except OSError:
            return None
        self._client.loop_start()
        outcome = self._outcomes.get(timeout=DEADLINE_S)
        return None if outcome is None else str(outcome)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> str | None:
        """Publish at QoS 1. The reason in the PUBACK, or None if the connection ended instead."""
        self._client.publish(topic, payload, qos=1, retain=retain)
        outcome = self._acknowledged.get(timeout=DEADLINE_S)
        return None if outcome is None else str(outcome)

    def subscribe(self, *filters: str) -> list[str]:
        self._client.subscribe([(each, 1) for each in filters])
        return [str(reason) for reason in self._granted.get(timeout=DEADLINE_S)]

    def next_message(self) -> tuple[str, bytes]:
        return self._messages.get(timeout=DEADLINE_S)

    def messages(self) -> list[tuple[str, bytes]]:
        """All that came and was not taken yet."""
        return [self._messages.get() for _ in range(self._messages.qsize())]

    def wait_until_ended(self) -> None:
        """Wait until the connection is gone."""
        assert self._ended.wait(DEADLINE_S), "expected the connection to end, and it did not"

    @property
    def is_connected(self) -> bool:
        return not self._ended.is_set() and self._client.is_connected()

    # What paho calls, in its own thread.

    def _connected(
        self, _client: Client, _data: object, _flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        self._outcomes.put(reason)

    def _disconnected(
        self,
        _client: Client,
        _data: object,
        _flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self.end_reason = reason
        self._ended.set()
        self._outcomes.put(None)
        self._acknowledged.put(None)

    def _published(
        self, _client: Client, _data: object, _mid: int, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        self._acknowledged.put(reason)

    def _subscribed(
        self, _client: Client, _data: object, _mid: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        self._granted.put(reasons)

    def _arrived(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        self._messages.put((message.topic, bytes(message.payload)))

"""The attacker who owns the broker, and, with keys in hand, the bridge.

A rogue is a client of the bridge listener. It may say anything on any topic that a bridge writes, and hears all that
devices say. With the director's key it assigns what no honest bridge would, and as a payload server it answers `get`
beside the honest bridge, which serves only what it assigned itself. What a device then does with altered bytes is what
the tests want to know.

    rogue.serve("gw-1", payload, tamper)     # tamper(offset, data) returns what is sent instead; None sends nothing
    rogue.assign(director, "gw-1", target, envelope, counter=7)
    rogue.wait_for_end("gw-1", 7)            # the terminal report
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Lock
from types import TracebackType
from typing import Self

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import Assignment, Delivery, Hello, Report, Target, sign_model
from narrowboat_protocol.keys import Signer
from narrowboat_protocol.topics import Channel, device_topic, parse_topic
from narrowboat_protocol.transfer import DIGEST_PREFIX_BYTES, Block, FetchRequest, split_range

from .broker import HOST, Credentials
from .processes import wait_for

PATIENCE_S = 60.0
_ASSIGNMENT_LIFE_S = 3600
_HEARD = (Channel.HELLO, Channel.REPORT, Channel.GET, Channel.GET_ANY)

Tamper = Callable[[int, bytes], bytes | None]


def honest(_offset: int, data: bytes) -> bytes | None:
    """Alter nothing."""
    return data


Span = tuple[int, int]
Arrange = Callable[[list[Span]], list[Span]]
"""The blocks of one request, offset and size, as they were asked for; as they are answered."""


def in_order(spans: list[Span]) -> list[Span]:
    """Answer each once, in turn."""
    return spans


@dataclass(frozen=True, slots=True)
class _Service:
    digest: bytes
    payload: bytes
    tamper: Tamper
    arrange: Arrange


class Rogue:
    """One connection to the bridge listener. paho's thread answers requests; everything else is the test's."""

    def __init__(self, credentials: Credentials, port: int, fleet_id: bytes) -> None:
        self._port = port
        self._fleet_id = fleet_id
        self._lock = Lock()
        self._heard: dict[tuple[str, Channel], list[bytes]] = defaultdict(list)
        self._services: dict[str, _Service] = {}
        self._listening = Event()
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5, reconnect_on_failure=False)
        self._client.tls_set_context(credentials.tls())
        self._client.on_connect = self._connected
        self._client.on_subscribe = self._subscribed
        self._client.on_message = self._arrived

    def __enter__(self) -> Self:
        self._client.connect(HOST, self._port)
        self._client.loop_start()
        assert self._listening.wait(PATIENCE_S), "expected the broker to let a bridge's certificate in"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        # paho closes its wake-up sockets when it is collected: now, once the cycle through our callbacks is cut.
        del self._client

    def say(self, topic: str, data: bytes) -> None:
        """Publish, and wait until the broker has it."""
        self._client.publish(topic, data, qos=1).wait_for_publish(PATIENCE_S)

    def serve(
        self, device: str, payload: bytes, digest: bytes, tamper: Tamper = honest, arrange: Arrange = in_order
    ) -> None:
        """Answer the device's requests for the payload that goes by `digest`."""
        self._services[device] = _Service(digest, payload, tamper, arrange)

    def assign(
        self, director: Signer, device: str, *targets: Target, counter: int, envelopes: tuple[bytes, ...] = ()
    ) -> bytes:
        """Sign an assignment that answers the device's newest hello, and deliver it. Returns the delivery."""
        now_s = int(time.time())
        assignment = Assignment(
            device=device,
            counter=counter,
            issued_at=now_s,
            expires_at=now_s + _ASSIGNMENT_LIFE_S,
            nonce=self.wait_for_hello(device).nonce,
            root_version=1,
            targets=targets,
        )
        signed = sign_model(assignment, self._fleet_id, [director])
        delivery = Delivery(assignment=signed, envelopes=envelopes).encode()
        self.say(device_topic(device, Channel.ASSIGN), delivery)
        return delivery

    def count(self, device: str, channel: Channel) -> int:
        """How many messages a device has sent on a channel."""
        with self._lock:
            return len(self._heard[device, channel])

    def hellos(self, device: str) -> list[Hello]:
        return [Hello.decode(SignedDocument.decode(data).content) for data in self._messages(device, Channel.HELLO)]

    def reports(self, device: str) -> list[Report]:
        return [Report.decode(SignedDocument.decode(data).content) for data in self._messages(device, Channel.REPORT)]

    def wait_for_hello(self, device: str) -> Hello:
        wait_for(lambda: bool(self.hellos(device)), PATIENCE_S, f"a hello of {device}")
        return self.hellos(device)[-1]

    def wait_for_end(self, device: str, attempt: int) -> Report:
        """The terminal report of an attempt."""

        def ends() -> list[Report]:
            return [item for item in self.reports(device) if item.attempt == attempt and item.state.terminal]

        wait_for(lambda: bool(ends()), PATIENCE_S, f"an end of attempt {attempt} of {device}")
        return ends()[0]

    def _messages(self, device: str, channel: Channel) -> list[bytes]:
        with self._lock:
            return list(self._heard[device, channel])

    # What paho calls, in its own thread.

    def _connected(
        self, client: Client, _data: object, _flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if not reason.is_failure:
            client.subscribe([(f"nb/d/+/{channel}", 1) for channel in _HEARD])

    def _subscribed(
        self, _client: Client, _data: object, _mid: int, _reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        self._listening.set()

    def _arrived(self, client: Client, _data: object, message: MQTTMessage) -> None:
        topic = parse_topic(message.topic)
        with self._lock:
            self._heard[topic.name, topic.channel].append(bytes(message.payload))
        service = self._services.get(topic.name)
        if service is None or topic.channel not in (Channel.GET, Channel.GET_ANY):
            return
        request = FetchRequest.decode(bytes(message.payload))
        if request.payload != service.digest:
            return
        to = device_topic(topic.name, Channel.DATA)
        spans = [span for start, length in request.ranges for span in split_range(start, length, request.block_bytes)]
        for offset, size in service.arrange(spans):
            data = service.tamper(offset, service.payload[offset : offset + size])
            if data is not None:
                client.publish(to, Block(service.digest[:DIGEST_PREFIX_BYTES], offset, data).encode(), qos=0)

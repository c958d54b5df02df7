"""The enrolment listener: connect, ask, wait for one answer, go away.

A connection lives for one request. So a thousand gateways that wait for an operator hold nothing open at the broker,
and every answer is heard by a subscription that stood before its request was sent.

It is made like the agent's own (`connection`): to the addresses and under the anchors of the newest root, at the port
of the enrolment listener, within the same bounds, and under the same doubts of the clock. A gateway that slept until
its certificate was over may find a broker that it cannot trust, too. It looks for newer roots on the web then, as the
agent would, and walks through them itself, unless an agent is at work on its data folder, which does so.

A request runs in a thread of its own, which nobody waits for once the program is to stop: a name server, a handshake or
an answer may keep it for half a minute.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event as Flag
from threading import Thread

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from narrowboat_protocol.documents import EnrolmentReply, RootChain
from narrowboat_protocol.errors import NarrowboatError
from narrowboat_protocol.limits import KIB, Limits
from narrowboat_protocol.topics import enrolment_reply_topic, enrolment_request_topic

from . import BUILT_AT_S
from .config import Config
from .connection import UNREADABLE, Meter, bounded_sockets, connect_properties, new_client
from .core.actions import BelieveTime, UseBroker
from .core.roots import broker_of
from .disk import Disk
from .enrol import claim_name
from .import_roots import walk_roots
from .known import read_known
from .loop import monotonic_s, wall_s
from .rendezvous import Endpoint, Papers, Rendezvous, rest_s
from .tls_time import TlsTime

_ANSWER_TIMEOUT_S = 30.0
_LOOP_S = 0.5
_LOOK_S = 0.1
_ANSWER_BYTES_MAX = EnrolmentReply.BYTES_MAX + 2 * KIB
_PACKET_BYTES_MAX = _ANSWER_BYTES_MAX + KIB
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Ask:
    """One request, and what came of it."""

    kid: bytes
    request: bytes
    answer: bytes | None = None
    failure: BaseException | None = None
    ended: Flag = field(default_factory=Flag)


class EnrolmentLink:
    """Asks over MQTT, under the name of a claim, until `stop` is set."""

    def __init__(
        self, disk: Disk, config: Config, limits: Limits, stop: Flag, wait_s: Callable[[int], float] = rest_s
    ) -> None:
        assert config.enrolment is not None
        enrolment, broker = config.enrolment, config.broker
        self._disk, self._config, self._limits, self._stop = disk, config, limits, stop
        papers = Papers(broker.server_ca, enrolment.certificate, enrolment.key or broker.key)
        claim, tls = claim_name(disk, config), papers.context()
        endpoint = Endpoint(broker.host, enrolment.port, claim, tls, broker.keepalive_s)
        self._port = enrolment.port
        self._rendezvous = Rendezvous(endpoint, papers, config.trust.root_urls, limits, monotonic_s, wait_s)
        self._tls_time = TlsTime(self._learn(), BUILT_AT_S, wall_s)
        tls.sslsocket_class = bounded_sockets(_PACKET_BYTES_MAX, Meter(), self._tls_time, Flag())

    def ask(self, kid: bytes, request: bytes) -> bytes | None:
        """Publish a request once the topic of this key is listened to; the first answer, if one comes in time."""
        asked = _Ask(kid, request)
        Thread(target=self._run, args=(asked,), name="enrolment", daemon=True).start()
        while not asked.ended.wait(_LOOK_S):
            if self._stop.is_set():
                return None
        if asked.failure is not None:
            raise asked.failure
        return asked.answer

    def _run(self, asked: _Ask) -> None:
        try:
            asked.answer = self._exchange(asked)
        except BaseException as error:  # noqa: BLE001  # it is raised again where the answer is waited for
            asked.failure = error
        asked.ended.set()

    def _exchange(self, asked: _Ask) -> bytes | None:
        answers: list[bytes] = []
        endpoint = self._rendezvous.endpoint()
        self._tls_time.prepare(endpoint.tls)
        topic = enrolment_reply_topic(endpoint.device, asked.kid)
        client = new_client(endpoint.tls)

        def subscribed(*_: object) -> None:
            client.publish(enrolment_request_topic(endpoint.device), asked.request, qos=1)

        def arrived(_client: Client, _data: object, message: MQTTMessage) -> None:
            if message.topic == topic and len(message.payload) <= _ANSWER_BYTES_MAX:
                answers.append(bytes(message.payload))

        client.on_connect, client.on_subscribe, client.on_message = _connected, subscribed, arrived
        properties = connect_properties(_PACKET_BYTES_MAX)
        try:
            client.connect(endpoint.host, endpoint.port, endpoint.keepalive_s, properties=properties)
        except OSError as error:
            _log.info("no way to the enrolment listener of %s: %s", endpoint.host, type(error).__name__)
            self._take_up(self._rendezvous.failed(error))
            return None
        self._rendezvous.connected()
        client.subscribe(topic, qos=1)
        deadline_s = monotonic_s() + _ANSWER_TIMEOUT_S
        try:
            while not answers and monotonic_s() < deadline_s and not self._stop.is_set():
                if client.loop(_LOOP_S) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                    break
        except UNREADABLE as error:
            _log.warning("the enrolment listener sent what no broker sends: %s", type(error).__name__)
        client.disconnect()
        return answers[0] if answers else None

    def _take_up(self, chain: RootChain | None) -> None:
        """Walk through roots that were found on the web, and connect as the newest of them says."""
        if chain is None:
            return
        try:
            walk_roots(self._disk, self._config, self._limits, _in_turn(chain), _log.info)
        except NarrowboatError as error:
            _log.info("the roots are left to whom the data folder belongs, or are not believed: %s", error)
        self._tls_time.believe(self._learn())

    def _learn(self) -> BelieveTime:
        """Have the newest root count for the next connection, and tell what it lets one know of the time."""
        known = read_known(self._disk, self._config, self._limits)
        broker = broker_of(known.trust.root, known.first)
        addresses = tuple((host, self._port) for host, _ in broker.addresses)
        self._rendezvous.use(UseBroker(broker.root_version, broker.anchors, addresses, broker.root_urls))
        return known.time


def _in_turn(chain: RootChain) -> Callable[[int], bytes | None]:
    roots = iter(chain.roots)
    return lambda _version: next(roots, None)


def _connected(_client: Client, _data: object, _flags: object, reason: ReasonCode, _more: object) -> None:
    if reason.is_failure:
        _log.warning("the enrolment listener refused the connection: %s", reason)

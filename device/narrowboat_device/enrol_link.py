"""The enrolment listener: connect, ask, wait for one answer, go away.

A connection lives for one request. So a thousand gateways that wait for an operator hold nothing open at the broker,
and every answer is heard by a subscription that stood before its request was sent.
"""

from __future__ import annotations

import logging
import ssl
import time
from dataclasses import dataclass

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from narrowboat_protocol.documents import EnrolmentReply
from narrowboat_protocol.limits import KIB
from narrowboat_protocol.topics import enrolment_reply_topic, enrolment_request_topic

_CONNECT_TIMEOUT_S = 30.0
_ANSWER_TIMEOUT_S = 30.0
_LOOP_S = 0.5
_ANSWER_BYTES_MAX = EnrolmentReply.BYTES_MAX + 2 * KIB
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class EnrolmentLink:
    """Asks over MQTT, under the name of a claim."""

    host: str
    port: int
    claim: str
    tls: ssl.SSLContext

    def ask(self, kid: bytes, request: bytes) -> bytes | None:
        """Publish a request once the topic of this key is listened to; the first answer, if one comes in time."""
        answers: list[bytes] = []
        topic = enrolment_reply_topic(self.claim, kid)
        client = Client(CallbackAPIVersion.VERSION2, client_id="", protocol=MQTTv5, reconnect_on_failure=False)
        client.connect_timeout = _CONNECT_TIMEOUT_S
        client.tls_set_context(self.tls)

        def subscribed(*_: object) -> None:
            client.publish(enrolment_request_topic(self.claim), request, qos=1)

        def arrived(_client: Client, _data: object, message: MQTTMessage) -> None:
            if message.topic == topic and len(message.payload) <= _ANSWER_BYTES_MAX:
                answers.append(bytes(message.payload))

        def connected(_client: Client, _data: object, _flags: object, reason: ReasonCode, _more: object) -> None:
            if reason.is_failure:
                _log.warning("the enrolment listener refused the connection: %s", reason)

        client.on_connect, client.on_subscribe, client.on_message = connected, subscribed, arrived
        try:
            client.connect(self.host, self.port, keepalive=60)
            client.subscribe(topic, qos=1)
            deadline_s = time.monotonic() + _ANSWER_TIMEOUT_S
            while not answers and time.monotonic() < deadline_s:
                if client.loop(_LOOP_S) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                    break
            client.disconnect()
        except (OSError, ValueError) as error:
            _log.info("no way to the enrolment listener of %s: %s", self.host, type(error).__name__)
        return answers[0] if answers else None

"""What an operator believes: a real broker, and a bridge whose every word the test chooses."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from narrowboat_bridge.cli.client import OperatorClient
from narrowboat_bridge.cli.exits import NoAnswerError
from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import Command, DeviceList, DevicePage, Event, EventKind, Reply, sign_model
from narrowboat_protocol.documents.signed import SignedModel
from narrowboat_protocol.errors import PeerError, Reason
from narrowboat_protocol.keys import Algorithm, PrivateKey
from narrowboat_protocol.topics import EVENT_TOPIC, Channel, operator_topic
from tests.support.broker import Credentials
from tests.support.live_fleet import LiveFleet
from tests.support.mqtt_client import SUCCESS, MqttClient
from tests.support.processes import Children, wait_for
from tests.support.relay import RelayThread

NAME = "alice"
STRANGER = PrivateKey.generate(Algorithm.ED25519)
PAGE = DevicePage(devices=(), more=False)


@dataclass(frozen=True, slots=True)
class StandIn:
    """Has the bridge's certificate and key, and says what it is told to say."""

    fleet: LiveFleet
    mqtt: MqttClient

    @property
    def key(self) -> PrivateKey:
        return PrivateKey.from_pem((self.fleet.path / "bridge" / "bridge.pem").read_bytes())

    def client(self, *, port: int | None = None, timeout_s: float = 30) -> OperatorClient:
        folder = self.fleet.path / "operators" / NAME
        path = folder / "relayed.toml"
        text = (folder / "operator.toml").read_text()
        path.write_text(text.replace(str(self.fleet.ports.staff), str(port or self.fleet.ports.staff)))
        return OperatorClient(path, None, timeout_s)

    def next_command(self) -> tuple[bytes, bytes]:
        """The request id of the next command, and its bytes."""
        topic, data = self.mqtt.next_message()
        assert topic == operator_topic(NAME, Channel.COMMAND)
        return Command.decode(SignedDocument.decode(data).content).request_id, data

    def say(self, topic: str, document: SignedModel, key: PrivateKey) -> None:
        fleet_id = bytes.fromhex((self.fleet.path / "fleet.toml").read_text().split('"')[1])
        assert self.mqtt.publish(topic, sign_model(document, fleet_id, [key])) is not None

    def reply(self, request_id: bytes, *, key: PrivateKey | None = None, reason: Reason | None = None) -> None:
        message = "because" if reason else None
        result = None if reason else PAGE.to_cbor()
        reply = Reply(request_id=request_id, reason=reason, message=message, result=result)
        self.say(operator_topic(NAME, Channel.REPLY), reply, key or self.key)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    folder = tmp_path_factory.mktemp("stand-in")
    with Children(folder / "logs") as children:
        fleet = LiveFleet(folder, children)
        fleet.init("--operator", NAME)
        fleet.start_broker()
        own = fleet.path / "bridge"
        credentials = Credentials("bridge-1", own / "tls-cert.pem", own / "tls-key.pem", own / "server-ca.pem")
        wait_for(lambda: _listens(fleet.ports.bridge), 30, "the broker to listen")
        with MqttClient(credentials.tls(), fleet.ports.bridge) as mqtt:
            assert mqtt.connect() == SUCCESS
            mqtt.subscribe(operator_topic(NAME, Channel.COMMAND))
            yield StandIn(fleet, mqtt)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def meanwhile(act: Callable[[], None]) -> threading.Thread:
    """Do this while the operator waits."""
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_only_a_reply_that_the_root_vouches_for_and_that_names_the_request_counts(stand_in: StandIn) -> None:
    def answer() -> None:
        request_id, _ = stand_in.next_command()
        stand_in.reply(request_id, key=STRANGER, reason=Reason.CONFLICT)
        stand_in.reply(bytes(16), reason=Reason.CONFLICT)
        stand_in.reply(request_id)

    with stand_in.client() as client:
        answering = meanwhile(answer)
        assert client.call(DeviceList(), DevicePage) == PAGE
        answering.join()


def test_a_forged_reply_alone_is_no_answer(stand_in: StandIn) -> None:
    with stand_in.client(timeout_s=1) as client:
        answering = meanwhile(lambda: stand_in.reply(stand_in.next_command()[0], key=STRANGER))
        with pytest.raises(NoAnswerError, match="our root vouches for"):
            client.call(DeviceList(), DevicePage)
        answering.join()


def test_a_refusal_comes_with_the_bridges_reason(stand_in: StandIn) -> None:
    with stand_in.client() as client:
        answering = meanwhile(lambda: stand_in.reply(stand_in.next_command()[0], reason=Reason.BUSY))
        with pytest.raises(PeerError, match="because") as caught:
            client.call(DeviceList(), DevicePage)
        answering.join()
    assert caught.value.reason is Reason.BUSY


def test_a_reply_that_was_lost_is_asked_for_with_the_same_command(stand_in: StandIn) -> None:
    seen: list[bytes] = []
    with RelayThread(stand_in.fleet.ports.staff) as relay, stand_in.client(port=relay.port) as client:

        def lose_the_first() -> None:
            seen.append(stand_in.next_command()[1])
            relay.cut()
            request_id, again = stand_in.next_command()
            seen.append(again)
            stand_in.reply(request_id)

        answering = meanwhile(lose_the_first)
        assert client.call(DeviceList(), DevicePage) == PAGE
        answering.join()
    assert seen[0] == seen[1]


def test_a_command_that_nobody_heard_is_said_again(stand_in: StandIn) -> None:
    """The bridge was away for a moment, and the broker keeps nothing for it."""
    seen: list[bytes] = []
    with stand_in.client(timeout_s=30) as client:

        def miss_the_first() -> None:
            seen.append(stand_in.next_command()[1])
            request_id, again = stand_in.next_command()
            seen.append(again)
            stand_in.reply(request_id)

        answering = meanwhile(miss_the_first)
        assert client.call(DeviceList(), DevicePage) == PAGE
        answering.join()
    assert seen[0] == seen[1]


def test_an_event_of_a_stranger_is_not_news(stand_in: StandIn) -> None:
    def event(sequence: int) -> Event:
        return Event(sequence=sequence, at=0, kind=EventKind.REPORT, device="gw-1")

    with stand_in.client() as client:
        answering = meanwhile(lambda: stand_in.reply(stand_in.next_command()[0]))
        client.call(DeviceList(), DevicePage)
        answering.join()
        stand_in.say(EVENT_TOPIC, event(1), STRANGER)
        stand_in.say(EVENT_TOPIC, event(2), stand_in.key)
        news = client.next_event(30)
        assert news is not None
        assert news.sequence == 2
        client.forget_events()
        assert client.next_event(0) is None

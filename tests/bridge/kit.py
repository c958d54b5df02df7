"""A whole bridge without a broker: real store, files, keys and threads; what it says is caught before the link.

Time is the test's. Messages go in by topic, as the link would hand them on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from narrowboat_bridge.core.events import Now
from narrowboat_bridge.server.assembly import Workshop, open_workshop
from narrowboat_bridge.server.config import BrokerConfig, Config, KeysConfig, LimitsConfig, TrustConfig
from narrowboat_bridge.server.crew import Crew
from narrowboat_bridge.server.inbox import MessageArrived
from narrowboat_bridge.server.metrics import Metrics
from narrowboat_bridge.server.upload_worker import AddBlock
from narrowboat_protocol.documents import (
    Ack,
    Assignment,
    Delivery,
    Event,
    Reply,
    RoleName,
    UploadBegin,
    UploadFinish,
    UploadState,
)
from narrowboat_protocol.documents.signed import SignedModel
from narrowboat_protocol.topics import EVENT_TOPIC, Channel, parse_topic
from narrowboat_protocol.transfer import DIGEST_PREFIX_BYTES, Block, FetchRequest
from tests.support.fleet import NOW, FleetKit, MadeRelease, OperatorKit

SignedT = TypeVar("SignedT", bound=SignedModel)
_TURNS_MAX = 50


@dataclass
class Wire:
    """Where the bridge's links would be."""

    messages: list[tuple[str, bytes]] = field(default_factory=list)
    blocks: list[tuple[str, bytes]] = field(default_factory=list)
    retained: dict[str, bytes] = field(default_factory=dict)
    has_room: bool = True
    breaks: bool = False
    """Sending data raises what nobody expects."""

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> None:
        self.messages.append((topic, payload))
        if retain:
            self.retained[topic] = payload

    def publish_data(self, topic: str, payload: bytes) -> bool:
        if self.breaks:
            raise ArithmeticError
        if self.has_room:
            self.blocks.append((topic, payload))
        return self.has_room


@dataclass
class BridgeKit:
    """One run of a bridge process. Another run on the same folder finds what this one committed."""

    fleet: FleetKit
    config: Config
    workshop: Workshop
    wire: Wire
    metrics: Metrics
    clock: list[Now]
    requests: int = 0

    def sleep(self, seconds: float) -> None:
        now = self.clock[0]
        self.clock[0] = Now(now.monotonic_s + seconds, now.wall_s + int(seconds))

    def put(self, topic_text: str, data: bytes) -> None:
        """A message arrives. Nothing is done about it before the next turn."""
        topic = parse_topic(topic_text)
        if topic.channel is Channel.UPLOAD:
            self.workshop.uploads.offer(AddBlock(topic.name, data))
        else:
            self.workshop.inbox.offer(MessageArrived(topic, data))

    def take(self, topic_text: str, data: bytes) -> None:
        """A message arrives and is handled, and what follows is committed and said."""
        self.put(topic_text, data)
        self.workshop.loop.turn()

    def said(self, kind: type[SignedT], topic: str) -> list[SignedT]:
        """All documents that were sent on a topic so far, believed as a device or operator would believe them."""
        trust = self.fleet.trust()
        return [trust.open_by_role(kind, data, RoleName.BRIDGE) for to, data in self.wire.messages if to == topic]

    def acks(self, device: str = "gw-1") -> list[Ack]:
        return self.said(Ack, f"nb/d/{device}/ack")

    def replies(self, operator: str = "anna") -> list[Reply]:
        return self.said(Reply, f"nb/o/{operator}/reply")

    def events(self) -> list[Event]:
        return self.said(Event, EVENT_TOPIC)

    def assignments(self, device: str = "gw-1") -> list[Assignment]:
        trust = self.fleet.trust()
        deliveries = [Delivery.decode(data) for to, data in self.wire.messages if to == f"nb/d/{device}/assign"]
        return [trust.open_by_role(Assignment, item.assignment, RoleName.DIRECTOR) for item in deliveries]

    def request_id(self) -> bytes:
        self.requests += 1
        return self.requests.to_bytes(16, "big")

    def ask(self, operator: OperatorKit, request: UploadBegin | UploadFinish) -> Reply:
        """Command something that is answered from a worker, and wait for the reply."""
        before = len(self.replies(operator.name))
        self.take(f"nb/o/{operator.name}/command", operator.command(request, request_id=self.request_id()))
        for _ in range(_TURNS_MAX):
            if len(self.replies(operator.name)) > before:
                return self.replies(operator.name)[-1]
            self.workshop.loop.turn()
        raise AssertionError("expected a reply")

    def push(self, operator: OperatorKit, release: MadeRelease, block_bytes: int = 65_536) -> UploadState:
        """Upload a release file as the command line does."""
        digest, file = release.file_digest, release.file
        self.ask(operator, UploadBegin(digest=digest, size=len(file)))
        for offset in range(0, len(file), block_bytes):
            block = Block(digest[:DIGEST_PREFIX_BYTES], offset, file[offset : offset + block_bytes])
            self.put(f"nb/o/{operator.name}/upload", block.encode())
        reply = self.ask(operator, UploadFinish(digest=digest))
        assert reply.reason is None, reply.message
        return UploadState.from_cbor(reply.result)

    def fetch(self, device: str, payload: bytes, *ranges: tuple[int, int], block_bytes: int = 1024) -> None:
        """A device asks for ranges; the answers are in `wire.blocks` when this returns."""
        request = FetchRequest(payload=payload, ranges=ranges, block_bytes=block_bytes)
        self.workshop.payloads.serve(parse_topic(f"nb/d/{device}/get"), request.encode())


@contextmanager
def running_bridge(
    folder: Path, fleet: FleetKit, *operators: OperatorKit, limits: LimitsConfig | None = None
) -> Iterator[BridgeKit]:
    """Start a bridge on a folder, and stop it as a kill would: nothing that is not committed survives."""
    config = make_config(folder, fleet, *operators, limits=limits or LimitsConfig())
    wire, metrics, clock = Wire(), Metrics(), [Now(1000.0, NOW)]
    with open_workshop(config, wire, wire, metrics, Crew(), lambda: clock[0]) as workshop:
        yield BridgeKit(fleet, config, workshop, wire, metrics, clock)


def make_config(folder: Path, fleet: FleetKit, *operators: OperatorKit, limits: LimitsConfig) -> Config:
    """Write what a bridge reads, and say where it is."""
    files = {
        "root/1.root": fleet.root_data,
        "operators.signed": fleet.operators(*(operators or (fleet.operator("nobody"),))),
        "device-ca.pem": fleet.device_ca.pem,
        "director.pem": fleet.director.to_pem(),
        "bridge.pem": fleet.bridge.to_pem(),
        "device-ca-key.pem": fleet.device_ca.authority.key_pem,
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o600)
    return Config(
        name="bridge-1",
        fleet_id=fleet.fleet_id.hex(),
        data=folder / "data",
        broker=BrokerConfig(host="broker.test", ca=folder, certificate=folder, key=folder),
        trust=TrustConfig(
            roots=folder / "root",
            operators=folder / "operators.signed",
            device_ca=folder / "device-ca.pem",
        ),
        keys=KeysConfig(
            director=folder / "director.pem", bridge=folder / "bridge.pem", device_ca=folder / "device-ca-key.pem"
        ),
        limits=limits,
    )

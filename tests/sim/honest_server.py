"""The smallest server that a gateway can live with: honest, awake, and behind a link that loses nothing.

It answers each statement with an Ack, each request with the blocks it asks for, and assigns by the rules of the real
one: the same bytes again while they are not accepted, a new assignment for a new nonce. It stands in where the storage
is what is tried, so that whatever goes wrong is not the network's doing. A fork goes on in another world.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from narrowboat_device.core.events import AckArrived, BlockArrived, DeliveryArrived, LinkOpened
from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import Ack, Delivery, Hello, Report, sign_model
from narrowboat_protocol.topics import Channel
from narrowboat_protocol.transfer import DIGEST_PREFIX_BYTES, Block, FetchRequest, split_range
from tests.sim.gateway import SimGateway
from tests.sim.world import World
from tests.support.fleet import FleetKit, MadeRelease

_LATENCY_S = 0.05
_BLOCK_S = 0.06


@dataclass(slots=True)
class Knowledge:
    """What the server knows of its one gateway."""

    wanted: tuple[MadeRelease, ...] | None = None
    terms: Mapping[str, object] = field(default_factory=dict)
    """Fields of the assignment: windows and a budget, if there are any."""
    counter: int = 0
    nonce: bytes = b""
    delivery: bytes = b""
    accepted: int = 0
    newest_hello: tuple[int, int] = (0, 0)
    newest_nonce: bytes = b""
    ends: dict[int, Report] = field(default_factory=dict)
    """The last terminal report for each assignment's counter."""
    acked: set[tuple[int, int]] = field(default_factory=set)

    def fork(self) -> Knowledge:
        return replace(self, ends=dict(self.ends), acked=set(self.acked))

    @property
    def key(self) -> object:
        """Equal for servers that would do the same."""
        return (
            tuple(release.digest for release in self.wanted or ()),
            tuple(sorted(self.terms.items())),
            self.counter,
            self.nonce,
            bool(self.delivery),
            self.accepted,
            self.newest_hello,
            self.newest_nonce,
            tuple(sorted((counter, report.state) for counter, report in self.ends.items())),
        )


class HonestServer:
    """A `LinkPort` with a server at its other end."""

    def __init__(self, world: World, fleet: FleetKit, releases: tuple[MadeRelease, ...], knowledge: Knowledge) -> None:
        self.knowledge = knowledge
        self.acks = True
        self.gateway: SimGateway | None = None
        self.on_report: Callable[[Report], None] = _ignore
        self._world = world
        self._fleet = fleet
        self._payloads = {release.payload_digest: release.payload for release in releases}
        self._connection = 0
        self._wire_bytes = 0

    def want(self, *releases: MadeRelease, **terms: object) -> None:
        """Assign these from now on, under these terms; none: withdraw what was assigned."""
        self.knowledge.wanted, self.knowledge.terms, self.knowledge.delivery = releases, terms, b""
        self._soon(self._assign)

    @property
    def is_settled(self) -> bool:
        """The newest assignment has come to an end, or has ended what it withdrew."""
        known = self.knowledge
        if not known.delivery:
            return False
        return known.accepted == known.counter and (not known.wanted or known.counter in known.ends)

    # `LinkPort`.

    def up(self) -> None:
        self._connection += 1
        self._wire_bytes = 0
        self._soon(self._open)

    def down(self) -> None:
        self._connection += 1

    def publish(self, channel: Channel, payload: bytes, _qos: int) -> None:
        match channel:
            case Channel.HELLO:
                self._soon(lambda: self._hello(payload))
            case Channel.REPORT:
                self._soon(lambda: self._report(payload))
            case _:
                self._soon(lambda: self._fetch(FetchRequest.decode(payload)))

    # The other end.

    def _soon(self, act: Callable[[], None], delay_s: float = 0.0) -> None:
        connection = self._connection
        when_s = self._world.now_s + _LATENCY_S + delay_s
        self._world.at(when_s, lambda: act() if connection == self._connection else None)

    def _open(self) -> None:
        if self.gateway is not None:
            self.gateway.hear(LinkOpened())

    def _hello(self, payload: bytes) -> None:
        hello = Hello.decode(SignedDocument.decode(payload).content)
        known = self.knowledge
        if hello.pair >= known.newest_hello:
            known.newest_hello, known.newest_nonce = hello.pair, hello.nonce
            known.accepted = hello.assignment_counter
        self._acknowledge(hello.pair, payload)
        self._assign()

    def _report(self, payload: bytes) -> None:
        report = Report.decode(SignedDocument.decode(payload).content)
        known = self.knowledge
        known.accepted = max(known.accepted, report.attempt, report.parked or 0)
        if report.state.terminal and report.parked is None:
            known.ends[report.attempt] = report
            if known.delivery and not known.wanted:
                # An end answers what withdrew it, though it names the assignment that began it.
                known.accepted = max(known.accepted, known.counter)
        self.on_report(report)
        self._acknowledge(report.pair, payload)

    def _acknowledge(self, pair: tuple[int, int], payload: bytes) -> None:
        if not self.acks:
            return
        self.knowledge.acked.add(pair)
        statement = hashlib.sha256(SignedDocument.decode(payload).content).digest()
        ack = Ack(device=self._device, pair=pair, challenge=statement[:16], statement=statement)
        signed = sign_model(ack, self._fleet.fleet_id, [self._fleet.bridge])
        self._soon(lambda: self._tell(AckArrived(signed)))

    def _assign(self) -> None:
        known = self.knowledge
        if known.wanted is None or not known.newest_nonce or (known.delivery and known.accepted == known.counter):
            return
        if not known.delivery or known.accepted > known.counter or known.nonce != known.newest_nonce:
            known.counter = max(known.counter, known.accepted) + 1
            known.nonce = known.newest_nonce
            fields = {"counter": known.counter, "nonce": known.nonce, **known.terms}
            signed = self._fleet.assignment(self._device, *known.wanted, **fields)  # type: ignore[arg-type]  # by name
            envelopes = tuple(release.envelope for release in known.wanted)
            known.delivery = Delivery(assignment=signed, envelopes=envelopes).encode()
        delivery = known.delivery
        self._soon(lambda: self._tell(DeliveryArrived(delivery)))

    def _fetch(self, request: FetchRequest) -> None:
        payload = self._payloads[request.payload]
        spans = [span for start, length in request.ranges for span in split_range(start, length, request.block_bytes)]
        for number, (at, size) in enumerate(spans):
            block = Block(request.payload[:DIGEST_PREFIX_BYTES], at, payload[at : at + size]).encode()
            self._soon(partial(self._bring, block), number * _BLOCK_S)

    def _bring(self, block: bytes) -> None:
        self._wire_bytes += len(block)
        self._tell(BlockArrived(block, self._wire_bytes))

    def _tell(self, event: AckArrived | DeliveryArrived | BlockArrived) -> None:
        if self.gateway is not None:
            self.gateway.hear(event)

    @property
    def _device(self) -> str:
        return self.gateway.name if self.gateway is not None else ""


def _ignore(_report: Report) -> None:
    """Nobody listens."""

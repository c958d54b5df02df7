"""Who serves a payload may serve it badly: too slowly, or with more than was asked for. What it costs is bounded."""

from __future__ import annotations

from narrowboat_protocol.documents import Report
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.keys import Algorithm, PrivateKey
from narrowboat_protocol.limits import DEFAULT_LIMITS, MIB
from narrowboat_protocol.payload import Codec
from narrowboat_protocol.states import HoldReason, State
from narrowboat_protocol.topics import Channel, device_topic
from tests.broker.lab import BASE_SEQUENCE, Lab, noise
from tests.support.fleet import MadeRelease
from tests.support.processes import wait_for
from tests.support.rogue import PATIENCE_S, Span

from .siege import Siege, besieged

COPIES = 8
PAYLOAD_BYTES = 4 * MIB
BUDGET_BYTES = PAYLOAD_BYTES // 2
ON_ITS_WAY_BYTES_MAX = COPIES * DEFAULT_LIMITS.window_bytes_max
"""What a gateway may have asked for when its budget ends, as this attacker answers it."""


def release(lab: Lab, seed: int, version: str) -> MadeRelease:
    """Its bytes on the wire can be counted."""
    image = noise(seed, PAYLOAD_BYTES)
    return lab.kit.make_release(image, version=version, sequence=BASE_SEQUENCE, codec=Codec.STORED)


def first_only(spans: list[Span]) -> list[Span]:
    """A trickle: one block for each request, whatever it asks for."""
    return spans[:1]


def test_slow_retrieval_delays_no_order_and_an_abort_gets_through(lab: Lab) -> None:
    name, made, other = "gw-starved", release(lab, 81, "8.1.0"), release(lab, 82, "8.2.0")
    with besieged(lab, name) as siege:
        siege.rogue.serve(name, made.payload, made.payload_digest, arrange=first_only)
        counter = next(siege.counters)
        siege.rogue.assign(siege.kit.director, name, made.target(), counter=counter, envelopes=(made.envelope,))
        wait_for(lambda: siege.requests >= 5, PATIENCE_S, "requests of a gateway that is kept hungry")
        assert siege.gateway.state is State.DOWNLOADING
        assert siege.refuses(siege.order(PrivateKey.generate(Algorithm.ED25519))) is Reason.UNKNOWN_KEY
        siege.hands_over(siege.order())
        assert siege.rogue.wait_for_end(name, counter).state is State.ABORTED
        assert siege.serve(other, other.payload).state is State.SUCCEEDED


class Wasteful:
    """Answers each block truly, and then again and again with other bytes."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self._answers = 0

    def arrange(self, spans: list[Span]) -> list[Span]:
        return [span for span in spans for _ in range(COPIES)]

    def tamper(self, _offset: int, data: bytes) -> bytes:
        self.sent_bytes += len(data)
        self._answers += 1
        return data if self._answers % COPIES == 1 else bytes(len(data))


def held(siege: Siege) -> list[Report]:
    """The reports of a gateway that waits for a greater budget."""
    reports = siege.rogue.reports(siege.gateway.name)
    return [report for report in reports if report.hold is not None and report.hold.reason is HoldReason.BYTE_BUDGET]


def test_metered_data_exhaustion_ends_at_the_budget_and_costs_no_place(lab: Lab) -> None:
    name, made, wasteful = "gw-metered", release(lab, 83, "8.3.0"), Wasteful()
    with besieged(lab, name) as siege:
        siege.rogue.serve(name, made.payload, made.payload_digest, wasteful.tamper, wasteful.arrange)
        assign(siege, made, BUDGET_BYTES)
        wait_for(lambda: bool(held(siege)), PATIENCE_S, "the budget to be spent")
        (first, *_), asked = held(siege), siege.requests
        assert first.wire_bytes > BUDGET_BYTES
        siege.start_anew()
        wait_for(lambda: held(siege)[-1].pair[0] > first.pair[0], PATIENCE_S, "the gateway to wait after its start too")
        assert siege.requests == asked
        assert wasteful.sent_bytes <= BUDGET_BYTES + ON_ITS_WAY_BYTES_MAX
        assert held(siege)[-1].state is State.DOWNLOADING
        siege.rogue.serve(name, made.payload, made.payload_digest)
        counter = assign(siege, made, 4 * PAYLOAD_BYTES)
        assert siege.rogue.wait_for_end(name, counter).state is State.SUCCEEDED


def assign(siege: Siege, made: MadeRelease, budget_bytes: int) -> int:
    """Deliver an order with a byte budget; returns its counter."""
    counter = next(siege.counters)
    order = siege.order(envelopes=(made.envelope,), targets=(made.target(),), byte_budget=budget_bytes, counter=counter)
    siege.rogue.say(device_topic(siege.gateway.name, Channel.ASSIGN), order)
    return counter

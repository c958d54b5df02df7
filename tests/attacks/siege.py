"""One gateway, and the attacker that it takes for its bridge: owner of the broker, with a bridge's certificate, and
with whatever keys the test hands over.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from narrowboat_device.config import load_config
from narrowboat_device.core.actions import Record
from narrowboat_device.records import record_path
from narrowboat_protocol.documents import Ack, Assignment, Delivery, Report, Target, sign_model
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.keys import Signer
from narrowboat_protocol.topics import Channel, device_topic
from tests.broker.lab import Lab
from tests.support.agent_thread import AgentThread
from tests.support.broker import Credentials
from tests.support.fleet import FleetKit, MadeRelease
from tests.support.processes import wait_for
from tests.support.relay import RelayThread
from tests.support.rogue import PATIENCE_S, Rogue, Tamper, honest


@dataclass(slots=True)
class Siege:
    """One gateway, and the attacker that it takes for its bridge."""

    kit: FleetKit
    gateway: AgentThread
    rogue: Rogue
    """Speaks for the fleet of the kit."""
    counters: Iterator[int] = field(default_factory=lambda: count(1))

    def assign(self, target: Target, *envelopes: bytes) -> Report:
        """Assign, and return the end that the gateway reports."""
        counter = next(self.counters)
        self.rogue.assign(self.kit.director, self.gateway.name, target, counter=counter, envelopes=envelopes)
        return self.rogue.wait_for_end(self.gateway.name, counter)

    def refuses(self, data: bytes, channel: Channel = Channel.ASSIGN) -> Reason:
        """Say it to the gateway; return the reason for which it was refused."""
        before = self.gateway.refusals
        self.rogue.say(device_topic(self.gateway.name, channel), data)
        wait_for(lambda: self.gateway.refusals != before, PATIENCE_S, "a refusal")
        ((reason, number),) = (self.gateway.refusals - before).items()
        assert number == 1
        return reason

    def hands_over(self, data: bytes) -> None:
        """Say it to the gateway, which is done with it when it has refused the nonsense that follows."""
        self.rogue.say(device_topic(self.gateway.name, Channel.ASSIGN), data)
        assert self.refuses(b"") is Reason.NOT_DETERMINISTIC

    def offer(self, made: MadeRelease) -> Report:
        """Assign a release whose payload is never served."""
        return self.assign(made.target(), *filter(None, [made.envelope]))

    def serve(self, made: MadeRelease, payload: bytes, tamper: Tamper = honest) -> Report:
        """Assign a release and serve `payload` for it, altered by `tamper`."""
        self.rogue.serve(self.gateway.name, payload, made.payload_digest, tamper)
        return self.assign(made.target(), made.envelope)

    def order(
        self,
        signer: Signer | None = None,
        fleet_id: bytes | None = None,
        envelopes: tuple[bytes, ...] = (),
        **changes: object,
    ) -> bytes:
        """A delivery that withdraws everything, fresh and the director's own unless the arguments say otherwise."""
        now_s = int(time.time())
        fields: dict[str, object] = {
            "device": self.gateway.name,
            "counter": next(self.counters),
            "issued_at": now_s,
            "expires_at": now_s + 3600,
            "nonce": self.rogue.wait_for_hello(self.gateway.name).nonce,
            "root_version": 1,
            "targets": (),
        }
        assignment = Assignment.model_validate(fields | changes)
        signed = sign_model(assignment, fleet_id or self.kit.fleet_id, [signer or self.kit.director])
        return Delivery(assignment=signed, envelopes=envelopes).encode()

    def ack(self, pair: tuple[int, int], signer: Signer | None = None, device: str | None = None) -> bytes:
        """An Ack of a statement, the bridge's own unless the arguments say otherwise."""
        document = Ack(device=device or self.gateway.name, pair=pair, challenge=bytes(16), statement=bytes(32))
        return sign_model(document, self.kit.fleet_id, [signer or self.kit.bridge])

    def start_anew(self) -> None:
        """Start the gateway again, and wait for its new nonce."""
        nonce = self.rogue.wait_for_hello(self.gateway.name).nonce
        self.gateway.switch_off()
        self.gateway.switch_on()
        wait_for(
            lambda: self.rogue.hellos(self.gateway.name)[-1].nonce != nonce, PATIENCE_S, "a hello of the new start"
        )

    @property
    def requests(self) -> int:
        return self.rogue.count(self.gateway.name, Channel.GET) + self.rogue.count(self.gateway.name, Channel.GET_ANY)


@contextmanager
def besieged(lab: Lab, name: str, *, relay: RelayThread | None = None, **settings: Any) -> Iterator[Siege]:
    """A gateway of the lab's fleet."""
    with lab.rogue() as rogue, lab.gateway(name, relay, **settings) as gateway:
        yield Siege(lab.kit, gateway, rogue)


@contextmanager
def besieged_of(lab: Lab, kit: FleetKit, name: str) -> Iterator[Siege]:
    """A gateway of another fleet at the lab's broker: its owner has the keys of `kit`, and the lab's bridge cannot
    read a word of it.
    """
    made = lab.make_gateway(name)
    config = load_config(made.config)
    for record in Record:
        record_path(config.storage.data_dir, record).unlink()
    config.storage.root.write_bytes(kit.root_data)
    own = lab.fleet.path / "bridge"
    credentials = Credentials("bridge-1", own / "tls-cert.pem", own / "tls-key.pem", own / "server-ca.pem")
    with Rogue(credentials, lab.fleet.ports.bridge, kit.fleet_id) as rogue, AgentThread(made.config) as gateway:
        yield Siege(kit, gateway, rogue)

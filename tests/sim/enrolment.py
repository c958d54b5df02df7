"""Enrolment as a subject of power cuts: whatever was cut, asking again makes the same gateway somebody, once.

The fleet's side remembers: it knows a key from its first request on, and no cut of the gateway's power takes that back.
A certificate that the gateway has said to hold must still be there after the next cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key

from narrowboat_device.config import Config, EnrolmentConfig
from narrowboat_device.enrol import Surroundings, enrol, name_in
from narrowboat_device.files import read_bounded
from narrowboat_device.provision import make_folders, make_missing
from narrowboat_protocol.documents import EnrolmentOutcome, EnrolmentReply, open_request, sign_model
from narrowboat_protocol.limits import KIB
from tests.sim.disk import SimDisk
from tests.sim.factory import make_config
from tests.sim.medium import garbage
from tests.sim.scenes import LIMITS
from tests.sim.world import World
from tests.support.fleet import NOW, FleetKit

_SLOT_BYTES = 16 * 4096
_NAME = "gw-7"
_PEM_BYTES_MAX = 64 * KIB


@dataclass(slots=True)
class Nobody:
    """A machine with the fleet's root, and what the fleet knows of it."""

    disk: SimDisk
    admitted: dict[bytes, bytes] = field(default_factory=dict)
    """By thumbprint, the certificate issued."""
    enrolled: bool = False

    def fork(self) -> Nobody:
        return Nobody(self.disk.fork(), dict(self.admitted), self.enrolled)

    @property
    def key(self) -> object:
        return self.disk.key, len(self.admitted), self.enrolled


@dataclass(slots=True)
class HonestRegistry:
    """Admits a key once, and gives it the same certificate again."""

    fleet: FleetKit
    state: Nobody
    watch: Callable[[str], None]

    def ask(self, kid: bytes, request: bytes) -> bytes:
        opened, _ = open_request(request, self.fleet.fleet_id)
        assert opened.public_key.kid == kid
        if kid not in self.state.admitted:
            public = load_pem_public_key(opened.public_key.to_pem())
            certificate = self.fleet.device_ca.issue(_NAME, public)  # type: ignore[arg-type]  # a P-256 key
            self.state.admitted[kid] = certificate
        self.watch("the request is answered")
        reply = EnrolmentReply(
            kid=kid,
            nonce=opened.nonce,
            outcome=EnrolmentOutcome.ISSUED,
            device=_NAME,
            certificate=self.state.admitted[kid],
            at=NOW,
        )
        return sign_model(reply, self.fleet.fleet_id, [self.fleet.bridge])


@dataclass(frozen=True, slots=True)
class Enrolment:
    """`provision` and `enrol`, run until they end."""

    fleet: FleetKit
    name: str = "enrol"

    def begin(self) -> Nobody:
        world, config = World(4), _config()
        disk = SimDisk(world.rng)
        for slot in config.slots:
            disk.make_slot(slot.path, garbage(world.rng, b"", _SLOT_BYTES))
        disk.make_file(config.storage.root, self.fleet.root_data)
        return Nobody(disk)

    def play(self, state: object, seed: int, watch: Callable[[str, Callable[[], Nobody]], None]) -> None:
        assert isinstance(state, Nobody)
        config, disk, world = _config(), state.disk, World(seed)
        disk.rng = world.rng
        disk.watch = lambda what: watch(what, state.fork)
        make_folders(disk, config, LIMITS)
        make_missing(disk, config, LIMITS)
        held = _held(disk, config)
        assert held is not None or not state.enrolled, "expected the certificate that it had before the cut"
        around = Surroundings(world.rng.randbytes, lambda low, _high: low, lambda _seconds: True)
        if held is None:
            registry = HonestRegistry(self.fleet, state, lambda what: watch(what, state.fork))
            assert enrol(disk, config, LIMITS, registry, around, attempts_max=1)
            held = _held(disk, config)
        disk.watch = lambda _what: None
        assert held is not None
        assert name_in(held) == _NAME
        assert [held.public_bytes(Encoding.DER)] == list(state.admitted.values()), (
            "expected one key and its certificate"
        )
        durable = disk.durable(config.broker.certificate)
        assert durable is not None
        assert x509.load_pem_x509_certificate(durable) == held
        state.enrolled = True
        watch("the end", state.fork)


def _config() -> Config:
    return make_config("gw-1").model_copy(update={"enrolment": EnrolmentConfig(certificate=Path("/etc/claim.pem"))})


def _held(disk: SimDisk, config: Config) -> x509.Certificate | None:
    """What is there after a cut is whole, or nothing."""
    path = config.broker.certificate
    if not disk.exists(path):
        return None
    return x509.load_pem_x509_certificate(read_bounded(disk, path, _PEM_BYTES_MAX, "certificate"))

"""The intake of devices: bytes on a topic become an event of the core, or a count.

Order of checks for a hello: size and encoding; the certificate in it against the device CA; the common name
against the topic and the document; the signature against the certificate's key. The certificate must be read
before anything is signed for, since it brings the key; nothing else of an unverified hello is looked at. A
report is checked against the key that the device's first hello pinned.

Whatever fails is counted under its reason and changes nothing. A device that sends more than its share is not
even looked at: verifying a signature is the most expensive thing that a stranger can make us do.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import Hello, Report, open_signed
from narrowboat_protocol.errors import NarrowboatError, PeerError, Reason, TrustError
from narrowboat_protocol.keys import PublicKey
from narrowboat_protocol.topics import Channel, Topic

from ..core.events import HelloArrived, Now, ReportArrived
from ..core.records import Device
from .buckets import Buckets
from .metrics import Metrics

CHALLENGE_BYTES = 16

VerifyCertificate = Callable[[bytes, int], tuple[str, PublicKey]]
"""Check a DER certificate against the device CA at a wall time: its common name and key, or a `PeerError`."""


class Registry(Protocol):
    """What the intake asks of the core."""

    @property
    def device_count(self) -> int:
        """How many devices are known."""
        ...

    def device(self, name: str) -> Device | None:
        """A device that said hello before."""
        ...

    def is_revoked(self, kid: bytes) -> bool:
        """True if nothing is believed under this key any more."""
        ...


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """What devices may take of the intake."""

    devices_max: int
    messages_per_s: float


class Intake:
    """Reads what devices say."""

    def __init__(
        self,
        fleet_id: bytes,
        verify_certificate: VerifyCertificate,
        registry: Registry,
        limits: IntakeLimits,
        metrics: Metrics,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._fleet_id = fleet_id
        self._verify_certificate = verify_certificate
        self._registry = registry
        self._limits = limits
        self._metrics = metrics
        self._random = random
        self._buckets = Buckets(limits.messages_per_s, 10 * limits.messages_per_s)

    def read(self, topic: Topic, data: bytes, now: Now) -> HelloArrived | ReportArrived | None:
        """The event that a message is, or None if it is none that counts."""
        if not self._buckets.take(topic.name, 1, now.monotonic_s):
            self._metrics.limit(f"limited.{topic.channel}", "device_messages_per_s")
            return None
        try:
            if topic.channel is Channel.HELLO:
                return self._read_hello(topic.name, data, now.wall_s)
            return self._read_report(topic.name, data)
        except NarrowboatError as error:
            self._metrics.refuse(topic.channel, error)
            return None

    def _read_hello(self, name: str, data: bytes, now_s: int) -> HelloArrived:
        signed = SignedDocument.decode(data)
        certificate = Hello.decode(signed.content).certificate
        certified_name, key = self._verify_certificate(certificate, now_s)
        if self._registry.is_revoked(key.kid):
            raise TrustError(Reason.NOT_PERMITTED, "expected a key that counts, got one that was revoked")
        hello = open_signed(Hello, signed, fleet_id=self._fleet_id, keys={key.kid: key})
        _require_name(name, certified_name, hello.device)
        if self._registry.device(name) is None and self._registry.device_count >= self._limits.devices_max:
            raise PeerError(Reason.BUSY, f"expected at most {self._limits.devices_max} devices; raise devices_max")
        return HelloArrived(hello, key, signed.content, self._random(CHALLENGE_BYTES))

    def _read_report(self, name: str, data: bytes) -> ReportArrived:
        device = self._registry.device(name)
        if device is None:
            raise PeerError(Reason.UNKNOWN_DEVICE, "expected a hello before the first report; the device says it again")
        if self._registry.is_revoked(device.key.kid):
            raise TrustError(Reason.NOT_PERMITTED, "expected a key that counts, got one that was revoked")
        signed = SignedDocument.decode(data)
        report = open_signed(Report, signed, fleet_id=self._fleet_id, keys={device.key.kid: device.key})
        _require_name(name, report.device)
        return ReportArrived(report, signed.content, self._random(CHALLENGE_BYTES))


def _require_name(topic_name: str, *names: str) -> None:
    if any(name != topic_name for name in names):
        raise TrustError(
            Reason.WRONG_DEVICE, "expected one name in topic, certificate and document, got different ones"
        )

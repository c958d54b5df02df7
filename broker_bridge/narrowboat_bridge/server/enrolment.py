"""The intake of enrolment: bytes on a request topic become an event of the core, or a count.

The keys of a request are read before its signatures, since it brings them; every one must have signed. The signing
request inside must hold the same key and be signed by it. Whether the key may have what it asks for is the core's to
judge. What one claim may ask is bounded before anything is verified: verifying is the most that a stranger can make us
do, and a thousand honest gateways that share a claim are served within seconds.
"""

from __future__ import annotations

from narrowboat_protocol.documents import open_request
from narrowboat_protocol.errors import NarrowboatError, Reason, TrustError, UsageError
from narrowboat_protocol.keys import public_key_from_cryptography
from narrowboat_protocol.topics import Topic

from ..core.admission import AUTHORITY_ENDED
from ..core.events import EnrolmentRequested, Now
from ..pki import read_request_der
from .buckets import Buckets
from .metrics import Metrics


class EnrolmentIntake:
    """Reads what asks for a certificate."""

    def __init__(self, fleet_id: bytes, requests_per_s: float, authority_ends_s: int, metrics: Metrics) -> None:
        self._fleet_id = fleet_id
        self._authority_ends_s = authority_ends_s
        self._metrics = metrics
        self._buckets = Buckets(requests_per_s, 10 * requests_per_s)

    def read(self, topic: Topic, data: bytes, now: Now) -> EnrolmentRequested | None:
        """The event that a message is, or None if it is none that counts."""
        if not self._buckets.take(f"{topic.party}/{topic.name}", 1, now.monotonic_s):
            self._metrics.limit("limited.request", "enrolments_per_s")
            return None
        try:
            asked = self._read(topic, data)
        except NarrowboatError as error:
            self._metrics.refuse(topic.channel, error)
            return None
        if now.wall_s >= self._authority_ends_s:
            ended = UsageError(AUTHORITY_ENDED.reason, AUTHORITY_ENDED.message)
            self._metrics.refuse(topic.channel, ended)  # the core answers it
        return asked

    def _read(self, topic: Topic, data: bytes) -> EnrolmentRequested:
        request, kids = open_request(data, self._fleet_id)
        key = request.public_key
        if public_key_from_cryptography(read_request_der(request.csr)).kid != key.kid:
            raise TrustError(Reason.UNKNOWN_KEY, "expected a signing request for the key that signed, got another key")
        return EnrolmentRequested(
            party=topic.party,
            name=topic.name,
            key=key,
            kids=kids,
            nonce=request.nonce,
            wish=request.wish,
            serial=request.serial,
            connects_only=request.connects_only,
        )

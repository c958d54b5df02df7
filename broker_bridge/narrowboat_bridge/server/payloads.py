"""The payload server: byte ranges of immutable files, for the devices that were assigned them.

It runs on a connection and a thread of its own, so that no amount of data delays an Ack or an assignment. A
request is served if its device may have the payload now (the newest assignment names it), there is room in
the device's token buckets, and the link is not full. What is not served is dropped and counted, and the
device asks again: its own window paces it, so the buckets only bound a gateway that has lost its senses.
Devices take turns, request by request, so such a gateway delays the others by one request and no more. A block of a
few bytes costs as much of the bucket as the smallest that an honest device asks for, since it costs us more.

The ranges of a request are cut into blocks, each a message of its own. A range that reaches beyond the end of
the payload is served up to the end. Files are named by their digest and never change, so open ones are kept.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread
from typing import Protocol

from narrowboat_protocol.documents import Assignment
from narrowboat_protocol.errors import MediumError, NarrowboatError, PeerError, Reason, TrustError
from narrowboat_protocol.limits import DEFAULT_LIMITS, KIB, Limits
from narrowboat_protocol.topics import Channel, Topic, device_topic
from narrowboat_protocol.transfer import DIGEST_PREFIX_BYTES, Block, FetchRequest, split_range

from .buckets import Buckets
from .crew import Crew
from .metrics import Metrics
from .turns import Place, Turns

BLOCK_COST_BYTES_MIN = KIB
_OPEN_FILES_MAX = 64
_STOP_WAIT_S = 5.0


class BlockSink(Protocol):
    """Where blocks go: a link that says when it has no room."""

    def publish_data(self, topic: str, payload: bytes) -> bool:
        """Send at QoS 0; False if the message was dropped."""
        ...


@dataclass(frozen=True, slots=True)
class PayloadLimits:
    """What one device may take, and how many requests may wait: of all, and of one."""

    requests_per_s: float
    bytes_per_s: float
    requests_queued_max: int
    device_requests_queued_max: int


class PayloadFolder:
    """Payload files by digest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptors: OrderedDict[bytes, tuple[int, int]] = OrderedDict()

    def open(self, digest: bytes) -> tuple[int, int]:
        """A descriptor of the payload and its size. Raises `PeerError` (`unknown_payload`)."""
        found = self._descriptors.get(digest)
        if found is None:
            try:
                descriptor = os.open(self._folder / digest.hex(), os.O_RDONLY)
            except OSError:
                raise PeerError(
                    Reason.UNKNOWN_PAYLOAD, "expected a payload that is in the store; push its release again"
                ) from None
            found = self._descriptors[digest] = descriptor, os.fstat(descriptor).st_size
            if len(self._descriptors) > _OPEN_FILES_MAX:
                _, (oldest, _) = self._descriptors.popitem(last=False)
                os.close(oldest)
        self._descriptors.move_to_end(digest)
        return found

    def read(self, digest: bytes, offset: int, length: int) -> bytes:
        """A range of a payload. Raises `MediumError` if it cannot be read; the file is opened anew the next time."""
        descriptor, _ = self.open(digest)
        try:
            data = os.pread(descriptor, length, offset)
        except OSError as error:
            data, trouble = b"", error.strerror or type(error).__name__
        else:
            trouble = f"got {len(data)}"
        if len(data) == length:
            return data
        del self._descriptors[digest]
        os.close(descriptor)
        raise MediumError(
            Reason.MEDIUM_FAILED,
            f"payload {digest.hex()}: expected {length} bytes at {offset}: {trouble}; check the disk",
        )

    def close(self) -> None:
        for descriptor, _ in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()


class PayloadServer:
    """Answers fetch requests. `allow` is called by the loop, `offer` by the link, the rest runs in its own thread."""

    def __init__(
        self,
        files: PayloadFolder,
        sink: BlockSink,
        payload_limits: PayloadLimits,
        monotonic_s: Callable[[], float],
        metrics: Metrics,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._files = files
        self._sink = sink
        self._monotonic_s = monotonic_s
        self._metrics = metrics
        self._allowed: dict[str, frozenset[bytes]] = {}
        self._lock = Lock()
        self._requests: Turns[tuple[Topic, bytes]] = Turns(
            payload_limits.requests_queued_max, payload_limits.device_requests_queued_max
        )
        self._request_buckets = Buckets(payload_limits.requests_per_s, 2 * payload_limits.requests_per_s)
        depth_bytes = max(payload_limits.bytes_per_s / 4, 2 * limits.request_bytes_max)
        self._byte_buckets = Buckets(payload_limits.bytes_per_s, depth_bytes)
        self._thread: Thread | None = None

    def start(self, crew: Crew) -> None:
        self._thread = crew.start("payloads", self._run)

    def stop(self) -> None:
        """End the thread after the request that it is at."""
        self._requests.close()
        if self._thread is not None:
            self._thread.join(_STOP_WAIT_S)

    def allow_all(self, allowed: Mapping[str, Iterable[bytes]]) -> None:
        """What each device may fetch, as the store has it."""
        with self._lock:
            self._allowed = {device: frozenset(digests) for device, digests in allowed.items()}

    def allow(self, device: str, digests: Iterable[bytes]) -> None:
        """Let a device fetch these payloads, and no others."""
        with self._lock:
            self._allowed[device] = frozenset(digests)

    def offer(self, topic: Topic, data: bytes) -> None:
        """Take a message of a `get` topic. What is too long to be a request is not kept either."""
        if len(data) > FetchRequest.BYTES_MAX:
            too_large = PeerError(Reason.TOO_LARGE, f"expected at most {FetchRequest.BYTES_MAX} bytes, got {len(data)}")
            self._metrics.refuse(topic.channel, too_large)
            return
        match self._requests.offer(topic.name, (topic, data)):
            case Place.ALL_FULL:
                self._metrics.limit("dropped.get", "requests_queued_max")
            case Place.DEVICE_FULL:
                self._metrics.limit("limited.get_queue", "device_requests_queued_max")

    def serve(self, topic: Topic, data: bytes) -> None:
        """Answer one request, in the calling thread. Whatever is wrong with it is counted."""
        now_s = self._monotonic_s()
        if not self._request_buckets.take(topic.name, 1, now_s):
            self._metrics.limit("limited.get", "device_requests_per_s")
            return
        try:
            request = FetchRequest.decode(data)
            self._require_assigned(topic.name, request.payload)
            self._answer(topic.name, request, now_s)
        except NarrowboatError as error:
            self._metrics.refuse(topic.channel, error)

    def _answer(self, device: str, request: FetchRequest, now_s: float) -> None:
        to = device_topic(device, Channel.DATA)
        _, size_bytes = self._files.open(request.payload)
        for offset, length in _blocks(request, size_bytes):
            if not self._byte_buckets.take(device, max(length, BLOCK_COST_BYTES_MIN), now_s):
                self._metrics.limit("limited.get_bytes", "device_bytes_per_s", length)
                return
            data = self._files.read(request.payload, offset, length)
            if not self._sink.publish_data(to, Block(request.payload[:DIGEST_PREFIX_BYTES], offset, data).encode()):
                self._metrics.limit("dropped.block", "outstanding_bytes_max")
                return
            self._metrics.count("served.bytes", length)

    def _run(self) -> None:
        while (request := self._requests.take()) is not None:
            self.serve(*request)
        self._files.close()

    def _require_assigned(self, device: str, digest: bytes) -> None:
        with self._lock:
            allowed = digest in self._allowed.get(device, frozenset())
        if not allowed:
            raise TrustError(Reason.NOT_PERMITTED, "expected a payload that the device was assigned, got another")


def payloads_of(assignment: Assignment) -> frozenset[bytes]:
    """The payloads that an assignment lets its device fetch."""
    return frozenset(payload.digest for target in assignment.targets for payload in target.payloads)


def _blocks(request: FetchRequest, size_bytes: int) -> Iterator[tuple[int, int]]:
    """The blocks that answer a request, none of them beyond the end of the payload."""
    for offset, length in request.ranges:
        within = min(length, size_bytes - offset)
        if within > 0:
            yield from split_range(offset, within, request.block_bytes)

"""The payload server: a device gets the bytes of what it was assigned, no others, and no more than its share."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from narrowboat_bridge.server.buckets import Buckets
from narrowboat_bridge.server.crew import Crew
from narrowboat_bridge.server.metrics import Metrics
from narrowboat_bridge.server.payloads import BLOCK_COST_BYTES_MIN, PayloadFolder, PayloadLimits, PayloadServer
from narrowboat_bridge.server.turns import Turns
from narrowboat_protocol.documents import CampaignAbort, CampaignStart
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.topics import parse_topic
from narrowboat_protocol.transfer import DIGEST_PREFIX_BYTES, FetchRequest, decode_block
from tests.bridge.kit import Wire, running_bridge
from tests.support.fleet import FleetKit
from tests.support.processes import wait_for

PAYLOAD = os.urandom(10_000)
DIGEST = hashlib.sha256(PAYLOAD).digest()
OTHER = hashlib.sha256(b"other").digest()
DATA = "nb/d/gw-1/data"


class Server:
    """A payload server over two files; gw-1 may have the first."""

    def __init__(self, folder: Path, *, requests_per_s: float = 1000.0, bytes_per_s: float = 1e9) -> None:
        for digest, content in ((DIGEST, PAYLOAD), (OTHER, b"other")):
            (folder / digest.hex()).write_bytes(content)
        self.wire = Wire()
        self.metrics = Metrics()
        self.now_s = 1000.0
        limits = PayloadLimits(requests_per_s, bytes_per_s, requests_queued_max=10, device_requests_queued_max=4)
        self.server = PayloadServer(PayloadFolder(folder), self.wire, limits, lambda: self.now_s, self.metrics)
        self.server.allow("gw-1", [DIGEST])

    def fetch(
        self, *ranges: tuple[int, int], device: str = "gw-1", digest: bytes = DIGEST, block_bytes: int = 4096
    ) -> list[tuple[int, bytes]]:
        """The blocks that answer a request."""
        request = FetchRequest(payload=digest, ranges=ranges, block_bytes=block_bytes)
        return self.send(request.encode(), device)

    def send(self, data: bytes, device: str = "gw-1") -> list[tuple[int, bytes]]:
        self.wire.blocks.clear()
        self.server.serve(parse_topic(f"nb/d/{device}/get"), data)
        blocks = [decode_block(message) for topic, message in self.wire.blocks if topic == f"nb/d/{device}/data"]
        assert len(blocks) == len(self.wire.blocks), "blocks go to the one who asked"
        return [(block.offset, bytes(block.data)) for block in blocks]


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


RANGES = {
    "one block": ([(0, 100)], [(0, 100)]),
    "a range longer than a block": ([(0, 10_000)], [(0, 4096), (4096, 4096), (8192, 1808)]),
    "several ranges": ([(5000, 10), (0, 10)], [(5000, 10), (0, 10)]),
    "up to the end": ([(9990, 10)], [(9990, 10)]),
    "beyond the end, cut there": ([(9990, 100)], [(9990, 10)]),
    "behind the end, nothing": ([(10_000, 1)], []),
    "far behind the end, nothing": ([(1 << 39, 1000)], []),
    "one within and one behind": ([(20_000, 5), (0, 5)], [(0, 5)]),
}


@pytest.mark.parametrize("case", RANGES)
def test_ranges_are_answered_with_blocks_of_the_payload(server: Server, case: str) -> None:
    asked, expected = RANGES[case]
    assert server.fetch(*asked) == [(offset, PAYLOAD[offset : offset + length]) for offset, length in expected]


def test_a_block_names_its_payload(server: Server) -> None:
    server.fetch((0, 10))
    assert decode_block(server.wire.blocks[0][1]).digest_prefix == DIGEST[:DIGEST_PREFIX_BYTES]


@given(
    st.lists(st.tuples(st.integers(0, 12_000), st.integers(1, 5000)), min_size=1, max_size=5), st.integers(1024, 4096)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_byte_asked_for_comes_once_and_none_else(
    server: Server, ranges: list[tuple[int, int]], block_bytes: int
) -> None:
    blocks = server.fetch(*ranges, block_bytes=block_bytes)
    got = sorted(offset + index for offset, data in blocks for index in range(len(data)))
    wanted = sorted(at for offset, length in ranges for at in range(offset, min(offset + length, len(PAYLOAD))))
    assert got == wanted
    assert all(len(data) <= block_bytes and data == PAYLOAD[offset : offset + len(data)] for offset, data in blocks)


def test_a_device_gets_nothing_of_a_payload_that_it_was_not_assigned(server: Server) -> None:
    assert server.fetch((0, 5), digest=OTHER) == []
    assert server.fetch((0, 5), device="gw-2") == []
    assert server.metrics.value("refused.get.not_permitted") == 2


def test_a_newer_assignment_takes_the_older_payload_away(server: Server) -> None:
    server.server.allow("gw-1", [OTHER])
    assert server.fetch((0, 5)) == []
    assert server.fetch((0, 5), digest=OTHER) == [(0, b"other")]


def test_a_payload_that_is_not_in_the_store_is_counted(server: Server) -> None:
    server.server.allow("gw-1", [bytes(32)])
    assert server.fetch((0, 5), digest=bytes(32)) == []
    assert server.metrics.value("refused.get.unknown_payload") == 1


def test_a_payload_that_cannot_be_read_stops_no_other_and_is_served_once_it_can(server: Server, tmp_path: Path) -> None:
    """A folder in its place opens like a file, and fails as a bad sector does: when it is read."""
    bad = tmp_path / OTHER.hex()
    bad.unlink()
    bad.mkdir()
    server.server.allow("gw-1", [DIGEST, OTHER])
    crew, topic = Crew(), parse_topic("nb/d/gw-1/get")
    requests = {
        digest: FetchRequest(payload=digest, ranges=((0, 5),), block_bytes=1024).encode() for digest in (DIGEST, OTHER)
    }
    server.server.start(crew)
    for digest in (OTHER, DIGEST):
        server.server.offer(topic, requests[digest])
    wait_for(lambda: len(server.wire.blocks) == 1, 10, "the good payload")
    bad.rmdir()
    bad.write_bytes(b"other")
    server.server.offer(topic, requests[OTHER])
    wait_for(lambda: len(server.wire.blocks) == 2, 10, "the payload that is well again")
    server.server.stop()
    crew.check()
    assert server.metrics.value("refused.get.medium_failed") == 1


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hostile_requests_are_only_counted(server: Server, data: bytes) -> None:
    assert server.send(data) == []


def test_a_request_larger_than_any_honest_one_is_not_read(server: Server) -> None:
    assert server.send(bytes(10_000)) == []
    server.server.offer(parse_topic("nb/d/gw-1/get"), bytes(10_000))
    assert server.metrics.value("refused.get.too_large") == 2


def test_a_device_gets_no_more_than_its_bytes_a_second_and_others_are_not_touched(tmp_path: Path) -> None:
    server = Server(tmp_path, bytes_per_s=1000.0)
    depth_bytes = 2 * DEFAULT_LIMITS.request_bytes_max
    server.server.allow("gw-2", [DIGEST])
    served = sum(len(data) for _ in range(300) for _, data in server.fetch((0, 10_000)))
    assert depth_bytes - 4096 <= served <= depth_bytes
    assert server.fetch((0, 10), device="gw-2")
    assert server.fetch((0, 4096)) == []
    server.now_s += 5
    assert len(server.fetch((0, 4096))) == 1


def test_blocks_of_a_few_bytes_are_no_way_around_the_bucket(tmp_path: Path) -> None:
    server = Server(tmp_path, bytes_per_s=1000.0, requests_per_s=1e6)
    depth_bytes = 2 * DEFAULT_LIMITS.request_bytes_max
    ranges = tuple((offset, 1) for offset in range(DEFAULT_LIMITS.ranges_per_request_max))
    served = sum(len(server.fetch(*ranges)) for _ in range(100))
    assert served == depth_bytes // BLOCK_COST_BYTES_MIN


def test_a_device_is_heard_no_more_than_its_requests_a_second(tmp_path: Path) -> None:
    server = Server(tmp_path, requests_per_s=5.0)
    assert sum(len(server.fetch((0, 1))) for _ in range(30)) == 10
    assert server.metrics.value("limited.get") == 20
    server.now_s += 1
    assert sum(len(server.fetch((0, 1))) for _ in range(30)) == 5


def test_when_the_link_has_no_room_the_rest_of_a_request_is_dropped_and_counted(server: Server) -> None:
    server.wire.has_room = False
    assert server.fetch((0, 10_000)) == []
    assert server.metrics.value("dropped.block") == 1


def test_requests_beyond_the_queues_are_dropped_and_counted(server: Server) -> None:
    for device in ("gw-1", "gw-2", "gw-3"):
        for _ in range(5):
            server.server.offer(parse_topic(f"nb/d/{device}/get"), b"request")
    assert server.metrics.value("limited.get_queue") == 2
    assert server.metrics.value("dropped.get") == 3


def test_a_device_that_asks_without_end_delays_the_others_by_one_request() -> None:
    turns: Turns[str] = Turns(waiting_max=100, waiting_of_one_max=50)
    for number in range(60):
        turns.offer("greedy", f"greedy {number}")
    turns.offer("calm", "calm 0")
    turns.offer("shy", "shy 0")
    turns.offer("calm", "calm 1")
    order = [turns.take() for _ in range(6)]
    assert order == ["greedy 0", "calm 0", "shy 0", "greedy 1", "calm 1", "greedy 2"]
    turns.close()
    assert turns.take() is None


def test_the_file_of_a_payload_stays_open_and_a_bounded_number_of_them(tmp_path: Path) -> None:
    server = Server(tmp_path)
    digests = [hashlib.sha256(bytes([number])).digest() for number in range(100)]
    for digest in digests:
        (tmp_path / digest.hex()).write_bytes(b"content")
    server.server.allow("gw-1", digests)
    before = open_files()
    assert all(server.fetch((0, 7), digest=digest) == [(0, b"content")] for digest in digests * 2)
    assert open_files() - before <= 64


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_bucket_fills_with_time_up_to_its_depth() -> None:
    buckets = Buckets(rate_per_s=2.0, depth=4.0)
    assert [buckets.take("a", 1, 0.0) for _ in range(5)] == [True, True, True, True, False]
    assert [buckets.take("a", 1, 1.0) for _ in range(3)] == [True, True, False]
    assert buckets.take("a", 4, 1000.0)
    assert not buckets.take("a", 5, 2000.0)
    assert buckets.take("b", 4, 0.0), "another peer has a bucket of its own"


def test_time_that_runs_backwards_fills_no_bucket() -> None:
    buckets = Buckets(rate_per_s=1.0, depth=1.0)
    assert buckets.take("a", 1, 100.0)
    assert not buckets.take("a", 1, 50.0)


def test_the_table_of_buckets_is_bounded() -> None:
    buckets = Buckets(rate_per_s=1.0, depth=1.0, peers_max=2)
    for peer in ("a", "b", "c"):
        buckets.take(peer, 1, 0.0)
    assert not buckets.take("c", 1, 0.0)
    assert buckets.take("a", 1, 0.0), "who fell out comes back with a full bucket"


# Through a whole bridge.


def test_a_device_may_fetch_from_its_assignment_until_its_abort(tmp_path: Path) -> None:
    fleet = FleetKit.create()
    anna, device, release = fleet.operator("anna"), fleet.device("gw-1"), fleet.make_release(PAYLOAD)
    with running_bridge(tmp_path, fleet, anna) as bridge:
        bridge.take("nb/d/gw-1/hello", device.hello())
        bridge.push(anna, release)
        bridge.fetch("gw-1", release.payload_digest, (0, 10))
        assert bridge.wire.blocks == []
        start = CampaignStart(campaign="c1", release=release.digest, devices=("gw-1",))
        bridge.take("nb/o/anna/command", anna.command(start, request_id=bytes(16)))
        bridge.workshop.loop.turn()
        bridge.fetch("gw-1", release.payload_digest, (0, 10))
        assert len(bridge.wire.blocks) == 1
        abort = CampaignAbort(campaign="c1")
        bridge.take("nb/o/anna/command", anna.command(abort, request_id=bytes([1]) * 16))
        bridge.workshop.loop.turn()
        bridge.fetch("gw-1", release.payload_digest, (0, 10))
        assert len(bridge.wire.blocks) == 1

"""The ordered stream and its window: what is asked for, when, and how often, on links of every kind."""

from __future__ import annotations

import pytest

from narrowboat_device.core.stream import ByteStream
from narrowboat_device.core.window import Window
from narrowboat_protocol.limits import DEFAULT_LIMITS, MIB


def test_late_blocks_are_asked_for_again_in_requests_that_a_bridge_answers() -> None:
    stream = ByteStream(Window(DEFAULT_LIMITS), DEFAULT_LIMITS)
    stream.want(0, 1 << 26)
    now_s, asked = 0.0, list[tuple[int, int, int]]()
    for _ in range(500):
        now_s += 0.001
        asked += _blocks(stream, now_s)
        if asked:
            offset, length, _ = asked.pop(0)
            stream.arrived(offset, bytes(length), now_s, 0.0)
    late = stream.requests(now_s + 1000)
    assert late
    for request in late:
        assert sum(length for _, length in request.ranges) <= DEFAULT_LIMITS.request_bytes_max


def _blocks(stream: ByteStream, now_s: float) -> list[tuple[int, int, int]]:
    return [
        (at, min(request.block_bytes, offset + length - at), 0)
        for request in stream.requests(now_s)
        for offset, length in request.ranges
        for at in range(offset, offset + length, request.block_bytes)
    ]


def test_a_link_on_which_a_block_takes_longer_than_patience_is_not_filled_with_repetitions() -> None:
    """One block of 16 KiB takes 15 s on this link, and what was asked for once more takes it once more."""
    stream = ByteStream(Window(DEFAULT_LIMITS), DEFAULT_LIMITS)
    blocks = 40
    stream.want(0, blocks * DEFAULT_LIMITS.block_bytes_slow)
    on_the_way: list[tuple[int, int, int]] = []
    sent = 0
    for second in range(0, 6000, 3):
        fresh = _blocks(stream, float(second))
        sent += len(fresh)
        on_the_way += fresh
        if second % 15 == 0 and on_the_way:
            offset, length, _ = on_the_way.pop(0)
            stream.arrived(offset, bytes(length), float(second), 0.0)
    assert stream.finished
    assert sent < 2 * blocks


def test_a_bridge_that_starts_anew_costs_one_wait_for_late_blocks_and_not_one_for_each_batch_it_lost() -> None:
    """Answers take 1 s, and what the bridge was asked for in the last second before it died is lost."""
    stream = ByteStream(Window(DEFAULT_LIMITS), DEFAULT_LIMITS)
    stream.want(0, 1 << 25)
    died_s, patience_s = 6.0, 4 * DEFAULT_LIMITS.sojourn_grow_s
    on_the_way: list[tuple[float, int, int]] = []
    tick, last_s = 0, 0.0
    while not stream.finished:
        tick += 1
        now_s = tick / 20
        asked = _blocks(stream, now_s)
        on_the_way += [(now_s + 1, at, size) for at, size, _ in asked if not died_s - 1 < now_s < died_s]
        arrived = [block for block in on_the_way if block[0] <= now_s][:8]
        for block in arrived:
            on_the_way.remove(block)
            stream.arrived(block[1], bytes(block[2]), now_s, 0.0)
        last_s = now_s if arrived else last_s
        assert now_s - last_s < 2 * patience_s, "the download stands still for batch after batch"


GATEWAYS: list[tuple[str, float, float, float, float, float]] = [
    # Round trip in s, bytes a second of the link and of the gateway, and the least and most that may be under way, MiB.
    ("loopback, with a disk that is slower", 0.001, 200e6, 25e6, 0.1, 1.0),
    ("a fast network near by, on a slow gateway", 0.010, 12e6, 6e6, 0.1, 1.0),
    ("a fast network far away", 0.200, 12e6, 40e6, 0.5, 0.75),
    ("a mobile network", 0.100, 1e6, 40e6, 0.5, 0.75),
    ("a narrow one", 0.600, 25e3, 40e6, 0.03, 0.15),
]


@pytest.mark.parametrize(("what", "round_trip_s", "link_rate", "own_rate", "least", "most"), GATEWAYS)
def test_a_link_is_filled_and_memory_is_not(
    what: str, round_trip_s: float, link_rate: float, own_rate: float, least: float, most: float
) -> None:
    """Blocks come one after another, as fast as the link may, and are worked off one after another."""
    stream = ByteStream(Window(DEFAULT_LIMITS), DEFAULT_LIMITS)
    stream.want(0, int(link_rate * 60) + 64 * MIB)
    under_way: list[tuple[float, int, int]] = []
    link_free_s = now_s = 0.0
    under_way_bytes = largest = 0
    for _ in range(900):
        for offset, length, _ in _blocks(stream, now_s):
            link_free_s = max(link_free_s, now_s + round_trip_s) + length / link_rate
            under_way.append((link_free_s, offset, length))
        under_way_bytes = sum(length for *_, length in under_way)
        largest = max(largest, under_way_bytes)
        arrived_s, offset, length = under_way.pop(0)
        now_s = max(now_s, arrived_s) + length / own_rate
        stream.arrived(offset, bytes(length), now_s, now_s - arrived_s)
    assert least * MIB <= under_way_bytes, f"{what}: the window stays at {under_way_bytes} bytes"
    assert largest <= most * MIB, f"{what}: {largest} bytes are asked for at once"

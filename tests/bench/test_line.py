"""The emulated line: what it does to packets, without a device."""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.bench.line import Direction, Shape, flow_of, reset_for

PACKET = bytes(1000)
SHAPE = Shape(rate_bits_per_s=80_000, round_trip_s=0.2)
"""10,000 bytes a second: one packet takes 0.1 s to leave, and as long to arrive."""


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    reading, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reading.setblocking(False)
    with reading, writing:
        yield reading.fileno(), writing.fileno()


def arrivals(direction: Direction, reading: int, times_s: list[float]) -> list[int]:
    """How many packets have arrived by each time."""
    counts, arrived = [], 0
    for now_s in times_s:
        direction.deliver(now_s)
        try:
            while os.read(reading, 2000):
                arrived += 1
        except BlockingIOError:
            counts.append(arrived)
    return counts


def test_packets_leave_one_after_the_other_and_arrive_half_a_round_trip_later(ends: tuple[int, int]) -> None:
    reading, writing = ends
    direction = Direction(SHAPE, SHAPE.queue_bytes, random.Random(1), writing)
    for _ in range(3):
        direction.take(PACKET, 0.0)
    assert arrivals(direction, reading, [0.19, 0.21, 0.31, 0.41, 9.0]) == [0, 1, 2, 3, 3]
    assert direction.arrived_bytes == 3 * len(PACKET)


def test_a_full_queue_drops_what_comes(ends: tuple[int, int]) -> None:
    reading, writing = ends
    direction = Direction(SHAPE, 2500, random.Random(1), writing)
    for _ in range(10):
        direction.take(PACKET, 0.0)
    assert arrivals(direction, reading, [9.0]) == [2]


def test_a_seed_loses_its_share_and_the_same_packets_each_time(ends: tuple[int, int]) -> None:
    reading, writing = ends
    shape = Shape(10**9, 0.0, loss=0.05)
    losses = []
    for _ in range(2):
        direction = Direction(shape, 10**9, random.Random(7), writing)
        kept = []
        for _number in range(1000):
            direction.take(b"x", 0.0)
            kept.append(arrivals(direction, reading, [1.0])[0])
        losses.append(kept)
    assert losses[0] == losses[1]
    assert 20 <= 1000 - sum(losses[0]) <= 80


def segment(source: bytes, destination: bytes, flags: int, acknowledged: int) -> bytes:
    tcp = struct.pack(">HHIIBBHHH", 40_000, 8883, 5, acknowledged, 5 << 4, flags, 1000, 0, 0)
    return struct.pack(">BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0) + source + destination + tcp


def checksum_holds(data: bytes) -> bool:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total == 0xFFFF


def test_what_comes_of_a_connection_that_is_gone_is_reset_where_its_sender_expects_it() -> None:
    ours, theirs = bytes([10, 78, 1, 1]), bytes([10, 78, 0, 1])
    packet = segment(ours, theirs, 0x10, acknowledged=77)
    reset = reset_for(packet)
    assert flow_of(reset) == flow_of(packet) != flow_of(segment(theirs, bytes(4), 0x10, 0))
    assert (reset[12:16], reset[16:20]) == (theirs, ours)
    assert struct.unpack(">HHI", reset[20:28]) == (8883, 40_000, 77)
    assert reset[33] == 0x04
    assert checksum_holds(reset[:20])
    assert checksum_holds(reset[12:20] + struct.pack(">BBH", 0, 6, 20) + reset[20:])

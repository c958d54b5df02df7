"""The relay that stands for a link: it may be slow and break, but it never changes, hoards or invents a byte.

The pacing is tested on its own schedule, where time is an argument; nothing here measures speed.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.processes import wait_for
from tests.support.relay import LinkShape, RelayThread, _Direction

_DEADLINE_S = 20.0


@pytest.fixture
def target() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(_DEADLINE_S)
        yield listener


def _connect(relay: RelayThread, target: socket.socket) -> tuple[socket.socket, socket.socket]:
    """The two ends of one connection through the relay."""
    near = socket.create_connection(("127.0.0.1", relay.port), _DEADLINE_S)
    far, _ = target.accept()
    far.settimeout(_DEADLINE_S)
    return near, far


def _call_in_vain(relay: RelayThread) -> None:
    """Connect and wait for a word; the reset may come at either."""
    with socket.create_connection(("127.0.0.1", relay.port), _DEADLINE_S) as caller:
        caller.recv(1)


@pytest.mark.parametrize(
    ("pieces", "departures_s"),
    [
        ([(1_000_000, 0.0)], [1.0]),
        ([(500_000, 0.0), (500_000, 0.0)], [0.5, 1.0]),
        ([(500_000, 0.0), (500_000, 0.2)], [0.5, 1.0]),
        ([(500_000, 0.0), (500_000, 3.0)], [0.5, 3.5]),
    ],
    ids=["alone", "queued", "late but still behind", "after a pause"],
)
def test_eight_megabits_carry_a_megabyte_a_second(pieces: list[tuple[int, float]], departures_s: list[float]) -> None:
    direction = _Direction(LinkShape(rate_bits_per_s=8e6))
    assert [direction.departure_s(size, now_s) for size, now_s in pieces] == pytest.approx(departures_s)


@pytest.mark.parametrize(
    "shape", [LinkShape(), LinkShape(rate_bits_per_s=80e6, round_trip_s=0.02)], ids=["bare", "shaped"]
)
def test_every_byte_arrives_once_and_in_order(target: socket.socket, shape: LinkShape) -> None:
    up, down = (bytes([seed]) + bytes(range(256)) * 1200 for seed in (1, 2))
    with RelayThread(target.getsockname()[1], shape) as relay:
        near, far = _connect(relay, target)
        with near, far:
            senders = [threading.Thread(target=end.sendall, args=(data,)) for end, data in ((near, up), (far, down))]
            for sender in senders:
                sender.start()
            got_up, got_down = bytearray(), bytearray()
            while len(got_up) < len(up) or len(got_down) < len(down):
                got_up += far.recv(65536) if len(got_up) < len(up) else b""
                got_down += near.recv(65536) if len(got_down) < len(down) else b""
            for sender in senders:
                sender.join()
        assert (bytes(got_up), bytes(got_down)) == (up, down)
        wait_for(
            lambda: (relay.counts.up_bytes, relay.counts.down_bytes) == (len(up), len(down)),
            _DEADLINE_S,
            "every byte to be counted once",
        )
        assert relay.counts.connections == 1


def test_a_cut_resets_both_sides(target: socket.socket) -> None:
    with RelayThread(target.getsockname()[1]) as relay:
        near, far = _connect(relay, target)
        with near, far:
            near.sendall(b"hello")
            assert far.recv(5) == b"hello"
            relay.cut()
            for end in (near, far):
                with pytest.raises(ConnectionResetError):
                    end.recv(1)


def test_a_link_that_breaks_every_so_often_breaks_by_itself(target: socket.socket) -> None:
    with RelayThread(target.getsockname()[1], LinkShape(cut_every_s=0.05)) as relay:
        near, far = _connect(relay, target)
        with near, far, pytest.raises(ConnectionResetError):
            near.recv(1)


def test_a_dark_link_lets_nobody_through_until_it_is_mended(target: socket.socket) -> None:
    with RelayThread(target.getsockname()[1]) as relay:
        relay.darken()
        with pytest.raises(ConnectionResetError):
            _call_in_vain(relay)
        relay.mend()
        near, far = _connect(relay, target)
        with near, far:
            near.sendall(b"back")
            assert far.recv(4) == b"back"
        wait_for(lambda: relay.counts.up_bytes == len(b"back"), _DEADLINE_S, "the bytes to be counted")


def test_what_is_under_way_is_bounded_by_the_link() -> None:
    assert LinkShape().on_its_way_bytes_max == 64 * 1024
    assert LinkShape(rate_bits_per_s=8e6, round_trip_s=0.1).on_its_way_bytes_max == 200_000

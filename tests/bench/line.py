"""A bad line, and a network namespace at its far end: `python -m tests.bench.line PID NAME ...`.

Kernels of build machines seldom have netem, so the line is this process: it joins two TUN devices, one here and one in
the namespace of a waiting process, and carries packets between them. Real kernel TCP runs over it, with its own
retransmissions and congestion control. Each direction has

    a rate       packets leave one after the other; those that wait stand in a queue of so many bytes, and what comes
                 while it is full is dropped, as a router drops
    a delay      half of the round trip, the same for every packet
    a loss       each packet is lost by itself, by a seeded source

Every `cut_every_s` the line is gone for `CUT_S`, and nothing that was on it arrives. Both ends of each connection are
reset at once, as by a modem that has lost its session, and what still comes of it is answered with a reset.

Everything needs root and /dev/net/tun, and nothing outside the namespaces is touched.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import Child, Children, wait_for
from tests.support.tools import require_tool

NEAR = "10.78.0.1"
CUT_S = 1.0
_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_TUN_NO_INFO = 0x1001
_PACKET_BYTES_MAX = 65_536
_PACKETS_AT_ONCE = 64
_START_S = 10.0
_TCP, _SYN, _RST = 6, 0x02, 0x04
_libc = ctypes.CDLL(None, use_errno=True)

Flow = frozenset[bytes]
_NO_FLOW: Flow = frozenset()


@dataclass(frozen=True, slots=True)
class Shape:
    """What a line is like, in both directions."""

    rate_bits_per_s: int
    round_trip_s: float
    loss: float = 0.0
    cut_every_s: float = 0.0

    @property
    def queue_bytes(self) -> int:
        """Twice what the line holds, or what a small router has."""
        return max(2 * int(self.rate_bits_per_s / 8 * self.round_trip_s), 65_536)

    def words(self) -> str:
        cuts = f", cut every {self.cut_every_s:.0f} s" if self.cut_every_s else ""
        rate = f"{self.rate_bits_per_s / 1e6:g} Mbit/s"
        return f"{rate}, {self.round_trip_s * 1000:.0f} ms, {self.loss * 100:.0f} % loss{cuts}"


def leave_network() -> None:
    """Go on in a new network namespace, where there is nothing but ourselves under the address `NEAR`. Needs root."""
    _new_namespace()
    _ip("addr", "add", f"{NEAR}/32", "dev", "lo")


class FarEnd:
    """The namespace behind a line, and the line. From there we are `NEAR`, as from everywhere."""

    def __init__(self, children: Children, number: int, shape: Shape, seed: int, congestion: str) -> None:
        self._children = children
        self._status = children.folder / f"line-{number}.json"
        name, address = f"nb{number}", f"10.78.1.{number}"
        self._holder = children.start(f"far-{number}", [sys.executable, "-m", "tests.bench.line", "hold"])
        wait_for(lambda: _namespace(self._holder.pid) != _namespace(os.getpid()), _START_S, "a namespace")
        command = [
            sys.executable, "-m", "tests.bench.line", "join", str(self._holder.pid), name, name,
            str(shape.rate_bits_per_s), str(shape.round_trip_s), str(shape.loss), str(shape.queue_bytes),
            str(shape.cut_every_s), str(seed), str(self._status),
        ]  # fmt: skip
        self._line: Child = children.start(f"line-{number}", command)
        wait_for(lambda: _there_is([], name) and _there_is(self.within, name), _START_S, f"the device {name}")
        for place, other in (([], address), (self.within, NEAR)):
            self._set_up(place, "link", "set", name, "up")
            if place:
                self._set_up(place, "addr", "add", f"{address}/32", "dev", name)
            self._set_up(place, "route", "add", f"{other}/32", "dev", name, "congctl", congestion)

    @property
    def within(self) -> list[str]:
        """What a command begins with that shall run at the far end."""
        return [require_tool("nsenter"), f"--net=/proc/{self._holder.pid}/ns/net"]

    def close(self) -> int:
        """End it; how many bytes of packets arrived at the far end."""
        for child in (self._line, self._holder):
            child.stop()
            self._children.forget(child)
        return int(json.loads(self._status.read_text())["arrived_bytes"])

    def _set_up(self, place: list[str], *arguments: str) -> None:
        subprocess.run([*place, require_tool("ip"), *arguments], check=True)


class Direction:
    """One way of the line: what is on it, in the order in which it arrives."""

    def __init__(self, shape: Shape, queue_bytes: int, rng: random.Random, target: int) -> None:
        self._bytes_per_s = shape.rate_bits_per_s / 8
        self._delay_s = shape.round_trip_s / 2
        self._loss = shape.loss
        self._queue_bytes = queue_bytes
        self._rng = rng
        self._target = target
        self._free_s = 0.0
        self._flying: deque[tuple[float, bytes]] = deque()
        self.arrived_bytes = 0

    @property
    def due_s(self) -> float | None:
        return self._flying[0][0] if self._flying else None

    def take(self, packet: bytes, now_s: float) -> None:
        if self._rng.random() < self._loss:
            return
        free_s = max(self._free_s, now_s)
        if (free_s - now_s) * self._bytes_per_s + len(packet) > self._queue_bytes:
            return
        self._free_s = free_s + len(packet) / self._bytes_per_s
        self._flying.append((self._free_s + self._delay_s, packet))

    def deliver(self, now_s: float) -> None:
        while self._flying and self._flying[0][0] <= now_s:
            packet = self._flying.popleft()[1]
            self.arrived_bytes += len(packet)
            _give(self._target, packet)

    def lose(self) -> None:
        self._flying.clear()
        self._free_s = 0.0


class Line:
    """Both ways, and the cuts."""

    def __init__(self, shape: Shape, queue_bytes: int, seed: int, ends: tuple[int, int]) -> None:
        self._ends = ends
        first, second = ends
        rng = random.Random(seed)
        self._from = {
            first: Direction(shape, queue_bytes, rng, second),
            second: Direction(shape, queue_bytes, rng, first),
        }
        self._cut_every_s = shape.cut_every_s
        self._cut_s = time.monotonic() + shape.cut_every_s if shape.cut_every_s else float("inf")
        self._back_s = 0.0
        self._newest: dict[Flow, dict[int, bytes]] = {}
        """Of each connection since the last cut: the newest packet that came from each end."""

    @property
    def arrived_bytes(self) -> int:
        """At the far end."""
        return self._from[self._ends[0]].arrived_bytes

    def run(self) -> None:
        while True:
            now_s = time.monotonic()
            if now_s >= self._cut_s:
                self._cut(now_s)
            for direction in self._from.values():
                direction.deliver(now_s)
            dues = [due for direction in self._from.values() if (due := direction.due_s) is not None]
            wait_s = max(0.0, min([*dues, self._cut_s, now_s + 1.0]) - time.monotonic())
            for end in select.select(self._ends, (), (), wait_s)[0]:
                self._read(end)

    def _cut(self, now_s: float) -> None:
        self._cut_s, self._back_s = now_s + self._cut_every_s, now_s + CUT_S
        for direction in self._from.values():
            direction.lose()
        for newest in self._newest.values():
            for end, packet in newest.items():
                _give(end, reset_for(packet))
        self._newest.clear()

    def _read(self, end: int) -> None:
        for _ in range(_PACKETS_AT_ONCE):
            try:
                packet = os.read(end, _PACKET_BYTES_MAX)
            except BlockingIOError:
                return
            now_s = time.monotonic()
            flow = flow_of(packet)
            if flow and not self._knows(flow, packet):
                _give(end, reset_for(packet))
            elif now_s >= self._back_s:
                if flow:
                    self._newest.setdefault(flow, {})[end] = packet
                self._from[end].take(packet, now_s)

    def _knows(self, flow: Flow, packet: bytes) -> bool:
        return flow in self._newest or bool(_flags_of(packet) & (_SYN | _RST))


def flow_of(packet: bytes) -> Flow:
    """The two ends of a TCP connection (RFC 791, RFC 9293); nothing for anything else."""
    if packet[0] >> 4 != 4 or packet[9] != _TCP:
        return _NO_FLOW
    start = (packet[0] & 15) * 4
    return frozenset({packet[12:16] + packet[start : start + 2], packet[16:20] + packet[start + 2 : start + 4]})


def _flags_of(packet: bytes) -> int:
    return packet[(packet[0] & 15) * 4 + 13]


def reset_for(packet: bytes) -> bytes:
    """What a host says to a segment of a connection that it does not have (RFC 9293 section 3.10.7.1)."""
    start = (packet[0] & 15) * 4
    source, destination = packet[12:16], packet[16:20]
    ports, acknowledged = packet[start + 2 : start + 4] + packet[start : start + 2], packet[start + 8 : start + 12]
    segment = ports + acknowledged + bytes(4) + struct.pack(">BBHHH", 5 << 4, _RST, 0, 0, 0)
    pseudo = destination + source + struct.pack(">BBH", 0, _TCP, len(segment))
    segment = segment[:16] + _checksum(pseudo + segment) + segment[18:]
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0, 64, _TCP, 0) + destination + source
    return header[:10] + _checksum(header) + header[12:] + segment


def _checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", ~total & 0xFFFF)


def _give(end: int, packet: bytes) -> None:
    try:
        os.write(end, packet)
    except OSError:
        return  # a device that is not up yet takes nothing, like a cable that is not plugged in


def _open_tun(name: str) -> int:
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TUN_NO_INFO))
    return end


def _new_namespace() -> None:
    _check(_libc.unshare(_CLONE_NEWNET), "a network namespace of our own")
    _ip("link", "set", "lo", "up")


def _namespace(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def _there_is(place: list[str], device: str) -> bool:
    command = [*place, require_tool("ip"), "link", "show", device]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"expected {what}, which needs root")


def _ip(*arguments: str) -> None:
    subprocess.run([require_tool("ip"), *arguments], check=True)


def _hold() -> None:
    """Keep a namespace open until somebody ends this process."""
    _new_namespace()
    select.select((), (), ())


def _join(given: argparse.Namespace) -> None:
    near = _open_tun(given.near)
    with Path(f"/proc/{given.pid}/ns/net").open() as namespace:
        _check(_libc.setns(namespace.fileno(), _CLONE_NEWNET), "to enter the namespace at the far end")
    far = _open_tun(given.far)
    shape = Shape(given.rate, given.round_trip, given.loss, given.cut_every)
    line = Line(shape, given.queue, given.seed, (near, far))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        line.run()
    finally:
        given.status.write_text(json.dumps({"arrived_bytes": line.arrived_bytes}))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.line")
    what = parser.add_subparsers(required=True, dest="what")
    what.add_parser("hold")
    join = what.add_parser("join")
    for name, kind in (
        ("pid", int), ("near", str), ("far", str), ("rate", int), ("round_trip", float), ("loss", float),
        ("queue", int), ("cut_every", float), ("seed", int), ("status", Path),
    ):  # fmt: skip
        join.add_argument(name, type=kind)
    given = parser.parse_args()
    if given.what == "hold":
        _hold()
    else:
        _join(given)


if __name__ == "__main__":
    main()

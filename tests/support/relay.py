r"""A flaky link without privileges: a TCP relay with a rate, a round trip and cuts.

    python -m tests.support.relay --port 9000 --to 127.0.0.1:8883 --rate 8e6 --round-trip 0.1 --cut-every 5 \
        --status relay.json

Each direction has its own rate, shared by all connections, and delays every piece by half the round trip. What is on
its way is bounded by twice the bandwidth-delay product (or 64 KiB), and socket buffers are small, so that a sender
feels the link and not the relay's memory. A cut resets both sides (SO_LINGER 0), as a router that forgot a connection
does. The relay shapes TCP streams, not packets: there is no loss and no congestion control to study here; the link
laboratory does that.

It may be hostile as well: carry a byte at a time, reset the first connections after so many bytes, or abandon those
that stand, which then carry nothing and never end, as behind a router that lost its table and drops what it does not
know.

`Relay` runs in the event loop of its caller; `RelayThread` gives it a loop of its own, for tests that cut, darken,
stall and mend it at will.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

_PIECE_BYTES = 8 * 1024
_SOCKET_BUFFER_BYTES = 64 * 1024
_RESET = struct.pack("ii", 1, 0)
_STATUS_S = 0.2
_END_S = 1.0


@dataclass(slots=True)
class Counts:
    """What the relay has carried. Down is from the server to the client."""

    connections: int = 0
    up_bytes: int = 0
    down_bytes: int = 0


@dataclass(frozen=True, slots=True)
class LinkShape:
    """One link. A rate of 0 is no limit; `cut_every_s` 0 is never; `piece_bytes` is the most that crosses at once."""

    rate_bits_per_s: float = 0.0
    round_trip_s: float = 0.0
    cut_every_s: float = 0.0
    piece_bytes: int = _PIECE_BYTES

    @property
    def on_its_way_bytes_max(self) -> int:
        return max(64 * 1024, int(2 * self.rate_bits_per_s / 8 * self.round_trip_s))


@dataclass(slots=True)
class _Direction:
    """The rate that all streams of one direction share."""

    shape: LinkShape
    free_at_s: float = 0.0

    def departure_s(self, size_bytes: int, now_s: float) -> float:
        """When a piece has left the link's near end."""
        if self.shape.rate_bits_per_s:
            self.free_at_s = max(self.free_at_s, now_s) + size_bytes * 8 / self.shape.rate_bits_per_s
            return self.free_at_s
        return now_s


@dataclass(slots=True)
class Relay:
    """Listens on `port` (0: any) and relays to `host:to_port`."""

    host: str
    to_port: int
    shape: LinkShape
    port: int = 0
    counts: Counts = field(default_factory=Counts)
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _up: _Direction = field(init=False)
    _down: _Direction = field(init=False)
    _is_dark: bool = False
    _stall_at_bytes: int | None = None
    _resets_left: int = 0
    _reset_after_bytes: int = 0
    _abandoned: set[asyncio.StreamWriter] = field(default_factory=set)
    _down_flows: asyncio.Event = field(default_factory=asyncio.Event)
    _up_flows: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._up, self._down = _Direction(self.shape), _Direction(self.shape)
        self._down_flows.set()
        self._up_flows.set()

    async def start(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
        self.port = listener.getsockname()[1]
        self._server = await asyncio.start_server(self._accepted, sock=listener, limit=_PIECE_BYTES)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Reset every connection, on both sides."""
        _reset_all(set(self._writers))

    def darken(self) -> None:
        """Reset every connection and every one that is tried, until `mend`."""
        self._is_dark = True
        self.cut()

    def mend(self) -> None:
        self._is_dark = False

    def reset_early(self, connections: int, up_bytes: int) -> None:
        """Reset each of the next connections once the client has sent so many bytes."""
        self._resets_left, self._reset_after_bytes = connections, up_bytes

    def abandon(self) -> None:
        """Carry nothing more on the connections that stand, and end none of them."""
        self._abandoned |= self._writers

    def stall_at(self, down_bytes: int | None) -> None:
        """Take nothing more from the server once so many bytes have gone down, without ending a connection; None lets
        all flow again.
        """
        self._stall_at_bytes = down_bytes
        self._down_flows.set()
        self._count_down(0)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts.connections += 1
        budget_bytes = None
        if self._resets_left:
            self._resets_left -= 1
            budget_bytes = self._reset_after_bytes
        if self._is_dark or budget_bytes == 0:
            _reset(writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(self.host, self.to_port, limit=_PIECE_BYTES)
        except OSError:
            _reset(writer)
            return
        pair = {writer, far_writer}
        for one in pair:
            one.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
            one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        far_writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
        self._writers |= pair
        cut = self._cut_later(pair)
        try:
            await asyncio.gather(
                self._carry(reader, far_writer, self._up, self._up_flows, self._count_up, budget_bytes),
                self._carry(far_reader, writer, self._down, self._down_flows, self._count_down),
            )
        finally:
            if cut is not None:
                cut.cancel()
            self._writers -= pair
            self._abandoned -= pair
            for one in pair:
                _reset(one)

    def _cut_later(self, pair: set[asyncio.StreamWriter]) -> asyncio.TimerHandle | None:
        if not self.shape.cut_every_s:
            return None
        return asyncio.get_running_loop().call_later(self.shape.cut_every_s, _reset_all, pair)

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: _Direction,
        flows: asyncio.Event,
        count: Callable[[int], None],
        budget_bytes: int | None = None,
    ) -> None:
        """Read pieces as the link takes them; a task of its own hands each out when it has crossed. Once `budget_bytes`
        have crossed, the connection is reset.
        """
        loop = asyncio.get_running_loop()
        crossing: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue(
            max(1, self.shape.on_its_way_bytes_max // _PIECE_BYTES)
        )
        arriving = asyncio.create_task(_hand_out(crossing, writer, count))
        try:
            while True:
                await flows.wait()
                piece = await reader.read(min(self.shape.piece_bytes, budget_bytes or _PIECE_BYTES))
                if writer in self._abandoned:
                    await asyncio.Event().wait()  # until the relay ends
                if not piece:
                    break
                departure_s = direction.departure_s(len(piece), loop.time())
                item = (departure_s + self.shape.round_trip_s / 2, piece)
                if not await _put(crossing, item, arriving):
                    return
                if budget_bytes is not None:
                    budget_bytes -= len(piece)
                    if not budget_bytes:
                        await _put(crossing, None, arriving)
                        await arriving
                        raise ConnectionResetError
            await _put(crossing, None, arriving)
            await arriving
        except OSError:
            _reset(writer)  # what broke on one side breaks on the other
        finally:
            arriving.cancel()
            with suppress(OSError, asyncio.CancelledError):
                await arriving

    def _count_up(self, size: int) -> None:
        self.counts.up_bytes += size

    def _count_down(self, size: int) -> None:
        self.counts.down_bytes += size
        if self._stall_at_bytes is not None and self.counts.down_bytes >= self._stall_at_bytes:
            self._down_flows.clear()


async def _put(
    crossing: asyncio.Queue[tuple[float, bytes] | None], item: tuple[float, bytes] | None, arriving: asyncio.Task[None]
) -> bool:
    """Queue a piece; False when nobody takes pieces any more, for a full queue would be waited for without end."""
    putting = asyncio.ensure_future(crossing.put(item))
    try:
        await asyncio.wait({putting, arriving}, return_when=asyncio.FIRST_COMPLETED)
        return not arriving.done()
    finally:
        putting.cancel()


async def _hand_out(
    crossing: asyncio.Queue[tuple[float, bytes] | None], writer: asyncio.StreamWriter, count: Callable[[int], None]
) -> None:
    loop = asyncio.get_running_loop()
    try:
        while (item := await crossing.get()) is not None:
            arrives_s, piece = item
            await asyncio.sleep(arrives_s - loop.time())
            writer.write(piece)
            count(len(piece))
            await writer.drain()
    finally:
        while not crossing.empty():  # whoever waits for room is to see that this has ended
            crossing.get_nowait()
    with suppress(OSError, RuntimeError):
        writer.write_eof()


def _reset_all(writers: set[asyncio.StreamWriter]) -> None:
    for writer in writers:
        _reset(writer)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


class RelayThread:
    """A relay in a thread of its own. Its methods may be called from the test's thread."""

    def __init__(self, to_port: int, shape: LinkShape = LinkShape(), host: str = "127.0.0.1") -> None:
        self._loop = asyncio.new_event_loop()
        self._relay = Relay(host, to_port, shape)
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._relay.start(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        """Close the relay and everything that is still on its way."""
        await self._relay.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            # Most end by themselves, since their connections were reset.
            await asyncio.wait(others, timeout=_END_S)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    @property
    def port(self) -> int:
        return self._relay.port

    @property
    def counts(self) -> Counts:
        return self._relay.counts

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._relay.cut)

    def darken(self) -> None:
        self._loop.call_soon_threadsafe(self._relay.darken)

    def mend(self) -> None:
        self._loop.call_soon_threadsafe(self._relay.mend)

    def reset_early(self, connections: int, up_bytes: int) -> None:
        self._loop.call_soon_threadsafe(self._relay.reset_early, connections, up_bytes)

    def abandon(self) -> None:
        self._loop.call_soon_threadsafe(self._relay.abandon)

    def stall_at(self, down_bytes: int | None) -> None:
        self._loop.call_soon_threadsafe(self._relay.stall_at, down_bytes)


def read_counts(path: Path) -> Counts:
    """What a relay process has carried so far."""
    return Counts(**json.loads(path.read_text())) if path.exists() else Counts()


async def _run(relay: Relay, status: Path) -> None:
    await relay.start()
    while True:
        fresh = status.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(relay.counts)))
        fresh.replace(status)
        await asyncio.sleep(_STATUS_S)


def main() -> None:
    parser = argparse.ArgumentParser(prog="relay", description="a TCP relay that behaves like a narrow, broken link")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    parser.add_argument("--rate", type=float, default=0.0, help="bits per second")
    parser.add_argument("--round-trip", type=float, default=0.0, help="seconds")
    parser.add_argument("--cut-every", type=float, default=0.0, help="seconds")
    parser.add_argument("--status", type=Path, required=True, help="file for the counts, JSON")
    given = parser.parse_args()
    host, _, port = given.to.rpartition(":")
    shape = LinkShape(given.rate, given.round_trip, given.cut_every)
    asyncio.run(_run(Relay(host, int(port), shape, given.port), given.status))


if __name__ == "__main__":
    main()

"""An ordered stream of a payload's bytes, over requests that may be lost and answers that come in any order.

A stream is told which stretches of a payload it shall bring. It cuts them into blocks, keeps as many outstanding as the
window allows, asks again for those that are late, holds those that come early, and hands out bytes strictly in order.
Nothing here knows what the bytes mean. When the link is lost, everything outstanding is asked for again on the next
one; what has come early is kept.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush

from narrowboat_protocol.limits import Limits
from narrowboat_protocol.topics import Channel

from .window import Window

Range = tuple[int, int]
"""Offset and length, in bytes of the payload."""

_TRIES_BEFORE_ANY = 2


@dataclass(slots=True)
class _Outstanding:
    length: int
    sent_at_s: float
    late_at_s: float
    tries: int


@dataclass(frozen=True, slots=True)
class Request:
    """One fetch: ranges to ask for, cut into blocks of `block_bytes`."""

    ranges: tuple[Range, ...]
    block_bytes: int
    channel: Channel


class ByteStream:
    """Brings stretches of one payload in order, which must ascend.

    What came early counts against the window only for new bytes: the block that all of it waits for is always asked
    for.
    """

    __slots__ = ("_again", "_early", "_limits", "_outstanding", "_stretches", "_to_ask", "_window")

    def __init__(self, window: Window, limits: Limits) -> None:
        self._window = window
        self._limits = limits
        self._stretches: deque[Range] = deque()
        """What is still to be handed out, as (offset, end)."""
        self._to_ask: deque[Range] = deque()
        """What was never asked for, as (offset, end)."""
        self._again: list[tuple[int, int, int]] = []
        """Blocks to ask for again, a heap with the one needed first on top: (offset, length, tries so far)."""
        self._outstanding: dict[int, _Outstanding] = {}
        self._early: dict[int, bytes | memoryview] = {}

    def want(self, offset: int, end: int) -> None:
        """Append a stretch of the payload, [offset, end)."""
        if offset < end:
            self._stretches.append((offset, end))
            self._to_ask.append((offset, end))

    @property
    def finished(self) -> bool:
        return not self._stretches

    @property
    def late_at_s(self) -> float | None:
        """When the first outstanding block becomes late."""
        if not self._outstanding:
            return None
        return min(block.late_at_s for block in self._outstanding.values())

    def drop(self) -> None:
        """Forget everything that was wanted; answers on their way are then ignored."""
        self._stretches.clear()
        self._to_ask.clear()
        self._again.clear()
        self._outstanding.clear()
        self._early.clear()

    def link_lost(self) -> None:
        """What is outstanding will not come any more."""
        for offset, block in self._outstanding.items():
            heappush(self._again, (offset, block.length, 0))
        self._outstanding.clear()
        self._window.link_lost()

    def requests(self, now_s: float) -> list[Request]:
        """What to ask for now. Call after every event; it answers with nothing while the window is full."""
        self._find_late(now_s)
        room = self._window.blocks - len(self._outstanding)
        if room < max(1, self._window.blocks // 4) and self._outstanding:
            return []
        requests = [request for request in (self._ask_again(room, now_s),) if request is not None]
        room = self._window.blocks - len(self._outstanding) - len(self._early)
        while room > 0 and self._to_ask:
            request, count = self._ask_new(room, now_s)
            requests.append(request)
            room -= count
        if requests:
            self._window.requested(now_s)
        return requests

    def arrived(
        self, offset: int, data: bytes | memoryview, now_s: float, waited_s: float
    ) -> list[tuple[int, bytes | memoryview]]:
        """Take a block; return what is next in order, as (offset, data). What was not asked for is ignored. The block
        came `waited_s` ago.
        """
        block = self._outstanding.get(offset)
        if block is None or block.length != len(data):
            return []
        del self._outstanding[offset]
        if block.tries == 1:
            self._window.arrived(now_s - block.sent_at_s, waited_s, len(data), now_s)
        self._early[offset] = data
        ready: list[tuple[int, bytes | memoryview]] = []
        while self._stretches and (piece := self._early.pop(self._stretches[0][0], None)) is not None:
            start, end = self._stretches[0]
            ready.append((start, piece))
            if start + len(piece) == end:
                self._stretches.popleft()
            else:
                self._stretches[0] = (start + len(piece), end)
        return ready

    def _find_late(self, now_s: float) -> None:
        late = [offset for offset, block in self._outstanding.items() if now_s >= block.late_at_s]
        for offset in late:
            block = self._outstanding.pop(offset)
            heappush(self._again, (offset, block.length, block.tries))
        if late:
            self._window.was_late()

    def _ask_again(self, room: int, now_s: float) -> Request | None:
        """Late blocks keep the cuts they had, one range each, since their neighbours may have arrived."""
        blocks: list[tuple[int, int, int]] = []
        count = min(room, self._limits.ranges_per_request_max)
        bytes_left = self._limits.request_bytes_max
        while len(blocks) < count and self._again and self._again[0][1] <= bytes_left:
            blocks.append(heappop(self._again))
            bytes_left -= blocks[-1][1]
        if not blocks:
            return None
        late_at_s = now_s + self._window.late_after_s
        for offset, length, tries in blocks:
            self._outstanding[offset] = _Outstanding(length, now_s, late_at_s, tries + 1)
        channel = Channel.GET_ANY if max(tries for *_, tries in blocks) >= _TRIES_BEFORE_ANY else Channel.GET
        largest = max(length for _, length, _ in blocks)
        return Request(
            tuple((offset, length) for offset, length, _ in blocks),
            max(largest, self._limits.block_bytes_slow),
            channel,
        )

    def _ask_new(self, room: int, now_s: float) -> tuple[Request, int]:
        """One contiguous range from the first stretch, as many blocks as fit the room and one request."""
        block_bytes = self._window.block_bytes
        offset, end = self._to_ask[0]
        stop = min(end, offset + block_bytes * min(room, self._limits.request_bytes_max // block_bytes))
        if stop == end:
            self._to_ask.popleft()
        else:
            self._to_ask[0] = (stop, end)
        cuts = range(offset, stop, block_bytes)
        late_at_s = now_s + self._window.late_after_s
        for at in cuts:
            self._outstanding[at] = _Outstanding(min(block_bytes, stop - at), now_s, late_at_s, 1)
        return Request(((offset, stop - offset),), block_bytes, Channel.GET), len(cuts)

"""The one queue between everything that happens on a gateway and the loop that handles it.

It is bounded in three ways, because three kinds of source feed it. Our own parts put one event for each
thing that they were asked to do, so what they may have waiting is bounded by what was asked, and `put`
neither waits nor drops. Data blocks are the bulk, and worth least: whatever is dropped is asked for again,
so `offer_block` drops when more bytes wait than a whole window, or more blocks than any window cuts it into
(a broker may send empty ones). And documents come from a peer, who may
send without end: `put_from_peer` waits for room, and the connection's own flow control pushes the wait back
to who sends. Nothing that decides anything is ever dropped.

A signal handler may close it in the middle of any other method, since the lock lets its owner in again. One that comes
between a look at the queue and the wait for more wakes nobody, so `get` looks again every second.
"""

from __future__ import annotations

from collections import deque
from threading import Condition

from .core.events import BlockArrived, Event

_PEER_EVENTS_MAX = 64
_BLOCKS_MAX = 2048
_LOOK_AGAIN_S = 1.0


class InboxClosedError(Exception):
    """Nothing more comes out: the loop is to end."""


class Inbox:
    """A queue of events. Everything but `get` may be called from any thread."""

    def __init__(self, block_bytes_max: int) -> None:
        self._block_bytes_max = block_bytes_max
        self._block_bytes = 0
        self._blocks = 0
        self._peer_events = 0
        self._events: deque[tuple[Event, bool]] = deque()
        self._changed = Condition()
        self._closed = False
        self._failure: BaseException | None = None

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: Event) -> None:
        """An event of our own parts."""
        with self._changed:
            self._events.append((event, False))
            self._changed.notify_all()

    def put_from_peer(self, event: Event) -> None:
        """A document that a peer sent. Waits for room."""
        with self._changed:
            self._changed.wait_for(lambda: self._peer_events < _PEER_EVENTS_MAX or self._closed)
            self._peer_events += 1
            self._events.append((event, True))
            self._changed.notify_all()

    def offer_block(self, block: BlockArrived) -> None:
        """A data block from the network; dropped when too many wait."""
        with self._changed:
            if self._has_room(block):
                self._append_block(block)

    def put_block(self, block: BlockArrived) -> None:
        """A data block from a file, which can wait for room."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_room(block) or self._closed)
            self._append_block(block)

    def get(self, timeout_s: float | None) -> Event | None:
        """The oldest event; None if there is none in time. Raises `InboxClosedError`, or what a thread
        failed with.
        """
        with self._changed:
            self._wait(timeout_s)
            if self._failure is not None:
                raise self._failure
            if self._closed:
                raise InboxClosedError
            if not self._events:
                return None
            event, from_peer = self._events.popleft()
            if from_peer:
                self._peer_events -= 1
            elif isinstance(event, BlockArrived):
                self._block_bytes -= len(event.message)
                self._blocks -= 1
            self._changed.notify_all()
            return event

    def fail(self, error: BaseException) -> None:
        """A thread met a mistake of ours: the loop is to end with it, and the service to start anew."""
        self._failure = error
        self.close()

    def close(self) -> None:
        self._closed = True
        with self._changed:
            self._changed.notify_all()

    def _wait(self, timeout_s: float | None) -> None:
        """Until there is an event, the inbox is closed, or the time is up."""
        rest_s = timeout_s
        while not self._changed.wait_for(
            lambda: self._events or self._closed, _LOOK_AGAIN_S if rest_s is None else min(rest_s, _LOOK_AGAIN_S)
        ):
            if rest_s is not None:
                rest_s -= _LOOK_AGAIN_S
                if rest_s <= 0:
                    return

    def _has_room(self, block: BlockArrived) -> bool:
        """An empty queue takes any block, so that none waits forever."""
        fits = self._block_bytes + len(block.message) <= self._block_bytes_max and self._blocks < _BLOCKS_MAX
        return fits or not self._blocks

    def _append_block(self, block: BlockArrived) -> None:
        self._block_bytes += len(block.message)
        self._blocks += 1
        self._events.append((block, False))
        self._changed.notify_all()

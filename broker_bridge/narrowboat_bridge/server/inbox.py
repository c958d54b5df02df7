"""The one way into the loop, and what a bridge lets go of when more comes in than it can handle.

The queue is bounded in items and in bytes. Whatever is let go of is said again by its sender, so nothing is lost but
time; whose time, is decided by importance:

    above half        fetches are not served: their answers cost the most, and a gateway asks again in seconds
    above 3/4         hellos, enrolment requests and reports of progress go: the next one says the same, or more
    full              terminal reports and commands go too

So a storm of hellos leaves room for the end of a trial, which a campaign waits for, and for the operator who wants to
stop it. Which report is terminal is looked up only where it matters, above 3/4, and without a look at the signature:
a gateway that lies about it gains a place in the queue and nothing else, and is held to its share behind it.
"""

from __future__ import annotations

import queue
from dataclasses import dataclass
from enum import Enum
from threading import Lock

from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import Report
from narrowboat_protocol.errors import NarrowboatError
from narrowboat_protocol.topics import Channel, Topic

from .metrics import Metrics
from .upload_worker import UploadOutcome


@dataclass(frozen=True, slots=True)
class MessageArrived:
    """A message on a topic of a device, an operator or an applicant."""

    topic: Topic
    data: bytes


@dataclass(frozen=True, slots=True)
class LinkOpened:
    """The control connection stands."""


Item = MessageArrived | LinkOpened | UploadOutcome


class Importance(Enum):
    """Up to which part of the inbox, in percent, something is let in, and how the log calls that."""

    FETCH = 50, "half of "
    REPEATED = 75, "three quarters of "
    LAST = 100, ""

    def __init__(self, percent: int, words: str) -> None:
        self.percent = percent
        self.words = words


class Inbox:
    """Any thread may put; what a peer sent is dropped when too many items or bytes wait for its importance."""

    def __init__(self, items_max: int, bytes_max: int, metrics: Metrics) -> None:
        self._items: queue.Queue[Item] = queue.Queue(items_max)
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._bytes = 0
        self._lock = Lock()
        self._metrics = metrics

    def offer(self, item: MessageArrived) -> None:
        size = len(item.data)
        setting = self._limit_reached(Importance.REPEATED, size)
        if setting is not None and _is_important(item):
            setting = self._limit_reached(Importance.LAST, size)
        if setting is None and not self._put(item):
            setting = "messages_queued_max"
        if setting is not None:
            self._metrics.limit(f"dropped.{item.topic.channel}", setting)

    def admits_fetch(self) -> bool:
        """Whether so little waits that a fetch may be served; counts the one that may not."""
        setting = self._limit_reached(Importance.FETCH, 0)
        if setting is not None:
            self._metrics.limit("shed.get", setting)
        return setting is None

    def put(self, item: Item) -> None:
        """Put an item of our own; waits for room."""
        self._items.put(item)

    def get(self, timeout_s: float) -> Item | None:
        try:
            item = self._items.get(timeout=timeout_s) if timeout_s > 0 else self._items.get_nowait()
        except queue.Empty:
            return None
        if isinstance(item, MessageArrived):
            self._count_bytes(-len(item.data))
        return item

    def _limit_reached(self, importance: Importance, size_bytes: int) -> str | None:
        """The limit that keeps out something of this importance, if one does."""
        if 100 * self._items.qsize() >= importance.percent * self._items_max:
            return f"{importance.words}messages_queued_max"
        if 100 * (self._bytes + size_bytes) > importance.percent * self._bytes_max:
            return f"{importance.words}messages_queued_bytes_max"
        return None

    def _put(self, item: MessageArrived) -> bool:
        self._count_bytes(len(item.data))
        try:
            self._items.put_nowait(item)
        except queue.Full:
            self._count_bytes(-len(item.data))
            return False
        return True

    def _count_bytes(self, change: int) -> None:
        with self._lock:
            self._bytes += change


def _is_important(item: MessageArrived) -> bool:
    """Whether it is a command, or says that it is a terminal report."""
    if item.topic.channel is not Channel.REPORT:
        return item.topic.channel is Channel.COMMAND
    try:
        return Report.decode(SignedDocument.decode(item.data).content).state.terminal
    except NarrowboatError:
        return False

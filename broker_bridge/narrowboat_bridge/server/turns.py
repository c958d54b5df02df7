"""Requests that wait, served one device after another.

In one queue for all, whoever asks most is served most, and one gateway that has lost its senses puts seconds of data
before everybody else's next block. Here each device has a short queue of its own, and devices take turns: a device
waits for at most one request of each other one. What does not fit a device's queue, or all queues together, is refused
at once; a device asks again for what does not come.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from enum import Enum, auto
from threading import Condition
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class Place(Enum):
    """Whether there was room."""

    TAKEN = auto()
    DEVICE_FULL = auto()
    ALL_FULL = auto()


class Turns(Generic[ItemT]):
    """A bounded queue for each device. Any thread may offer; one takes."""

    def __init__(self, waiting_max: int, waiting_of_one_max: int) -> None:
        self._waiting_max = waiting_max
        self._waiting_of_one_max = waiting_of_one_max
        self._queues: OrderedDict[str, deque[ItemT]] = OrderedDict()
        self._waiting = 0
        self._changed = Condition()
        self._closed = False

    def offer(self, device: str, item: ItemT) -> Place:
        with self._changed:
            if self._waiting >= self._waiting_max:
                return Place.ALL_FULL
            queue = self._queues.setdefault(device, deque())
            if len(queue) >= self._waiting_of_one_max:
                return Place.DEVICE_FULL
            queue.append(item)
            self._waiting += 1
            self._changed.notify()
            return Place.TAKEN

    def take(self) -> ItemT | None:
        """The next item; waits for one. None once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            device, queue = self._queues.popitem(last=False)
            item = queue.popleft()
            self._waiting -= 1
            if queue:
                self._queues[device] = queue
            return item

    def close(self) -> None:
        """What waits is forgotten."""
        with self._changed:
            self._closed = True
            self._changed.notify()

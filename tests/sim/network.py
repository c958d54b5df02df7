"""The network between clients and the broker.

Fault model. A path belongs to one client and has two ways, up and down. Each way

    delays      every message, by a time that its path has, plus one drawn for the message if messages overtake each
                other; those of one topic stay in order (MQTT promises no more), those of different topics do not
    loses       any message, at QoS 1 too and though TCP would have brought it: whoever stands in between has answered
                for it, and nothing sends it again
    doubles     any message; the second copy comes later than the first, and later than what followed it
    is slow     bytes wait for those before them
    closes      carries nothing, for a while or for good. What is sent meanwhile is held, as a TCP stack holds it, and
                arrives late if the way opens while both ends still believe in the connection; else it is lost

A connection ends for each of its ends at a time of its own. An end that closes tells the other, if the way to it is
open. If not, or if its machine lost its power, the other end goes on believing: it is half-open until a keepalive finds
it, and whatever is sent to it is lost. A client finds out within one to two keepalive intervals, the broker within one
and a half.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from .weather import Weather
from .world import World

KEEPALIVE_S = 30.0
_HELD_MAX = 1000

Act = Callable[[], None]


class Parcel(NamedTuple):
    """One message on its way, and what its arrival does."""

    connection: Connection
    topic: str
    size_bytes: int
    arrive: Act
    lost: Act
    """It will not arrive, and nobody will know."""


class Way:
    """One direction of a path."""

    def __init__(self, world: World, weather: Weather, name: str, *, is_up: bool, bytes_per_s: float) -> None:
        self._world = world
        self._weather = weather
        self._rng = world.fork(f"way/{name}/{is_up}")
        self._is_up = is_up
        self._delay_s = 0.02 + (weather.delay_s and self._rng.random() * weather.delay_s)
        self._bytes_per_s = bytes_per_s
        self._free_s = 0.0
        self._last_s = 0.0
        self._last_of_topic_s: dict[str, float] = {}
        self._held: deque[Parcel] = deque()
        self.is_open = True

    @property
    def delay_s(self) -> float:
        return 0.02 if self._weather.calm else self._delay_s

    def begin(self) -> None:
        """A new connection: what waited in the old one is gone and keeps nobody waiting."""
        self._free_s = self._last_s = 0.0
        self._last_of_topic_s.clear()

    def send(self, parcel: Parcel) -> None:
        if self._weather.strikes(self._weather.loss, self._rng):
            parcel.lost()
            return
        if not self.is_open:
            if len(self._held) < _HELD_MAX:
                self._held.append(parcel)
            return
        due_s = self._due_s(parcel)
        self._world.at(due_s, lambda: self._arrive(parcel))
        if self._weather.strikes(self._weather.duplication, self._rng):
            self._world.at(due_s + self._rng.expovariate(0.2), lambda: self._arrive(parcel))

    def open(self) -> None:
        """Carry again, what was held first."""
        self.is_open = True
        held, self._held = self._held, deque()
        for parcel in held:
            self.send(parcel)

    def close(self) -> None:
        self.is_open = False

    def _arrive(self, parcel: Parcel) -> None:
        connection = parcel.connection
        if not (connection.broker_believes if self._is_up else connection.client_believes):
            return
        if self.is_open:
            parcel.arrive()
        elif len(self._held) < _HELD_MAX:
            self._held.append(parcel)

    def _due_s(self, parcel: Parcel) -> float:
        now_s = self._world.now_s
        sent_s = now_s
        if self._bytes_per_s and not self._weather.calm:
            sent_s = self._free_s = max(now_s, self._free_s) + parcel.size_bytes / self._bytes_per_s
        due_s = sent_s + self.delay_s
        if self._weather.reordering_s and not self._weather.calm:
            due_s += self._rng.random() * self._weather.reordering_s
            due_s = max(due_s, self._last_of_topic_s.get(parcel.topic, 0.0))
            self._last_of_topic_s[parcel.topic] = due_s
        else:
            due_s = max(due_s, self._last_s)
        self._last_s = max(due_s, self._last_s)
        return due_s


class Path:
    """Both ways between one client and the broker, whatever connections come and go on it."""

    def __init__(self, world: World, weather: Weather, name: str, *, is_slow: bool = False) -> None:
        self.name = name
        self._world = world
        self._rng = world.fork(f"path/{name}")
        rate = weather.slow_bytes_per_s if is_slow else 0.0
        self.up = Way(world, weather, name, is_up=True, bytes_per_s=0.0)
        self.down = Way(world, weather, name, is_up=False, bytes_per_s=rate)
        self.connection: Connection | None = None
        """The newest."""

    @property
    def is_whole(self) -> bool:
        return self.up.is_open and self.down.is_open

    def cut(self, *, up: bool, down: bool) -> None:
        """Close ways. Whoever believes in a connection over them finds out by its keepalive."""
        for way, closes in ((self.up, up), (self.down, down)):
            if closes:
                way.close()
        if self.connection is not None:
            self.connection.watch()

    def mend(self) -> None:
        for way in (self.up, self.down):
            if not way.is_open:
                way.open()

    def keepalive_s(self, low: float, high: float) -> float:
        return KEEPALIVE_S * self._rng.uniform(low, high)


class Ends(Protocol):
    """What a connection tells its client."""

    def lost(self, connection: Connection, *, refused: bool) -> None:
        """The connection ended, as far as the client can tell."""
        ...


class Connection:
    """One TCP connection with MQTT on it, seen from both ends."""

    def __init__(self, world: World, path: Path, client: Ends) -> None:
        self._world = world
        self._client = client
        self.path = path
        self.client_believes = True
        self.broker_believes = True
        self.broker_lost: Act = nothing
        """Called when the broker's end is gone."""
        path.connection = self
        path.up.begin()
        path.down.begin()

    def send_up(self, topic: str, size_bytes: int, arrive: Act, lost: Act) -> None:
        self.path.up.send(Parcel(self, topic, size_bytes, arrive, lost))

    def send_down(self, topic: str, size_bytes: int, arrive: Act, lost: Act) -> None:
        self.path.down.send(Parcel(self, topic, size_bytes, arrive, lost))

    def watch(self) -> None:
        """A way may be closed: see to it that both ends find out in their time, unless it opens before."""
        self._world.after(self.path.keepalive_s(1.0, 2.0), self._client_looks)
        self._world.after(self.path.keepalive_s(1.0, 1.5), self._broker_looks)

    def close_by_client(self, *, silently: bool) -> None:
        """The client's end goes; `silently` if nobody is left to say so."""
        if not self.client_believes:
            return
        self.client_believes = False
        if silently or not self.path.up.is_open:
            self._world.after(self.path.keepalive_s(1.0, 1.5), self.end_at_broker)
        else:
            self._world.after(self.path.up.delay_s, self.end_at_broker)

    def close_by_broker(self, *, refused: bool = False) -> None:
        """The broker's end goes."""
        self.end_at_broker()
        if self.path.down.is_open:
            self._world.after(self.path.down.delay_s, lambda: self.end_at_client(refused=refused))

    def reset(self) -> None:
        """Both ends see it at once, as if a router in between had said so."""
        self.end_at_broker()
        self.end_at_client(refused=False)

    def end_at_broker(self) -> None:
        if self.broker_believes:
            self.broker_believes = False
            self._world.after(self.path.keepalive_s(1.0, 2.0), lambda: self.end_at_client(refused=False))
            self.broker_lost()

    def end_at_client(self, *, refused: bool) -> None:
        if self.client_believes:
            self.client_believes = False
            self._world.after(self.path.keepalive_s(1.0, 1.5), self.end_at_broker)
            self._client.lost(self, refused=refused)

    def _client_looks(self) -> None:
        if not self.path.is_whole and self.client_believes:
            self.end_at_client(refused=False)

    def _broker_looks(self) -> None:
        if not self.path.up.is_open:
            self.end_at_broker()


def nothing() -> None:
    """For whoever need not be told."""

"""The broker: Mosquitto as it was measured, and a little worse.

Fault model. The broker takes and gives what the access list of the client's listener allows, and says nothing about the
rest: a subscription to a foreign topic is granted and starved. A message that fits two subscriptions of a client comes
twice. QoS 0 is lost for whoever is away. QoS 1 is kept for a session until it is acknowledged, at most `queue_messages`
of it; what comes beyond is dropped silently. It is sent again, marked or not, when the session's client comes back, and
the order is then a new one. A session lives on for its expiry interval after its client was last seen. A client that
connects under a session's name ends the connection that it had, and takes over what waits.

A shared subscription gives each message to one member, in turn, dead or alive: a member whose connection is half-open
swallows its part.

A restart ends all connections. If it was orderly, sessions and retained messages are there again; after a crash they
are those of the last save, which may be long ago: queued messages are gone, answered ones come again, and a retained
message is what it was once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from itertools import count
from typing import Protocol

from narrowboat_bridge.broker_home import Listener, access_lists

from .network import Connection
from .weather import Weather
from .world import World

QUEUE_MESSAGES_MAX = 1000
AUTOSAVE_S = 300.0
_SHARE = "$share/"


@dataclass(frozen=True, slots=True)
class Message:
    topic: str
    payload: bytes
    qos: int
    size_bytes: int
    """What it counts on the network. Not its length, which depends on keys and signatures by a byte or two."""
    retained: bool = False
    """It was kept for those who subscribe."""


class Subscriber(Protocol):
    """What the broker needs of a client."""

    @property
    def client_id(self) -> str: ...

    @property
    def user(self) -> str: ...

    @property
    def listener(self) -> Listener: ...

    @property
    def session_expiry_s(self) -> float: ...

    @property
    def subscriptions(self) -> tuple[tuple[str, int], ...]: ...

    def arrived(self, message: Message) -> None: ...


@dataclass(slots=True)
class Session:
    """What the broker knows of one client id."""

    client: Subscriber
    connection: Connection | None = None
    subscriptions: tuple[tuple[str, int], ...] = ()
    waiting: dict[int, Message] = field(default_factory=dict)
    """QoS 1 that is not acknowledged, by number."""
    visits: int = 0


class Broker:
    """One broker. Clients connect by `accept`, after a connection of `network` stands."""

    def __init__(self, world: World, weather: Weather) -> None:
        self._world = world
        self._weather = weather
        self._rng = world.fork("broker")
        self._sessions: dict[str, Session] = {}
        self._retained: dict[str, Message] = {}
        self._numbers = count(1)
        self._turns: dict[str, int] = {}
        self._routes: dict[str, list[tuple[str, Session, int]]] = {}
        self._saved: tuple[dict[str, Session], dict[str, Message]] = ({}, {})
        self.is_up = True
        self.dropped = 0
        self.longest_queue = 0
        self.queue_max = int(weather.queue_messages) or QUEUE_MESSAGES_MAX

    # Clients.

    def accept(self, connection: Connection, client: Subscriber) -> None:
        """CONNECT and SUBSCRIBE have come."""
        if not self.is_up:
            connection.close_by_broker()
            return
        session = self._sessions.get(client.client_id)
        if session is None:
            session = self._sessions[client.client_id] = Session(client)
        former, session.connection = session.connection, connection
        if former is not None and former is not connection:
            former.close_by_broker(refused=True)
        connection.broker_lost = lambda: self._lost(session, connection)
        session.client = client
        session.visits += 1
        if session.subscriptions != client.subscriptions:
            session.subscriptions = client.subscriptions
            self._routes.clear()
        for number, message in list(session.waiting.items()):
            self._send(session, message, number)
        for topic, message in list(self._retained.items()):
            if any(matches(topic_filter, topic) for topic_filter, _ in session.subscriptions):
                self._give(session, replace(message, retained=True))

    def publish(self, client: Subscriber, message: Message, *, retain: bool = False) -> None:
        """A message of a client has come."""
        if not self.is_up or not may(client.listener, client.user, "write", message.topic):
            return
        if retain:
            self._retained[message.topic] = message
        for group, session, qos in self._routes_of(message.topic):
            if not group:
                self._give(session, message, qos)
        for group, members in self._members_of(message.topic).items():
            turn = self._turns[group] = self._turns.get(group, -1) + 1
            session, qos = members[turn % len(members)]
            self._give(session, message, qos)

    # Restarts.

    def stop(self, *, crash: bool) -> None:
        """Go down, orderly or not."""
        self.is_up = False
        for session in list(self._sessions.values()):
            if session.connection is not None:
                session.connection.close_by_broker()
        if crash:
            self._sessions, self._retained = _copy(self._saved)
            self._routes.clear()

    def start(self) -> None:
        self.is_up = True

    def autosave(self) -> None:
        """Put sessions and retained messages on disk, as they are now."""
        if self.is_up:
            kept = {name: item for name, item in self._sessions.items() if item.client.session_expiry_s}
            self._saved = _copy((kept, self._retained))

    # Routing.

    def _routes_of(self, topic: str) -> list[tuple[str, Session, int]]:
        """Every subscription that a topic fits, as share group (or nothing), session and QoS."""
        routes = self._routes.get(topic)
        if routes is None:
            routes = self._routes[topic] = [
                (group, session, qos)
                for session in self._sessions.values()
                for group, topic_filter, qos in map(_taken_apart, session.subscriptions)
                if matches(topic_filter, topic)
            ]
        return routes

    def _members_of(self, topic: str) -> dict[str, list[tuple[Session, int]]]:
        groups: dict[str, list[tuple[Session, int]]] = {}
        for group, session, qos in self._routes_of(topic):
            if group:
                groups.setdefault(group, []).append((session, qos))
        return groups

    def _give(self, session: Session, message: Message, qos: int = 1) -> None:
        client = session.client
        if not may(client.listener, client.user, "read", message.topic):
            return
        given = message if qos >= message.qos else replace(message, qos=qos)
        if given.qos == 0:
            if session.connection is not None:
                self._send(session, given, None)
            return
        if len(session.waiting) >= self.queue_max:
            self.dropped += 1
            return
        number = next(self._numbers)
        session.waiting[number] = given
        self.longest_queue = max(self.longest_queue, len(session.waiting))
        self._send(session, given, number)

    def _send(self, session: Session, message: Message, number: int | None) -> None:
        connection = session.connection
        if connection is None:
            return
        client = session.client

        def answered() -> None:
            if number is not None and session.connection is connection:
                session.waiting.pop(number, None)

        def arrive() -> None:
            client.arrived(message)
            if connection.path.up.is_open:
                answered()
            else:
                connection.send_up(message.topic, 0, answered, answered)

        connection.send_down(message.topic, message.size_bytes, arrive, answered)

    def _lost(self, session: Session, connection: Connection) -> None:
        """The connection of a session ended; the session lives on for a while."""
        if session.connection is not connection:
            return
        session.connection = None
        expiry_s, visits = session.client.session_expiry_s, session.visits
        if expiry_s:
            self._world.after(expiry_s, lambda: self._expire(session, visits))
        else:
            self._forget(session)

    def _expire(self, session: Session, visits: int) -> None:
        if session.connection is None and session.visits == visits:
            self._forget(session)

    def _forget(self, session: Session) -> None:
        if self._sessions.get(session.client.client_id) is session:
            del self._sessions[session.client.client_id]
            self._routes.clear()


@lru_cache(maxsize=4096)
def matches(topic_filter: str, topic: str) -> bool:
    """MQTT 5, section 4.7, as far as filters with `+` and `#` go."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for place, word in enumerate(wanted):
        if word == "#":
            return True
        if place >= len(levels) or word not in ("+", levels[place]):
            return False
    return len(wanted) == len(levels)


@lru_cache(maxsize=4096)
def may(listener: Listener, user: str, access: str, topic: str) -> bool:
    """Whether the access list of a listener lets a user read or write a topic."""
    rules = _rules()[listener]
    return any(kind == access and matches(pattern.replace("%u", user), topic) for kind, pattern in rules)


@cache
def _rules() -> dict[Listener, list[tuple[str, str]]]:
    """The lines of the real access lists, as (read or write, pattern)."""
    lists = {listener: text.split("\n") for listener, text in access_lists().items()}
    return {
        listener: [(access, pattern) for _, access, pattern in (line.split(" ") for line in lines if line)]
        for listener, lines in lists.items()
    }


@lru_cache(maxsize=4096)
def _taken_apart(subscription: tuple[str, int]) -> tuple[str, str, int]:
    """A subscription as share group (empty if it is not shared), filter and QoS."""
    text, qos = subscription
    if not text.startswith(_SHARE):
        return "", text, qos
    return text, text.removeprefix(_SHARE).partition("/")[2], qos


def _copy(state: tuple[dict[str, Session], dict[str, Message]]) -> tuple[dict[str, Session], dict[str, Message]]:
    """As it would be read from disk: no connection, and nothing shared with the living."""
    sessions, retained = state
    copies = {
        name: replace(session, connection=None, waiting=dict(session.waiting)) for name, session in sessions.items()
    }
    return copies, dict(retained)

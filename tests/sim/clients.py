"""Clients of the broker: connecting, being connected and losing it, as the links of the product do.

Fault model. Connecting takes three round trips (TCP and TLS) and fails after half a minute if a way is closed, at once
if the broker is down. After each failure a client waits as the product's links wait: a random time up to a bound that
doubles, and at least half a minute more if the broker refused it.

    gateway    keeps its session for an hour; says CONNECT, SUBSCRIBE and its first words in one flight. What it said on
               a connection that broke is lost, QoS 1 too: each connection begins with an empty client
    bridge     begins each session anew, on two connections; QoS 1 that was not acknowledged is sent again on the next
               one, once more even if it had arrived. What its process held dies with it
    operator   begins each session anew, and keeps nothing
    dead       a second bridge whose process hangs: the broker gives it its part of the shared requests, and nobody
               answers them
    stranger   connects as a gateway for a moment, swallows what waits for it, and goes
"""

from __future__ import annotations

from collections.abc import Callable

from narrowboat_bridge.broker_home import Listener
from narrowboat_device.core import events as ev
from narrowboat_protocol.topics import (
    ROOT_TOPIC,
    Channel,
    bridge_subscriptions,
    device_subscriptions,
    device_topic,
    operator_subscriptions,
    operator_topic,
)

from .broker import Broker, Message
from .network import Connection, Path, nothing
from .world import Handle, World

SESSION_S = 3600.0
_TIMEOUT_S = 30.0
_REFUSED_WAIT_S = 30.0
_QUEUED_MAX = 200
_COUNT_INTERVAL_S = 5.0
_DOCUMENT_BYTES = 1000

Arrived = Callable[[Message], None]


class Client:
    """One client id, connected as often and as long as the network lets it."""

    listener = Listener.BRIDGE
    session_expiry_s = 0.0

    def __init__(
        self, world: World, broker: Broker, path: Path, client_id: str, subscriptions: tuple[tuple[str, int], ...]
    ) -> None:
        self.client_id = client_id
        self.user = client_id
        self.subscriptions = subscriptions
        self._world = world
        self._broker = broker
        self._path = path
        self._rng = world.fork(f"client/{client_id}/{path.name}")
        self._connection: Connection | None = None
        self._accepted = False
        self._early: list[Callable[[], None]] = []
        self._trying: Handle | None = None
        self._failures = 0
        self._wanted = False

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    @property
    def hears(self) -> bool:
        """The connection stands for both ends, and both ways carry."""
        connection = self._connection
        return connection is not None and self._accepted and connection.broker_believes and self._path.is_whole

    # What its owner asks for.

    def start(self) -> None:
        if not self._wanted:
            self._wanted, self._failures = True, 0
            self._try_after(0.0)

    def stop(self, *, silently: bool) -> None:
        """The process ends; `silently` if its machine lost its power."""
        self._wanted = False
        if self._trying is not None:
            self._trying.cancel()
            self._trying = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close_by_client(silently=silently)

    def send(self, message: Message, *, retain: bool = False, delivered: Callable[[], None] = nothing) -> None:
        """Send on the connection that stands, if one does. `delivered`: the broker has answered for it."""
        connection = self._connection
        if connection is None:
            return

        def arrive() -> None:
            self._broker.publish(self, message, retain=retain)
            if connection.path.down.is_open:
                delivered()

        def depart() -> None:
            connection.send_up(message.topic, message.size_bytes, arrive, delivered)

        if self._accepted:
            depart()
        else:
            self._early.append(depart)

    # What becomes of it.

    def arrived(self, message: Message) -> None:
        """A message came."""
        self._failures = 0
        self.take(message)

    def lost(self, connection: Connection, *, refused: bool) -> None:
        if connection is not self._connection:
            return
        self._connection = None
        self.closed()
        if self._wanted:
            self._failures += 1
            self._try_after(self._wait_s() + (_REFUSED_WAIT_S if refused else 0.0))

    # For those that are more than this.

    def take(self, message: Message) -> None:
        """A message came."""

    def opened(self) -> None:
        """CONNECT is sent; what is sent now follows it."""

    def closed(self) -> None:
        """The connection is gone."""

    def _wait_s(self) -> float:
        return self._rng.uniform(0.1, min(60.0, 0.5 * 2.0 ** min(self._failures, 10)))

    def _try_after(self, wait_s: float) -> None:
        self._trying = self._world.after(wait_s, self._try)

    def _try(self) -> None:
        self._trying = None
        if not self._path.is_whole:
            self._failures += 1
            self._try_after(_TIMEOUT_S + self._wait_s())
        elif not self._broker.is_up:
            self._failures += 1
            self._try_after(self._wait_s())
        else:
            self._trying = self._world.after(6 * self._path.up.delay_s, self._connect)

    def _connect(self) -> None:
        self._trying = None
        if not (self._path.is_whole and self._broker.is_up):
            self._try()
            return
        connection = self._connection = Connection(self._world, self._path, self)
        self._accepted, self._early = False, []
        self._world.after(self._path.up.delay_s, lambda: self._accept(connection))
        self.opened()

    def _accept(self, connection: Connection) -> None:
        if connection is not self._connection:
            return
        if not self._path.up.is_open:
            connection.watch()
            self._world.after(1.0, lambda: self._accept(connection))
            return
        self._accepted = True
        self._broker.accept(connection, self)
        early, self._early = self._early, []
        for send in early:
            send()


class DeviceClient(Client):
    """The link of one gateway: the `LinkPort` of a simulated gateway."""

    listener = Listener.DEVICE
    session_expiry_s = SESSION_S

    def __init__(self, world: World, broker: Broker, path: Path, name: str) -> None:
        self._data_topic = device_topic(name, Channel.DATA)
        topics = device_subscriptions(name)
        subscriptions = tuple((topic, 0 if topic == self._data_topic else 1) for topic in topics)
        super().__init__(world, broker, path, name, subscriptions)
        self.hear: Callable[[ev.Event], None] = _ignore
        self.said = 0
        self._documents: dict[str, Callable[[bytes], ev.Event]] = {
            device_topic(name, Channel.ASSIGN): ev.DeliveryArrived,
            device_topic(name, Channel.ACK): ev.AckArrived,
            device_topic(name, Channel.ROOT): ev.RootChainArrived,
        }
        self._wire_bytes = 0
        self._told_bytes = 0
        self._next_count_s = 0.0

    def up(self) -> None:
        """The agent began and wants a connection."""
        self._wire_bytes = self._told_bytes = 0
        self.start()

    def down(self) -> None:
        """The agent is gone: killed, or without power."""
        self.stop(silently=self._rng.random() < 0.5)

    def publish(self, channel: Channel, payload: bytes, qos: int) -> None:
        self.said += 1
        self.send(Message(device_topic(self.client_id, channel), payload, qos, _DOCUMENT_BYTES))

    def take(self, message: Message) -> None:
        self._wire_bytes += message.size_bytes
        self.hear(self._event(message))
        if self._world.now_s >= self._next_count_s and self.is_connected:
            self._next_count_s = self._world.now_s + _COUNT_INTERVAL_S
            self._tell_count()

    def opened(self) -> None:
        self.hear(ev.LinkOpened())

    def closed(self) -> None:
        self._tell_count()
        self.hear(ev.LinkLost())

    def _event(self, message: Message) -> ev.Event:
        if message.topic == ROOT_TOPIC:
            return ev.RootArrived(message.payload, retained=message.retained)
        if message.topic == self._data_topic:
            self._told_bytes = self._wire_bytes
            return ev.BlockArrived(message.payload, self._wire_bytes)
        return self._documents[message.topic](message.payload)

    def _tell_count(self) -> None:
        if self._wire_bytes != self._told_bytes:
            self._told_bytes = self._wire_bytes
            self.hear(ev.WireBytesCounted(self._told_bytes))


class Stranger(Client):
    """Somebody with a gateway's certificate and another machine."""

    listener = Listener.DEVICE
    session_expiry_s = SESSION_S

    def __init__(self, world: World, broker: Broker, path: Path, name: str) -> None:
        super().__init__(world, broker, path, name, tuple((topic, 1) for topic in device_subscriptions(name)))


class DeadMember(Client):
    """A second bridge that hangs."""

    def __init__(self, world: World, broker: Broker, path: Path) -> None:
        filters = tuple((text, 0) for text in bridge_subscriptions())
        super().__init__(world, broker, path, f"auto:{path.name}", filters)


class BridgeClient(Client):
    """One of the two links of a bridge's process."""

    def __init__(
        self,
        world: World,
        broker: Broker,
        path: Path,
        client_id: str,
        subscriptions: tuple[tuple[str, int], ...],
        take: Arrived,
        opened: Callable[[], None],
    ) -> None:
        super().__init__(world, broker, path, client_id, subscriptions)
        self._take = take
        self._opened = opened
        self._unanswered: dict[int, tuple[Message, bool]] = {}
        self._number = 0
        self.dropped = 0

    def publish(self, message: Message, *, retain: bool = False) -> None:
        """Send, and at QoS 1 again on each connection until the broker has it; drop it if too many wait."""
        if message.qos == 0:
            self.send(message, retain=retain)
            return
        if len(self._unanswered) >= _QUEUED_MAX:
            self.dropped += 1
            return
        self._number += 1
        self._unanswered[self._number] = (message, retain)
        self._send(self._number)

    def take(self, message: Message) -> None:
        self._take(message)

    def opened(self) -> None:
        for number in list(self._unanswered):
            self._send(number)
        self._opened()

    def _send(self, number: int) -> None:
        message, retain = self._unanswered[number]
        self.send(message, retain=retain, delivered=lambda: self._answered(number))

    def _answered(self, number: int) -> None:
        self._unanswered.pop(number, None)


class OperatorClient(Client):
    """The terminal of one operator."""

    listener = Listener.STAFF

    def __init__(self, world: World, broker: Broker, path: Path, name: str, take: Arrived) -> None:
        filters = tuple((topic, 1) for topic in operator_subscriptions(name))
        super().__init__(world, broker, path, f"auto:{name}", filters)
        self.user = name
        self._take = take

    def command(self, payload: bytes) -> None:
        self.send(Message(operator_topic(self.user, Channel.COMMAND), payload, 1, _DOCUMENT_BYTES))

    def upload(self, block: bytes) -> None:
        self.send(Message(operator_topic(self.user, Channel.UPLOAD), block, 1, len(block)))

    def take(self, message: Message) -> None:
        self._take(message)


def _ignore(_event: ev.Event) -> None:
    pass

"""MQTT clients by the thousand: raw packets over TLS sockets, without paho.

paho selects over one connection in one thread, and stops at 340 clients in a process. Here a client is a socket and a
few bytes of state:

- `RawClient` is one connection that blocks. It can pour out packets as fast as the broker takes them, and it need not
  read what it is sent, which is how a slow device looks.
- `greet_all` connects many devices at once over one selector. Each sends CONNECT, SUBSCRIBE and its first message in
  one flight, as the agent does, and is done when a message came back.

Only what these need of MQTT 5 is here: packets at QoS 0, one subscription, no properties.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
_CONNECT_TIMEOUT_S = 60.0
_READ_BYTES = 65_536
_CONNACK, _PUBLISH, _SUBACK = 0x20, 0x30, 0x90
_AGAIN_S = 10.0
"""A device that hears nothing says it again."""


def connect_packet(keepalive_s: int = 600) -> bytes:
    """A clean session without a client id: the broker gives one, or takes the name in the certificate."""
    return _packet(0x10, _text("MQTT") + b"\x05\x02" + struct.pack(">H", keepalive_s) + b"\x00" + _text(""))


def subscribe_packet(topic_filter: str) -> bytes:
    return _packet(0x82, b"\x00\x01" + b"\x00" + _text(topic_filter) + b"\x00")


def publish_packet(topic: str, payload: bytes) -> bytes:
    return _packet(_PUBLISH, _text(topic) + b"\x00" + payload)


def _packet(kind: int, body: bytes) -> bytes:
    length, encoded = len(body), bytearray()
    while length >= 0x80:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([kind, *encoded, length]) + body


def _text(text: str) -> bytes:
    return struct.pack(">H", len(text.encode())) + text.encode()


class PacketReader:
    """Cuts what comes into packets; remembers no more than it must."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[int]:
        """The types of the packets that are whole now."""
        self._buffer += data
        kinds = []
        while (end := self._end()) is not None and end <= len(self._buffer):
            kinds.append(self._buffer[0] & 0xF0)
            del self._buffer[:end]
        return kinds

    def _end(self) -> int | None:
        length = 0
        for at in range(1, min(5, len(self._buffer))):
            length |= (self._buffer[at] & 0x7F) << 7 * (at - 1)
            if self._buffer[at] < 0x80:
                return at + 1 + length
        return None


class RawClient:
    """One connection. It reads nothing after its CONNACK unless it is told to."""

    def __init__(self, tls: ssl.SSLContext, port: int, *, receive_bytes: int | None = None) -> None:
        raw = socket.socket()
        if receive_bytes is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        raw.settimeout(_CONNECT_TIMEOUT_S)
        raw.connect((HOST, port))
        self._socket = tls.wrap_socket(raw, server_hostname=HOST)
        self._reader = PacketReader()
        self._socket.sendall(connect_packet())
        self.wait_for(_CONNACK)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, packets: bytes) -> None:
        """Send, as fast as the broker takes it."""
        self._socket.sendall(packets)

    def subscribe(self, topic_filter: str) -> None:
        self.send(subscribe_packet(topic_filter))
        self.wait_for(_SUBACK)

    def wait_for(self, kind: int = _PUBLISH) -> None:
        """Read until a packet of this type came."""
        while kind not in self._reader.feed(self._read()):
            pass

    def _read(self) -> bytes:
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise ConnectionError("expected the broker to keep the connection, and it ended it")
        return data


@dataclass(slots=True)
class Greeter:
    """A device of a swarm, and what it says first."""

    tls: ssl.SSLContext
    topic_filter: str
    topic: str
    hello: bytes
    sent: int = 0
    answered: bool = False
    _socket: ssl.SSLSocket | None = None
    _out: bytes = b""
    _reader: PacketReader = field(default_factory=PacketReader)
    _greeted_s: float = 0.0

    def begin(self, port: int) -> ssl.SSLSocket:
        raw = socket.create_connection((HOST, port), timeout=_CONNECT_TIMEOUT_S)
        raw.setblocking(False)
        self._socket = self.tls.wrap_socket(raw, server_hostname=HOST, do_handshake_on_connect=False)
        self._out = connect_packet() + subscribe_packet(self.topic_filter)
        self._say_hello()
        return self._socket

    def step(self) -> int:
        """Go on as far as the socket lets us; which event to wait for next."""
        assert self._socket is not None
        try:
            if self._socket.version() is None:
                self._socket.do_handshake()
            while self._out:
                self._out = self._out[self._socket.send(self._out) :]
            while data := self._socket.recv(_READ_BYTES):
                self.answered = self.answered or _PUBLISH in self._reader.feed(data)
        except ssl.SSLWantWriteError:
            return selectors.EVENT_WRITE
        except ssl.SSLWantReadError:
            return selectors.EVENT_READ
        raise ConnectionError("expected the broker to keep the connection, and it ended it")

    def repeat(self, now_s: float) -> None:
        """Say it again if it is time."""
        if not self.answered and not self._out and now_s - self._greeted_s > _AGAIN_S:
            self._say_hello()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _say_hello(self) -> None:
        self._out += publish_packet(self.topic, self.hello)
        self.sent += 1
        self._greeted_s = time.monotonic()


def greet_all(greeters: Sequence[Greeter], port: int, deadline_s: float) -> None:
    """Connect all at once; return when each was answered. All stay connected until then."""
    selector = selectors.DefaultSelector()
    give_up_s = time.monotonic() + deadline_s
    try:
        for greeter in greeters:
            selector.register(greeter.begin(port), selectors.EVENT_WRITE, greeter)
        while waiting := sum(not greeter.answered for greeter in greeters):
            now_s = time.monotonic()
            if now_s > give_up_s:
                raise TimeoutError(f"expected an answer for {len(greeters)} devices, {waiting} still wait")
            for key, _ in selector.select(1.0):
                selector.modify(key.fileobj, key.data.step(), key.data)
            for greeter in greeters:
                greeter.repeat(now_s)
    finally:
        for greeter in greeters:
            greeter.close()
        selector.close()

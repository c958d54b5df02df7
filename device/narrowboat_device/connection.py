"""What every connection to a broker is made of: sockets and a client that take no more than they should.

Whatever a broker sends is read only within bounds: no packet above a limit, no message at QoS 2, nothing after a
certificate whose dates do not count. Bytes are counted by the kernel: TCP_INFO tells how many a socket received, TLS
and all, at no cost per byte.
"""

from __future__ import annotations

import errno
import socket
import ssl
import struct
from contextlib import suppress
from threading import Event as Flag

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.exception import MQTTException
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from .tls_time import TlsTime

# struct tcp_info, tcpi_bytes_received; its place is part of the kernel's interface since Linux 4.1.
_TCP_INFO_BYTES_RECEIVED = 128
_PACKETS_WAITING_MAX = 1000
_CONNECT_TIMEOUT_S = 30.0
# Alert 45 of TLS, as OpenSSL names it. It comes after the handshake in TLS 1.3, in it before.
_CERTIFICATE_EXPIRED = "ALERT_CERTIFICATE_EXPIRED"

# What paho raises at bytes that it cannot read. Its newer versions do so only for a topic that is no text.
UNREADABLE = (ValueError, IndexError, KeyError, struct.error, MQTTException)


class Meter:
    """Adds up what each socket received, by the kernel's count."""

    def __init__(self) -> None:
        self._before = 0
        self._current = 0

    @property
    def total(self) -> int:
        return self._before + self._current

    def begin(self) -> None:
        """A new socket: the old one's count stands."""
        self._before, self._current = self.total, 0

    def read(self, sock: object) -> None:
        """Take the count of the open socket, if it is one."""
        if isinstance(sock, socket.socket):
            with suppress(OSError):
                info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                (self._current,) = struct.unpack_from("=Q", info, _TCP_INFO_BYTES_RECEIVED)


def bounded_sockets(packet_bytes_max: int, meter: Meter, tls_time: TlsTime, expired: Flag) -> type[ssl.SSLSocket]:
    """The sockets of a link.

    paho has no bound of its own on packets below 256 MiB. It asks the socket for the whole rest of a packet, before
    anything of that size is allocated; here the request is refused, which paho takes for a lost connection. And it
    forgets the socket of a handshake that failed; here that is counted and closed, as is one whose dates do not count.
    A broker that finds our certificate over says so in an alert, which paho takes for a lost connection too; here it
    sets `expired`.
    """

    def heed(error: OSError) -> None:
        if isinstance(error, ssl.SSLError) and (error.reason or "").endswith(_CERTIFICATE_EXPIRED):
            expired.set()

    class LinkSocket(ssl.SSLSocket):
        def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
            if buflen > packet_bytes_max:
                raise OSError(errno.EMSGSIZE, "the broker announced a packet above the limit")
            try:
                return super().recv(buflen, flags)
            except OSError as error:
                heed(error)
                raise

        def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002  # the signature is ssl's
            meter.begin()
            try:
                super().do_handshake(block)
                tls_time.judge(self)
            except OSError as error:
                heed(error)
                meter.read(self)
                self.close()
                raise

    return LinkSocket


class _BoundedClient(Client):
    """paho's client, bounded in what a broker can make it keep.

    Without QoS 2: each such message would be kept until the broker releases it, 65,535 in all, and the broker need not
    care for what we subscribed to. And with an end to the answers (PUBACK, PINGRESP, PUBCOMP) that wait to be sent: a
    broker that sends and never reads would have them pile up without one.
    """

    def _packet_handle(self) -> MQTTErrorCode:
        if len(self._out_packet) >= _PACKETS_WAITING_MAX:
            raise MQTTException("more to answer than the broker reads")
        return super()._packet_handle()

    def _handle_publish(self) -> MQTTErrorCode:
        if self._in_packet["command"] & 0x04:
            raise MQTTException("a message at QoS 2")
        return super()._handle_publish()


def new_client(tls: ssl.SSLContext) -> Client:
    """A client for one connection, under the name that the broker finds in our certificate."""
    client = _BoundedClient(CallbackAPIVersion.VERSION2, client_id="", protocol=MQTTv5, reconnect_on_failure=False)
    client.connect_timeout = _CONNECT_TIMEOUT_S
    client.tls_set_context(tls)
    return client


def connect_properties(packet_bytes_max: int) -> Properties:
    """What CONNECT tells the broker: that larger packets are not read."""
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho gives it no types
    properties.MaximumPacketSize = packet_bytes_max
    return properties

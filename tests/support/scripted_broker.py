"""A broker that does what a test tells it, over real sockets and real mutual TLS.

    def script(connection):
        connection.greet()                       # CONNECT and SUBSCRIBE came, CONNACK goes
        connection.send(publish_packet("nb/root", b"..."))
        until_closed(connection)

    broker = ScriptedBroker(authority, authority.issue("broker"), script)

It plays one script for each connection, in order, and knows nothing of MQTT but packets and their lengths, so that it
can say what no broker says.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from narrowboat_protocol.limits import DEFAULT_LIMITS, MIB

PATIENCE_S = 10.0
_ANSWERS_ASKED_MAX = 100_000
_NARROW_SEGMENT_BYTES, _NARROW_BUFFER_BYTES = 536, 4096
CONNACK = bytes([0x20, 3, 0, 0, 0])
CONNECT, PUBLISH, SUBSCRIBE, DISCONNECT = 0x10, 0x30, 0x80, 0xE0


@dataclass(frozen=True, slots=True)
class Papers:
    """PEM files of one party."""

    certificate: Path
    key: Path


Dates = tuple[datetime, datetime]
"""From when until when a certificate is valid."""
LONG: Dates = datetime(2025, 1, 1, tzinfo=UTC), datetime(2045, 1, 1, tzinfo=UTC)


class Authority:
    """A CA that issues to anybody, into a folder."""

    def __init__(self, folder: Path, name: str, dates: Dates = LONG) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.path = folder / f"{name}.pem"
        builder = self._builder(self._name, self._key, dates, ca=True)
        self.path.write_bytes(pem(builder.sign(self._key, hashes.SHA256())))

    def issue(
        self,
        name: str,
        address: str = "127.0.0.1",
        dates: Dates = LONG,
        purpose: x509.ObjectIdentifier | None = None,
    ) -> Papers:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        papers = Papers(self._folder / f"{name}-{address}.pem", self._folder / f"{name}-{address}.key")
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        builder = self._builder(subject, key, dates, ca=False).add_extension(names, critical=False)
        if purpose is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        papers.certificate.write_bytes(pem(builder.sign(self._key, hashes.SHA256())))
        papers.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return papers

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, dates: Dates, *, ca: bool
    ) -> x509.CertificateBuilder:
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(dates[0])
            .not_valid_after(dates[1])
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        )


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


class Connection:
    """The broker's end of one connection."""

    def __init__(self, sock: ssl.SSLSocket, peer: tuple[str, int]) -> None:
        self._sock = sock
        self._stream = sock.makefile("rb")
        self.peer = peer

    def packet(self) -> tuple[int, bytes]:
        """The next packet: its type, and everything after the length."""
        kind = self._stream.read(1)
        if not kind:
            raise EOFError
        length, shift = 0, 0
        while True:
            (byte,) = self._stream.read(1)
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return kind[0] & 0xF0, self._stream.read(length)

    def greet(self) -> None:
        """Let a device in."""
        assert [self.packet()[0] for _ in range(2)] == [CONNECT, SUBSCRIBE]
        self.send(CONNACK)

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def wait_for_hang_up(self) -> None:
        """Wait without reading."""
        poll = select.poll()
        poll.register(self._sock, select.POLLRDHUP)
        assert poll.poll(PATIENCE_S * 1000), "expected the other side to hang up, and it did not"

    def close(self) -> None:
        self._stream.close()
        self._sock.close()


Script = Callable[[Connection], None]


class ScriptedBroker:
    """Plays one script for each connection that gets through the handshake, in order; then refuses to listen."""

    def __init__(self, authority: Authority, papers: Papers, *scripts: Script, narrow: bool = False) -> None:
        """`narrow`: the kernel keeps little of what is sent to a broker that does not read it."""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(papers.certificate, papers.key)
        self._context.load_verify_locations(authority.path)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE_S)
        if narrow:
            self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _NARROW_SEGMENT_BYTES)
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _NARROW_BUFFER_BYTES)
        self.port: int = self._listener.getsockname()[1]
        self.failures: SimpleQueue[BaseException | None] = SimpleQueue()
        self._thread = Thread(target=self._serve, args=(scripts,), daemon=True)
        self._thread.start()

    def _serve(self, scripts: tuple[Script, ...]) -> None:
        try:
            for script in scripts:
                sock, peer = self._listener.accept()
                sock.settimeout(PATIENCE_S)
                connection = Connection(self._context.wrap_socket(sock, server_side=True), peer)
                script(connection)
                connection.close()
            self.failures.put(None)
        except BaseException as error:  # noqa: BLE001  # the test is told
            self.failures.put(error)
        finally:
            self._listener.close()

    def check(self) -> None:
        """Every script was played to its end."""
        failure = self.failures.get(timeout=PATIENCE_S)
        if failure is not None:
            raise failure


def publish_packet(topic: str, payload: bytes, message_id: int | None = None) -> bytes:
    """At QoS 1 if there is a message id."""
    numbered = b"" if message_id is None else struct.pack(">H", message_id)
    body = struct.pack(">H", len(topic)) + topic.encode() + numbered + b"\x00" + payload
    return bytes([PUBLISH | (0x02 if numbered else 0)]) + encode_length(len(body)) + body


def encode_length(length: int) -> bytes:
    encoded = bytearray()
    while length >= 0x80:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*encoded, length])


def until_closed(connection: Connection) -> None:
    """Read until the device hangs up, which it must do in time."""
    try:
        while True:
            connection.packet()
    except (EOFError, ConnectionError, ssl.SSLEOFError):
        pass


def ask_for_answers(packets: Sequence[bytes], connection: Connection) -> None:
    """Say what must be answered and read no answer, until the other side hangs up, which it must do in time."""
    try:
        for _ in range(_ANSWERS_ASKED_MAX // len(packets)):
            connection.send(b"".join(packets))
        connection.wait_for_hang_up()
    except (ConnectionError, ssl.SSLEOFError):
        pass


ANSWERED = {
    "messages at QoS 1": [publish_packet("nb/of-nobody", b"", message_id) for message_id in range(1, 501)],
    "pings": [bytes([0xC0, 0])] * 500,
}
"""What has to be answered."""

UNREADABLE = {
    "a packet of 200 MiB": bytes([PUBLISH]) + encode_length(200 * MIB),
    "a packet above the limit": (
        bytes([PUBLISH]) + encode_length(DEFAULT_LIMITS.message_bytes_max + 2048) + b"x" * 10_000
    ),
    "a length without an end": bytes([PUBLISH, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]),
    "a topic longer than the packet": bytes([PUBLISH, 3, 0xFF, 0xFF, 0x00]),
    "a topic that is no UTF-8": bytes([PUBLISH, 5, 0, 2, 0xC3, 0x28, 0]),
    "a message at a QoS that nobody asked for": bytes([PUBLISH | 0x04, 8, 0, 1, 0x74, 0, 1, 0, 0x78, 0x79]),
    "a packet for which MQTT has no use": bytes([0xF0, 0]),
    "a packet of no type": bytes([0x00, 0]),
}
"""What no broker sends."""

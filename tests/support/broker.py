"""A real Mosquitto for a test, the demo or the bench, from the reference configuration.

    with running_broker(folder) as broker:
        gateway = broker.issue(Listener.DEVICE, "gw-1")     # a certificate and its key, as files
        ...
        broker.kill()                                       # SIGKILL
        broker.start()                                      # the same ports, the same data

The broker runs in a home made by the code that the product uses; of the configuration, only the ports differ, and
`user` is added when we are root, for Mosquitto would give up root's rights and then could not read its home. It runs
under an authority for each listener that nobody else knows.

A broker counts as started once each of its listeners accepts a connection. Ports come from below the range out of
which Linux takes the ports of outgoing connections, so that none is lost to one while the broker is down. Certificates
are dated from constants, so nothing here reads the clock of the day.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Self

from narrowboat_bridge.broker_home import BrokerCertificates, Listener, Ports, write_broker_home
from narrowboat_bridge.pki import Authority, issue_client, issue_crl, issue_server, key_to_pem, new_key

from .tools import require_tool

HOST = "127.0.0.1"
ISSUED_AT = 1_735_689_600
"""2025-01-01. The certificates are valid for twenty years from then."""
_VALID_DAYS = 20 * 365
_START_DEADLINE_S = 30.0
_STOP_DEADLINE_S = 30.0
_PROBE_PAUSE_S = 0.02
_PORTS = range(20_000, 32_000)
_PORT_TRIES_MAX = 1000


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who a client is, and which authority the broker's certificate must come from."""

    name: str
    certificate: Path
    key: Path
    server_ca: Path

    def tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.server_ca))
        context.load_cert_chain(self.certificate, self.key)
        return context


class Broker:
    """One Mosquitto, which may be stopped, killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "broker"
        self.ports = free_ports()
        self.server_ca = folder / "server-ca.pem"
        self.authorities: Mapping[Listener, Authority] = {
            listener: Authority.create(f"Narrowboat {listener}", ISSUED_AT) for listener in Listener
        }
        self._credentials = folder / "credentials"
        self._log = folder / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._make_home()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    @property
    def log(self) -> str:
        """Everything that the broker has written, over all its starts."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def pid(self) -> int:
        assert self._process is not None, "it does not run"
        return self._process.pid

    def port(self, listener: Listener) -> int:
        return int(getattr(self.ports, listener))

    def issue(self, listener: Listener, name: str) -> Credentials:
        """New credentials for `name`, which this listener accepts."""
        folder = self._credentials / f"{listener}-{name}-{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        credentials = Credentials(name, folder / "cert.pem", folder / "key.pem", self.server_ca)
        key = new_key()
        certificate = issue_client(self.authorities[listener], name, key.public_key(), ISSUED_AT, _VALID_DAYS)
        credentials.certificate.write_bytes(certificate)
        credentials.key.touch(0o600)
        credentials.key.write_bytes(key_to_pem(key))
        return credentials

    def start(self) -> None:
        """Start the broker on its ports and wait until every listener accepts connections."""
        assert self._process is None, "it is running"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [require_tool("mosquitto"), "-c", "mosquitto.conf"],
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            deadline_s = time.monotonic() + _START_DEADLINE_S
            for port in astuple(self.ports):
                self._await_listener(self._process, port, deadline_s)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End the broker as a service manager does: it saves what it keeps."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the broker as a power cut does."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(_STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def _await_listener(self, process: subprocess.Popen[bytes], port: int, deadline_s: float) -> None:
        while True:
            with suppress(OSError), socket.create_connection((HOST, port), timeout=1.0):
                return
            with suppress(subprocess.TimeoutExpired):
                process.wait(_PROBE_PAUSE_S)
            if process.returncode is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"expected Mosquitto to listen on port {port}, got none; its log:\n{self.log}")

    def _make_home(self) -> None:
        server, key = Authority.create("Narrowboat server", ISSUED_AT), new_key()
        self.server_ca.write_bytes(server.certificate_pem)
        certificates = BrokerCertificates(
            issue_server(server, [HOST, "localhost"], key.public_key(), ISSUED_AT, _VALID_DAYS),
            key_to_pem(key),
            {listener: authority.certificate_pem for listener, authority in self.authorities.items()},
            {each: issue_crl(self.authorities[each], 1, (), ISSUED_AT) for each in (Listener.DEVICE, Listener.STAFF)},
        )
        write_broker_home(self.home, certificates, self.ports, "root" if os.geteuid() == 0 else None)


@contextmanager
def running_broker(folder: Path) -> Iterator[Broker]:
    """A broker of its own, with everything that belongs to it in `folder`, ended when the block ends."""
    with Broker(folder) as broker:
        yield broker


def free_ports() -> Ports:
    """Four ports that nobody listens on."""
    found: set[int] = set()
    for _ in range(_PORT_TRIES_MAX):
        port = secrets.choice(_PORTS)
        if _is_free(port):
            found.add(port)
        if len(found) == len(Listener):
            return Ports(*found)
    raise RuntimeError(f"expected four free ports from {_PORTS.start} to {_PORTS.stop - 1}, got {len(found)}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True

"""The peer: nginx serving one file, plainly and with the mutual TLS of the fleet, and curl writing it to disk."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import Children, wait_for
from tests.support.tools import require_tool

_CONF = """\
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
worker_processes 1;
events {{ worker_connections 64; }}
http {{
    access_log off;
    sendfile on;
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    server {{ listen {host}:{plain_port}; root {served}; }}
    server {{
        listen {host}:{tls_port} ssl;
        root {served};
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_client_certificate {client_ca};
        ssl_verify_client on;
        ssl_protocols TLSv1.3;
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """What curl shows and believes."""

    certificate: Path
    key: Path
    server_ca: Path

    @classmethod
    def of(cls, folder: Path) -> ClientIdentity:
        """That of the gateway which lives there."""
        return cls(folder / "certificate.pem", folder / "key.pem", folder / "server-ca.pem")


@dataclass(frozen=True, slots=True)
class Fetched:
    """One download by curl."""

    total_s: float
    first_byte_s: float


class Nginx:
    """Serves `served` on two ports."""

    def __init__(
        self, folder: Path, served: Path, broker_home: Path, ports: tuple[int, int], host: str = "127.0.0.1"
    ) -> None:
        self._folder = folder
        self._host = host
        self._plain_port, self._tls_port = ports
        folder.mkdir()
        tls = broker_home / "tls"
        (folder / "nginx.conf").write_text(
            _CONF.format(
                folder=folder,
                host=host,
                served=served,
                plain_port=self._plain_port,
                tls_port=self._tls_port,
                certificate=tls / "server-cert.pem",
                key=tls / "server-key.pem",
                client_ca=tls / "device-ca.pem",
            )
        )

    @property
    def tls_port(self) -> int:
        return self._tls_port

    def start(self, children: Children) -> None:
        conf = self._folder / "nginx.conf"
        nginx = children.start("nginx", [require_tool("nginx"), "-c", str(conf), "-p", str(self._folder)])
        wait_for(lambda: (self._folder / "nginx.pid").exists() and nginx.running, 20.0, "nginx to start")

    def fetch(self, name: str, target: Path, identity: ClientIdentity | None, port: int | None = None) -> Fetched:
        """Have curl write a file; with `identity` over mutual TLS, by another `port` if a relay stands between."""
        command = [
            *self.command(name, target, identity, port), "--write-out", "%{time_total} %{time_starttransfer}",
        ]  # fmt: skip
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        total, first = printed.split()
        return Fetched(float(total), float(first))

    def command(self, name: str, target: Path, identity: ClientIdentity | None, port: int | None = None) -> list[str]:
        """What has curl do that."""
        scheme, default = ("https", self._tls_port) if identity else ("http", self._plain_port)
        command = [
            require_tool("curl"), "--silent", "--show-error", "--fail", "--output", str(target),
            f"{scheme}://{self._host}:{port or default}/{name}",
        ]  # fmt: skip
        if identity:
            command += [
                "--cacert", str(identity.server_ca), "--cert", str(identity.certificate), "--key", str(identity.key),
            ]  # fmt: skip
        return command

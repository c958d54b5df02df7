"""What the tests of the device's shells share: a provisioned gateway in a folder, and a file size limit to run into."""

from __future__ import annotations

import resource
import select
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from narrowboat_device.boot.loader import power_on
from narrowboat_device.config import Config, load_config
from narrowboat_device.disk import SystemDisk
from narrowboat_device.provision import provision, signing_request
from narrowboat_protocol.limits import DEFAULT_LIMITS, KIB
from tests.support.fleet import FleetKit

DISK = SystemDisk()

SLOT_BYTES = 1024 * KIB
CONFIG = """
[gateway]
name = "gw-1"
vendor = "example.com"
class = "gateway-a"

[broker]
host = "broker.example"
server_ca = "server-ca.pem"
certificate = "certificate.pem"
key = "key.pem"

[storage]
data_dir = "data"
root = "root.cbor"

[boot]
state_file = "boot-state"

[[slots]]
name = "a"
path = "slot-a.img"

[[slots]]
name = "b"
path = "slot-b.img"
"""


@dataclass(frozen=True, slots=True)
class GatewayFolder:
    """A gateway that is provisioned and switched on, in slot a."""

    folder: Path
    fleet: FleetKit
    config_path: Path

    @property
    def config(self) -> Config:
        return load_config(self.config_path)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def power_on(self) -> str:
        return power_on(DISK, self.config.boot.state_file, self.config.boot.booted_path, self.config.slot_names)

    def arguments(self, *words: str) -> list[str]:
        """A command line for this gateway."""
        return [*words, "--config", str(self.config_path)]


def make_gateway(folder: Path, fleet: FleetKit, more_config: str = "") -> GatewayFolder:
    """Provision a gateway of `fleet` in an empty folder and switch it on."""
    config_path = folder / "device.toml"
    config_path.write_text(CONFIG + more_config)
    (folder / "root.cbor").write_bytes(fleet.root_data)
    (folder / "server-ca.pem").write_bytes(fleet.device_ca.pem)
    for name in ("a", "b"):
        (folder / f"slot-{name}.img").write_bytes(bytes(SLOT_BYTES))
    gateway = GatewayFolder(folder, fleet, config_path)
    provision(DISK, gateway.config, DEFAULT_LIMITS)
    key = x509.load_pem_x509_csr(signing_request(DISK, gateway.config)).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    certificate = x509.load_der_x509_certificate(fleet.device_ca.issue("gw-1", key))
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    gateway.power_on()
    return gateway


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """No file may be written at or beyond this offset: a write that reaches it is short, the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def hung_up(reader: int) -> bool:
    """Whether every process that held the other end of a pipe is gone, at once or within seconds."""
    poll = select.poll()
    poll.register(reader, 0)
    return bool(poll.poll(10_000))


def flip_bit(path: Path, offset: int) -> None:
    """Damage one byte of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x10]))

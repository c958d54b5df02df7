"""The folder of a fleet, as `narrowboat init` makes it: where everything is, and how it is opened.

    fleet.toml             what this fleet is called and where its broker listens
    root/                  1.root, 2.root ... (who may sign what), operators.signed (who may command)
    keys/                  root-1, release-1..n, admin-1, which belong on machines without a network
    pki/                   the five certification authorities, and which operators' certificates were issued and revoked
    broker/                the broker's home: mosquitto.conf, tls/, acl/, data/
    bridge/                bridge.toml, its signing keys and TLS identity, data/
    operators/NAME/        operator.toml and what it names
    devices/NAME/          device.toml and what it names, to be copied to the device
    bridges/, births/      further identities

All paths inside its files are relative, so the folder may be moved, and its parts may be taken apart: what a bridge
needs is in bridge/, what an operator needs in one folder, what signs releases in keys/. The keys that a bridge uses
while it runs, the director's, the bridge's, and the agreement key that releases may be encrypted to, are in bridge/
only; keys/ has their public halves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cryptography import x509
from pydantic import Field, StringConstraints

from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.model import AS_TUPLE
from narrowboat_protocol.topics import NAME_PATTERN
from narrowboat_protocol.trust import Trust

from ..broker_home import Listener, Ports
from ..files import PRIVATE, PUBLIC, read_bounded, write_new
from ..pki import Authority, read_authorities
from ..toml_file import TomlFile
from .arguments import CLASS_PATTERN, HOST_PATTERN
from .key_files import load_key
from .trust_files import load_chain

FILE_NAME = "fleet.toml"
SERVER = "server"
PARTIES = (*(listener.value for listener in Listener), SERVER)
"""Whom the authorities issue to: who connects to a listener of the broker, and the broker itself."""
_PEM_BYTES_MAX = 64 * 1024

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Host = Annotated[str, StringConstraints(pattern=HOST_PATTERN)]
Port = Annotated[int, Field(ge=1, le=65_535)]


class FleetToml(TomlFile):
    """The file, checked. `vendor`, `class` and `component` are what new devices and releases start from."""

    fleet_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    hosts: Annotated[tuple[Host, ...], AS_TUPLE] = Field(min_length=1, max_length=8)
    bridge: Name
    vendor: Annotated[str, StringConstraints(min_length=1, max_length=253)]
    hardware_class: Annotated[str, StringConstraints(pattern=CLASS_PATTERN)] = Field(alias="class")
    component: Name
    device_port: Port
    enrol_port: Port
    staff_port: Port
    bridge_port: Port

    @property
    def ports(self) -> Ports:
        return Ports(self.device_port, self.enrol_port, self.staff_port, self.bridge_port)


@dataclass(frozen=True, slots=True)
class FleetFolder:
    """A fleet folder that is there."""

    path: Path
    toml: FleetToml

    @classmethod
    def open(cls, path: Path) -> FleetFolder:
        if not (path / FILE_NAME).is_file():
            raise UsageError(
                Reason.BAD_CONFIG, f"expected a fleet folder at {path}, got one without {FILE_NAME}; pass --fleet"
            )
        return cls(path, FleetToml.load(path / FILE_NAME))

    @property
    def root_folder(self) -> Path:
        return self.path / "root"

    def root_files(self) -> list[Path]:
        """Every root, the first one first. One that is missing ends the list, as it ends the walk of a device."""
        files: list[Path] = []
        while (file := self.root_folder / f"{len(files) + 1}.root").is_file():
            files.append(file)
        return files

    @property
    def operators_file(self) -> Path:
        return self.path / "root" / "operators.signed"

    @property
    def server_ca_file(self) -> Path:
        return authority_file(self.path, SERVER)

    @property
    def broker_home(self) -> Path:
        return self.path / "broker"

    @property
    def bridge(self) -> Path:
        return self.path / "bridge"

    def operator(self, name: str) -> Path:
        return self.path / "operators" / name

    def device(self, name: str) -> Path:
        return self.path / "devices" / name

    def trust(self) -> Trust:
        """What a device believes that has seen every root."""
        return load_chain(self.root_files(), bytes.fromhex(self.toml.fleet_id))

    def admin_keys(self, passphrase: bytes | None) -> list[PrivateKey]:
        """Every admin key that is still here."""
        files = sorted((self.path / "keys").glob("admin-[0-9]*.pem"))
        keys = [load_key(file, passphrase) for file in files if not file.name.endswith(".pub.pem")]
        if not keys:
            raise UsageError(
                Reason.BAD_USE, f"expected an admin key in {self.path / 'keys'}, got none; bring admin-1.pem back"
            )
        return keys

    def authority_certificate(self, party: str) -> x509.Certificate:
        """Of the authority, whose key may be elsewhere."""
        (certificate,) = read_authorities(read_bounded(authority_file(self.path, party), _PEM_BYTES_MAX))
        return certificate

    def authority(self, party: str, passphrase: bytes | None) -> Authority:
        """The authority that issues to a kind of party, one of `PARTIES`."""
        certificate = read_bounded(authority_file(self.path, party), _PEM_BYTES_MAX)
        key = load_key(authority_key_file(self.path, party), passphrase)
        return Authority.of(certificate, key)


def authority_file(fleet: Path, party: str) -> Path:
    return fleet / "pki" / f"{party}-ca.pem"


def authority_key_file(fleet: Path, party: str) -> Path:
    return fleet / "pki" / f"{party}-ca-key.pem"


def save_authority(fleet: Path, party: str, authority: Authority, key: bytes) -> None:
    """Write an authority's certificate, and what goes into the file of its key: the key, or where it is."""
    write_new(authority_file(fleet, party), authority.certificate_pem, PUBLIC)
    write_new(authority_key_file(fleet, party), key, PRIVATE)

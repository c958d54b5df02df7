"""The one configuration file of a bridge: TOML, checked whole before anything is opened.

    name = "bridge-1"                      the common name of its certificate, and its client id at the broker
    fleet_id = "5e884898..."               64 hex digits; pins the fleet whatever version the root has reached
    data = "data"                          the folder of the store, payloads and uploads

    [broker]
    host = "broker.example.com"
    port = 8886
    ca = "server-ca.pem"                   the CA of the broker's certificate
    certificate = "tls-cert.pem"
    key = "tls-key.pem"

    [trust]
    roots = "root"                         folder of every root of the fleet: 1.root, 2.root and so on
    operators = "operators.signed"         who may command, signed by admin keys
    device_ca = "device-ca.pem"            who may be a device

    [keys]                                 files, or pkcs11: URIs of keys in a token
    director = "director.pem"              signs assignments
    bridge = "bridge.pem"                  signs Acks, replies and events
    device_ca = "device-ca-key.pem"        signs the certificates of devices
    agreement = "agreement.pem"            opens the keys of encrypted payloads; may be left out

    [enrolment]
    crl = "device-crl.pem"                 what is revoked, for the broker; in the folder `data` if left out
    crl_command = ["systemctl", "reload", "mosquitto"]     has the broker read it again; may be left out

    [limits]                               every one may be left out

Relative paths are relative to the folder of the file, so that a whole fleet folder can be moved. Key files
that others may read are refused: the director key decides what every gateway runs.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.limits import KIB, MIB
from narrowboat_protocol.suit import AgreementKey
from narrowboat_protocol.token_uri import TokenUri
from narrowboat_protocol.toml_text import parse_toml
from narrowboat_protocol.topics import NAME_PATTERN

from ..key_place import KeyPlace, key_in_token, uri_in
from ..toml_file import KeyLocation, Location

_FAULTS_SHOWN_MAX = 20

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Argument = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BrokerConfig(_Section):
    """Where the broker's bridge listener is, and how either side proves who it is."""

    host: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:-]{1,253}$")]
    port: int = Field(default=8886, ge=1, le=65_535)
    ca: Location
    certificate: Location
    key: Location
    keepalive_s: int = Field(default=30, ge=5, le=3600)


class TrustConfig(_Section):
    """What this bridge believes."""

    roots: Location
    operators: Location
    device_ca: Location


class KeysConfig(_Section):
    """What this bridge signs with, and what releases seal the keys of their payloads to."""

    director: KeyLocation
    bridge: KeyLocation
    device_ca: KeyLocation
    agreement: Location | None = None


class EnrolmentConfig(_Section):
    """What becomes of certificates that are revoked."""

    crl: Location | None = None
    crl_command: Annotated[tuple[Argument, ...], Field(strict=False, min_length=1, max_length=64)] | None = None


class LimitsConfig(_Section):
    """What anyone may take of this bridge. The defaults suit ten thousand gateways on one machine."""

    devices_max: int = Field(default=100_000, ge=1, le=1_000_000)
    history_rows_per_device: int = Field(default=200, ge=1, le=10_000)
    messages_queued_max: int = Field(default=10_000, ge=100, le=100_000)
    messages_queued_bytes_max: int = Field(default=64 * MIB, ge=1 * MIB)
    publishes_queued_max: int = Field(default=20_000, ge=100, le=60_000)
    device_messages_per_s: float = Field(default=10.0, gt=0, le=10_000)
    enrolments_per_s: float = Field(default=200.0, gt=0, le=10_000)
    operator_messages_per_s: float = Field(default=50.0, gt=0, le=10_000)
    device_requests_per_s: float = Field(default=4_000.0, gt=0, le=100_000)
    device_bytes_per_s: int = Field(default=256 * MIB, ge=64 * KIB)
    """Stops a gateway that has lost its senses. What is beyond is dropped, so this must stay above any honest link."""
    requests_queued_max: int = Field(default=2_000, ge=10, le=100_000)
    device_requests_queued_max: int = Field(default=64, ge=1, le=10_000)
    outstanding_bytes_max: int = Field(default=8 * MIB, ge=1 * MIB)
    replays_max: int = Field(default=20_000, ge=100, le=1_000_000)
    uploads_max: int = Field(default=4, ge=1, le=100)
    upload_bytes_max: int = Field(default=8 * 1024 * MIB, ge=1 * MIB)


class Config(_Section):
    """The whole file."""

    name: Name
    fleet_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    data: Location
    broker: BrokerConfig
    trust: TrustConfig
    keys: KeysConfig
    enrolment: EnrolmentConfig = EnrolmentConfig()
    limits: LimitsConfig = LimitsConfig()

    @property
    def store_path(self) -> Path:
        return self.data / "bridge.sqlite"

    @property
    def crl_path(self) -> Path:
        return self.enrolment.crl or self.data / "device-crl.pem"

    @property
    def payloads_folder(self) -> Path:
        return self.data / "payloads"

    @property
    def uploads_folder(self) -> Path:
        return self.data / "uploads"


def load_config(path: Path) -> Config:
    """Read and check a configuration file. Raises `UsageError` that lists every fault in it."""
    data = read_file(path)
    try:
        return Config.model_validate(parse_toml(data), context={"folder": path.parent.absolute()})
    except UsageError as error:
        raise UsageError(error.reason, f"{path}: {error}") from None
    except ValidationError as error:
        raise UsageError(Reason.BAD_CONFIG, f"{path}: {_describe(error)}") from None


def read_file(path: Path) -> bytes:
    """The bytes of a file that the configuration names."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            Reason.BAD_CONFIG, f"{path}: expected a readable file: {error.strerror}; correct the path or the rights"
        ) from None


def load_key(place: KeyPlace) -> PrivateKey:
    """A signing key: in a token, or in a file that nobody else may read."""
    if isinstance(place, TokenUri):
        return key_in_token(place)
    uri = uri_in(read_file(place))
    return PrivateKey.from_pem(_read_key(place)) if uri is None else key_in_token(uri)


def load_agreement_key(path: Path | None) -> AgreementKey | None:
    """The key that opens the keys of payloads, if there is one. Nobody else may read it."""
    if path is None:
        return None
    try:
        return AgreementKey.from_pem(_read_key(path))
    except UsageError as error:
        raise UsageError(Reason.BAD_CONFIG, f"[keys] agreement: {error}") from None


def _read_key(path: Path) -> bytes:
    pem = read_file(path)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(
            Reason.BAD_CONFIG, f"{path}: expected a key that only its owner may read, got mode {mode:o}; chmod 600 it"
        )
    return pem


def _describe(error: ValidationError) -> str:
    """Every fault with its place. The values stay out: a key could stand where a path should."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [f"  {'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults[:_FAULTS_SHOWN_MAX]]
    if len(faults) > len(lines):
        lines.append(f"  and {len(faults) - len(lines)} more")
    return "\n".join([f"expected a bridge's configuration, got {len(faults)} faults", *lines])

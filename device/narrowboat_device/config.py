"""The one configuration file of a gateway: TOML, checked whole before anything is opened.

The text on disk is the boundary, so pydantic checks it here and the rest of the agent takes the checked
values as given. A wrong file is reported with all its faults at once, each with its place, what was
expected there and what stands there instead. Relative paths are relative to the folder of the file, so that
a folder with a whole gateway in it can be moved.

What need not be said has a default that is safe on a gateway nobody watches: a trial ends after three
boots, a local installation demands the same signatures as a remote one, and a head that would take more
than 16 MiB to decode is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from narrowboat_protocol.documents.root import RootUrl
from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.token_uri import TokenUri, parse_token_uri
from narrowboat_protocol.toml_text import parse_toml
from narrowboat_protocol.topics import NAME_PATTERN

_FAULTS_SHOWN_MAX = 20
_GOT_CHARACTERS_MAX = 60


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    folder: Path = info.context["folder"] if info.context else Path()
    if "\0" in str(path):
        raise ValueError("expected a path, got one with a null character")
    try:
        return folder / path.expanduser()
    except RuntimeError:
        raise ValueError("expected a user of this machine after ~, got another; write the whole path") from None


def _resolvable(host: str) -> str:
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError("expected a host's name, each part of it 1 to 63 characters long") from None
    return host


def _token_uri(value: object) -> TokenUri:
    if isinstance(value, TokenUri):
        return value
    try:
        return parse_token_uri(value if isinstance(value, str) else "")
    except UsageError as error:
        raise ValueError(str(error)) from None


Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Location = Annotated[Path, Field(strict=False), AfterValidator(_beside_the_file)]
Argument = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Command = Annotated[tuple[Argument, ...], Field(strict=False, min_length=1, max_length=64)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class GatewayConfig(_Section):
    """Who this gateway is, and what a release must be made for to run on it."""

    name: Name = Field(description="the gateway's name in the fleet: a-z, 0-9 and '-', at most 64")
    vendor: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.-]{1,253}$")] = Field(
        description='the DNS domain of the hardware\'s vendor, like "example.com"'
    )
    hardware_class: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Field(
        alias="class", description='the class of hardware that releases are made for, like "gateway-a"'
    )
    component: Name = Field(default="rootfs", description="the component of a release that goes into the slots")


class BrokerConfig(_Section):
    """Where the fleet's broker is, and how either side proves who it is."""

    host: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:-]{1,253}$"), AfterValidator(_resolvable)] = Field(
        description="the broker's host, as its certificate names it"
    )
    port: int = Field(default=8883, ge=1, le=65535, description="the port of the broker's device listener")
    server_ca: Location = Field(description="PEM file with the CA of the broker's certificate")
    certificate: Location = Field(description="PEM file with this gateway's certificate and its chain")
    key: Location = Field(description="PEM file with this gateway's private key, or by which OpenSSL finds it")
    keepalive_s: int = Field(default=30, ge=5, le=3600, description="how soon a dead connection is noticed")


class IdentityConfig(_Section):
    """The key that this gateway signs its statements with, if it is in a token. Without this section, it is the key of
    the connection.
    """

    key: Annotated[TokenUri, PlainValidator(_token_uri)] = Field(
        description='a URI like "pkcs11:token=gateway;object=identity?module-path=FILE&pin-source=FILE"'
    )
    certificate: Location | None = Field(
        default=None, description="PEM file for that key's certificate, if [broker] key is another one, for TLS only"
    )


class EnrolmentConfig(_Section):
    """How this gateway gets its certificate from the fleet. Without this section the first is made by hand."""

    port: int = Field(default=8884, ge=1, le=65535, description="the port of the broker's enrolment listener")
    certificate: Location = Field(description="PEM file with the birth certificate, or that of a claim")
    key: Location | None = Field(default=None, description="PEM file with its key; [broker] key if absent")
    vouches: bool = Field(default=False, description="whether that key signs requests: true for a birth key")
    secret: Location | None = Field(default=None, description="a file with the claim secret of this gateway alone")
    serial: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = Field(
        default=None, description="the serial number on the label, for people; it proves nothing"
    )


class EncryptionConfig(_Section):
    """Taking payloads that are encrypted. Without this section none is taken."""

    key: Location = Field(description="PEM file with the P-256 key that the keys of payloads are sealed to")


class StorageConfig(_Section):
    """Where the agent keeps what must survive."""

    data_dir: Location = Field(description="a folder on storage that no update touches")
    root: Location = Field(description="the signed root that this gateway is provisioned with")


class BootConfig(_Section):
    """How the boot loader is told what to boot."""

    adapter: Literal["file"] = Field(default="file", description='the boot adapter; this version has "file"')
    state_file: Location = Field(description="the file that the boot loader reads")
    booted_file: Location | None = Field(
        default=None, description="where the boot loader says what it booted; beside the state file if absent"
    )
    tries: int = Field(default=3, ge=1, le=10, description="how often a new slot is booted before the old one returns")
    reboot_command: Command | None = Field(default=None, description='a list like ["systemctl", "reboot"]')

    @property
    def booted_path(self) -> Path:
        return self.booted_file or self.state_file.with_name(f"{self.state_file.name}.booted")


class SlotConfig(_Section):
    """One slot of the pair."""

    name: Name = Field(description="the slot's name, as the boot loader knows it")
    path: Location = Field(description="the block device or file that holds the slot")


class HealthConfig(_Section):
    """How a new system is judged on trial."""

    command: Command | None = Field(default=None, description="a list: the program that judges; absent means well")
    deadline_s: Seconds = Field(default=300.0, description="how long the new system may take to become well")
    retry_s: Seconds = Field(default=10.0, description="how long to wait between two questions")


class HooksConfig(_Section):
    """The integrator's programs that may hold an update back."""

    download: Command | None = Field(default=None, description="a list: asked before the first byte is fetched")
    reboot: Command | None = Field(default=None, description="a list: asked before the boot switch is written")
    timeout_s: Seconds = Field(default=60.0, description="how long any hook may take to answer")
    retry_s: Seconds = Field(default=300.0, description="when to ask again after 'not now'")


class TrustConfig(_Section):
    """Where newer roots may lie when no broker can be trusted any more."""

    root_urls: tuple[RootUrl, ...] = Field(
        default=(), strict=False, max_length=4, description="a list of folders on the web with N.root files in them"
    )


class InstallConfig(_Section):
    """Installing from a file on this machine."""

    allow_local: bool = Field(default=True, description="whether `install FILE` may do anything")


class LimitsConfig(_Section):
    """What the agent may take of the machine."""

    memory_mib: int = Field(default=16, ge=1, le=1024, description="the most that decoding a payload may take")


class Config(_Section):
    """The whole file."""

    gateway: GatewayConfig
    broker: BrokerConfig
    storage: StorageConfig
    boot: BootConfig
    slots: tuple[SlotConfig, SlotConfig] = Field(strict=False, description="exactly two [[slots]]")
    health: HealthConfig = HealthConfig()
    hooks: HooksConfig = HooksConfig()
    install: InstallConfig = InstallConfig()
    trust: TrustConfig = TrustConfig()
    identity: IdentityConfig | None = None
    enrolment: EnrolmentConfig | None = None
    encryption: EncryptionConfig | None = None
    limits: LimitsConfig = LimitsConfig()

    @model_validator(mode="after")
    def _two_slots(self) -> Self:
        first, second = self.slots
        if first.name == second.name or first.path == second.path:
            raise ValueError("expected two slots with different names and paths")
        return self

    @model_validator(mode="after")
    def _two_keys_ask(self) -> Self:
        if self.has_connection_key and self.enrolment is None:
            raise ValueError("expected an [enrolment] section beside [identity] certificate, as two keys ask for two")
        return self

    @property
    def has_connection_key(self) -> bool:
        """Whether [broker] key is for TLS only, and another key, in a token, is who this gateway is."""
        return self.identity is not None and self.identity.certificate is not None

    @property
    def identity_certificate(self) -> Path:
        """Of the key that signs."""
        own = None if self.identity is None else self.identity.certificate
        return own or self.broker.certificate

    def named(self, name: str) -> Config:
        """The same configuration under the name that the fleet gave to the gateway."""
        return self.model_copy(update={"gateway": self.gateway.model_copy(update={"name": name})})

    @property
    def slot_names(self) -> tuple[str, str]:
        return self.slots[0].name, self.slots[1].name


def load_config(path: Path) -> Config:
    """Read and check a configuration file. Raises `UsageError` that lists every fault in it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(
            Reason.BAD_CONFIG, f"{path}: expected a readable file: {error.strerror}; name it with --config"
        ) from None
    try:
        return Config.model_validate(parse_toml(data), context={"folder": path.parent.absolute()})
    except UsageError as error:
        raise UsageError(error.reason, f"{path}: {error}") from None
    except ValidationError as error:
        raise UsageError(Reason.BAD_CONFIG, _describe(path, error)) from None


def _describe(path: Path, error: ValidationError) -> str:
    faults = error.errors(include_url=False)
    lines = [_describe_fault(fault["loc"], fault["type"], fault["msg"], fault["input"]) for fault in faults]
    more = len(lines) - _FAULTS_SHOWN_MAX
    if more > 0:
        lines[_FAULTS_SHOWN_MAX:] = [f"and {more} more"]
    return f"{path}: {len(faults)} fault{'s' if len(faults) > 1 else ''}\n" + "\n".join(f"  {line}" for line in lines)


def _describe_fault(location: tuple[int | str, ...], kind: str, message: str, value: object) -> str:
    place = _place(location)
    expected = _description(location) or message[:1].lower() + message[1:]
    if kind == "missing":
        return f"{place}: missing; expected {expected}"
    if kind == "extra_forbidden":
        return f"{place}: unknown; remove it or correct its spelling"
    if kind == "value_error":
        return f"{place}: {message.removeprefix('Value error, ')}"
    return f"{place}: expected {expected}; got {value!r:.{_GOT_CHARACTERS_MAX}} ({message[:1].lower()}{message[1:]})"


def _place(location: tuple[int | str, ...]) -> str:
    """Where a fault is, as TOML writes it: `[broker] port`, `[[slots]] 2: name`."""
    match location:
        case ():
            return "the file"
        case ("slots", int(number), *rest):
            return ": ".join([f"[[slots]] {number + 1}", *map(str, rest)])
        case ("slots",):
            return "[[slots]]"
        case _:
            section, *rest = location
            return " ".join([f"[{section}]", ".".join(map(str, rest))]).rstrip()


def _description(location: tuple[int | str, ...]) -> str | None:
    """What the field at this place is for, out of the models."""
    model: type[BaseModel] | None = Config
    description = None
    for part in location:
        if isinstance(part, int):
            model = SlotConfig if model is None else None
            continue
        if model is None:
            return description
        field = next((field for name, field in model.model_fields.items() if part in (name, field.alias)), None)
        if field is None:
            return description
        description = field.description
        annotation = field.annotation
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    return description

"""`narrowboat init FOLDER`: a working fleet in one command.

It makes everything that a fleet consists of and nothing that it would have to trust: the keys of every role
and the root that names them, the certification authorities, the broker's home, the bridge, and a first
operator. It is built beside the place where it is to stand and renamed into it, so there is no such thing as
half a fleet.

Starting with all keys in one folder is for trying out, and the text that is printed says so. What makes it
safe is moving keys away: none but the bridge's and the director's are needed by anything that runs.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from narrowboat_protocol.cose import fleet_id_of
from narrowboat_protocol.documents import (
    BrokerAddress,
    Operator,
    OperatorRole,
    RoleName,
    Root,
    sign_model,
)
from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.keys import Algorithm, PrivateKey
from narrowboat_protocol.suit import AgreementKey
from narrowboat_protocol.token_uri import TokenUri

from ..broker_home import BrokerCertificates, Listener, Ports, write_broker_home
from ..files import PRIVATE, PUBLIC, write_new
from ..key_place import key_in_token, uri_in
from ..pki import Authority, issue_crl, issue_server, key_to_pem, new_key
from .arguments import Subparsers, add_command, class_name, domain, host, name, port, positive
from .exits import ExitCode
from .fleet_folder import FILE_NAME, PARTIES, SERVER, FleetFolder, save_authority
from .identities import make_bridge, make_operator
from .key_files import add_passphrase_arguments, key_argument, passphrase_of, save_key
from .output import print_result
from .pki import save_operators
from .root_changes import YEAR_S, first_root
from .staff_crl import crl_file

BRIDGE_NAME = "bridge-1"
_OPERATOR = "operator"
_HOSTS = ("localhost", "127.0.0.1")
_RELEASE_KEYS_MAX = 16
_ROOT_YEARS_MAX = 100
_HOSTS_MAX = 8
_COMPONENTS_MAX = 32

_FLEET_TOML = """\
fleet_id = "{fleet_id}"
hosts = [{hosts}]
bridge = "{bridge}"
vendor = "{vendor}"
class = "{hardware_class}"
component = "{component}"
device_port = {ports.device}
enrol_port = {ports.enrol}
staff_port = {ports.staff}
bridge_port = {ports.bridge}
"""

_BRIDGE_TOML = """\
name = "{bridge}"
fleet_id = "{fleet_id}"
data = "data"

[broker]
host = "{host}"
port = {port}
ca = "server-ca.pem"
certificate = "tls-cert.pem"
key = "tls-key.pem"

[trust]
roots = "root"
operators = "operators.signed"
device_ca = "device-ca.pem"

[keys]
director = "director.pem"
bridge = "bridge.pem"
device_ca = "device-ca-key.pem"
agreement = "agreement.pem"

[enrolment]
crl = "../broker/tls/device-crl.pem"
# crl_command = ["systemctl", "reload", "mosquitto"]
"""

_RELEASE_TOML = """\
# A release: `narrowboat release build release.toml -o OUT.nbr`. The path of the image is relative to this file.
component = "{component}"
vendor = "{vendor}"
classes = ["{hardware_class}"]
version = "1.0.0"
sequence = 1
image = "{component}.ext4"
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for."""

    operator: str
    hosts: tuple[str, ...]
    ports: Ports
    vendor: str
    hardware_class: str
    components: tuple[str, ...]
    release_keys: int
    release_threshold: int
    root_years: int
    passphrase: bytes | None
    device_ca_key: bytes | None = None
    """What the file of the device authority's key holds, if that key is in a token: its URI."""


def add_parser(subparsers: Subparsers) -> None:
    init = add_command(
        subparsers,
        "init",
        _init,
        "make a working fleet in a new folder",
        "Makes the root and the keys of every role, the certification authorities, a home for Mosquitto, the bridge"
        " and a first operator, and prints the commands that come next.",
    )
    init.add_argument("folder", metavar="FOLDER", type=Path, help="a folder that does not exist or is empty")
    option = init.add_argument
    option("--operator", metavar="NAME", type=name, default=_OPERATOR, help="the first operator (default: %(default)s)")
    option(
        "--host",
        metavar="HOST",
        type=host,
        action="append",
        help="a name or address of the broker, the first being the one that is told to everybody; may be repeated"
        f" (default: {', '.join(_HOSTS)})",
    )
    for listener in Listener:
        default = getattr(Ports(), listener.value)
        option(f"--{listener}-port", metavar="PORT", type=port, default=default, help="default: %(default)s")
    option("--vendor", metavar="DOMAIN", type=domain, default="example.com", help="default: %(default)s")
    option(
        "--class",
        metavar="CLASS",
        dest="hardware_class",
        type=class_name,
        default="gateway-a",
        help="of the hardware (default: %(default)s)",
    )
    option(
        "--component",
        metavar="NAME",
        type=name,
        action="append",
        help="what releases may be for; may be repeated (default: rootfs)",
    )
    option("--release-keys", metavar="N", type=positive, default=1, help="how many to make (default: 1)")
    option("--release-threshold", metavar="N", type=positive, default=1, help="how many must sign (default: 1)")
    option("--root-years", metavar="N", type=positive, default=10, help="until the root expires (default: 10)")
    option(
        "--device-ca-key",
        metavar="URI",
        type=_uri,
        help="make the device authority of this P-256 key in a token; its URI stands in the files of that key",
    )
    add_passphrase_arguments(init, "the root, release, admin and CA keys")


def _init(arguments: argparse.Namespace) -> int:
    plan = Plan(
        operator=arguments.operator,
        hosts=tuple(dict.fromkeys(arguments.host or _HOSTS)),
        ports=Ports(arguments.device_port, arguments.enrol_port, arguments.staff_port, arguments.bridge_port),
        vendor=arguments.vendor,
        hardware_class=arguments.hardware_class,
        components=tuple(dict.fromkeys(arguments.component or ("rootfs",))),
        release_keys=arguments.release_keys,
        release_threshold=arguments.release_threshold,
        root_years=arguments.root_years,
        passphrase=passphrase_of(arguments),
        device_ca_key=arguments.device_ca_key,
    )
    fleet = create_fleet(arguments.folder, plan, int(time.time()))
    if arguments.json:
        print_result(
            {"folder": str(fleet.path), "fleet_id": fleet.toml.fleet_id, "operator": plan.operator}, as_json=True
        )
    else:
        print(_next_steps(fleet, plan))
    return ExitCode.OK


def _uri(text: str) -> bytes:
    """The line that stands in a key file for a key in a token."""
    if not isinstance(key_argument(text), TokenUri):
        raise argparse.ArgumentTypeError("expected a pkcs11: URI, got something else")
    return text.encode() + b"\n"


def create_fleet(folder: Path, plan: Plan, now_s: int) -> FleetFolder:
    """Make the fleet, whole or not at all. Raises `UsageError` if something is in its place."""
    folder = folder.resolve()
    _check(folder, plan)
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.init")
    try:
        building.mkdir(mode=0o700)
        _fill(building, plan, now_s)
        building.replace(folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return FleetFolder.open(folder)


def _check(folder: Path, plan: Plan) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            Reason.CONFLICT, f"expected a new or empty folder, got {folder} with something in it; choose another"
        )
    if folder == Path.cwd():
        raise UsageError(
            Reason.BAD_USE,
            "expected another folder than the current one, which cannot be replaced; name it from outside",
        )
    if not plan.release_threshold <= plan.release_keys <= _RELEASE_KEYS_MAX:
        raise UsageError(
            Reason.BAD_USE,
            f"expected at most {_RELEASE_KEYS_MAX} release keys and a threshold that they can reach,"
            f" got {plan.release_keys} keys and threshold {plan.release_threshold}",
        )
    if len(set(astuple(plan.ports))) != len(Listener):
        raise UsageError(Reason.BAD_USE, "expected a port of its own for each listener, got one of them twice")
    if len(plan.hosts) > _HOSTS_MAX or len(plan.components) > _COMPONENTS_MAX:
        raise UsageError(
            Reason.BAD_USE, f"expected at most {_HOSTS_MAX} hosts and {_COMPONENTS_MAX} components, got more"
        )
    if plan.root_years > _ROOT_YEARS_MAX:
        raise UsageError(
            Reason.BAD_USE, f"expected a root that expires within {_ROOT_YEARS_MAX} years, got {plan.root_years}"
        )


def _fill(path: Path, plan: Plan, now_s: int) -> None:
    for part in ("root", "keys", "pki", "broker", "bridge"):
        (path / part).mkdir(mode=0o700)
    keys = _create_keys(path, plan)
    authorities = {party: _create_authority(party, plan, now_s) for party in PARTIES}
    for party, authority in authorities.items():
        key = plan.device_ca_key if party == Listener.DEVICE else None
        save_authority(path, party, authority, key or PrivateKey(authority.key).to_pem(plan.passphrase))
    root = _root(plan, keys, authorities[SERVER], now_s)
    fleet_id = fleet_id_of(root.encode())
    write_new(path / "root" / "1.root", sign_model(root, fleet_id, keys[RoleName.ROOT]), PUBLIC)
    values = {
        "fleet_id": fleet_id.hex(),
        "hosts": ", ".join(f'"{host}"' for host in plan.hosts),
        "host": plan.hosts[0],
        "bridge": BRIDGE_NAME,
        "vendor": plan.vendor,
        "hardware_class": plan.hardware_class,
        "component": plan.components[0],
        "ports": plan.ports,
        "port": plan.ports.bridge,
    }
    write_new(path / FILE_NAME, _FLEET_TOML.format_map(values).encode(), PUBLIC)
    write_new(path / "release.toml", _RELEASE_TOML.format_map(values).encode(), PUBLIC)
    write_new(path / "bridge" / "bridge.toml", _BRIDGE_TOML.format_map(values).encode(), PUBLIC)
    fleet = FleetFolder.open(path)
    _fill_broker(fleet, plan, authorities, now_s)
    _fill_bridge(fleet, plan, authorities, now_s)
    _, operator_key = make_operator(fleet, authorities[Listener.STAFF], plan.operator, now_s)
    first = Operator(name=plan.operator, cose_key=operator_key.to_cbor(), role=OperatorRole.ADMIN)
    save_operators(fleet, 1, [first], keys[RoleName.ADMIN], approval_over=None)


def _create_authority(party: str, plan: Plan, now_s: int) -> Authority:
    """The device authority's key may be in a token; a new one is made for each of the others."""
    uri = uri_in(plan.device_ca_key) if party == Listener.DEVICE and plan.device_ca_key else None
    key = new_key() if uri is None else key_in_token(uri).in_cryptography
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError(Reason.BAD_USE, f"{uri}: expected a P-256 key for the device authority, got Ed25519")
    return Authority.create(f"narrowboat {party} CA", now_s, key=key)


def _create_keys(path: Path, plan: Plan) -> dict[RoleName, list[PrivateKey]]:
    """The keys of every role. Those that sign while a bridge runs go to the bridge; keys/ has their public halves."""
    counts = {RoleName.ROOT: 1, RoleName.RELEASE: plan.release_keys, RoleName.ADMIN: 1}
    keys = {role: [PrivateKey.generate(Algorithm.ED25519) for _ in range(count)] for role, count in counts.items()}
    for role, made in keys.items():
        for number, key in enumerate(made, 1):
            save_key(path / "keys", f"{role}-{number}", key, plan.passphrase)
    for role in (RoleName.DIRECTOR, RoleName.BRIDGE):
        key = PrivateKey.generate(Algorithm.ED25519)
        keys[role] = [key]
        write_new(path / "bridge" / f"{role}.pem", key.to_pem(), PRIVATE)
        write_new(path / "keys" / f"{role}.pub.pem", key.public.to_pem(), PUBLIC)
    agreement = AgreementKey.generate()
    write_new(path / "bridge" / "agreement.pem", agreement.to_pem(), PRIVATE)
    write_new(path / "keys" / "bridge-agreement.pub.pem", agreement.public.to_pem(), PUBLIC)
    return keys


def _root(plan: Plan, keys: Mapping[RoleName, Sequence[PrivateKey]], server: Authority, now_s: int) -> Root:
    return first_root(
        {role: [key.public for key in made] for role, made in keys.items()},
        {RoleName.RELEASE: plan.release_threshold},
        plan.components,
        now_s + plan.root_years * YEAR_S,
        anchors=(server.certificate.public_bytes(serialization.Encoding.DER),),
        addresses=[BrokerAddress(host=host, port=plan.ports.device) for host in plan.hosts],
    )


def _fill_broker(fleet: FleetFolder, plan: Plan, authorities: Mapping[str, Authority], now_s: int) -> None:
    key = new_key()
    certificate = issue_server(authorities[SERVER], plan.hosts, key.public_key(), now_s)
    trusted = {listener: authorities[listener].certificate_pem for listener in Listener}
    nothing_revoked = {
        listener: issue_crl(authorities[listener], 1, (), now_s) for listener in (Listener.DEVICE, Listener.STAFF)
    }
    write_new(crl_file(fleet), nothing_revoked[Listener.STAFF], PUBLIC)
    certificates = BrokerCertificates(certificate, key_to_pem(key), trusted, nothing_revoked)
    # Mosquitto started by root becomes another user, who could not read files of root's.
    user = "root" if os.geteuid() == 0 else None
    write_broker_home(fleet.broker_home, certificates, plan.ports, user)


def _fill_bridge(fleet: FleetFolder, plan: Plan, authorities: Mapping[str, Authority], now_s: int) -> None:
    make_bridge(fleet, authorities[Listener.BRIDGE], BRIDGE_NAME, now_s)
    write_new(fleet.bridge / "device-ca.pem", authorities[Listener.DEVICE].certificate_pem, PUBLIC)
    device_ca_key = plan.device_ca_key or authorities[Listener.DEVICE].key_pem
    write_new(fleet.bridge / "device-ca-key.pem", device_ca_key, PRIVATE)
    (fleet.bridge / "data").mkdir(mode=0o700)


def _next_steps(fleet: FleetFolder, plan: Plan) -> str:
    def path(*parts: str) -> str:
        return shlex.quote(str(fleet.path.absolute().joinpath(*parts)))

    signing = [
        f"narrowboat release sign first.nbr --key {path('keys', f'release-{number}.pem')}"
        for number in range(1, plan.release_threshold + 1)
    ]
    operator = path("operators", plan.operator)
    return "\n".join(
        [
            f"The fleet {fleet.toml.fleet_id[:16]} is in {path()}.",
            "",
            _about_thresholds(plan),
            "",
            "Start the broker and the bridge, each in a terminal of its own:",
            f"  (cd {path('broker')} && mosquitto -c mosquitto.conf)",
            f"  narrowboat bridge run --config {path('bridge', 'bridge.toml')}",
            "",
            "Make a device; then edit its device.toml, and on the device run narrowboat-device provision and run:",
            f"  narrowboat pki issue device gw-1 --fleet {path()}",
            "",
            f"Put an image at {path(f'{plan.components[0]}.ext4')}, or name yours in release.toml, and release it:",
            f"  export NARROWBOAT_OPERATOR={operator}",
            f"  narrowboat release build {path('release.toml')} -o first.nbr",
            *(f"  {line}" for line in signing),
            f"  narrowboat release verify first.nbr --root {path('root', '1.root')}",
            "  narrowboat release push first.nbr --wait",
            "  narrowboat campaign start first.nbr --wait",
        ]
    )


def _about_thresholds(plan: Plan) -> str:
    if plan.release_threshold == 1:
        words = (
            "One release key signs alone: whoever has it decides what your devices run. With --release-keys 3"
            " --release-threshold 2, two people must agree."
        )
    else:
        words = f"{plan.release_threshold} of {plan.release_keys} release keys must sign a release."
    return (
        f"{words}\nThe one root key can replace every other key. Before real devices trust this fleet, move"
        " keys/root-1.pem, the\nrelease keys, keys/admin-1.pem and pki/*-key.pem to machines without a network:"
        " nothing that runs needs them."
    )

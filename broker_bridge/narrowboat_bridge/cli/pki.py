"""`narrowboat pki`: certificates for devices, operators and bridges of a fleet folder.

Each kind of party has an authority of its own, so a certificate says by its issuer what it opens. Operators
also get an entry in the operators document, which admin keys sign: the certificate lets them speak, the
document lets them be heard.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path

from narrowboat_protocol.documents import Operator, OperatorRole, Operators, RoleName, sign_model
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.limits import DEFAULT_LIMITS

from ..broker_home import Listener
from ..files import read_bounded, write_atomically
from ..pki import read_request
from .arguments import Subparsers, add_command, add_group, name
from .exits import ExitCode
from .fleet_folder import FleetFolder
from .identities import make_birth, make_bridge, make_device, make_operator
from .key_files import add_passphrase_arguments, passphrase_of
from .output import print_result
from .scopes import scope_of, scope_part
from .typed import as_typed

_REQUEST_BYTES_MAX = 16 * 1024
NOTE_HERE = "let the bridge read the new operators.signed: send it SIGHUP, or start it again"
NOTE_AWAY = "copy {file} to the bridge's folder, and send the bridge SIGHUP"


def add_parser(subparsers: Subparsers) -> None:
    commands = add_group(subparsers, "pki", "Certificates of a fleet.")
    issue = commands.add_parser(
        "issue", help="issue or renew a certificate", description="Issue or renew a certificate."
    )
    parties = issue.add_subparsers(title="for whom", metavar="PARTY", required=True)
    device = add_command(
        parties,
        "device",
        _issue_device,
        "issue a device's certificate",
        "With --csr, for the key of a request that `narrowboat-device provision` made; its subject is ignored. Without,"
        " the key is made here too, and the folder has all that the device needs.",
    )
    device.add_argument("--csr", metavar="FILE", type=Path, help="the device's signing request, PEM")
    operator = add_command(parties, "operator", _issue_operator, "issue an operator's certificate and let it command")
    operator.add_argument(
        "--role",
        choices=[role.value for role in OperatorRole],
        help="viewer: looks; operator: steers campaigns as well; approver: looks, and agrees to campaigns of others;"
        " admin: all of that, devices and claims (default: the role that it has; of a new one, operator)",
    )
    operator.add_argument(
        "--scope",
        metavar="KIND=NAME",
        type=scope_part,
        action="append",
        help="the devices that it sees and steers: prefix=, device=, class= or component=; may be repeated, and a"
        " device must fit each kind; or all (default: the scope that it has; of a new one, all)",
    )
    bridge = add_command(parties, "bridge", _issue_bridge, "issue a bridge's certificate")
    birth = add_command(
        parties,
        "birth",
        _issue_birth,
        "issue a birth certificate",
        "It opens the enrolment listener only, and never expires.",
    )
    for parser in (device, operator, bridge, birth):
        parser.add_argument("name", metavar="NAME", type=name, help="1 to 64 of a-z, 0-9 and '-'")
        parser.add_argument(
            "--fleet", metavar="FOLDER", type=Path, default=Path(), help="the fleet folder (default: the current one)"
        )
        add_passphrase_arguments(parser, "the fleet's CA and admin keys")


def _issue_device(arguments: argparse.Namespace) -> int:
    fleet, passphrase = FleetFolder.open(arguments.fleet), passphrase_of(arguments)
    requested = None if arguments.csr is None else read_request(read_bounded(arguments.csr, _REQUEST_BYTES_MAX))
    folder = make_device(fleet, fleet.authority(Listener.DEVICE, passphrase), arguments.name, requested, _now_s())
    return _tell(arguments, folder, note="edit device.toml for its hardware and copy the folder to the device")


def _issue_operator(arguments: argparse.Namespace) -> int:
    fleet, passphrase = FleetFolder.open(arguments.fleet), passphrase_of(arguments)
    admins = fleet.admin_keys(passphrase)
    asked = scope_of(arguments.scope, fleet.toml.vendor) if arguments.scope else None
    folder, key = make_operator(fleet, fleet.authority(Listener.STAFF, passphrase), arguments.name, _now_s())
    signed = read_bounded(fleet.operators_file, DEFAULT_LIMITS.document_bytes_max)
    known = fleet.trust().open_by_role(Operators, signed, RoleName.ADMIN)
    before = known.find(arguments.name)
    role = OperatorRole(arguments.role) if arguments.role else before.role if before else OperatorRole.OPERATOR
    scope = asked if arguments.scope else before.scope if before else None
    entry = Operator(name=arguments.name, cose_key=key.to_cbor(), role=role, scope=scope)
    if before == entry:
        give_to_bridge(fleet, signed)
        return _tell(arguments, folder, note=f"renewed; the operators document has this {role} already")
    others = [operator for operator in known.operators if operator.name != entry.name]
    here = save_operators(fleet, known.version + 1, [*others, entry], admins, approval_over=known.approval_over)
    return _tell(arguments, folder, NOTE_HERE if here else NOTE_AWAY.format(file=fleet.operators_file))


def _issue_bridge(arguments: argparse.Namespace) -> int:
    fleet = FleetFolder.open(arguments.fleet)
    authority = fleet.authority(Listener.BRIDGE, passphrase_of(arguments))
    return _tell(
        arguments, make_bridge(fleet, authority, arguments.name, _now_s()), note="start the bridge again to use it"
    )


def _issue_birth(arguments: argparse.Namespace) -> int:
    fleet = FleetFolder.open(arguments.fleet)
    authority = fleet.authority(Listener.ENROL, passphrase_of(arguments))
    return _tell(
        arguments, make_birth(fleet, authority, arguments.name, _now_s()), note="copy the folder to the device"
    )


def save_operators(
    fleet: FleetFolder,
    version: int,
    operators: Iterable[Operator],
    admins: Iterable[PrivateKey],
    *,
    approval_over: int | None,
) -> bool:
    """Sign the operators document and put it where it is kept and where the bridge reads it; False if the bridge's
    folder is elsewhere.
    """
    with as_typed():
        document = Operators(
            version=version,
            operators=tuple(sorted(operators, key=lambda operator: operator.name)),
            approval_over=approval_over,
        )
    trust = fleet.trust()
    signed = sign_model(document, trust.fleet_id, admins)
    trust.open_by_role(Operators, signed, RoleName.ADMIN)
    write_atomically(fleet.operators_file, signed)
    return give_to_bridge(fleet, signed)


def give_to_bridge(fleet: FleetFolder, signed: bytes) -> bool:
    """Put the operators document where the bridge reads it, if its folder is still here."""
    if not fleet.bridge.is_dir():
        return False
    write_atomically(fleet.bridge / "operators.signed", signed)
    return True


def _tell(arguments: argparse.Namespace, folder: Path, note: str) -> int:
    result = {"name": arguments.name, "folder": str(folder)}
    print_result(result if arguments.json else {**result, "next": note}, as_json=arguments.json)
    return ExitCode.OK


def _now_s() -> int:
    return int(time.time())

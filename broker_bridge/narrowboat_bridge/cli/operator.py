"""`narrowboat operator`: who may command a fleet, from its folder and without its bridge.

What is changed is the operators document, under a higher version and signed by admin keys. A bridge takes a new one
without being started again, and never an older one. Who is revoked there is not heard; so that they hear nothing more
either, every certificate that was issued to them comes on the broker's list (`staff_crl`). A revocation that was cut
in between is finished by being repeated.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from narrowboat_protocol.documents import Operators, RoleName
from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.limits import DEFAULT_LIMITS

from ..broker_home import Listener
from ..files import read_bounded
from .arguments import Subparsers, add_command, add_group, name
from .exits import ExitCode
from .fleet_folder import FleetFolder
from .key_files import add_passphrase_arguments, passphrase_of
from .output import print_json, print_result, table_lines
from .pki import NOTE_AWAY, NOTE_HERE, save_operators
from .scopes import scope_words
from .staff_crl import crl_file, revoke, unlisted_of

_HEADINGS = ("OPERATOR", "ROLE", "SCOPE", "KEY")
_KID_DIGITS = 16
_COUNT_DIGITS_MAX = 9
_BROKER_HERE = (
    "let the broker read its list of revoked certificates: send it SIGHUP; to end sessions that stand, start it again"
)
_BROKER_AWAY = "copy {file} to tls/ of the broker, and send it SIGHUP; to end sessions that stand, start it again"


def add_parser(subparsers: Subparsers) -> None:
    commands = add_group(subparsers, "operator", "Who may command the fleet.")
    listed = add_command(commands, "list", _list, "list the operators of a fleet folder")
    revoked = add_command(
        commands,
        "revoke",
        _revoke,
        "let an operator command no more, and connect no more",
        "A session that stands ends with the next start of the broker.",
    )
    revoked.add_argument("name", metavar="NAME", type=name, help="the operator")
    add_passphrase_arguments(revoked, "the fleet's CA and admin keys")
    policy = add_command(
        commands,
        "policy",
        _policy,
        "say which campaigns wait for a second person",
        "A campaign that waits begins when an approver or admin, who did not start it, approves it.",
    )
    limit = policy.add_mutually_exclusive_group(required=True)
    limit.add_argument(
        "--approval-over",
        metavar="N",
        type=_count,
        help="campaigns for more than N devices wait, and those for all devices of their hardware",
    )
    limit.add_argument("--no-approval", action="store_true", help="only campaigns that ask for it wait")
    add_passphrase_arguments(policy, "the fleet's admin keys")
    for parser in (listed, revoked, policy):
        parser.add_argument(
            "--fleet", metavar="FOLDER", type=Path, default=Path(), help="the fleet folder (default: the current one)"
        )


def _list(arguments: argparse.Namespace) -> int:
    document = _document(FleetFolder.open(arguments.fleet))
    if arguments.json:
        operators = [
            {
                "name": each.name,
                "role": each.role.value,
                "scope": scope_words(each.scope),
                "key": each.public_key.kid.hex(),
            }
            for each in document.operators
        ]
        print_json({"version": document.version, "approval_over": document.approval_over, "operators": operators})
        return ExitCode.OK
    rows = [
        [each.name, each.role.value, " ".join(scope_words(each.scope)), each.public_key.kid.hex()[:_KID_DIGITS]]
        for each in document.operators
    ]
    print("\n".join(table_lines(_HEADINGS, rows)))
    if document.approval_over is not None:
        print(f"campaigns for more than {document.approval_over} devices wait for a second person")
    return ExitCode.OK


def _revoke(arguments: argparse.Namespace) -> int:
    fleet = FleetFolder.open(arguments.fleet)
    passphrase = passphrase_of(arguments)
    admins = fleet.admin_keys(passphrase)
    known = _document(fleet)
    others = [each for each in known.operators if each.name != arguments.name]
    serials = unlisted_of(fleet, arguments.name)
    if len(others) == len(known.operators) and not serials:
        raise UsageError(
            Reason.UNKNOWN_OPERATOR, f"expected an operator of this fleet, got {arguments.name}; operator list has them"
        )
    if not others:
        raise UsageError(Reason.BAD_USE, f"{arguments.name} is the only operator; issue another one first")
    version, notes = known.version, []
    if len(others) < len(known.operators):
        version += 1
        here = save_operators(fleet, version, others, admins, approval_over=known.approval_over)
        notes.append(NOTE_HERE if here else NOTE_AWAY.format(file=fleet.operators_file))
    if serials:
        here = revoke(fleet, fleet.authority(Listener.STAFF, passphrase), serials, int(time.time()))
        notes.append(_BROKER_HERE if here else _BROKER_AWAY.format(file=crl_file(fleet)))
    result = {"revoked": arguments.name, "version": version, "certificates": len(serials)}
    note = "; ".join(notes)
    print_result(result if arguments.json else {**result, "next": note}, as_json=arguments.json)
    return ExitCode.OK


def _policy(arguments: argparse.Namespace) -> int:
    fleet = FleetFolder.open(arguments.fleet)
    admins = fleet.admin_keys(passphrase_of(arguments))
    known = _document(fleet)
    here = save_operators(fleet, known.version + 1, known.operators, admins, approval_over=arguments.approval_over)
    result = {"approval_over": arguments.approval_over, "version": known.version + 1}
    note = NOTE_HERE if here else NOTE_AWAY.format(file=fleet.operators_file)
    print_result(result if arguments.json else {**result, "next": note}, as_json=arguments.json)
    return ExitCode.OK


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > _COUNT_DIGITS_MAX:
        raise argparse.ArgumentTypeError(f"expected a number of devices, 0 or more, got {text!r:.80}")
    return int(text)


def _document(fleet: FleetFolder) -> Operators:
    signed = read_bounded(fleet.operators_file, DEFAULT_LIMITS.document_bytes_max)
    return fleet.trust().open_by_role(Operators, signed, RoleName.ADMIN)

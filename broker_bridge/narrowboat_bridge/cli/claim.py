"""`narrowboat claim`: what lets gateways in that the fleet does not know yet.

A claim is a name. Its certificate, which `narrowboat pki issue birth NAME` makes, opens the enrolment listener and is
worth nothing before an operator has made a claim of the same name here.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from narrowboat_protocol.documents import ClaimCreate, ClaimList, ClaimPage, ClaimRevoke, ClaimSummary, claim_key

from ..files import read_bounded
from .arguments import Subparsers, add_command, add_group, digest, name, positive
from .client import connect, every
from .exits import ExitCode
from .operator_toml import OperatorToml, add_operator_arguments, find_operator_toml
from .output import iso_time, print_result
from .results import as_json, print_listing
from .trust_files import load_trust

HEADINGS = ("CLAIM", "USED", "OF", "UNTIL", "KEYS LEFT", "ADMITS", "CREATED", "BY")
_PAGE = 200
_SECRET_BYTES_MAX = 1024


def add_parser(subparsers: Subparsers) -> None:
    commands = add_group(subparsers, "claim", "What lets new gateways in.")
    create = add_command(
        commands,
        "create",
        _create,
        "let gateways enrol by a claim",
        "Without --admit and without keys, every gateway waits until an operator approves it.",
    )
    create.add_argument("claim", metavar="NAME", type=name, help="the name in its certificate")
    create.add_argument("--count", metavar="N", type=positive, default=1, help="for how many gateways (default: 1)")
    create.add_argument("--expires", metavar="SECONDS", type=positive, help="seconds since 1970; default: never")
    create.add_argument(
        "--key", metavar="HEX", type=digest, action="append", default=[],
        help="the thumbprint of a key that admits one gateway; may be repeated",
    )  # fmt: skip
    create.add_argument(
        "--secret-file", metavar="FILE", type=Path, action="append", default=[],
        help="a claim secret that admits one gateway; it stays here, its public key is sent; may be repeated",
    )  # fmt: skip
    create.add_argument("--admit", action="store_true", help="admit whoever meets the limits, without an operator")
    add_operator_arguments(create)
    add_operator_arguments(add_command(commands, "list", _list, "list claims by name"))
    revoke = add_command(commands, "revoke", _revoke, "let nobody new in by a claim; who was let in stays")
    revoke.add_argument("claim", metavar="NAME", type=name, help="its name")
    add_operator_arguments(revoke)


def _create(arguments: argparse.Namespace) -> int:
    keys = [*arguments.key, *_keys_of_secrets(arguments)]
    request = ClaimCreate(
        claim=arguments.claim,
        count=arguments.count,
        expires_at=arguments.expires,
        keys=tuple(dict.fromkeys(keys)),
        admits=arguments.admit,
    )
    with connect(arguments) as client:
        return _show(client.call(request, ClaimSummary), arguments)


def _keys_of_secrets(arguments: argparse.Namespace) -> list[bytes]:
    if not arguments.secret_file:
        return []
    operator = OperatorToml.load(find_operator_toml(arguments.config))
    fleet_id = load_trust(operator.root, bytes.fromhex(operator.fleet_id)).fleet_id
    secrets = [read_bounded(file, _SECRET_BYTES_MAX).strip() for file in arguments.secret_file]
    return [claim_key(secret, fleet_id).public.kid for secret in secrets]


def _revoke(arguments: argparse.Namespace) -> int:
    with connect(arguments) as client:
        return _show(client.call(ClaimRevoke(claim=arguments.claim), ClaimSummary), arguments)


def _list(arguments: argparse.Namespace) -> int:
    def page_after(last: ClaimSummary | None) -> tuple[Sequence[ClaimSummary], bool]:
        page = client.call(ClaimList(after=last.name if last else None, limit=_PAGE), ClaimPage)
        return page.claims, page.more

    with connect(arguments) as client:
        claims = list(every(page_after))
    print_listing(claims, HEADINGS, _row, as_array=arguments.json)
    return ExitCode.OK


def _row(claim: ClaimSummary) -> list[str]:
    until = "revoked" if claim.revoked else iso_time(claim.expires_at) if claim.expires_at is not None else "-"
    admits = "yes" if claim.admits else "-"
    shown = [str(claim.used), str(claim.count), until, str(claim.keys), admits]
    return [claim.name, *shown, iso_time(claim.created_at), claim.created_by]


def _show(claim: ClaimSummary, arguments: argparse.Namespace) -> int:
    print_result(as_json(claim), as_json=arguments.json)
    return ExitCode.OK

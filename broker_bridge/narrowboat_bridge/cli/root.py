"""`narrowboat root`: what the root of a fleet says. Making new versions of it comes with key ceremonies, later.

The root is checked against its own threshold before anything of it is shown. That proves that it is whole,
not that it is yours: compare the fleet id, or pass the one you know.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from narrowboat_protocol.documents import Role, Root
from narrowboat_protocol.trust import Trust

from .arguments import Subparsers, add_command, add_group, digest
from .exits import ExitCode
from .output import JsonValue, iso_time, print_result
from .trust_files import load_trust


def add_parser(subparsers: Subparsers) -> None:
    commands = add_group(subparsers, "root", "The root of a fleet: who may sign what.")
    show = add_command(
        commands, "show", _show, "show a root", "The root's signatures are verified against its own threshold first."
    )
    show.add_argument("file", metavar="ROOT", type=Path, help="a signed root, such as root/1.root in a fleet folder")
    show.add_argument(
        "--fleet-id", metavar="HEX", type=digest, help="the fleet it must belong to; needed from version 2 on"
    )


def _show(arguments: argparse.Namespace) -> int:
    print_result(describe_root(load_trust(arguments.file, arguments.fleet_id)), as_json=arguments.json)
    return ExitCode.OK


def describe_root(trust: Trust) -> dict[str, JsonValue]:
    root: Root = trust.root
    return {
        "fleet_id": trust.fleet_id.hex(),
        "version": root.version,
        "expires_at": iso_time(root.expires_at),
        "roles": {role.name.value: _describe_role(role) for role in root.roles},
        "components": {
            rule.component: {"epoch": rule.epoch, "minimum_sequence": rule.minimum_sequence} for rule in root.components
        },
        "broker": [f"{address.host}:{address.port}" for address in root.broker_addresses],
    }


def _describe_role(role: Role) -> JsonValue:
    described: dict[str, JsonValue] = {"threshold": role.threshold, "keys": [kid.hex() for kid in role.kids]}
    if role.components is not None:
        described["components"] = list(role.components)
    if role.class_ids is not None:
        described["class_ids"] = [class_id.hex() for class_id in role.class_ids]
    return described

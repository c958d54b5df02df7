"""The commands of `narrowboat device` that decide who is a device: by the thumbprint of a key, or by name."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from narrowboat_protocol.documents import (
    DeviceApprove,
    DeviceRegister,
    DeviceReject,
    DeviceResolve,
    DeviceRevoke,
    DeviceSummary,
    EnrolmentList,
    EnrolmentPage,
    EnrolmentSummary,
    Request,
)
from narrowboat_protocol.keys import public_key_from_cryptography
from narrowboat_protocol.model import Document

from ..files import read_bounded
from ..pki import read_request
from .arguments import Subparsers, add_command, digest, name
from .client import connect, every
from .exits import ExitCode
from .operator_toml import add_operator_arguments
from .output import iso_time, print_result
from .results import as_json, print_listing

HEADINGS = ("KEY", "STANDING", "DEVICE", "CLAIM", "SERIAL", "ASKED", "CERTIFIED UNTIL")
_PAGE = 200
_REQUEST_BYTES_MAX = 16 * 1024


def add_commands(commands: Subparsers) -> None:
    add_operator_arguments(add_command(commands, "keys", _list, "list the keys that asked or were registered"))
    register = _command(commands, "register", _register, "admit a key before it asks", EnrolmentSummary)
    register.add_argument("device", metavar="NAME", type=name, help="what the device shall be called")
    keys = register.add_mutually_exclusive_group(required=True)
    keys.add_argument("--key", metavar="HEX", type=digest, help="the thumbprint of its key")
    keys.add_argument("--csr", metavar="FILE", type=Path, help="the request that `narrowboat-device provision` wrote")
    approve = _command(commands, "approve", _approve, "admit a key that asked", EnrolmentSummary)
    approve.add_argument("key", metavar="KEY", type=digest, help="its thumbprint, as `device keys` shows it")
    approve.add_argument("--name", metavar="NAME", type=name, help="what it shall be called (default: what it wishes)")
    approve.add_argument("--replace", action="store_true", help="revoke the key that has this name now")
    reject = _command(commands, "reject", _reject, "refuse a key that asked", EnrolmentSummary)
    reject.add_argument("key", metavar="KEY", type=digest, help="its thumbprint")
    revoke = _command(commands, "revoke", _revoke, "believe nothing more of a device, for good", EnrolmentSummary)
    revoke.add_argument("device", metavar="NAME", type=name, help="its name")
    resolve = commands.add_parser("resolve", help="decide on a device that raised the alarm", description="Decide.")
    resolve.add_argument("device", metavar="NAME", type=name, help="its name")
    resolve.add_argument("--json", action="store_true", help="print the result as JSON")
    decision = resolve.add_mutually_exclusive_group(required=True)
    decision.add_argument("--keep", action="store_true", help="it is honest: let it have assignments again")
    decision.add_argument("--revoke", action="store_true", help="its key is in other hands: revoke it")
    resolve.set_defaults(run=_resolve)
    add_operator_arguments(resolve)


def _command(
    commands: Subparsers,
    word: str,
    request: Callable[[argparse.Namespace], Request],
    summary: str,
    result: type[Document],
) -> argparse.ArgumentParser:
    parser = add_command(commands, word, lambda arguments: _call(arguments, request(arguments), result), summary)
    add_operator_arguments(parser)
    return parser


def _register(arguments: argparse.Namespace) -> Request:
    if arguments.csr is not None:
        key = public_key_from_cryptography(read_request(read_bounded(arguments.csr, _REQUEST_BYTES_MAX)))
        return DeviceRegister(device=arguments.device, kid=key.kid)
    return DeviceRegister(device=arguments.device, kid=arguments.key)


def _approve(arguments: argparse.Namespace) -> Request:
    return DeviceApprove(kid=arguments.key, device=arguments.name, replace=arguments.replace)


def _reject(arguments: argparse.Namespace) -> Request:
    return DeviceReject(kid=arguments.key)


def _revoke(arguments: argparse.Namespace) -> Request:
    return DeviceRevoke(device=arguments.device)


def _resolve(arguments: argparse.Namespace) -> int:
    if arguments.revoke:
        return _call(arguments, _revoke(arguments), EnrolmentSummary)
    return _call(arguments, DeviceResolve(device=arguments.device), DeviceSummary)


def _call(arguments: argparse.Namespace, request: Request, result: type[Document]) -> int:
    with connect(arguments) as client:
        print_result(as_json(client.call(request, result)), as_json=arguments.json)
    return ExitCode.OK


def _list(arguments: argparse.Namespace) -> int:
    def page_after(last: EnrolmentSummary | None) -> tuple[Sequence[EnrolmentSummary], bool]:
        page = client.call(EnrolmentList(after=last.kid if last else None, limit=_PAGE), EnrolmentPage)
        return page.enrolments, page.more

    with connect(arguments) as client:
        found = list(every(page_after))
    print_listing(found, HEADINGS, _row, as_array=arguments.json)
    return ExitCode.OK


def _row(each: EnrolmentSummary) -> list[str]:
    times = [iso_time(at) if at is not None else "-" for at in (each.asked_at, each.expires_at)]
    return [each.kid.hex(), each.admission.value, each.device or "-", each.claim or "-", each.serial or "-", *times]

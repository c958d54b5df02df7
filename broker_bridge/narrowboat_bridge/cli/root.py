"""`narrowboat root`: who may sign what in a fleet, and every ceremony that changes it.

    create                                    version 1, from public keys
    add-key, rotate, revoke, set              a draft of version N+1, from the signed root N or from a draft of it
    sign                                      one key, or the signatures of copies, or of a signer elsewhere
    publish                                   a draft with enough signatures becomes N+1.root in the fleet folder
    inspect                                   what a root or a draft says, who signed, and what it changes

Nothing here needs a network, and only `publish` needs the fleet folder, so each signer works on a machine of its own.
Every result says what the change means for devices, bridges and people. A signed root is checked against its own
threshold before anything of it is shown. That proves that it is whole, not that it is yours: compare the fleet id, or
pass the one you know.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from narrowboat_protocol.documents import BrokerAddress, Role, RoleName, Root
from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.suit import class_id, vendor_id
from narrowboat_protocol.trust import Trust

from ..files import read_bounded, write_atomically
from . import root_changes as changes
from .arguments import Subparsers, add_command, add_group, host, name, out_file, port, positive
from .exits import ExitCode
from .fleet_folder import FleetFolder
from .key_files import load_certificate
from .output import JsonValue, iso_time, print_result
from .root_draft import Draft, is_signed_root, merged
from .signing import Returned, add_signing_arguments, load_public, signature_of, write_bytes_to_sign
from .trust_files import add_fleet_id, load_trust

Change = Callable[[Root, argparse.Namespace], Root]


def add_parser(subparsers: Subparsers) -> None:
    commands = add_group(subparsers, "root", "The root of a fleet: who may sign what.")
    _add_create(commands)
    _add_key_changes(commands)
    _add_set(commands)
    sign = add_command(
        commands, "sign", _sign, "add signatures to a draft", "With --key, sign here. With --add, merge signed copies."
    )
    sign.add_argument("file", metavar="DRAFT", type=Path, help="a draft; it is changed in place")
    sign.add_argument("--add", metavar="COPY", type=Path, action="append", default=[], help="may be repeated")
    add_signing_arguments(sign, "the root")
    publish = add_command(
        commands,
        "publish",
        _publish,
        "put a draft with enough signatures into the fleet folder",
        "It must follow on the newest root there. Devices get it from the bridge; folders of operators get it here.",
    )
    publish.add_argument("file", metavar="DRAFT", type=Path)
    publish.add_argument("--fleet", metavar="FOLDER", type=Path, required=True, help="the fleet folder")
    inspect = add_command(commands, "inspect", _inspect, "show a root or a draft, and what it changes")
    inspect.add_argument("file", metavar="FILE", type=Path, help="a draft, or a signed root such as root/1.root")
    add_fleet_id(inspect)


def _add_create(commands: Subparsers) -> None:
    create = add_command(
        commands, "create", _create, "draft the first root of a fleet", "Only public keys are needed. Sign it next."
    )
    create.add_argument("-o", "--out", metavar="DRAFT", type=out_file, required=True)
    for role in RoleName:
        create.add_argument(
            f"--{role}-key",
            metavar="PEM",
            type=Path,
            action="append",
            required=True,
            help=f"a public key of the role {role}; may be repeated",
        )
        create.add_argument(f"--{role}-threshold", metavar="N", type=positive, default=1, help="default: 1")
    create.add_argument("--component", metavar="NAME", type=name, action="append", required=True)
    create.add_argument("--years", metavar="N", type=positive, default=10, help="until it expires (default: 10)")
    _add_broker_arguments(create)


def _add_key_changes(commands: Subparsers) -> None:
    def add(verb: str, change: Change, summary: str, more: str) -> argparse.ArgumentParser:
        parser = _add_change(commands, verb, change, summary, more)
        if verb != "rotate":
            parser.add_argument("--threshold", metavar="N", type=positive, help="of the role from now on")
        return parser

    added = add("add-key", _add_key, "let one more key sign for a role", "The threshold stays, unless it is given.")
    added.add_argument("role", metavar="ROLE", choices=sorted(RoleName), help=", ".join(RoleName))
    added.add_argument("new", metavar="PEM", type=Path, help="its public key")
    rotated = add("rotate", _rotate, "put a new key in the place of an old one", "For a key that was lost or is old.")
    rotated.add_argument("old", metavar="KEY", help="the beginning of the old key's thumbprint")
    rotated.add_argument("new", metavar="PEM", type=Path, help="the new public key")
    revoked = add(
        "revoke", _revoke, "let a key sign no more", "For a key that leaked, when others of its role are left."
    )
    revoked.add_argument("old", metavar="KEY", help="the beginning of its thumbprint")


def _add_set(commands: Subparsers) -> None:
    parser = _add_change(commands, "set", _set, "change anything but keys", "Lists replace the ones before.")
    option = parser.add_argument
    option("--epoch", metavar="COMPONENT=N", type=_rule, action="append", default=[], help="retires older releases")
    option("--minimum-sequence", metavar="COMPONENT=N", type=_rule, action="append", default=[])
    option("--threshold", metavar="ROLE=N", type=_threshold, action="append", default=[])
    option("--release-component", metavar="NAME", type=name, action="append", help="all that release keys may sign for")
    option(
        "--release-class",
        metavar="DOMAIN/CLASS",
        type=_class,
        action="append",
        help="all hardware that release keys may sign for",
    )
    option("--any-release", action="store_true", help="release keys may sign for everything")
    option("--years", metavar="N", type=positive, help="until it expires, from now on")
    _add_broker_arguments(parser)


def _add_broker_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("--broker-anchor", metavar="PEM", type=Path, action="append", help="a CA of the broker; may be repeated")
    option("--broker-address", metavar="HOST:PORT", type=_address, action="append", help="may be repeated")
    option("--root-url", metavar="URL", action="append", help="where N.root files will lie; may be repeated")


def _add_change(commands: Subparsers, verb: str, change: Change, summary: str, more: str) -> argparse.ArgumentParser:
    def run(arguments: argparse.Namespace) -> int:
        draft = Draft.load(arguments.base, arguments.fleet_id)
        return _save(draft.change(change(draft.root, arguments)), arguments.out, arguments)

    parser = add_command(commands, verb, run, summary, f"{more} Writes a draft, to be signed.")
    parser.add_argument("base", metavar="BASE", type=Path, help="the newest signed root, or a draft that follows it")
    parser.add_argument("-o", "--out", metavar="DRAFT", type=out_file, required=True, help="may be BASE, if a draft")
    add_fleet_id(parser)
    return parser


def _create(arguments: argparse.Namespace) -> int:
    keys = {role: [load_public(path) for path in getattr(arguments, f"{role}_key")] for role in RoleName}
    thresholds = {role: getattr(arguments, f"{role}_threshold") for role in RoleName}
    expires_at = int(time.time()) + arguments.years * changes.YEAR_S
    root = changes.first_root(keys, thresholds, arguments.component, expires_at)
    return _save(Draft(_with_broker(root, arguments), None), arguments.out, arguments)


def _add_key(root: Root, arguments: argparse.Namespace) -> Root:
    return changes.add_key(root, RoleName(arguments.role), load_public(arguments.new), arguments.threshold)


def _rotate(root: Root, arguments: argparse.Namespace) -> Root:
    return changes.replace_key(root, changes.kid_of(root, arguments.old), load_public(arguments.new))


def _revoke(root: Root, arguments: argparse.Namespace) -> Root:
    return changes.remove_key(root, changes.kid_of(root, arguments.old), arguments.threshold)


def _set(root: Root, arguments: argparse.Namespace) -> Root:
    for component, epoch in arguments.epoch:
        root = changes.set_rule(root, component, epoch=epoch)
    for component, sequence in arguments.minimum_sequence:
        root = changes.set_rule(root, component, minimum_sequence=sequence)
    for role, threshold in arguments.threshold:
        root = changes.set_threshold(root, role, threshold)
    if arguments.any_release:
        root = changes.limit_releases(root, (), ())
    root = changes.limit_releases(root, arguments.release_component, arguments.release_class)
    if arguments.years is not None:
        root = changes.rebuilt(root, expires_at=int(time.time()) + arguments.years * changes.YEAR_S)
    return _with_broker(root, arguments)


def _with_broker(root: Root, arguments: argparse.Namespace) -> Root:
    fields: dict[str, object] = {}
    if arguments.broker_anchor is not None:
        fields["broker_anchors"] = tuple(
            load_certificate(path).public_bytes(Encoding.DER) for path in arguments.broker_anchor
        )
    if arguments.broker_address is not None:
        fields["broker_addresses"] = tuple(arguments.broker_address)
    if arguments.root_url is not None:
        fields["root_urls"] = tuple(arguments.root_url)
    return changes.rebuilt(root, **fields)


def _save(draft: Draft, path: Path, arguments: argparse.Namespace) -> int:
    draft.save(path)
    print_result({"file": str(path), **describe_draft(draft)}, as_json=arguments.json)
    return ExitCode.OK


def _sign(arguments: argparse.Namespace) -> int:
    draft = merged((Draft.load(path) for path in arguments.add), Draft.load(arguments.file))
    if write_bytes_to_sign(arguments, draft.bytes_to_sign):
        print_result({"file": str(arguments.file), "to_sign": str(arguments.tbs_out)}, as_json=arguments.json)
        return ExitCode.OK
    match signature_of(arguments):
        case None if not arguments.add:
            raise UsageError(Reason.BAD_USE, "expected --key, --add, --tbs-out or --signature-in, got none of them")
        case None:
            pass
        case Returned(public, signature):
            draft = draft.take_signature(public, signature)
        case signer:
            draft = draft.sign(signer)
    return _save(draft, arguments.file, arguments)


def _publish(arguments: argparse.Namespace) -> int:
    draft = Draft.load(arguments.file)
    data, version = draft.signed_root(), draft.root.version
    fleet = FleetFolder.open(arguments.fleet)
    if not fleet.trust().update_root(data):
        raise UsageError(
            Reason.STALE, f"expected version {len(fleet.root_files()) + 1}, got {version}, which this fleet has already"
        )
    files = _places(fleet, version)
    for file in files:
        _refuse_another(file, data, version)
    for file in files:
        write_atomically(file, data)
    print_result(
        {
            "files": [str(file) for file in files],
            "version": version,
            "meaning": list(changes.explain(None if draft.before is None else draft.before.root, draft.root)),
            "next": [
                "send the bridge SIGHUP; copy the file to root/ of every other bridge, and do the same there",
                "give it to operators whose folder is elsewhere, as root.signed",
                "copy it to the root addresses of the fleet, if there are any",
            ],
        },
        as_json=arguments.json,
    )
    return ExitCode.OK


def _places(fleet: FleetFolder, version: int) -> list[Path]:
    """Where a new root belongs. The fleet's own folder is the last: until it has the root, publishing is repeated."""
    name = f"{version}.root"
    bridge = [fleet.bridge / "root" / name] if (fleet.bridge / "root").is_dir() else []
    return [*bridge, *sorted(fleet.path.glob("operators/*/root.signed")), fleet.root_folder / name]


def _refuse_another(file: Path, data: bytes, version: int) -> None:
    """One version is one root: what was half published may be in force at the bridge, and on devices."""
    if file.name == f"{version}.root" and file.exists() and read_bounded(file, DEFAULT_LIMITS.root_bytes_max) != data:
        raise UsageError(
            Reason.CONFLICT,
            f"{file}: expected this root or none, got another one of version {version}; publish that one",
        )


def _inspect(arguments: argparse.Namespace) -> int:
    if is_signed_root(arguments.file):
        shown = describe_root(load_trust(arguments.file, arguments.fleet_id))
    else:
        shown = describe_draft(Draft.load(arguments.file))
    print_result(shown, as_json=arguments.json)
    return ExitCode.OK


def describe_root(trust: Trust) -> dict[str, JsonValue]:
    return {"fleet_id": trust.fleet_id.hex(), **_describe(trust.root)}


def describe_draft(draft: Draft) -> dict[str, JsonValue]:
    before = None if draft.before is None else draft.before.root
    signed = {kid.hex() for authority in draft.authorities.values() for kid in draft.signed_by(authority)}
    return {
        "fleet_id": draft.fleet_id.hex(),
        **_describe(draft.root),
        "meaning": list(changes.explain(before, draft.root)),
        "signed_by": sorted(signed),
        "missing": list(draft.missing()) or "nothing: publish it",
    }


def _describe(root: Root) -> dict[str, JsonValue]:
    return {
        "version": root.version,
        "expires_at": iso_time(root.expires_at),
        "roles": {role.name.value: _describe_role(role) for role in root.roles},
        "components": {
            rule.component: {"epoch": rule.epoch, "minimum_sequence": rule.minimum_sequence} for rule in root.components
        },
        "broker": [f"{address.host}:{address.port}" for address in root.broker_addresses],
        "broker_anchors": len(root.broker_anchors),
        "root_urls": list(root.root_urls),
    }


def _describe_role(role: Role) -> JsonValue:
    described: dict[str, JsonValue] = {"threshold": role.threshold, "keys": [kid.hex() for kid in role.kids]}
    if role.components is not None:
        described["components"] = list(role.components)
    if role.class_ids is not None:
        described["class_ids"] = [class_id.hex() for class_id in role.class_ids]
    return described


def _rule(text: str) -> tuple[str, int]:
    component, _, number = text.partition("=")
    if not number.isdecimal():
        raise argparse.ArgumentTypeError(f"expected COMPONENT=NUMBER, got {text!r:.80}")
    return name(component), int(number)


def _threshold(text: str) -> tuple[RoleName, int]:
    role, _, number = text.partition("=")
    if role not in set(RoleName):
        raise argparse.ArgumentTypeError(f"expected ROLE=NUMBER with one of {', '.join(RoleName)}, got {text!r:.80}")
    return RoleName(role), positive(number)


def _class(text: str) -> bytes:
    domain, _, hardware_class = text.partition("/")
    if not domain or not hardware_class:
        raise argparse.ArgumentTypeError(f"expected DOMAIN/CLASS like example.com/gateway-a, got {text!r:.80}")
    return class_id(vendor_id(domain), hardware_class).bytes


def _address(text: str) -> BrokerAddress:
    where, _, number = text.rpartition(":")
    return BrokerAddress(host=host(where), port=port(number))

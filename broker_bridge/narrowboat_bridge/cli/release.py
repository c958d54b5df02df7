"""`narrowboat release`: from an image to a signed release file, offline, and from there to the bridge.

`build`, `sign`, `inspect` and `verify` need no server, no network and nothing of the fleet but a key or the
root; they are what runs in CI and on a signing station. `push` is a client of the bridge and lives in `push`,
which is imported by name when it is typed: the rest must work where no MQTT library is installed.

Several people sign one file in turn, or each signs a copy and the copies are merged; the result is the same
file, byte for byte.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from narrowboat_protocol.cose import bytes_to_sign, sign1, sign1_of, signature_kid
from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.keys import PublicKey, Signer, raw_signature
from narrowboat_protocol.suit import Image, add_signature, merge_envelopes, recipients_of

from .arguments import Subparsers, add_command, add_group, out_file
from .exits import ExitCode
from .key_files import add_passphrase_arguments, load_agreement_key, load_recipient, passphrase_of
from .operator_toml import add_operator_arguments
from .output import JsonValue, Progress, human_bytes, print_result
from .release_build import build_release
from .release_io import ReleaseFile, copy_with_envelope, open_release_file, replace_envelope
from .release_toml import ReleaseToml
from .release_verify import matching_image, verify_release_file
from .signing import Returned, add_signing_arguments, signature_of, write_bytes_to_sign
from .trust_files import add_fleet_id, load_trust

_NO_AAD = b""


def add_parser(subparsers: Subparsers) -> None:
    commands = add_group(subparsers, "release", "Build, sign, check and push releases.")
    _add_build(commands)
    _add_sign(commands)
    inspect = add_command(
        commands, "inspect", _inspect, "show what a release file says", "Nothing is verified; `verify` does that."
    )
    inspect.add_argument("file", metavar="FILE", type=Path, help="a release file")
    _add_verify(commands)
    _add_push(commands)


def _add_build(commands: Subparsers) -> None:
    build = add_command(
        commands,
        "build",
        _build,
        "build an unsigned release file from release.toml",
        "release.toml names component, vendor, classes, version, sequence and image; it may set epoch, codec and"
        " level. The image is a raw file system as Yocto or Buildroot leave it, or a block device; .gz, .bz2, .xz and"
        " .zst are decompressed on the way. The same input gives the same bytes, unless the payload is encrypted.",
    )
    build.add_argument("description", metavar="release.toml", type=Path, help="what the release is made of")
    build.add_argument("-o", "--out", metavar="OUT.nbr", type=out_file, required=True, help="the release file to write")
    build.add_argument(
        "--encrypt-to",
        metavar="KEY.pub.pem",
        type=Path,
        action="append",
        default=[],
        help="encrypt the payload, and seal its key to this agreement key: the bridge's, and those of gateways that"
        " will install the file offline; may be repeated",
    )


def _add_sign(commands: Subparsers) -> None:
    sign = add_command(
        commands,
        "sign",
        _sign,
        "add signatures to a release file",
        "With --key, sign it here; with --tbs-out and --signature-in, elsewhere. With --add, take over those of a copy."
        " FILE itself is changed unless -o names another. The order of signing and merging leaves no trace.",
    )
    sign.add_argument("file", metavar="FILE", type=Path, help="a release file")
    sign.add_argument(
        "--add", metavar="OTHER.nbr", type=Path, action="append", default=[], help="a copy to merge; may be repeated"
    )
    sign.add_argument("-o", "--out", metavar="OUT.nbr", type=out_file, help="write here and leave FILE as it is")
    add_signing_arguments(sign, "the release")


def _add_verify(commands: Subparsers) -> None:
    verify = add_command(
        commands,
        "verify",
        _verify,
        "check a release file as a gateway will",
        "Threshold, components, classes, epoch and sequence by the root; then the whole payload is decoded and compared"
        " with the image that was signed. An encrypted one is decoded with --key only; else its frames are compared"
        " with their hashes.",
    )
    verify.add_argument("file", metavar="FILE", type=Path, help="a release file")
    verify.add_argument("--root", metavar="ROOT", type=Path, required=True, help="the signed root of the fleet")
    add_fleet_id(verify)
    verify.add_argument("--key", metavar="KEY.pem", type=Path, help="an agreement key that the payload is encrypted to")
    add_passphrase_arguments(verify, "that key")


def _add_push(commands: Subparsers) -> None:
    push = add_command(
        commands,
        "push",
        _push,
        "upload a release file to the bridge",
        "Goes on where an interrupted upload stopped; does nothing if the bridge has the release. Without --wait it"
        " ends when the bridge has every byte.",
    )
    push.add_argument("file", metavar="FILE", type=Path, help="a signed release file")
    push.add_argument("--wait", action="store_true", help="end when the bridge has verified the release and serves it")
    add_operator_arguments(push)


def _build(arguments: argparse.Namespace) -> int:
    description = ReleaseToml.load(arguments.description)
    recipients = [load_recipient(path) for path in arguments.encrypt_to]
    with Progress("building") as progress:
        built = build_release(description, arguments.out, progress.update, recipients)
    print_result(
        {
            "file": str(arguments.out),
            "release": built.digest.hex(),
            "component": built.image.component,
            **describe_image(built.image, as_json=arguments.json),
            "sequence": description.sequence,
            "payload_bytes": _bytes(built.payload_length, as_json=arguments.json),
            "encrypted_to": [recipient.kid.hex() for recipient in recipients],
        },
        as_json=arguments.json,
    )
    return ExitCode.OK


def _sign(arguments: argparse.Namespace) -> int:
    with open_release_file(arguments.file) as file:
        matching_image(file.manifest.images, file.read_head())
        envelope, payload = file.envelope_data, file.envelope.signed_payload
    if write_bytes_to_sign(arguments, lambda public: bytes_to_sign(public, payload, external_aad=_NO_AAD)):
        print_result({"file": str(arguments.file), "to_sign": str(arguments.tbs_out)}, as_json=arguments.json)
        return ExitCode.OK
    signature = signature_of(arguments)
    if signature is None and not arguments.add:
        raise UsageError(
            Reason.BAD_USE, "expected --key, --add, --tbs-out or --signature-in, got none; say whose signature to add"
        )
    if signature is not None:
        envelope = add_signature(envelope, _block(signature, payload))
    for other in arguments.add:
        with open_release_file(other) as copy:
            envelope = merge_envelopes(envelope, copy.envelope_data)
    if arguments.out is None:
        replace_envelope(arguments.file, envelope)
    else:
        copy_with_envelope(arguments.file, arguments.out, envelope)
    return _show(arguments.out or arguments.file, as_json=arguments.json)


def _block(signature: Signer | Returned, payload: bytes) -> bytes:
    """The signature block, of a key that is here or of one that signed elsewhere."""
    if not isinstance(signature, Returned):
        return sign1(signature, payload, external_aad=_NO_AAD)
    public: PublicKey = signature.public
    raw = raw_signature(public, signature.signature)
    if not public.verify(raw, bytes_to_sign(public, payload, external_aad=_NO_AAD)):
        raise UsageError(
            Reason.BAD_SIGNATURE, "expected this key's signature over this release, got another; write --tbs-out anew"
        )
    return sign1_of(public, raw)


def _inspect(arguments: argparse.Namespace) -> int:
    return _show(arguments.file, as_json=arguments.json)


def _verify(arguments: argparse.Namespace) -> int:
    trust = load_trust(arguments.root, arguments.fleet_id)
    key = None if arguments.key is None else load_agreement_key(arguments.key, passphrase_of(arguments))
    with open_release_file(arguments.file) as file, Progress("verifying") as progress:
        release = verify_release_file(file, trust, progress.update, key)
        decoded = key is not None or not file.encryption
    print_result(
        {
            "file": str(arguments.file),
            "release": release.digest.hex(),
            "verified": True,
            "decoded": decoded,
            "fleet_id": trust.fleet_id.hex(),
            "root_version": trust.root.version,
            "signed_by": sorted(kid.hex() for kid in release.signers),
        },
        as_json=arguments.json,
    )
    return ExitCode.OK


def _push(arguments: argparse.Namespace) -> int:
    return int(importlib.import_module(".push", __package__).run(arguments))


def _show(path: Path, *, as_json: bool) -> int:
    with open_release_file(path) as file:
        print_result({"file": str(path), **describe_release_file(file, as_json=as_json)}, as_json=as_json)
    return ExitCode.OK


def describe_release_file(file: ReleaseFile, *, as_json: bool) -> dict[str, JsonValue]:
    """What a release file claims, verified or not."""
    head = file.read_head()
    return {
        "release": file.digest.hex(),
        "sequence": file.manifest.sequence,
        "images": {image.component: describe_image(image, as_json=as_json) for image in file.manifest.images},
        "payload_bytes": _bytes(file.layout.payload_length, as_json=as_json),
        "frames": head.frame_count,
        "codecs": sorted(codec.name.lower() for codec in head.codecs),
        "encrypted_to": [kid.hex() for kid in recipients_of(file.encryption)] if file.encryption else [],
        "signatures": [signature_kid(block).hex() for block in file.envelope.authentication],
    }


def describe_image(image: Image, *, as_json: bool) -> dict[str, JsonValue]:
    return {
        "version": image.version,
        "epoch": image.epoch,
        "vendor_id": str(image.vendor_id),
        "class_ids": [str(class_id) for class_id in image.class_ids],
        "image_sha256": image.image_sha256.hex(),
        "image_bytes": _bytes(image.size_bytes, as_json=as_json),
    }


def _bytes(count: int, *, as_json: bool) -> JsonValue:
    return count if as_json else f"{count} ({human_bytes(count)})"

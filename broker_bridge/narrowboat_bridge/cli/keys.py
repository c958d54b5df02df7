"""`narrowboat keys`: signing keys, made where they are to stay, and what others need of them.

A release engineer makes a key on the machine that will sign and sends only the public half to whoever keeps
the root. A key in a token is made with the tool of its vendor; `export` writes its public half. Nothing here needs
a network or the rest of a fleet.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from narrowboat_protocol.keys import Algorithm, PrivateKey

from ..files import write_new
from .arguments import Subparsers, add_command, add_group, name, out_file
from .exits import ExitCode
from .key_files import add_passphrase_arguments, key_argument, load_key, passphrase_of, save_key
from .output import print_result

ALGORITHMS = {"ed25519": Algorithm.ED25519, "esp256": Algorithm.ESP256}


def add_parser(subparsers: Subparsers) -> None:
    commands = add_group(subparsers, "keys", "Signing keys.")
    create = add_command(
        commands,
        "create",
        _create,
        "create a signing key",
        "Writes NAME.pem, which only you can read, and NAME.pub.pem, and never overwrites a file. Documents name the"
        " key by the thumbprint that is printed.",
    )
    create.add_argument("name", metavar="NAME", type=name, help="file name of the key, without .pem")
    create.add_argument("--out", metavar="DIR", type=Path, default=Path(), help="where to write (default: here)")
    create.add_argument(
        "--algorithm",
        choices=sorted(ALGORITHMS),
        default="ed25519",
        help="ed25519 (default), or esp256: ECDSA on P-256, for hardware that has nothing else",
    )
    add_passphrase_arguments(create, "the new key")
    export = add_command(
        commands,
        "export",
        _export,
        "write the public half of a key",
        "What `root add-key` and --public take. Never overwrites a file.",
    )
    export.add_argument("key", metavar="KEY", type=key_argument, help="a PEM file, or a pkcs11: URI")
    export.add_argument(
        "-o", "--out", metavar="OUT.pub.pem", type=out_file, required=True, help="the public key to write"
    )
    add_passphrase_arguments(export, "the key")


def _create(arguments: argparse.Namespace) -> int:
    passphrase = passphrase_of(arguments)
    key = PrivateKey.generate(ALGORITHMS[arguments.algorithm])
    arguments.out.mkdir(parents=True, exist_ok=True)
    private, public = save_key(arguments.out, arguments.name, key, passphrase)
    print_result(
        {
            "private_key": str(private),
            "public_key": str(public),
            "algorithm": arguments.algorithm,
            "encrypted": passphrase is not None,
            "thumbprint": key.public.kid.hex(),
        },
        as_json=arguments.json,
    )
    return ExitCode.OK


def _export(arguments: argparse.Namespace) -> int:
    public = load_key(arguments.key, passphrase_of(arguments)).public
    write_new(arguments.out, public.to_pem())
    print_result(
        {
            "public_key": str(arguments.out),
            "algorithm": next(name for name, algorithm in ALGORITHMS.items() if algorithm is public.algorithm),
            "thumbprint": public.kid.hex(),
        },
        as_json=arguments.json,
    )
    return ExitCode.OK

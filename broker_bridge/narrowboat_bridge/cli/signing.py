"""How a command is told who signs: a key in a file or in a token, or somebody elsewhere.

With `--tbs-out` and `--signature-in` the key need not come near this machine. The first writes the exact bytes that the
key named by `--public` has to sign; an HSM, a cloud service or a machine without a network signs them; the second takes
the signature back and verifies it before it is used. Ed25519 signs the bytes as they are, ECDSA on P-256 their SHA-256.
A signature may be 64 raw bytes or, of ECDSA, DER, as `openssl pkeyutl` and `openssl dgst` write it. The bytes name the
key, so each signer needs its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.keys import PublicKey, Signer, public_key_from_pem

from ..files import read_bounded, write_atomically
from .arguments import out_file
from .key_files import add_passphrase_arguments, key_argument, load_key, passphrase_of

_PEM_BYTES_MAX = 16 * 1024
_SIGNATURE_BYTES_MAX = 256


@dataclass(frozen=True, slots=True)
class Returned:
    """A signature that was made elsewhere, not yet verified."""

    public: PublicKey
    signature: bytes


def add_signing_arguments(parser: argparse.ArgumentParser, whose: str) -> None:
    """Declare the ways to sign with `whose` key."""
    parser.add_argument(
        "--key", metavar="KEY", type=key_argument, help=f"{whose} key to sign with: a PEM file, or a pkcs11: URI"
    )
    parser.add_argument("--public", metavar="PEM", type=Path, help="the public half of a key that signs elsewhere")
    elsewhere = parser.add_mutually_exclusive_group()
    elsewhere.add_argument(
        "--tbs-out", metavar="OUT", type=out_file, help="write the bytes that the key of --public has to sign"
    )
    elsewhere.add_argument(
        "--signature-in", metavar="IN", type=Path, help="take the signature of the key of --public over those bytes"
    )
    add_passphrase_arguments(parser, "the key")


def write_bytes_to_sign(arguments: argparse.Namespace, bytes_to_sign: Callable[[PublicKey], bytes]) -> bool:
    """Write what `--tbs-out` asks for. False if it asks for nothing."""
    if arguments.tbs_out is None:
        return False
    if arguments.key is not None:
        raise UsageError(Reason.BAD_USE, "expected --public with --tbs-out, got --key; a key that is here signs here")
    write_atomically(arguments.tbs_out, bytes_to_sign(_public(arguments)))
    return True


def signature_of(arguments: argparse.Namespace) -> Signer | Returned | None:
    """Who signs, or the signature of somebody who did; None if the arguments name nobody."""
    if arguments.key is not None and (arguments.signature_in or arguments.public) is not None:
        raise UsageError(Reason.BAD_USE, "expected --key, or --public with --signature-in, got both; sign one by one")
    if arguments.key is not None:
        return load_key(arguments.key, passphrase_of(arguments))
    if arguments.signature_in is not None:
        return Returned(_public(arguments), read_bounded(arguments.signature_in, _SIGNATURE_BYTES_MAX))
    if arguments.public is not None:
        raise UsageError(Reason.BAD_USE, "expected --tbs-out or --signature-in with --public, got neither")
    return None


def load_public(path: Path) -> PublicKey:
    try:
        return public_key_from_pem(read_bounded(path, _PEM_BYTES_MAX))
    except UsageError as error:
        raise UsageError(error.reason, f"{path}: {error}") from None


def _public(arguments: argparse.Namespace) -> PublicKey:
    if arguments.public is None:
        raise UsageError(Reason.BAD_USE, "expected --public with the key that signs elsewhere, got none")
    return load_public(arguments.public)

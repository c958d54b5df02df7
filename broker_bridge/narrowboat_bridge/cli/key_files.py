"""Keys and certificates: how they are read and written, and where passphrases come from.

A private key in a file is PKCS#8 in PEM, readable by its owner only. A passphrase comes from a file or from an
environment variable that is named on the command line, never from the command line itself, where every
process list shows it. A key in a token has a PIN instead (see `narrowboat_tokens.pin`).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cryptography import x509

from narrowboat_protocol.errors import NarrowboatError, Reason, UsageError
from narrowboat_protocol.keys import PrivateKey, PublicKey, public_key_from_pem
from narrowboat_protocol.suit import AgreementKey
from narrowboat_protocol.token_uri import TokenUri

from ..files import PRIVATE, PUBLIC, read_bounded, write_new
from ..key_place import KeyPlace, key_in_token, key_place, uri_in

KeyT = TypeVar("KeyT", PrivateKey, AgreementKey)
_KEY_BYTES_MAX = 16 * 1024
_PASSPHRASE_BYTES_MAX = 1024
_CERTIFICATE_BYTES_MAX = 64 * 1024


def add_passphrase_arguments(parser: argparse.ArgumentParser, whose: str) -> None:
    """Declare the two ways to hand over the passphrase of `whose`."""
    sources = parser.add_mutually_exclusive_group()
    sources.add_argument(
        "--passphrase-file", type=Path, metavar="FILE", help=f"the passphrase of {whose} is the first line of FILE"
    )
    sources.add_argument(
        "--passphrase-env", metavar="NAME", help=f"the passphrase of {whose} is in the environment variable NAME"
    )


def passphrase_of(arguments: argparse.Namespace) -> bytes | None:
    """The passphrase that the arguments point to, or None if they point to none."""
    if arguments.passphrase_file is not None:
        passphrase = read_bounded(arguments.passphrase_file, _PASSPHRASE_BYTES_MAX).partition(b"\n")[0].rstrip(b"\r")
        source = str(arguments.passphrase_file)
    elif arguments.passphrase_env is not None:
        passphrase = os.environb.get(os.fsencode(arguments.passphrase_env), b"")
        source = f"the environment variable {arguments.passphrase_env}"
    else:
        return None
    if not passphrase:
        raise UsageError(Reason.BAD_USE, f"expected a passphrase in {source}, got an empty one or none")
    return passphrase


def key_argument(text: str) -> KeyPlace:
    """The file of a key, or the URI of one in a token. The text stays out of errors, as it may hold a PIN."""
    try:
        return key_place(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def load_key(place: KeyPlace, passphrase: bytes | None) -> PrivateKey:
    """The private key in a token or in a PEM file. A passphrase is not used where the key has none."""
    if isinstance(place, TokenUri):
        return key_in_token(place)
    uri = uri_in(read_bounded(place, _KEY_BYTES_MAX))
    return _load(PrivateKey.from_pem, place, passphrase) if uri is None else key_in_token(uri)


def load_agreement_key(path: Path, passphrase: bytes | None) -> AgreementKey:
    """The private key in a PEM file that opens the keys of encrypted payloads."""
    return _load(AgreementKey.from_pem, path, passphrase)


def load_recipient(path: Path) -> PublicKey:
    """A public key in a PEM file to which the keys of payloads can be sealed."""
    try:
        key = public_key_from_pem(read_bounded(path, _KEY_BYTES_MAX))
        key.to_p256()
    except NarrowboatError as error:
        raise UsageError(Reason.BAD_USE, f"{path}: expected a P-256 public key: {error}") from None
    return key


def _load(read: Callable[[bytes, bytes | None], KeyT], path: Path, passphrase: bytes | None) -> KeyT:
    pem = read_bounded(path, _KEY_BYTES_MAX)
    encrypted = b"ENCRYPTED" in pem.partition(b"\n")[0]
    if encrypted and passphrase is None:
        raise UsageError(
            Reason.BAD_USE,
            f"{path}: expected a passphrase for this key, got none; add --passphrase-file or --passphrase-env",
        )
    try:
        return read(pem, passphrase if encrypted else None)
    except UsageError as error:
        raise UsageError(error.reason, f"{path}: {error}") from None


def save_key(folder: Path, name: str, key: PrivateKey, passphrase: bytes | None = None) -> tuple[Path, Path]:
    """Write NAME.pem and NAME.pub.pem; return both paths. Writes neither if either exists: `UsageError`."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    if public.exists():
        raise UsageError(
            Reason.CONFLICT, f"expected no file {public}, got one, which is left as it is; choose another name"
        )
    write_new(private, key.to_pem(passphrase), PRIVATE)
    write_new(public, key.public.to_pem(), PUBLIC)
    return private, public


def load_certificate(path: Path) -> x509.Certificate:
    """The certificate in a PEM file, the first one there."""
    try:
        return x509.load_pem_x509_certificate(read_bounded(path, _CERTIFICATE_BYTES_MAX))
    except ValueError:
        raise UsageError(Reason.BAD_USE, f"{path}: expected a certificate in PEM, got other bytes") from None

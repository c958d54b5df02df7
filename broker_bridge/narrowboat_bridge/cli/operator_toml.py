"""`operator.toml`: who an operator is, and where and how it reaches the bridge.

    name = "alice"                        the common name of the certificate
    host = "broker.example.com"
    port = 8885                           the broker's staff listener
    fleet_id = "5e884898..."              64 hex digits; pins the fleet whatever version the root has reached
    ca = "server-ca.pem"                  the CA of the broker's certificate
    certificate = "cert.pem"
    key = "key.pem"                       of the certificate
    signing_key = "signing-key.pem"       or a pkcs11: URI; signs commands; its public half is in the operators document
    root = "root.signed"

Commands find it by `--config`, else by the environment variable NARROWBOAT_OPERATOR, else in the current
folder.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.topics import NAME_PATTERN

from ..toml_file import KeyLocation, Location, TomlFile
from .arguments import HOST_PATTERN, positive
from .key_files import add_passphrase_arguments

FILE_NAME = "operator.toml"
ENVIRONMENT_VARIABLE = "NARROWBOAT_OPERATOR"
_TIMEOUT_S = 60


class OperatorToml(TomlFile):
    """The file, checked."""

    name: Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
    host: Annotated[str, StringConstraints(pattern=HOST_PATTERN)]
    port: int = Field(8885, ge=1, le=65_535)
    fleet_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    ca: Location
    certificate: Location
    key: Location
    signing_key: KeyLocation
    root: Location


def add_operator_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what every command that talks to the bridge takes."""
    parser.add_argument(
        "--config",
        metavar="PATH",
        type=Path,
        help=f"{FILE_NAME} or its folder (default: ${ENVIRONMENT_VARIABLE}, else the current folder)",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=positive,
        default=_TIMEOUT_S,
        help=f"how long silence may last before this gives up with exit status 3 (default: {_TIMEOUT_S})",
    )
    add_passphrase_arguments(parser, "your signing key")


def find_operator_toml(config: Path | None) -> Path:
    """The path of the file, by the rule above."""
    named = config or (Path(value) if (value := os.environ.get(ENVIRONMENT_VARIABLE)) else None)
    path = (named or Path()) / FILE_NAME if named is None or named.is_dir() else named
    if not path.is_file():
        raise UsageError(
            Reason.BAD_CONFIG,
            f"expected {FILE_NAME} at {path}, got nothing there; pass --config or set {ENVIRONMENT_VARIABLE}"
            " to your operator folder",
        )
    return path

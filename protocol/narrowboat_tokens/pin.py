"""Where a token's PIN comes from: a file, or a person at a terminal; never a command line, where every process list
shows it.

The file is named by `pin-source` in the URI or by the environment variable NARROWBOAT_PIN_FILE, in this order. Its
first line is the PIN, and nobody but its owner may read it.
"""

from __future__ import annotations

import getpass
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.token_uri import TokenUri

ENVIRONMENT_VARIABLE = "NARROWBOAT_PIN_FILE"
_PIN_BYTES_MAX = 256


@dataclass(frozen=True, slots=True)
class Pin:
    """A PIN, which its repr does not show."""

    text: str = field(repr=False)
    is_typed: bool
    """By a person, who sees what comes of it. What is read from a file is tried again by every restart."""


def pin_of(uri: TokenUri, ask: Callable[[str], str] | None) -> Pin:
    """The PIN for a key. `ask`, if there is somebody to ask, is given what to call the key. Raises `UsageError`."""
    named = uri.pin_source or os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        return Pin(_read(Path(named)), is_typed=False)
    if ask is None:
        raise UsageError(
            Reason.BAD_USE,
            f"{uri}: expected a PIN, got none; add pin-source=FILE to the URI, or set {ENVIRONMENT_VARIABLE} to the"
            " path of a file",
        )
    typed = ask(str(uri))
    if not typed:
        raise UsageError(Reason.BAD_USE, f"{uri}: expected a PIN, got none; nothing was tried")
    return Pin(typed, is_typed=True)


def ask_person() -> Callable[[str], str] | None:
    """How to ask whoever sits at the terminal; None if nobody does."""
    if not sys.stdin.isatty():
        return None
    return _ask


def _ask(what: str) -> str:
    try:
        return getpass.getpass(f"PIN for {what}: ")
    except EOFError:
        return ""


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(_PIN_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(Reason.BAD_USE, f"{path}: expected a file with a PIN: {error.strerror}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(
            Reason.BAD_USE, f"{path}: expected a PIN that only its owner may read, got mode {mode:o}; chmod 600 it"
        )
    try:
        pin = data.partition(b"\n")[0].rstrip(b"\r").decode()
    except UnicodeDecodeError:
        pin = ""
    if not pin or len(data) > _PIN_BYTES_MAX:
        raise UsageError(
            Reason.BAD_USE, f"{path}: expected a PIN in the first line, in UTF-8, and at most {_PIN_BYTES_MAX} bytes"
        )
    return pin

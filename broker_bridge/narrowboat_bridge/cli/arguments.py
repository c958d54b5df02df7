"""Arguments that several commands share, and the types that turn words into values."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from narrowboat_protocol.topics import NAME_PATTERN, is_name

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001  (it has no public name)
Run = Callable[[argparse.Namespace], int]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SIZE = re.compile(r"(\d{1,12})([KMG]?)")
_DIGEST_HEX_DIGITS = 64
_PORT_MAX = 65_535
_DOMAIN = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")
_DOMAIN_CHARACTERS_MAX = 253
HOST_PATTERN = r"^[A-Za-z0-9.:-]{1,253}$"
CLASS_PATTERN = r"^[A-Za-z0-9._-]{1,64}$"


def add_group(subparsers: Subparsers, name: str, description: str) -> Subparsers:
    """A command that only has subcommands."""
    group = subparsers.add_parser(name, description=description)
    return group.add_subparsers(title="commands", metavar="COMMAND", required=True)


def add_command(subparsers: Subparsers, name: str, run: Run, summary: str, more: str = "") -> argparse.ArgumentParser:
    """A command that does something; `more` follows the summary in its own help."""
    parser = subparsers.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}. {more}".strip())
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def name(text: str) -> str:
    """A device, operator, component or campaign."""
    if not is_name(text):
        raise argparse.ArgumentTypeError(f"expected a name that matches {NAME_PATTERN}, got {text!r:.80}")
    return text


def size(text: str) -> int:
    """A number of bytes: `1500`, `64K`, `50M`, `2G`."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected bytes like 1500, 64K, 50M or 2G, got {text!r:.80}")
    return int(match[1]) * _UNITS[match[2]]


def port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _PORT_MAX:
        raise argparse.ArgumentTypeError(f"expected a port from 1 to {_PORT_MAX}, got {text!r:.80}")
    return int(text)


def host(text: str) -> str:
    """A DNS name or an IP address."""
    if re.fullmatch(HOST_PATTERN, text) is None:
        raise argparse.ArgumentTypeError(f"expected a DNS name or an IP address, got {text!r:.80}")
    return text


def domain(text: str) -> str:
    """A vendor's DNS domain."""
    if not is_domain(text):
        raise argparse.ArgumentTypeError(f"expected a DNS domain in lower case, such as example.com, got {text!r:.80}")
    return text


def is_domain(text: str) -> bool:
    return len(text) <= _DOMAIN_CHARACTERS_MAX and _DOMAIN.fullmatch(text) is not None


def class_name(text: str) -> str:
    """A class of hardware."""
    if re.fullmatch(CLASS_PATTERN, text) is None:
        raise argparse.ArgumentTypeError(f"expected 1 to 64 letters, digits, '.', '_' and '-', got {text!r:.80}")
    return text


def positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r:.80}")
    return int(text)


def digest(text: str) -> bytes:
    """A SHA-256 digest in hex."""
    parsed = parse_digest(text)
    if parsed is None:
        raise argparse.ArgumentTypeError(f"expected {_DIGEST_HEX_DIGITS} hex digits, got {text!r:.80}")
    return parsed


def parse_digest(text: str) -> bytes | None:
    if re.fullmatch(rf"[0-9a-fA-F]{{{_DIGEST_HEX_DIGITS}}}", text) is None:
        return None
    return bytes.fromhex(text)


def path(text: str) -> Path:
    return Path(text)


def out_file(text: str) -> Path:
    """A file to write. What is wrong with its place is found before the work."""
    path = Path(text)
    if not path.name or path.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file to write, got the folder {text!r:.200}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder at {str(path.parent)!r:.200}, got none; make it first")
    return path

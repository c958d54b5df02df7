"""TOML as every configuration file of ours is read: bounded before it is parsed, and with one error for whatever is
wrong.

Python's `tomllib` takes memory and time that grow with the square of the number of parts in a dotted name (ten thousand
bytes of `a.a.a` cost a hundred MiB), and leaves with errors that are not its own at deep nesting and long numbers.
People write these files, but a provisioning step may write them too, out of what came from somewhere else.
"""

from __future__ import annotations

import tomllib
from typing import Any

from .errors import Reason, UsageError
from .limits import KIB

CONFIG_BYTES_MAX = 64 * KIB
_DOTS_IN_A_LINE_MAX = 256
_NAME_CHARACTERS_MAX = 100


def parse_toml(data: bytes) -> dict[str, Any]:
    """Read the text of a configuration file. Raises `UsageError` (`bad_config`), whose message names no file."""
    if len(data) > CONFIG_BYTES_MAX:
        raise _refused(f"at most {CONFIG_BYTES_MAX} bytes, got {len(data)}")
    for number, line in enumerate(data.splitlines(), start=1):
        if line.count(b".") > _DOTS_IN_A_LINE_MAX:
            raise _refused(
                f"at most {_DOTS_IN_A_LINE_MAX} dots in line {number}, got {line.count(b'.')}; break the line"
            )
    try:
        values = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # its own error is a ValueError, as are those of UTF-8 and numbers
        raise _refused(f"TOML in UTF-8: {error}") from None
    _check_names(values)
    return values


def _check_names(values: dict[str, Any]) -> None:
    """Messages repeat names, so these are short."""
    waiting: list[Any] = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if any(len(name) > _NAME_CHARACTERS_MAX for name in value):
                raise _refused(f"names of at most {_NAME_CHARACTERS_MAX} characters, got a longer one")
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _refused(expected: str) -> UsageError:
    return UsageError(Reason.BAD_CONFIG, f"expected {expected}")

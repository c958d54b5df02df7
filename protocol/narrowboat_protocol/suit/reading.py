"""How a manifest is read: closed maps, and a cursor over command sequences that knows what comes next.

Every function either returns a value of the type that it names or refuses with `TrustError`
(`unsupported_manifest`), saying what was expected and what came. What came is described, not repeated, so a
message stays short whatever a manifest holds. Byte strings inside a manifest need no limit of their own: they
are parts of an envelope that is under one.

Truth values are integers to Python and not to CBOR; hence the comparisons of exact types.
"""

from __future__ import annotations

from enum import IntEnum
from uuid import UUID

from ..cbor import decode
from ..errors import EncodingError, Reason, TrustError
from .numbers import REPORT_POLICY_MAX, Condition, Directive, Parameter, command_name, named

COUNTER_MAX = (1 << 53) - 1
"""Counters stay below 2^53 in all our documents, so that every language can hold them."""

_UUID_BYTES = 16
_NONE: frozenset[IntEnum] = frozenset()


class Commands:
    """A cursor over one command sequence, a flat list of command, argument, command, argument."""

    __slots__ = ("_commands", "_name", "_position")

    def __init__(self, wrapped: object, name: str) -> None:
        commands = unwrap(wrapped, name)
        if not isinstance(commands, list) or len(commands) % 2:
            raise refused(f"{name}: expected a list of commands with their arguments, got {kind_of(commands)}")
        self._commands = commands
        self._name = name
        self._position = 0

    def argument(self, expected: Condition | Directive) -> object:
        """Step over the command `expected` and return its argument; refuse any other command."""
        if self._position == len(self._commands):
            raise refused(f"{self._name}: expected {command_name(expected)}, got the end of the sequence")
        command, argument = self._commands[self._position : self._position + 2]
        if type(command) is not int or command != expected:
            raise outside_profile(f"{self._name}: {command_name(command)}", command_name(expected))
        self._position += 2
        return argument

    def component(self, index: int) -> None:
        """Step over set-component-index, which must name the next component by its number."""
        argument = self.argument(Directive.SET_COMPONENT_INDEX)
        if type(argument) is not int or argument != index:
            raise refused(f"{self._name}: expected set-component-index {index}, got {kind_of(argument)}")

    def parameters(self, required: frozenset[IntEnum], optional: frozenset[IntEnum] = _NONE) -> dict[int, object]:
        """Step over override-parameters and return the parameters."""
        argument = self.argument(Directive.OVERRIDE_PARAMETERS)
        return members(argument, f"{self._name}: parameter", Parameter, required, optional)

    def reported(self, expected: Condition | Directive) -> None:
        """Step over a command whose argument is a reporting policy."""
        unsigned(self.argument(expected), f"{self._name}: reporting policy", REPORT_POLICY_MAX)

    def end(self) -> None:
        """Refuse commands that are left."""
        if self._position != len(self._commands):
            command = self._commands[self._position]
            raise outside_profile(f"{self._name}: {command_name(command)}", "the end of the sequence")


def members(
    value: object,
    what: str,
    kind: type[IntEnum],
    required: frozenset[IntEnum],
    optional: frozenset[IntEnum] = _NONE,
) -> dict[int, object]:
    """A closed map: every required member, and none but those and the optional ones."""
    if not isinstance(value, dict):
        raise refused(f"{what}: expected a map, got {kind_of(value)}")
    for key in value:
        if key not in required and key not in optional:
            raise outside_profile(f"{what} {named(kind, key)}")
    for key in sorted(required):
        if key not in value:
            raise refused(f"expected {what} {named(kind, key)}, which is missing")
    return value


def unwrap(value: object, what: str) -> object:
    """Decode what a byte string wraps. Raises `EncodingError` that says where in the manifest."""
    wrapped = octets(value, what)
    try:
        return decode(wrapped, max_bytes=len(wrapped))
    except EncodingError as error:
        raise EncodingError(error.reason, f"{what}: {error}") from None


def octets(value: object, what: str) -> bytes:
    if not isinstance(value, bytes):
        raise refused(f"{what}: expected a byte string, got {kind_of(value)}")
    return value


def unsigned(value: object, what: str, maximum: int = COUNTER_MAX) -> int:
    if type(value) is not int or not 0 <= value <= maximum:
        raise refused(f"{what}: expected an integer from 0 to {maximum}, got {kind_of(value)}")
    return value


def uuid(value: object, what: str) -> UUID:
    if not isinstance(value, bytes) or len(value) != _UUID_BYTES:
        raise refused(f"{what}: expected {_UUID_BYTES} bytes, got {kind_of(value)}")
    return UUID(bytes=value)


def kind_of(value: object) -> str:
    """What came, in bounded words."""
    match value:
        case None | bool() | int():
            return f"{value}"
        case bytes():
            return f"{len(value)} bytes"
        case str():
            return f"text of {len(value)} characters"
        case list():
            return f"a list of {len(value)}"
        case dict():
            return f"a map of {len(value)}"
        case _:
            return type(value).__name__


def refused(what: str) -> TrustError:
    return TrustError(Reason.UNSUPPORTED_MANIFEST, what)


def outside_profile(what: str, instead: str | None = None) -> TrustError:
    """The refusal of something that SUIT has and the profile has not, at least not here."""
    return refused(f"{what} is outside profile OTA-1" + (f", which has {instead} here" if instead else ""))

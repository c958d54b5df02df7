"""Which key in which token: a PKCS#11 URI (RFC 7512), taken apart.

    pkcs11:token=release;object=release-1?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=/run/keys/pin

The part before the question mark says what the key is; each attribute that is given must fit, and exactly one key may.
The part behind it says how to get there: the module that speaks to the token, and a file whose first line is the PIN.
A PIN itself (`pin-value`) is refused, since a URI stands in process lists, configurations and logs.

Nothing is looked for here, and no value of a URI that is refused gets into an error: it may hold a PIN.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import Reason, UsageError

SCHEME = "pkcs11:"
_CHARACTERS_MAX = 1024
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")
_MATCHED = ("token", "manufacturer", "serial", "model", "object")
_KNOWN = frozenset({*_MATCHED, "id", "type", "module-path", "pin-source"})


@dataclass(frozen=True, slots=True)
class TokenUri:
    """A key in a token. None stands for whatever there is."""

    module: str
    """The path of the PKCS#11 module."""
    token: str | None = None
    manufacturer: str | None = None
    serial: str | None = None
    model: str | None = None
    object: str | None = None
    id: bytes | None = None
    pin_source: str | None = None
    """The path of the file with the PIN."""

    def __str__(self) -> str:
        """What the key is, for people: without the way there."""
        named = {name: getattr(self, name) for name in _MATCHED}
        named["id"] = None if self.id is None else self.id.hex()
        return SCHEME + ";".join(f"{name}={value}" for name, value in named.items() if value is not None)


def is_token_uri(text: str) -> bool:
    return text.startswith(SCHEME)


def parse_token_uri(text: str) -> TokenUri:
    """Raises `UsageError` unless this names one private key and the module that reaches it."""
    if not is_token_uri(text) or len(text) > _CHARACTERS_MAX or not text.isprintable():
        raise _bad(f"one line of at most {_CHARACTERS_MAX} characters that begins with {SCHEME}")
    what, _, way = text.removeprefix(SCHEME).partition("?")
    found: dict[str, bytes] = {}
    for name, value in (*_attributes(what, ";"), *_attributes(way, "&")):
        if name == "pin-value":
            raise _bad("pin-source=FILE, got pin-value; a PIN in a URI is for everybody to read, so change it")
        if name not in _KNOWN or name in found:
            raise _bad(f"each of {', '.join(sorted(_KNOWN))} at most once, and nothing else")
        found[name] = value
    if found.pop("type", b"private") != b"private":
        raise _bad("type=private, or no type")
    module, pin_source = _path(found, "module-path"), _path(found, "pin-source")
    if module is None:
        raise _bad("?module-path=FILE, the PKCS#11 module of the token's vendor")
    if not found.keys() & {"object", "id"}:
        raise _bad("object=LABEL or id=%01, which say which key of the token")
    identifier = found.pop("id", None)
    texts = {name: _text(value) for name, value in found.items()}
    return TokenUri(module, **texts, id=identifier, pin_source=pin_source)


def _attributes(part: str, separator: str) -> Iterator[tuple[str, bytes]]:
    for attribute in part.split(separator) if part else ():
        name, _, value = attribute.partition("=")
        yield name, _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), value.encode())


def _path(found: dict[str, bytes], name: str) -> str | None:
    """A path, which may be written as a file: URI."""
    if name not in found:
        return None
    path = _text(found.pop(name)).removeprefix("file://").removeprefix("file:")
    if not path.startswith("/"):
        raise _bad(f"a whole path as {name}")
    return path


def _text(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable():
        raise _bad("values of printable characters")
    return text


def _bad(expected: str) -> UsageError:
    return UsageError(Reason.BAD_USE, f"key in a token: expected {expected}; RFC 7512 says how it is written")

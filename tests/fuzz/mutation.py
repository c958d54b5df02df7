"""What is changed in a valid input: one or a few places of a value, or a few bytes.

Values are what CBOR, JSON and TOML have in common: numbers, text, byte strings, lists, maps, truth values, null. A byte
string that itself holds CBOR is opened and changed inside, which is how SUIT and signed documents are nested. What
comes out need not be what the protocol allows; `loosely` writes it all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import cbor2

from narrowboat_protocol.limits import KIB

INPUT_BYTES_MAX = 10 * KIB
_INTEGERS = (
    0, 1, -1, 2, 23, 24, 255, 256, 65_535, 65_536, (1 << 31) - 1, 1 << 32, (1 << 40) - 1, 1 << 40, (1 << 53) - 1,
    1 << 53, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, -24, -25, -(1 << 63), -(1 << 64), -(1 << 64) - 1,
)  # fmt: skip
_TEXTS = (
    "",
    "a",
    "-",
    "A",
    "a" * 64,
    "a" * 65,
    "a" * 501,
    "gw-1\n",
    "\0",
    "../x",
    "~",
    "~nobody-here/x",
    "é" * 300,
    "\ud7ff",
)
_BYTES = (
    b"",
    b"\0",
    bytes(8),
    bytes(15),
    bytes(16),
    bytes(31),
    bytes(32),
    bytes(33),
    bytes(64),
    b"\x80",
    b"\xff" * 300,
)
_OTHERS: tuple[object, ...] = (None, True, False, 1.5, [], {}, [[]], {0: 0}, {1: 1, -1: -1, 24: 24}, float("nan"))
_EDGES: tuple[object, ...] = (*_INTEGERS, *_TEXTS, *_BYTES, *_OTHERS)
_COPIES_MAX = 300


def loosely(value: object) -> bytes:
    """CBOR of any value, map keys in the order that the scanner asks for."""
    return cbor2.dumps(_ordered(value))


def mutate_value(value: Any, rng: Random) -> Any:
    """A copy of `value` with one place changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        return _mutate_map(value, rng)
    if isinstance(value, list) and value and rng.random() < 0.9:
        return _mutate_list(value, rng)
    if isinstance(value, cbor2.CBORTag):
        return cbor2.CBORTag(value.tag, mutate_value(value.value, rng))
    if isinstance(value, bytes) and rng.random() < 0.7 and (inner := _opened(value)) is not None:
        return loosely(mutate_value(inner, rng))
    return _mutate_leaf(value, rng)


def mutate_bytes(data: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes:
    """Flip, cut, insert, overwrite, repeat, join with another input, or say a number in more bytes than it needs."""
    changed = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(changed) + 1)
        length = rng.choice((1, 1, 2, 4, 8, 32))
        match rng.randrange(8):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at : at + length] = b""
            case 2:
                changed[at:at] = rng.randbytes(length)
            case 3:
                changed[at : at + length] = rng.choice((b"\0", b"\xff", b"\x80", b"\x9b", b"\x5f")) * length
            case 4:
                changed[at:at] = changed[at : at + length] * rng.choice((1, 10, 100))
            case 5:
                del changed[at:]
            case 6 if at < len(changed) and changed[at] & 0x1F < 24:
                changed[at : at + 1] = (changed[at] & 0xE0 | 24, changed[at] & 0x1F)
            case _ if others:
                other = rng.choice(others)
                changed[at:] = other[rng.randrange(len(other) + 1) :]
        changed = changed or bytearray(b"\0")
    return bytes(changed)


def _mutate_map(value: dict[Any, Any], rng: Random) -> dict[Any, Any]:
    key = rng.choice(list(value))
    kind = rng.random()
    if kind < 0.7:
        return value | {key: mutate_value(value[key], rng)}
    if kind < 0.8:
        return {name: item for name, item in value.items() if name != key}
    if kind < 0.9:
        return {(rng.choice(_INTEGERS) if name == key else name): item for name, item in value.items()}
    return value | {rng.choice((22, 23, 24, -1, "x", "name")): rng.choice(_EDGES)}


def _mutate_list(value: list[Any], rng: Random) -> list[Any]:
    at = rng.randrange(len(value))
    kind = rng.random()
    if kind < 0.7:
        return [*value[:at], mutate_value(value[at], rng), *value[at + 1 :]]
    if kind < 0.8:
        return [*value[:at], *value[at + 1 :]]
    if kind < 0.9:
        return [*value[:at], *[value[at]] * rng.choice((2, 17, _COPIES_MAX)), *value[at + 1 :]]
    other = rng.randrange(len(value))
    return [
        value[other] if number == at else value[at] if number == other else item for number, item in enumerate(value)
    ]


def _mutate_leaf(value: Any, rng: Random) -> Any:
    if rng.random() < 0.3:
        return rng.choice(_EDGES)
    return _tweak(value, rng)


def _tweak(value: Any, rng: Random) -> Any:
    """Something of the same type."""
    tweaks: dict[type, Callable[[Any], Any]] = {
        bool: lambda truth: not truth,
        int: lambda number: rng.choice(
            (number + 1, number - 1, -number, number ^ (1 << rng.randrange(40)), rng.choice(_INTEGERS))
        ),
        str: lambda text: rng.choice(
            (text + text, text[:-1], text + rng.choice(_TEXTS), text.upper(), rng.choice(_TEXTS))
        ),
        bytes: lambda data: rng.choice((mutate_bytes(data, rng), rng.choice(_BYTES))),
    }
    tweak = tweaks.get(type(value))
    return rng.choice(_EDGES) if tweak is None else tweak(value)


def _ordered(value: Any) -> Any:
    match value:
        case dict():
            return {key: _ordered(item) for key, item in sorted(value.items(), key=lambda item: cbor2.dumps(item[0]))}
        case list():
            return [_ordered(item) for item in value]
        case cbor2.CBORTag():
            return cbor2.CBORTag(value.tag, _ordered(value.value))
    return value


def _opened(data: bytes) -> Any:
    """What a byte string holds, if it is a list, a map or a tag."""
    try:
        value = cbor2.loads(data)
    except Exception:  # noqa: BLE001  # it holds no CBOR, whatever the decoder makes of that
        return None
    return value if isinstance(value, (list, dict, cbor2.CBORTag)) and len(data) > 1 else None

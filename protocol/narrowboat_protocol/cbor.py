"""Deterministic CBOR (RFC 8949 section 4.2.1), the only encoding that the protocol speaks.

Decoding is two steps. A scanner walks the bytes and admits exactly one encoding of each value: definite lengths,
shortest integers, map keys in bytewise order without duplicates, only the tags that the caller names, no floats, no
simple values but false, true and null, a bounded depth, a bounded number of items, nothing after the value. Only then
does cbor2 build the objects. The number is bounded apart from the bytes, since an item of one byte becomes an object of
a hundred; it is counted by what lists and maps announce, so what is too many is refused before it is walked.

The scanner must come first: cbor2 builds dates, regular expressions and shared or cyclic references out of tags, keeps
the last of two equal keys, and accepts encodings that re-encode to the same bytes although they are not plain data, so
comparing a re-encoding would prove nothing. It needs no more than one pass and no allocation of its own that grows with
the input.

Encoding puts map keys in bytewise order first, since cbor2's canonical mode follows the older length-first order; cbor2
writes everything else in its shortest form anyway. The same scanner has the last word, so nothing is written that would
not be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import cbor2

from .errors import EncodingError, Reason, UsageError
from .limits import DEFAULT_LIMITS

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_FALSE, _TRUE, _NULL = 20, 21, 22
_SCALARS = frozenset({int, bytes, str, bool, type(None)})
"""What holds nothing else: most of what is walked, and told by its type alone."""
_NO_TAGS: frozenset[int] = frozenset()
_TAGS_WRITTEN = frozenset({18, 96, 107})
"""COSE_Sign1, COSE_Encrypt and the SUIT envelope."""


def encode(value: object) -> bytes:
    """Return the deterministic encoding of integers, byte and text strings, lists, maps, booleans, None and CBORTag.

    Raises `UsageError` for values that the protocol does not use (floats, dates, sets, numbers beyond 64 bits) and for
    what is nested too deep, itself included.
    """
    try:
        data = cbor2.dumps(_ordered(value, 0))
    except (cbor2.CBOREncodeError, OverflowError, ValueError, TypeError) as error:
        raise UsageError(
            Reason.BAD_USE,
            f"expected a value that CBOR can carry, got one that cbor2 refuses: {type(error).__name__}",
        ) from None
    try:
        _Scanner(data, _TAGS_WRITTEN, DEFAULT_LIMITS.depth_max, DEFAULT_LIMITS.items_max).scan()
    except EncodingError as error:
        raise UsageError(Reason.BAD_USE, f"this value has no deterministic encoding here: {error}") from None
    return data


def _ordered(value: object, depth: int) -> object:
    """The same value, with every map's keys in bytewise order of their encodings."""
    if depth > DEFAULT_LIMITS.depth_max:
        raise UsageError(
            Reason.BAD_USE, f"expected a value nested at most {DEFAULT_LIMITS.depth_max} deep, got a deeper one"
        )
    if type(value) in _SCALARS:
        return value
    below = depth + 1
    match value:
        case list() | tuple():
            return [item if type(item) in _SCALARS else _ordered(item, below) for item in value]
        case dict() | Mapping():
            return {
                key: item if type(item := value[key]) in _SCALARS else _ordered(item, below) for key in _in_order(value)
            }
        case cbor2.CBORTag():
            return cbor2.CBORTag(value.tag, _ordered(value.value, below))
    return value


def _in_order(keys: Iterable[object]) -> list[object]:
    """In bytewise order of their encodings, which for natural numbers is their own."""
    listed = list(keys)
    if set(map(type, listed)) == {int}:
        numbers: list[object] = sorted(listed)  # type: ignore[type-var]  # just seen to be integers
        if numbers[0] >= 0:  # type: ignore[operator]
            return numbers
    return sorted(listed, key=cbor2.dumps)


def decode(
    data: bytes,
    *,
    max_bytes: int,
    tags: frozenset[int] = _NO_TAGS,
    max_depth: int = DEFAULT_LIMITS.depth_max,
    max_items: int = DEFAULT_LIMITS.items_max,
) -> object:
    """Decode one value that fills `data` entirely.

    Allowed tags come back as `cbor2.CBORTag`. Raises `EncodingError` with reason `too_large` or `not_deterministic`.
    """
    if len(data) > max_bytes:
        raise EncodingError(Reason.TOO_LARGE, f"expected at most {max_bytes} bytes of CBOR, got {len(data)}")
    _Scanner(data, tags, max_depth, max_items).scan()
    try:
        value: object = cbor2.loads(data)
    except (cbor2.CBORDecodeError, ValueError, RecursionError) as error:
        raise _refused(0, f"cbor2 refuses it: {type(error).__name__}") from None
    return _plain(value) if tags else value


def _plain(value: object) -> object:
    """Lists and dicts throughout: cbor2 6 makes what a tag holds immutable, of tuples and a mapping that is no dict."""
    if type(value) in _SCALARS:
        return value
    match value:
        case cbor2.CBORTag():
            return cbor2.CBORTag(value.tag, _plain(value.value))
        case list() | tuple():
            return [_plain(item) for item in value]
        case Mapping():
            return {key: _plain(item) for key, item in value.items()}
    return value


def _refused(offset: int, what: str) -> EncodingError:
    return EncodingError(Reason.NOT_DETERMINISTIC, f"CBOR at byte {offset}: {what}")


class _Scanner:
    """One pass over one value, which may hold the tags named."""

    __slots__ = ("_data", "_items", "_max_depth", "_max_items", "_position", "_tags")

    def __init__(self, data: bytes, tags: frozenset[int], max_depth: int, max_items: int) -> None:
        self._data = data
        self._tags = tags
        self._max_depth = max_depth
        self._max_items = max_items
        self._items = 1
        self._position = 0

    def scan(self) -> None:
        self._item(0)
        if self._position != len(self._data):
            raise _refused(self._position, f"{len(self._data) - self._position} bytes follow the value")

    def _item(self, depth: int) -> None:
        if depth > self._max_depth:
            raise _refused(self._position, f"nested deeper than {self._max_depth}")
        start = self._position
        major, argument = self._head()
        if major in (_UNSIGNED, _NEGATIVE):
            return
        if major == _BYTES:
            self._skip(argument)
        elif major == _TEXT:
            self._text(argument)
        elif major == _ARRAY:
            self._announce(argument, start)
            for _ in range(argument):
                self._item(depth + 1)
        elif major == _MAP:
            self._map(argument, start, depth)
        elif major == _TAG:
            if argument not in self._tags:
                raise _refused(start, f"tag {argument} is not allowed here")
            self._item(depth + 1)
        elif argument not in (_FALSE, _TRUE, _NULL):
            raise _refused(start, "only false, true and null are allowed of the simple values and floats")

    def _head(self) -> tuple[int, int]:
        """Read an initial byte and its argument; refuse every form but the shortest (RFC 8949 section 4.2.1)."""
        start = self._position
        if start == len(self._data):
            self._skip(1)
        self._position = start + 1
        initial = self._data[start]
        major, info = initial >> 5, initial & 0x1F
        if info < 24:
            return major, info
        if info > 27:
            raise _refused(start, "indefinite lengths and reserved forms are not allowed")
        width: int = 1 << (info - 24)
        argument = int.from_bytes(self._take(width), "big")
        if major == _SIMPLE:
            raise _refused(start, "floats and extended simple values are not allowed")
        smallest = 24 if width == 1 else 1 << (4 * width)
        if argument < smallest:
            raise _refused(start, f"{argument} is not in its shortest form")
        return major, argument

    def _take(self, count: int) -> bytes:
        start = self._position
        self._skip(count)
        return self._data[start : self._position]

    def _skip(self, count: int) -> None:
        if count > len(self._data) - self._position:
            raise _refused(self._position, f"expected {count} more bytes, got {len(self._data) - self._position}")
        self._position += count

    def _text(self, length: int) -> None:
        start = self._position
        try:
            self._take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise _refused(start, "text is not valid UTF-8") from None

    def _announce(self, count: int, start: int) -> None:
        """Refuse a count before any loop over it: an item takes at least one byte of the rest, and all are counted."""
        if count > len(self._data) - self._position:
            raise _refused(start, f"claims {count} items in {len(self._data) - self._position} bytes")
        self._items += count
        if self._items > self._max_items:
            raise EncodingError(Reason.TOO_LARGE, f"expected at most {self._max_items} items of CBOR, got more")

    def _map(self, count: int, start: int, depth: int) -> None:
        self._announce(2 * count, start)
        previous = b""
        for _ in range(count):
            key_start = self._position
            if self._data[key_start : key_start + 1] and self._data[key_start] >> 5 not in (
                _UNSIGNED,
                _NEGATIVE,
                _TEXT,
            ):
                raise _refused(key_start, "map keys must be integers or text")
            self._item(depth + 1)
            key = self._data[key_start : self._position]
            if key <= previous:
                raise _refused(key_start, "map keys are not in strictly ascending bytewise order")
            previous = key
            self._item(depth + 1)

"""Small inputs that ask for much: what an attacker who knows the decoders would try first."""

from __future__ import annotations

import lzma
from collections.abc import Iterator

import cbor2

from narrowboat_protocol.limits import DEFAULT_LIMITS, MIB
from narrowboat_protocol.payload import Codec
from narrowboat_protocol.payload.codecs import compress_frame

from .mutation import INPUT_BYTES_MAX, loosely
from .shapes import CBOR, JSON, TOML, Shape
from .targets import Target

_SIZE = INPUT_BYTES_MAX

CBOR_BOMBS: dict[str, bytes] = {
    "a deep list": b"\x81" * _SIZE,
    "a deep map": b"\xa1\x00" * (_SIZE // 2),
    "many small numbers": b"\x99\x27\xf0" + bytes(10_224),
    "many empty lists": b"\x99\x27\xf0" + b"\x80" * 10_224,
    "many empty maps": b"\x99\x27\xf0" + b"\xa0" * 10_224,
    "many short texts": b"\x99\x13\xf8" + b"\x61a" * 5112,
    "wide lists in wide lists": b"\x98\x64" + (b"\x98\x62" + b"\x80" * 98) * 100,
    "a list that claims four thousand million": b"\x9a\xff\xff\xff\xff" + bytes(_SIZE - 5),
    "a map that claims more than memory": b"\xbb" + b"\xff" * 8,
    "bytes that claim more than memory": b"\x5b" + b"\xff" * 8,
    "keys that collide": loosely({(1 << 61) * number % (1 << 64): 0 for number in range(-8, 8)}),
    "many keys": loosely({f"{number:04}": number for number in range(1200)}),
    "one long text": loosely("x" * (_SIZE - 3)),
    "a tag in a tag": b"\xd8\x6b" * (_SIZE // 2),
}
TEXT_BOMBS: dict[str, bytes] = {
    "a deep list": b"a = " + b"[" * (_SIZE - 4),
    "a deep table": b"a = " + b"{a = " * 2000,
    "a deep name": b"a." * 5000 + b"a = 1",
    "the deepest names that are read": b"".join(b"b%d%s = 1\n" % (number, b".a" * 250) for number in range(19)),
    "many tables": b"".join(b"[t%d]\n" % number for number in range(1200)),
    "a long number": b"a = " + b"9" * (_SIZE - 4),
    "a long fraction": b"a = 1." + b"9" * (_SIZE - 6),
    "a long name": b"a" * (_SIZE - 4) + b" = 1",
    "JSON, deep": b"[" * _SIZE,
    "JSON, a long number": b'{"primary": ' + b"9" * 9000 + b"}",
}


def bombs_for(target: Target) -> Iterator[tuple[str, bytes]]:
    """By name, those that speak the target's language; as the content of what is signed where that must come first."""
    if target.shape in (TOML, JSON):
        yield from TEXT_BOMBS.items()
        return
    if target.name.startswith("frame-"):
        yield from _frame_bombs()
        return
    for name, data in CBOR_BOMBS.items():
        bomb = data if target.shape is None or target.shape is CBOR else _wrapped(target.shape, data)
        if bomb is not None and len(bomb) <= _SIZE:
            yield name, bomb


def _wrapped(shape: Shape, data: bytes) -> bytes | None:
    """The bomb in the place of a value; None for what is no value, or not to be wrapped in this shape."""
    try:
        value = cbor2.loads(data)
        return shape.put_together(value if isinstance(value, dict) else {1: value})
    except Exception:  # noqa: BLE001  # most bombs fit few shapes
        return None


def _frame_bombs() -> Iterator[tuple[str, bytes]]:
    """Much image in few bytes; each begins with the length that an index would promise."""
    whole = bytes(DEFAULT_LIMITS.full_frame_image_bytes_max)
    promise = (len(whole) - 1).to_bytes(3, "big")
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 18, "lc": 3, "lp": 0, "pb": 2}]
    huge = lzma.compress(bytes(64 * MIB), lzma.FORMAT_RAW, filters=filters)
    yield "a frame of zeros by zstd", promise + compress_frame(Codec.ZSTD, whole, DEFAULT_LIMITS)
    yield "a frame of zeros by LZMA", promise + compress_frame(Codec.LZMA, whole, DEFAULT_LIMITS)
    yield "64 MiB of zeros by LZMA", promise + huge[: _SIZE - 3]
    yield "64 MiB of zeros by LZMA, one byte promised", bytes(3) + huge[: _SIZE - 3]

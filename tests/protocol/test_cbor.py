"""The scanner admits one encoding of each value, and nothing but plain data."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowboat_protocol.cbor import decode, encode
from narrowboat_protocol.errors import EncodingError, Reason, UsageError

REFUSED = {
    "an integer of one byte in two": "1800",
    "an integer of two bytes in three": "190017",
    "an integer of three bytes in five": "1a0000ffff",
    "an integer of five bytes in nine": "1b00000000ffffffff",
    "a length that is not shortest": "580100",
    "an array without end": "9f00ff",
    "a map without end": "bf0001ff",
    "bytes in pieces": "5f4100ff",
    "text in pieces": "7f6161ff",
    "a half float": "f97e00",
    "a double": "fb3ff0000000000000",
    "undefined": "f7",
    "an unassigned simple value": "e0",
    "a simple value in two bytes": "f820",
    "a date": "c074323032362d30312d30315430303a30303a30305a",
    "a big number": "c24101",
    "a regular expression": "d8236161",
    "a shared value": "d81c80",
    "a reference to a shared value": "d81d00",
    "self-described CBOR": "d9d9f700",
    "two equal keys": "a201010101",
    "keys in the wrong order": "a202010101",
    "bytes as a key": "a1410001",
    "an array as a key": "a18001",
    "a null as a key": "a1f601",
    "two values": "0000",
    "nothing": "",
    "an array that claims too much": "81",
    "an array that claims four thousand million": "9affffffff",
    "a map that claims too much": "ba7fffffff",
    "bytes that end early": "4201",
    "text that is not UTF-8": "62c328",
    "a reserved length": "1c",
    "a break alone": "ff",
}

PLAIN = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(1 << 64), (1 << 64) - 1),
        st.binary(max_size=40),
        st.text(max_size=20),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.integers(-(1 << 64), (1 << 64) - 1), st.text(max_size=40)), inner, max_size=4),
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_a_second_encoding_or_anything_but_plain_data_is_refused(data: str) -> None:
    with pytest.raises(EncodingError) as caught:
        decode(bytes.fromhex(data), max_bytes=1000)
    assert caught.value.reason is Reason.NOT_DETERMINISTIC


@given(PLAIN)
def test_what_is_encoded_decodes_to_the_same_value(value: object) -> None:
    assert decode(encode(value), max_bytes=10_000) == value


@given(st.binary(max_size=60))
def test_accepted_bytes_are_the_only_encoding_of_their_value(data: bytes) -> None:
    try:
        value = decode(data, max_bytes=60)
    except EncodingError:
        return
    assert encode(value) == data


@given(PLAIN, st.data())
def test_damaged_bytes_raise_our_error_or_are_another_values_only_encoding(value: object, data: st.DataObject) -> None:
    encoded = bytearray(encode(value))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        other = decode(bytes(encoded), max_bytes=10_000)
    except EncodingError:
        return
    assert encode(other) == bytes(encoded)


def test_only_the_tags_that_are_asked_for_are_let_through() -> None:
    data = encode(cbor2.CBORTag(18, [1]))
    tagged = decode(data, max_bytes=100, tags=frozenset({18}))
    assert isinstance(tagged, cbor2.CBORTag)
    assert (tagged.tag, tagged.value) == (18, [1])
    with pytest.raises(EncodingError):
        decode(data, max_bytes=100, tags=frozenset({107}))


def test_size_and_depth_are_bounded_before_anything_is_built() -> None:
    with pytest.raises(EncodingError) as caught:
        decode(encode(bytes(100)), max_bytes=100)
    assert caught.value.reason is Reason.TOO_LARGE
    with pytest.raises(EncodingError):
        decode(b"\x81" * 17 + b"\x00", max_bytes=100)
    assert decode(b"\x81" * 16 + b"\x00", max_bytes=100)


def nested(depth: int) -> object:
    value: object = []
    for _ in range(depth):
        value = [value]
    return value


def endless() -> object:
    value: list[object] = []
    value.append({1: value})
    return value


@pytest.mark.parametrize(
    "value",
    [1.5, {1, 2}, object(), {b"": 0}, {True: 0}, 1 << 64, -(1 << 64) - 1, nested(17), nested(3000), endless()],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_has_no_place_in_the_protocol_is_not_encoded(value: object) -> None:
    with pytest.raises(UsageError):
        encode(value)


def test_map_keys_stand_in_bytewise_order_where_a_shorter_one_comes_later() -> None:
    """RFC 8949 section 4.2.1; the order of RFC 7049 is the other one."""
    assert encode({-1: 0, 24: 1}).hex() == "a2181801" + "2000"
    assert encode(nested(16)) == b"\x81" * 16 + b"\x80"

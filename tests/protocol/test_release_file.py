"""The release file: what is cut off, overlong or foreign is refused, whatever reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowboat_protocol.errors import DocumentError, Reason, UsageError
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.payload import payload_bytes_max
from narrowboat_protocol.release_file import (
    HEADER_BYTES,
    MAGIC,
    ReleaseFileLayout,
    encode_header,
    encode_trailer,
    read_layout,
)
from narrowboat_protocol.suit.encryption import INFO_BYTES_MAX

LIMITS = Limits(log2_chunk_size=6, image_bytes_max=4096, head_bytes_max=1024, envelope_bytes_max=64)


def release_file(payload: bytes, envelope: bytes, info: bytes = b"") -> bytes:
    return encode_header(len(payload), LIMITS) + payload + encode_trailer(envelope, LIMITS, info)


def layout_of(data: bytes) -> ReleaseFileLayout:
    return read_layout(lambda offset, length: data[offset : offset + length], len(data), LIMITS)


@given(st.binary(min_size=1, max_size=300), st.binary(min_size=1, max_size=64), st.binary(max_size=300))
def test_each_part_is_found_where_it_was_put(payload: bytes, envelope: bytes, info: bytes) -> None:
    data = release_file(payload, envelope, info)
    layout = layout_of(data)
    assert data[layout.info_offset :][: layout.info_length] == info
    assert data[layout.payload_offset :][: layout.payload_length] == payload
    assert data[layout.envelope_offset :][: layout.envelope_length] == envelope


def test_the_layout_is_the_published_one() -> None:
    assert release_file(b"payload", b"envelope") == (
        b"NBRELS1\n" + (7).to_bytes(8, "big") + b"payload" + bytes(4) + (8).to_bytes(4, "big") + b"envelope"
    )
    assert encode_trailer(b"envelope", LIMITS, b"info") == bytes((0, 0, 0, 4, 0, 0, 0, 8)) + b"info" + b"envelope"


def test_signing_again_rewrites_the_tail_only() -> None:
    data = release_file(b"payload", b"unsigned")
    signed = data[: layout_of(data).trailer_offset] + encode_trailer(b"signed twice", LIMITS)
    assert signed == release_file(b"payload", b"signed twice")


def test_a_copy_that_was_cut_off_anywhere_is_refused() -> None:
    data = release_file(b"payload", b"envelope")
    for length in range(len(data)):
        with pytest.raises(DocumentError):
            layout_of(data[:length])


def test_bytes_after_the_envelope_are_refused() -> None:
    with pytest.raises(DocumentError) as caught:
        layout_of(release_file(b"payload", b"envelope") + b"\x00")
    assert caught.value.reason is Reason.BAD_DOCUMENT


def test_a_file_of_another_format_is_named_as_such() -> None:
    data = release_file(b"payload", b"envelope")
    for start in (b"NBRELS2\n", b"\x00" * 8, MAGIC[::-1]):
        with pytest.raises(DocumentError) as caught:
            layout_of(start + data[8:])
        assert caught.value.reason is Reason.UNKNOWN_FORMAT


@pytest.mark.parametrize("length", [0, payload_bytes_max(LIMITS) + 1, 2**64 - 1])
def test_a_payload_length_out_of_bounds_is_refused_before_anything_is_read_by_it(length: int) -> None:
    reads: list[int] = []

    def read_at(offset: int, wanted: int) -> bytes:
        reads.append(offset)
        return (MAGIC + length.to_bytes(8, "big"))[offset : offset + wanted]

    with pytest.raises(DocumentError):
        read_layout(read_at, 2**63, LIMITS)
    assert reads == [0]


@pytest.mark.parametrize("length", [INFO_BYTES_MAX + 1, 2**32 - 1])
def test_an_encryption_info_beyond_its_bound_is_refused(length: int) -> None:
    whole = release_file(b"payload", b"envelope", bytes(INFO_BYTES_MAX))
    assert layout_of(whole).info_length == INFO_BYTES_MAX
    at = layout_of(whole).trailer_offset
    with pytest.raises(DocumentError):
        layout_of(whole[:at] + length.to_bytes(4, "big") + whole[at + 4 :] + b"\0")


@pytest.mark.parametrize("length", [0, 65, 2**32 - 1])
def test_an_envelope_length_out_of_bounds_is_refused(length: int) -> None:
    data = encode_header(1, LIMITS) + b"p" + bytes(4) + length.to_bytes(4, "big") + bytes(min(length, 65))
    with pytest.raises(DocumentError):
        layout_of(data)


def test_a_file_that_would_be_refused_is_never_written() -> None:
    for payload_length in (0, payload_bytes_max(LIMITS) + 1):
        with pytest.raises(UsageError):
            encode_header(payload_length, LIMITS)
    with pytest.raises(UsageError):
        encode_trailer(b"envelope", LIMITS, bytes(INFO_BYTES_MAX + 1))
    for envelope in (b"", bytes(65)):
        with pytest.raises(UsageError):
            encode_trailer(envelope, LIMITS)


@given(st.binary(max_size=400), st.booleans())
def test_hostile_bytes_end_in_a_layout_or_a_refusal(data: bytes, with_magic: bool) -> None:
    data = MAGIC + data if with_magic else data
    try:
        layout = layout_of(data)
    except DocumentError:
        return
    assert layout.payload_offset == HEADER_BYTES
    assert layout.envelope_offset + layout.envelope_length == len(data)

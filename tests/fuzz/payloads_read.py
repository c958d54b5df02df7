"""Targets: payloads, which come from anywhere and meet C code."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from narrowboat_protocol.limits import DEFAULT_LIMITS, KIB
from narrowboat_protocol.payload import Codec, FrameStream, Head, PayloadCipher, PayloadWriter, encode_head, parse_head
from narrowboat_protocol.payload.codecs import compress_frame, decompress_frame
from narrowboat_protocol.payload.head import HEAD_START_BYTES, measure_head
from narrowboat_protocol.release_file import encode_header, encode_trailer, read_layout
from narrowboat_protocol.suit import ContentKey, recipients_of, unseal
from tests.support.images import small_image
from tests.vectors.encryption import INFO, RECIPIENT, SEALED
from tests.vectors.generate import FILES
from tests.vectors.images import ENCODED_ZEROS

from .shapes import PAYLOAD
from .targets import Target

_LIMITS = DEFAULT_LIMITS
_SIZE_BYTES = 3
"""A frame's input begins with the length of its image, as the index would give it."""
_CUTS = (1, 7, 4096)


def _head(data: bytes) -> bytes:
    head = parse_head(data, _LIMITS)
    assert head.encoded_frame_bytes_max <= head.peak_memory_bytes, "the memory that is told is less than one frame"
    assert all(head.frame(number).number == number for number in range(head.frame_count))
    return encode_head(head.image_sha256, head.tree, head.index, encrypted=head.encrypted)


def _frame(codec: Codec, data: bytes) -> bytes | None:
    """Exactly the promised bytes, or nothing."""
    image_bytes = int.from_bytes(data[:_SIZE_BYTES], "big") % _LIMITS.full_frame_image_bytes_max + 1
    image = decompress_frame(codec, data[_SIZE_BYTES:], image_bytes, _LIMITS)
    assert len(image) == image_bytes, "an image of another length than promised"
    return data[:_SIZE_BYTES] + image if codec is Codec.STORED else None


def _payload(data: bytes) -> None:
    """The same frames, however the payload is cut into blocks."""
    head = parse_head(data[: measure_head(data[:HEAD_START_BYTES], _LIMITS)], _LIMITS)
    body = data[head.frames_offset : head.payload_length]
    streams = [FrameStream(head, _LIMITS, cipher=_cipher(head)) for _ in _CUTS]
    read = [_read_in_blocks(stream, head.frames_offset, body, cut) for stream, cut in zip(streams, _CUTS, strict=True)]
    for frames in zip(*read, strict=True):
        assert len(set(frames)) == 1, "the cut into blocks changes what is read"
        assert len(frames[0][1]) <= _LIMITS.full_frame_image_bytes_max, "a frame beyond its bound"


def _cipher(head: Head) -> PayloadCipher | None:
    """With a key that is ours, whatever the ciphertext is."""
    return PayloadCipher(_CONTENT, head.layer_offset) if head.encrypted else None


def _read_in_blocks(stream: FrameStream, offset: int, body: bytes, cut: int) -> Iterator[tuple[int, bytes]]:
    for start in range(0, len(body), cut):
        for frame, image in stream.feed(offset + start, body[start : start + cut]):
            yield frame.number, image


def _encryption_info(data: bytes) -> None:
    """A key that opens is the one that was sealed. What is not sealed to ours is refused as such."""
    recipients = recipients_of(data)
    content = unseal(data, RECIPIENT)
    assert RECIPIENT.public.kid in recipients, "opened what is sealed to others"
    assert content.key in _CONTENT_KEYS, "opened another key than was ever sealed"


def _release_file(data: bytes) -> bytes:
    layout = read_layout(lambda offset, length: data[offset : offset + length], len(data), _LIMITS)
    payload = data[layout.payload_offset : layout.payload_offset + layout.payload_length]
    envelope = data[layout.envelope_offset : layout.envelope_offset + layout.envelope_length]
    info = data[layout.info_offset : layout.envelope_offset]
    return encode_header(layout.payload_length, _LIMITS) + payload + encode_trailer(envelope, _LIMITS, info)


def _frame_seeds(codec: Codec) -> tuple[bytes, ...]:
    images = (bytes(300), small_image(1, 3000), bytes(100 * KIB))
    encoded = [(len(image), compress_frame(codec, image, _LIMITS)) for image in images]
    zeros = [(300, ENCODED_ZEROS[codec])]
    return tuple(
        (size - 1).to_bytes(_SIZE_BYTES, "big") + data for size, data in (*encoded, *zeros) if len(data) < 10 * KIB
    )


def _made(codec: Codec, image: bytes, content_key: ContentKey | None = None) -> bytes:
    writer = PayloadWriter(_LIMITS, codec, content_key=content_key)
    frames = b"".join(writer.encode([image]))
    prologue = writer.prologue()
    return prologue.head + prologue.layer + prologue.leaves + frames


def _payload_seeds() -> tuple[bytes, ...]:
    vectors = [bytes.fromhex(case["payload"]) for case in FILES["payloads.json"]()["accepted"]]
    zeros = bytes(600 * KIB)
    return (
        *vectors,
        *(_made(codec, zeros) for codec in (Codec.ZSTD, Codec.LZMA)),
        _made(Codec.ZSTD, small_image(2, 9000)),
    )


def _head_seeds(payloads: tuple[bytes, ...]) -> tuple[bytes, ...]:
    refused = [bytes.fromhex(case["head"]) for case in FILES["payloads.json"]()["refused"]]
    return (*(payload[: measure_head(payload[:HEAD_START_BYTES], _LIMITS)] for payload in payloads), *refused)


_VECTORS = FILES["encryption.json"]()
_INFOS = (
    INFO,
    bytes.fromhex(_VECTORS["encryption_info"]),
    *(bytes.fromhex(case["encryption_info"]) for case in _VECTORS["refused"]),
)
_CONTENT_KEYS = frozenset({SEALED.key})
_CONTENT = ContentKey(bytes.fromhex(_VECTORS["content_key"]), bytes.fromhex(_VECTORS["iv"]))
_PAYLOADS = _payload_seeds()
_ENCRYPTED = (
    bytes.fromhex(_VECTORS["payload"]),
    *(_made(codec, small_image(3, 9000), SEALED) for codec in (Codec.ZSTD, Codec.LZMA)),
)
_RELEASE_FILES = tuple(
    encode_header(len(payload), _LIMITS) + payload + encode_trailer(bytes(40), _LIMITS) for payload in _PAYLOADS
)

PAYLOAD_TARGETS = (
    Target("payload-head", _head, _head_seeds((*_PAYLOADS, *_ENCRYPTED))),
    *(
        Target(f"frame-{codec.name.lower()}", partial(_frame, codec), _frame_seeds(codec), None)
        for codec in (Codec.STORED, Codec.ZSTD, Codec.LZMA)
    ),
    Target("payload", _payload, (*_PAYLOADS, *_ENCRYPTED), PAYLOAD),
    Target("encryption-info", _encryption_info, _INFOS),
    Target("release-file", _release_file, _RELEASE_FILES, None),
)

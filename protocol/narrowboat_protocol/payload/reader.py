"""Turns payload bytes, block by block, into image bytes, frame by frame.

Blocks are cut for the link and frames for compression, so one block may end in the middle of a frame or
hold a thousand of them. `FrameStream` takes blocks in order and yields each frame as soon as it is whole.
It holds one unfinished frame in a buffer made once, and decodes lazily: a block of 64 KiB may expand to
half a GiB of zeros, which must never exist at once. The object knows no link; it lives on while links come
and go, and `next_offset` is where the next range request starts.

Two failures need different cures. A frame whose hash is not the index's was forged or damaged on the way:
`bad_block`, ask again, elsewhere after a few. A frame with the right hash that does not decode is a bad
payload: `bad_frame`, asking again is useless. After either the stream stands at the start of that frame. A
frame that decodes is still only a hint, until the tree proves it. One that is encrypted is decrypted when it is whole
and has its hash.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import PayloadError, Reason, UsageError
from ..limits import Limits
from .cipher import PayloadCipher
from .codecs import decompress_frame
from .head import Frame, Head, hash8


def decode_frame(
    frame: Frame, encoded: bytes | memoryview, limits: Limits, cipher: PayloadCipher | None = None
) -> bytes:
    """Return a frame's image. Raises `PayloadError`: `bad_block`, `bad_frame` or `unsupported_codec`."""
    if len(encoded) != frame.encoded_length:
        raise UsageError(
            Reason.BAD_USE,
            f"expected the {frame.encoded_length} bytes of frame {frame.number}, got {len(encoded)}",
        )
    if hash8(encoded) != frame.hash8:
        raise PayloadError(
            Reason.BAD_BLOCK,
            f"frame {frame.number} does not have the hash that the index gives; ask for it again",
        )
    if cipher is not None:
        encoded = cipher.apply(frame.offset, encoded)
    return decompress_frame(frame.codec, encoded, frame.image_bytes, limits)


class FrameStream:
    """Reads the frames of one payload in order, from any frame on."""

    def __init__(
        self, head: Head, limits: Limits, first_frame: int = 0, *, cipher: PayloadCipher | None = None
    ) -> None:
        if head.encrypted != (cipher is not None):
            raise UsageError(Reason.BAD_USE, "expected a cipher for an encrypted payload, and for no other")
        self._head = head
        self._limits = limits
        self._cipher = cipher
        self._buffer = memoryview(bytearray(head.encoded_frame_bytes_max))
        self._held = 0
        self._frame: Frame | None = None
        self.start(first_frame)

    def start(self, frame_number: int) -> None:
        """Go on at the start of this frame; bytes of an unfinished one are dropped."""
        self._frame = self._head.frame(frame_number)
        self._held = 0

    @property
    def next_offset(self) -> int:
        """The payload offset of the next byte to feed; the payload's length once every frame was yielded."""
        if self._frame is None:
            return self._head.payload_length
        return self._frame.offset + self._held

    def feed(self, offset: int, data: bytes | memoryview) -> Iterator[tuple[Frame, bytes]]:
        """Take the payload's bytes at `offset`; yield the frames that they complete, with their image bytes.

        Bytes are taken as the result is iterated over; iterate to the end before feeding more. Raises
        `PayloadError` like `decode_frame`; the rest of `data` is then dropped.
        """
        if offset != self.next_offset or len(data) > self._head.payload_length - offset:
            raise UsageError(
                Reason.BAD_USE,
                f"expected payload bytes from {self.next_offset} to at most {self._head.payload_length}, "
                f"got {len(data)} at {offset}",
            )
        return self._frames(memoryview(data))

    def _frames(self, rest: memoryview) -> Iterator[tuple[Frame, bytes]]:
        while rest and (frame := self._frame) is not None:
            taken = min(len(rest), frame.encoded_length - self._held)
            piece, rest = rest[:taken], rest[taken:]
            if taken < frame.encoded_length:
                self._buffer[self._held : self._held + taken] = piece
                self._held += taken
                if self._held < frame.encoded_length:
                    return
                piece = self._buffer[: self._held]
            self._held = 0
            image = decode_frame(frame, piece, self._limits, self._cipher)
            following = frame.number + 1
            self._frame = self._head.frame(following) if following < self._head.frame_count else None
            yield frame, image

"""Makes a full payload out of an image that streams past once.

The head comes first in a payload and is known last, so the writer hands each encoded frame to its caller,
who spools it, and at the end returns what stands before the frames. It holds one frame, the leaves (32
bytes a chunk) and the index (15 bytes a frame), so an image of many GiB is built in constant memory but
for these:

    writer = PayloadWriter(limits)
    for frame in writer.encode(image_blocks):
        spool.write(frame)
    prologue = writer.prologue()
    payload = prologue.head + prologue.layer + prologue.leaves + everything in the spool

Identical images give identical payloads, however they were cut into blocks, with the same version of the
codec's library. A frame that its codec does not make smaller is stored, so no frame is longer than its
part of the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ..errors import Reason, UsageError
from ..limits import Limits
from ..tree import Tree, TreeBuilder
from .codecs import Codec, compress_frame
from .head import encode_head, pack_entry


@dataclass(frozen=True, slots=True)
class Prologue:
    """What stands before the frames of a payload, and what the release signs about the image."""

    head: bytes = field(repr=False)
    layer: bytes = field(repr=False)
    leaves: bytes = field(repr=False)
    tree: Tree
    image_sha256: bytes


class PayloadWriter:
    """Writes one payload: iterate over `encode` to its end, then take the `prologue`."""

    def __init__(self, limits: Limits, codec: Codec = Codec.ZSTD, level: int | None = None) -> None:
        self._limits = limits
        self._codec = codec
        self._level = level
        self._tree = TreeBuilder(limits)
        self._index = bytearray()
        self._begun = False
        self._ended = False

    def encode(self, image_blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the image's encoded frames, in order. `image_blocks` are its bytes, in blocks of any size."""
        if self._begun:
            raise UsageError(Reason.BAD_USE, "expected one image per writer, got a second; make another writer")
        self._begun = True
        frame_chunks = self._limits.full_frame_image_bytes_max >> self._limits.log2_chunk_size
        for image in _recut(image_blocks, frame_chunks << self._limits.log2_chunk_size):
            self._tree.update(image)
            yield self._encode_frame(image)
        self._ended = True

    def prologue(self) -> Prologue:
        """Return what comes before the frames, once all of them have been yielded."""
        if not self._ended:
            raise UsageError(
                Reason.BAD_USE,
                "expected all frames to be taken before the prologue, got an unfinished encode",
            )
        built = self._tree.finish()
        head = encode_head(built.image_sha256, built.tree, bytes(self._index))
        if len(head) > self._limits.head_bytes_max:
            raise UsageError(
                Reason.IMAGE_TOO_LARGE,
                f"expected at most {self._limits.head_bytes_max} bytes of head, got {len(head)}; split it",
            )
        return Prologue(head, built.layer, built.leaves, built.tree, built.image_sha256)

    def _encode_frame(self, image: bytes) -> bytes:
        codec, encoded = self._codec, compress_frame(self._codec, image, self._limits, self._level)
        if len(encoded) >= len(image):
            codec, encoded = Codec.STORED, image
        chunk_count = -(-len(image) >> self._limits.log2_chunk_size)
        self._index += pack_entry(codec, chunk_count, encoded)
        return encoded


def _recut(blocks: Iterable[bytes], size_bytes: int) -> Iterator[bytes]:
    """Yield the same bytes in pieces of `size_bytes`, the last maybe shorter; hold less than two pieces."""
    held = bytearray()
    for block in blocks:
        view = memoryview(block)
        for start in range(0, len(view), size_bytes):
            held += view[start : start + size_bytes]
            if len(held) >= size_bytes:
                yield bytes(held[:size_bytes])
                del held[:size_bytes]
    if held:
        yield bytes(held)

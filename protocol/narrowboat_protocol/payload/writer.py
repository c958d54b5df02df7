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
codec's library, unless they are encrypted. A frame that its codec does not make smaller is stored, so no frame is
longer than its part of the image.

With a content key, each frame is encrypted as soon as it is compressed, as if the counter began at the first frame. It
begins behind the head, with hashes whose number is known last; so the IV that counts is the one that many blocks
before, and stands in the prologue.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ..errors import Reason, UsageError
from ..limits import Limits
from ..suit.encryption import ContentKey
from ..tree import Tree, TreeBuilder
from .cipher import CIPHER_BLOCK_BYTES, PayloadCipher, counter_after
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
    content_key: ContentKey | None = None
    """What decrypts everything behind the head, if it is encrypted."""


class PayloadWriter:
    """Writes one payload: iterate over `encode` to its end, then take the `prologue`."""

    def __init__(
        self,
        limits: Limits,
        codec: Codec = Codec.ZSTD,
        level: int | None = None,
        content_key: ContentKey | None = None,
    ) -> None:
        """`content_key` is random, and made for this payload alone."""
        self._limits = limits
        self._codec = codec
        self._level = level
        self._tree = TreeBuilder(limits)
        self._index = bytearray()
        self._content_key = content_key
        self._cipher = None if content_key is None else PayloadCipher(content_key, 0)
        self._frames_bytes = 0
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
        head = encode_head(built.image_sha256, built.tree, bytes(self._index), encrypted=self._cipher is not None)
        if len(head) > self._limits.head_bytes_max:
            raise UsageError(
                Reason.IMAGE_TOO_LARGE,
                f"expected at most {self._limits.head_bytes_max} bytes of head, got {len(head)}; split it",
            )
        layer, leaves, content_key = built.layer, built.leaves, self._content_key
        if content_key is not None and self._cipher is not None:
            leaves = self._cipher.apply(-len(leaves), leaves)
            layer = self._cipher.apply(-len(leaves) - len(layer), layer)
            iv = counter_after(content_key.iv, -(len(layer) + len(leaves)) // CIPHER_BLOCK_BYTES)
            content_key = ContentKey(content_key.key, iv)
        return Prologue(head, layer, leaves, built.tree, built.image_sha256, content_key)

    def _encode_frame(self, image: bytes) -> bytes:
        codec, encoded = self._codec, compress_frame(self._codec, image, self._limits, self._level)
        if len(encoded) >= len(image):
            codec, encoded = Codec.STORED, image
        if self._cipher is not None:
            encoded = self._cipher.apply(self._frames_bytes, encoded)
        self._frames_bytes += len(encoded)
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

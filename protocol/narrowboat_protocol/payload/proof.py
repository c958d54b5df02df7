"""Proving a payload without decoding it: its hashes against the signed tree, its frames against its index.

That finds every byte that was damaged or forged since the payload was made, at the cost of one SHA-256 over it, and
needs neither codecs nor room for a frame, so a server can do it with whatever it is sent. Of an encrypted payload, the
hashes take the key; frames are hashed as they travel. What it does not find is a
payload that was made wrong: frames with the right hashes that decode to another image. Whoever builds a release finds
that by decoding it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from ..errors import PayloadError, Reason
from ..limits import Limits
from ..tree import HASH_BYTES, Tree, check_layer, check_leaves
from .cipher import PayloadCipher
from .head import Head


def check_hashes(
    head: Head, tree: Tree, read: Callable[[int, int], bytes], limits: Limits, cipher: PayloadCipher | None = None
) -> None:
    """Check layer and leaves, which `read` gives by offset and length. Raises `PayloadError`."""

    def plain(offset: int, length: int) -> bytes:
        data = read(offset, length)
        return data if cipher is None else cipher.apply(offset, data)

    layer = plain(head.layer_offset, head.leaves_offset - head.layer_offset)
    check_layer(tree, layer, limits)
    for subtree in range(tree.subtree_count(limits)):
        first_chunk, chunk_count = tree.subtree_span(subtree, limits)
        leaves = plain(head.leaves_offset + first_chunk * HASH_BYTES, chunk_count * HASH_BYTES)
        check_leaves(tree, layer, subtree, leaves, limits)


class FrameProof:
    """Hashes the frames of one payload as they pass. `check` tells, once all have, whether they are what the index
    says: whoever hashes the whole at the same time wants to know first whether it came as it was sent.
    """

    def __init__(self, head: Head) -> None:
        self._head = head
        self._frame = head.frame(0)
        self._hash = hashlib.sha256()
        self._offset = 0
        self._bad: int | None = None

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the payload, from its first on."""
        skipped = max(0, min(len(data), self._head.frames_offset - self._offset))
        self._offset += skipped
        rest = memoryview(data)[skipped:]
        while rest and self._offset < self._head.payload_length:
            end = self._frame.offset + self._frame.encoded_length
            piece, rest = rest[: end - self._offset], rest[end - self._offset :]
            self._hash.update(piece)
            self._offset += len(piece)
            if self._offset == end:
                self._end_frame()

    def check(self) -> None:
        """Raise `PayloadError` (`bad_block`) if a frame is not what the index says, or did not come."""
        if self._bad is None and self._offset == self._head.payload_length:
            return
        number = self._frame.number if self._bad is None else self._bad
        raise PayloadError(
            Reason.BAD_BLOCK,
            f"frame {number} does not have the hash that the index gives; take a good copy, or build it anew",
        )

    def _end_frame(self) -> None:
        if self._bad is None and not self._hash.digest().startswith(self._frame.hash8):
            self._bad = self._frame.number
        self._hash = hashlib.sha256()
        if self._frame.number + 1 < self._head.frame_count:
            self._frame = self._head.frame(self._frame.number + 1)

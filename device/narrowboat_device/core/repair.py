"""Mending one subtree of a slot: find the chunks that differ, and say what to write instead.

A subtree whose hash is not the layer's holds at least one bad chunk, and only then are its leaves worth fetching. They
prove themselves against the layer; the slot's own chunks, hashed anew, are compared with them; what differs is taken
from the frames that hold it. A chunk that a payload decodes wrongly, against a proved leaf, is the payload's fault and
no repair of the medium helps.
"""

from __future__ import annotations

from narrowboat_protocol.errors import PayloadError, Reason
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.payload import Frame, Head, PayloadCipher
from narrowboat_protocol.tree import HASH_BYTES, check_leaves, leaf_hash


class Repair:
    """One subtree. Feed it the leaves and the slot's hashes, in either order; then it names the frames it needs."""

    __slots__ = (
        "_bad",
        "_chunk_count",
        "_cipher",
        "_first_chunk",
        "_head",
        "_layer",
        "_leaves",
        "_limits",
        "_slot_leaves",
        "subtree",
    )

    def __init__(self, subtree: int, head: Head, layer: bytes, cipher: PayloadCipher | None, limits: Limits) -> None:
        """`cipher` decrypts the leaves, if the payload is encrypted."""
        self.subtree = subtree
        self._cipher = cipher
        self._head = head
        self._layer = layer
        self._limits = limits
        self._first_chunk, self._chunk_count = head.tree.subtree_span(subtree, limits)
        self._leaves: bytes | None = None
        self._slot_leaves: bytes | None = None
        self._bad: set[int] = set()

    @property
    def chunks(self) -> tuple[int, int]:
        """First chunk and number of chunks, for hashing the slot."""
        return self._first_chunk, self._chunk_count

    @property
    def leaves_range(self) -> tuple[int, int]:
        """Where the leaves lie in the payload, [offset, end)."""
        offset = self._head.leaves_offset + self._first_chunk * HASH_BYTES
        return offset, offset + self._chunk_count * HASH_BYTES

    def take_leaves(self, leaves: bytes) -> None:
        """As they came. Raises `PayloadError` (`bad_leaves`) if they are not the layer's."""
        if self._cipher is not None:
            leaves = self._cipher.apply(self.leaves_range[0], leaves)
        check_leaves(self._head.tree, self._layer, self.subtree, leaves, self._limits)
        self._leaves = leaves

    def take_slot(self, leaves: bytes) -> None:
        self._slot_leaves = leaves

    @property
    def bad_chunks(self) -> tuple[int, ...] | None:
        """The chunks to write anew; None until leaves and hashes are both here."""
        if self._leaves is None or self._slot_leaves is None:
            return None
        if not self._bad:
            self._bad = {
                self._first_chunk + number
                for number in range(self._chunk_count)
                if _nth(self._leaves, number) != _nth(self._slot_leaves, number)
            }
        return tuple(sorted(self._bad))

    def frames(self) -> list[Frame]:
        """The frames that hold bad chunks, in order."""
        numbers = {self._head.frame_of_chunk(chunk).number for chunk in self.bad_chunks or ()}
        return [self._head.frame(number) for number in sorted(numbers)]

    def patches(self, frame: Frame, image: bytes) -> list[tuple[int, bytes]]:
        """What to write from a decoded frame, as (offset in the image, chunk). Raises `PayloadError` (`bad_frame`)."""
        patches: list[tuple[int, bytes]] = []
        for chunk in range(frame.first_chunk, frame.first_chunk + frame.chunk_count):
            if chunk not in self._bad or self._leaves is None:
                continue
            offset, length = self._head.tree.chunk_span(chunk)
            data = image[offset - frame.image_offset :][:length]
            if leaf_hash(data) != _nth(self._leaves, chunk - self._first_chunk):
                raise PayloadError(
                    Reason.BAD_FRAME,
                    f"frame {frame.number} decodes to another chunk {chunk} than the release signed",
                )
            patches.append((offset, data))
        return patches


def _nth(leaves: bytes, number: int) -> bytes:
    return leaves[number * HASH_BYTES : (number + 1) * HASH_BYTES]

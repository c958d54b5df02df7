"""The hash tree of an image: what the release signs and what every byte in a slot is proved against.

An image is cut into chunks, the last one maybe short. Over their leaf hashes stands the Merkle tree of RFC
9162 section 2.1.1: leaf = SHA-256(0x00 || chunk), node = SHA-256(0x01 || left || right). The RFC splits at
the largest power of two below the count; pairing neighbours level by level and promoting an odd last node
builds the same tree. The release signs `[-16, log2 chunk size, length, root]`: -16 is COSE's SHA-256 (RFC
9054), and the length is named because the tree does not bind it.

A subtree is a power of two of chunks, so its root is a node of the tree, and the concatenated roots of all
subtrees, the *layer*, hash to the image's root. Whoever holds a checked layer (32 bytes per 4 MiB of
image) proves each subtree alone, and fetches a subtree's leaves only to find a bad chunk in it.

Leaves and layer stay what they are on the wire, concatenated hashes in one byte string. Objects per entry
would cost a gateway three times the memory, and a parent's two children lie side by side for hashing
anyway.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

from .errors import DocumentError, PayloadError, Reason, UsageError
from .limits import Limits

HASH_BYTES = 32
COSE_SHA256 = -16

_LEAF_PREFIX = b"\x00"
_NODE_PREFIX = b"\x01"


def leaf_hash(chunk: bytes | memoryview) -> bytes:
    """Return the leaf of one chunk."""
    leaf = hashlib.sha256(_LEAF_PREFIX)
    leaf.update(chunk)
    return leaf.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the parent of two nodes."""
    return hashlib.sha256(_NODE_PREFIX + left + right).digest()


def merkle_root(nodes: bytes) -> bytes:
    """Return the root over concatenated nodes of one level: leaves, or the layer."""
    if not nodes or len(nodes) % HASH_BYTES:
        raise UsageError(Reason.BAD_USE, f"expected one or more hashes of {HASH_BYTES} bytes, got {len(nodes)} bytes")
    while len(nodes) > HASH_BYTES:
        nodes = _parents(nodes)
    return nodes


def _parents(nodes: bytes) -> bytes:
    parents = bytearray()
    for start in range(0, len(nodes) - HASH_BYTES, 2 * HASH_BYTES):
        middle = start + HASH_BYTES
        parents += node_hash(nodes[start:middle], nodes[middle : middle + HASH_BYTES])
    if len(nodes) % (2 * HASH_BYTES):
        parents += nodes[-HASH_BYTES:]
    return bytes(parents)


@dataclass(frozen=True, slots=True)
class Tree:
    """The signed statement about an image's bytes. `length` is the image's length in bytes."""

    log2_chunk_size: int
    length: int
    root: bytes

    def to_cbor(self) -> list[object]:
        return [COSE_SHA256, self.log2_chunk_size, self.length, self.root]

    @classmethod
    def from_cbor(cls, value: object, limits: Limits) -> Tree:
        """Read the tuple out of decoded CBOR. Raises `DocumentError`: `image_too_large` or `bad_document`."""
        match value:
            case [int(algorithm), int(log2_chunk_size), int(length), bytes(root)]:
                pass
            case _:
                raise _refused("expected [algorithm, log2 chunk size, length, root], got something else")
        if bool in map(type, (algorithm, log2_chunk_size, length)):
            raise _refused("expected numbers, got a truth value")
        if algorithm != COSE_SHA256:
            raise _refused(f"expected the algorithm {COSE_SHA256} (SHA-256), got {algorithm}")
        if log2_chunk_size != limits.log2_chunk_size:
            raise _refused(f"expected the log2 chunk size {limits.log2_chunk_size}, got {log2_chunk_size}")
        if len(root) != HASH_BYTES:
            raise _refused(f"expected a root of {HASH_BYTES} bytes, got {len(root)}")
        if length < 1:
            raise _refused(f"expected an image of at least one byte, got {length}")
        if length > limits.image_bytes_max:
            raise DocumentError(
                Reason.IMAGE_TOO_LARGE,
                f"expected an image of at most {limits.image_bytes_max} bytes, got {length}",
            )
        return cls(log2_chunk_size, length, root)

    @property
    def chunk_count(self) -> int:
        return -(-self.length >> self.log2_chunk_size)

    def subtree_count(self, limits: Limits) -> int:
        return -(-self.chunk_count // limits.subtree_chunks)

    def chunk_span(self, chunk: int) -> tuple[int, int]:
        """Return (offset, length) of a chunk in the image; the last chunk may be short."""
        _check_number("chunk", chunk, self.chunk_count)
        offset = chunk << self.log2_chunk_size
        return offset, min(1 << self.log2_chunk_size, self.length - offset)

    def subtree_span(self, subtree: int, limits: Limits) -> tuple[int, int]:
        """Return (first chunk, number of chunks) of a subtree; the last subtree may be short."""
        _check_number("subtree", subtree, self.subtree_count(limits))
        first_chunk = subtree * limits.subtree_chunks
        return first_chunk, min(limits.subtree_chunks, self.chunk_count - first_chunk)


def _refused(message: str) -> DocumentError:
    return DocumentError(Reason.BAD_DOCUMENT, f"image tree: {message}")


def _check_number(what: str, number: int, count: int) -> None:
    if not 0 <= number < count:
        raise UsageError(Reason.BAD_USE, f"expected a {what} from 0 to {count - 1}, got {number}")


def check_layer(tree: Tree, layer: bytes, limits: Limits) -> None:
    """Prove a layer from anywhere against the signed tree. Raises `PayloadError` with reason `bad_layer`."""
    expected_bytes = tree.subtree_count(limits) * HASH_BYTES
    if len(layer) != expected_bytes:
        raise PayloadError(Reason.BAD_LAYER, f"expected a layer of {expected_bytes} bytes, got {len(layer)}")
    if merkle_root(layer) != tree.root:
        raise PayloadError(Reason.BAD_LAYER, "the layer does not hash to the signed root; fetch it again")


def check_leaves(tree: Tree, layer: bytes, subtree: int, leaves: bytes, limits: Limits) -> None:
    """Prove a subtree's leaves against a checked layer. Raises `PayloadError` with reason `bad_leaves`."""
    _, chunk_count = tree.subtree_span(subtree, limits)
    expected_bytes = chunk_count * HASH_BYTES
    if len(leaves) != expected_bytes:
        raise PayloadError(
            Reason.BAD_LEAVES,
            f"expected {expected_bytes} bytes of leaves for subtree {subtree}, got {len(leaves)}",
        )
    if merkle_root(leaves) != layer[subtree * HASH_BYTES : (subtree + 1) * HASH_BYTES]:
        raise PayloadError(
            Reason.BAD_LEAVES,
            f"the leaves do not hash to the layer's node of subtree {subtree}; fetch them again",
        )


class BuiltTree(NamedTuple):
    """What `TreeBuilder` found out about an image."""

    tree: Tree
    leaves: bytes
    layer: bytes
    image_sha256: bytes


class TreeBuilder:
    """Hashes an image that streams past in blocks of any size; keeps 32 bytes a chunk, none of the image."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._image = hashlib.sha256()
        self._chunk = hashlib.sha256(_LEAF_PREFIX)
        self._length = 0
        self._leaves = bytearray()
        self._finished = False

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the image."""
        if self._length + len(data) > self._limits.image_bytes_max:
            raise UsageError(
                Reason.IMAGE_TOO_LARGE,
                f"expected an image of at most {self._limits.image_bytes_max} bytes, got more; split it",
            )
        self._image.update(data)
        chunk_size_bytes = self._limits.chunk_size_bytes
        rest = memoryview(data)
        while rest:
            piece = rest[: chunk_size_bytes - self._length % chunk_size_bytes]
            rest = rest[len(piece) :]
            self._chunk.update(piece)
            self._length += len(piece)
            if self._length % chunk_size_bytes == 0:
                self._close_chunk()

    def finish(self) -> BuiltTree:
        """Return the tree of all bytes taken; the builder is used up, so a second call raises `UsageError`."""
        if self._finished:
            raise UsageError(Reason.BAD_USE, "expected one call, got a second; keep the result of the first")
        self._finished = True
        if not self._length:
            raise UsageError(Reason.BAD_USE, "expected an image of at least one byte, got none")
        if self._length % self._limits.chunk_size_bytes:
            self._close_chunk()
        leaves = bytes(self._leaves)
        subtree_bytes = self._limits.subtree_chunks * HASH_BYTES
        layer = b"".join(
            merkle_root(leaves[start : start + subtree_bytes]) for start in range(0, len(leaves), subtree_bytes)
        )
        tree = Tree(self._limits.log2_chunk_size, self._length, merkle_root(layer))
        return BuiltTree(tree, leaves, layer, self._image.digest())

    def _close_chunk(self) -> None:
        self._leaves += self._chunk.digest()
        self._chunk = hashlib.sha256(_LEAF_PREFIX)

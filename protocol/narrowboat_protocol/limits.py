"""The sizes that bound everything, in one value.

Nothing that comes from outside is read, allocated or queued without a limit, and every limit is a field here, so that a
simulated world can run whole updates with tiny chunks by passing another `Limits`. Two peers must agree on the fields
of the first group: they are part of the payload format and of the signed tree. The others each side chooses for itself.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the format and of one process. Sizes in bytes unless the name says otherwise."""

    # The format: image, tree and payload.
    log2_chunk_size: int = 16
    subtree_chunks: int = 64
    full_frame_image_bytes_max: int = 256 * KIB
    window_log: int = 18
    image_bytes_max: int = 64 * 1024 * MIB
    head_bytes_max: int = 4 * MIB

    # Documents and messages.
    message_bytes_max: int = 128 * KIB - 1 * KIB
    document_bytes_max: int = 64 * KIB
    envelope_bytes_max: int = 16 * KIB
    root_bytes_max: int = 16 * KIB
    signatures_max: int = 16
    depth_max: int = 16
    items_max: int = 8192
    """Values and keys of one CBOR item, itself included: objects cost far more than the bytes that ask for them."""

    # Transfer.
    block_bytes_max: int = 64 * KIB
    block_bytes_slow: int = 16 * KIB
    ranges_per_request_max: int = 32
    request_bytes_max: int = 1 * MIB
    window_bytes_max: int = 768 * KIB
    window_bytes_free: int = 256 * KIB
    window_blocks_min: int = 2
    window_blocks_first: int = 4
    sojourn_grow_s: float = 2.0
    sojourn_shrink_s: float = 3.0
    bad_blocks_per_source_max: int = 3

    decoded_bytes_per_turn: int = 256 * KIB
    """A block may hold a thousand frames of zeros; no more than this of the image is in memory at once for it."""

    # Storage on the device.
    sync_bytes: int = 4 * MIB
    sync_interval_s: float = 5.0
    chunk_repairs_max: int = 3
    journal_bytes: int = 64 * KIB
    outbox_bytes: int = 32 * KIB
    trust_bytes: int = 64 * KIB

    @property
    def chunk_size_bytes(self) -> int:
        return 1 << self.log2_chunk_size

    @property
    def subtree_size_bytes(self) -> int:
        return self.subtree_chunks << self.log2_chunk_size


DEFAULT_LIMITS = Limits()

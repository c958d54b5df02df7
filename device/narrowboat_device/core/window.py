"""How much to ask for at once, and in what pieces: the delay-target rule.

Each block has a sojourn, the time from its request to its arrival. While it stays within `sojourn_grow_s` of the lowest
seen, the window grows by a block for every block that arrives (so it doubles each round trip, like slow start); beyond
`sojourn_shrink_s` it shrinks by one. So it settles where about two seconds of data wait in the path: enough to fill any
link, and no more, so that a command never stands behind more than seconds of data. The rule follows LEDBAT's idea of a
delay target (RFC 6817) with the receiver in charge. Where blocks spend most of their sojourn waiting in this gateway,
its own work is the narrow place, and a longer queue is memory for nothing: beyond `window_bytes_free` the window then
shrinks. Losing a block is no sign of congestion here, since TCP carries it; only a broker that drops or a bridge that
died loses one. It is a sign that the path may be slower than was thought: a block that is late doubles the patience
with the next ones, until one comes at the first try, so that a link on which a block takes minutes is not filled with
repetitions.

Blocks are small while the link is slow, so that one takes at most half a second of it: what a cut connection loses is
what TCP had in flight and half a block.
"""

from __future__ import annotations

from narrowboat_protocol.limits import Limits

_BLOCK_TIME_S = 0.5
_RATE_SAMPLE_S = 1.0
_LATE_TARGETS = 4
_PATIENCE_MAX = 16


class Window:
    """The number of blocks that may be outstanding, their size, and when one is late."""

    __slots__ = (
        "_base_s",
        "_blocks",
        "_bytes_per_s",
        "_limits",
        "_newest_s",
        "_patience",
        "_sample_bytes",
        "_sample_start_s",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._blocks = limits.window_blocks_first
        self._base_s: float | None = None
        self._newest_s = 0.0
        self._patience = 1
        self._bytes_per_s = 0.0
        self._sample_bytes = 0
        self._sample_start_s: float | None = None

    @property
    def block_bytes(self) -> int:
        """The size of the next blocks."""
        if self._bytes_per_s * _BLOCK_TIME_S >= self._limits.block_bytes_max:
            return self._limits.block_bytes_max
        return self._limits.block_bytes_slow

    @property
    def blocks(self) -> int:
        """How many blocks may be outstanding."""
        return max(
            self._limits.window_blocks_min,
            min(self._blocks, self._limits.window_bytes_max // self.block_bytes),
        )

    @property
    def late_after_s(self) -> float:
        """How long to wait for a block that is asked for now: so much longer than the newest that came at the first try
        took. It does not grow for those that are on their way, or lost batches would be waited for one by one.
        """
        return self._newest_s + self._patience * _LATE_TARGETS * self._limits.sojourn_grow_s

    def requested(self, now_s: float) -> None:
        """Something was asked for; the clock of the rate runs from here if it stood still."""
        if self._sample_start_s is None:
            self._sample_start_s = now_s

    def arrived(self, sojourn_s: float, waited_s: float, size_bytes: int, now_s: float) -> None:
        """A block came that was asked for once. It waited `waited_s` of its sojourn in this gateway."""
        self._newest_s = sojourn_s
        self._patience = 1
        if self._base_s is None or sojourn_s < self._base_s:
            self._base_s = sojourn_s
        if waited_s > sojourn_s / 2 and self.blocks * self.block_bytes >= self._limits.window_bytes_free:
            self._blocks = self.blocks - 1
        elif sojourn_s <= self._base_s + self._limits.sojourn_grow_s:
            self._blocks = self.blocks + 1
        elif sojourn_s > self._base_s + self._limits.sojourn_shrink_s:
            self._blocks = self.blocks - 1
        self._measure(size_bytes, now_s)

    def was_late(self) -> None:
        self._blocks = self.blocks // 2
        self._patience = min(2 * self._patience, _PATIENCE_MAX)

    def link_lost(self) -> None:
        """A new connection has a new path and an empty one: begin again, but remember the rate."""
        self._blocks = self._limits.window_blocks_first
        self._base_s = None
        self._newest_s = 0.0
        self._patience = 1
        self._sample_start_s = None
        self._sample_bytes = 0

    def _measure(self, size_bytes: int, now_s: float) -> None:
        self._sample_bytes += size_bytes
        elapsed_s = now_s - (self._sample_start_s if self._sample_start_s is not None else now_s)
        if elapsed_s >= _RATE_SAMPLE_S or self._sample_bytes >= self._limits.block_bytes_max:
            self._bytes_per_s = self._sample_bytes / max(elapsed_s, 1e-6)
            self._sample_bytes, self._sample_start_s = 0, now_s

"""Which chunks of a slot are written, which of them are durable, and when the next sync is due.

Writes are synced in batches: after `sync_bytes`, or a few seconds after the first write that waits; the last batch of a
run and patches do not wait. One sync is on its way at a time, and a chunk counts as synced once a sync that began after
its write has ended. Tokens tell the answers apart, also from those to a download that was given up since.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from narrowboat_protocol.limits import Limits
from narrowboat_protocol.tree import Tree

from .actions import Action, SyncSlot


@dataclass(frozen=True, slots=True)
class _Sync:
    token: int
    written: int
    patches: bool


class Syncs:
    """The first `written` chunks of the image are in the slot, the first `synced` of them for good."""

    def __init__(self, slot: str, tree: Tree, next_chunk: int, tokens: Iterator[int], limits: Limits) -> None:
        self.slot = slot
        self._tree = tree
        self._tokens = tokens
        self._limits = limits
        self._sync: _Sync | None = None
        self._waiting_since_s: float | None = None
        self.written = next_chunk
        self.synced = next_chunk
        self.patched = False
        """All patches of a repair are written; the next sync makes them durable."""

    @property
    def complete(self) -> bool:
        return self.synced == self._tree.chunk_count

    @property
    def deadline_s(self) -> float | None:
        """When a sync becomes due though nothing happens."""
        if self._waiting_since_s is None or self._sync is not None:
            return None
        return self._waiting_since_s + self._limits.sync_interval_s

    def wrote(self, now_s: float) -> None:
        if self._waiting_since_s is None:
            self._waiting_since_s = now_s

    def due(self, now_s: float) -> list[Action]:
        if self._sync is not None:
            return []
        waiting = self.written - self.synced
        last = self.written == self._tree.chunk_count and waiting > 0
        batch = waiting << self._tree.log2_chunk_size >= self._limits.sync_bytes
        overdue = self.deadline_s is not None and now_s >= self.deadline_s
        if not (batch or last or overdue or self.patched):
            return []
        self._sync = _Sync(next(self._tokens), self.written, self.patched)
        self._waiting_since_s = None
        return [SyncSlot(self.slot, self._sync.token)]

    def is_awaited(self, token: int) -> bool:
        return self._sync is not None and self._sync.token == token

    def ended(self, token: int) -> bool:
        """Take the end of a sync. True if it made a repair's patches durable."""
        if self._sync is None or self._sync.token != token:
            return False
        sync, self._sync = self._sync, None
        self.synced = sync.written
        return sync.patches

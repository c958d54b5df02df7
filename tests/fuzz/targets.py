"""What is fuzzed: each decoder that meets bytes from outside, by the entry point that the product uses.

A target is a function of bytes. It returns the bytes that what it read encodes to, or None where there is no one
encoding; then it has checked itself what must survive. Each says which errors may leave it: a peer's bytes cause a
`PeerError` and never a `UsageError`, which would blame us; a file of the owner's causes a `UsageError`, one of our own
a `MediumError`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from narrowboat_protocol.errors import NarrowboatError, PeerError

from .shapes import CBOR, Shape


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder."""

    name: str
    read: Callable[[bytes], bytes | None]
    seeds: tuple[bytes, ...] = field(repr=False)
    shape: Shape | None = CBOR
    refusals: tuple[type[NarrowboatError], ...] = (PeerError,)


def all_targets() -> dict[str, Target]:
    """Every target by its name."""
    from .files_read import FILE_TARGETS
    from .messages_read import MESSAGE_TARGETS

    return {target.name: target for target in (*MESSAGE_TARGETS, *FILE_TARGETS)}

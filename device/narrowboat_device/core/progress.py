"""What a download is doing, how far it has durably come, and how it may end."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from narrowboat_protocol.errors import Reason


class Phase(Enum):
    """What the download does now."""

    HEAD = auto()
    REHASH = auto()
    FRAMES = auto()
    LEAVES = auto()
    PATCHES = auto()
    READ_BACK = auto()
    PROVED = auto()


class Blame(Enum):
    """Whose fault ended a download."""

    PAYLOAD = auto()
    RELEASE = auto()
    MEDIUM = auto()


@dataclass(frozen=True, slots=True)
class Fault:
    blame: Blame
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Progress:
    """What is durable: so many chunks are synced, and these subtrees below are to be repaired."""

    next_chunk: int = 0
    suspects: tuple[int, ...] = ()

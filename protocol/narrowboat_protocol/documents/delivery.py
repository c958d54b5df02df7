"""What the bridge sends on a device's `assign` topic: an assignment and the release envelopes that it names, each
signed by others.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from ..limits import DEFAULT_LIMITS
from ..model import AS_TUPLE, Document, key

Envelope = Annotated[bytes, Field(min_length=1, max_length=DEFAULT_LIMITS.envelope_bytes_max)]


class Delivery(Document):
    """A wrapper without a signature of its own: every part of it proves itself."""

    ITEMS_MAX: ClassVar[int] = 32

    assignment: bytes = key(1, min_length=1, max_length=DEFAULT_LIMITS.document_bytes_max)
    envelopes: Annotated[tuple[Envelope, ...], AS_TUPLE] = key(2, (), max_length=8)

"""Field types that several documents share, each with its bound."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from ..model import at_most
from ..topics import NAME_PATTERN

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""A device, operator, claim, component, slot or campaign: `[a-z0-9-]{1,64}`."""

COUNTER_END = 1 << 53
Counter = Annotated[int, Field(ge=0, lt=COUNTER_END)]
"""A number that only grows. Below 2^53, so that every language can hold it."""

Seconds = Annotated[int, Field(ge=0, lt=1 << 40)]
"""Seconds since 1970-01-01T00:00:00Z."""

SIZE_END = 1 << 40
Size = Annotated[int, Field(ge=0, lt=SIZE_END)]
"""A number of bytes."""

Digest = Annotated[bytes, Field(min_length=32, max_length=32)]
"""A SHA-256 digest."""

Nonce = Annotated[bytes, Field(min_length=16, max_length=16)]
Uuid = Annotated[bytes, Field(min_length=16, max_length=16)]
Version = Annotated[str, StringConstraints(min_length=1, max_length=64)]
"""A version for people; nothing is decided by it."""

Text = Annotated[str, StringConstraints(max_length=500)]
"""A sentence for people, bounded."""

CoseKey = Annotated[dict[int, object], at_most(4)]
"""A public key as a map. What it must hold says `public_key_from_cbor`."""

WireMap = dict[Annotated[int, Field(ge=0, lt=24)], object]
"""A document whose kind is known only to who knows the verb."""

CERTIFICATE_BYTES_MAX = 4096
Certificate = Annotated[bytes, Field(min_length=1, max_length=CERTIFICATE_BYTES_MAX)]
"""One X.509 certificate in DER."""

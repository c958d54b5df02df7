"""Which payloads this device accepts for an image: judged from the head, before anything is allocated for it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from narrowboat_protocol.documents import PayloadReference
from narrowboat_protocol.errors import PayloadError, Reason
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.payload import Head, parse_head
from narrowboat_protocol.suit import Image

from .progress import Blame, Fault


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this device can decode, and the memory it may take for it."""

    codecs: frozenset[int]
    memory_bytes_max: int


class WrongPayloadError(PayloadError):
    """The payload proved to be what the assignment names, and is of no use: asking again changes nothing."""


def accept_head(
    data: bytes, payload: PayloadReference, image: Image, capabilities: Capabilities, limits: Limits
) -> Head:
    """Check a head against the assignment that names it, the release that it serves, and what this device can do.

    Raises `PayloadError` if the bytes are not the ones named (ask again), `WrongPayloadError` if they are.
    """
    if hashlib.sha256(data).digest() != payload.head_sha256:
        raise PayloadError(Reason.BAD_HEAD, "the payload's head does not have the digest that the assignment names")
    head = _parse(data, limits)
    if head.tree != image.tree or head.image_sha256 != image.image_sha256:
        raise WrongPayloadError(Reason.BAD_HEAD, "the payload is of another image than the release")
    if head.payload_length != payload.size:
        raise WrongPayloadError(
            Reason.BAD_HEAD,
            f"expected a payload of {payload.size} bytes, its head says {head.payload_length}",
        )
    if lacking := head.codecs - capabilities.codecs:
        codecs = ", ".join(codec.name.lower() for codec in sorted(lacking))
        raise WrongPayloadError(
            Reason.UNSUPPORTED_CODEC,
            f"the payload needs {codecs}, which this device lacks; install it there, or build the release with another",
        )
    if head.peak_memory_bytes > capabilities.memory_bytes_max:
        raise WrongPayloadError(
            Reason.TOO_LARGE,
            f"decoding needs {head.peak_memory_bytes} bytes of memory, allowed are {capabilities.memory_bytes_max}",
        )
    return head


def refuse_head(payload: PayloadReference, layer_bytes: int, capabilities: Capabilities) -> Fault | None:
    """Refuse a head whose reading alone would take more memory than is allowed, before a byte of it is asked for.

    At its peak the head is there as it came, as its index, and as the tables over that; the layer comes with it and is
    copied once.
    """
    needed = 3 * payload.head_size + 2 * layer_bytes
    if needed <= capabilities.memory_bytes_max:
        return None
    detail = f"reading its head needs {needed} bytes of memory, allowed are {capabilities.memory_bytes_max}"
    return Fault(Blame.PAYLOAD, Reason.TOO_LARGE, detail)


def _parse(data: bytes, limits: Limits) -> Head:
    try:
        return parse_head(data, limits)
    except PayloadError as error:
        raise WrongPayloadError(error.reason, str(error)) from None

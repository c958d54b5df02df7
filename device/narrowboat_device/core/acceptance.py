"""Which payloads this device accepts for an image: judged by what the assignment says before a byte is asked for, and
by the head before anything is allocated for frames. What is encrypted is opened here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from narrowboat_protocol.documents import PayloadReference
from narrowboat_protocol.errors import PayloadError, PeerError, Reason
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.payload import Head, PayloadCipher, parse_head
from narrowboat_protocol.suit import AgreementKey, Image, unseal
from narrowboat_protocol.tree import check_layer

from .progress import Blame, Fault


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this device can decode, and the memory it may take for it."""

    codecs: frozenset[int]
    memory_bytes_max: int
    agreement_key: AgreementKey | None = None
    """Opens the keys of encrypted payloads."""


class WrongPayloadError(PayloadError):
    """The payload proved to be what the assignment names, and is of no use: asking again changes nothing."""


def prepare(
    payload: PayloadReference, layer_bytes: int, capabilities: Capabilities
) -> tuple[PayloadCipher | None, Fault | None]:
    """What decrypts a payload, if it is encrypted; or why it is refused before a byte of it is asked for: its key is
    not for this device, or reading its head alone would take more memory than is allowed.

    At that peak the head is there as it came, as its index, and as the tables over that; the layer comes with it and is
    copied once.
    """
    needed = 3 * payload.head_size + 2 * layer_bytes
    if needed > capabilities.memory_bytes_max:
        detail = f"reading its head needs {needed} bytes of memory, allowed are {capabilities.memory_bytes_max}"
        return None, Fault(Blame.PAYLOAD, Reason.TOO_LARGE, detail)
    if payload.encryption is None:
        return None, None
    if capabilities.agreement_key is None:
        detail = "the payload is encrypted, and this device has no agreement key; name one in [encryption]"
        return None, Fault(Blame.PAYLOAD, Reason.NO_KEY, detail)
    try:
        return PayloadCipher(unseal(payload.encryption, capabilities.agreement_key), payload.head_size), None
    except PeerError as error:
        return None, Fault(Blame.PAYLOAD, error.reason, f"the payload is encrypted: {error}")


def accept_start(
    start: bytearray,
    payload: PayloadReference,
    image: Image,
    capabilities: Capabilities,
    cipher: PayloadCipher | None,
    limits: Limits,
) -> tuple[Head, bytes]:
    """Take the first bytes of a payload, which leaves `start` empty: its head, and the layer, decrypted. Raises
    `PayloadError` as `accept_head` does, and if the layer is not that of the image (`bad_layer`).
    """
    with memoryview(start) as view:
        data, layer = bytes(view[: payload.head_size]), bytes(view[payload.head_size :])
    start.clear()
    head = accept_head(data, payload, image, capabilities, limits)
    if head.encrypted and cipher is None:
        raise WrongPayloadError(
            Reason.NO_KEY, "the payload is encrypted, and no key came with it; build or push it anew"
        )
    if not head.encrypted and cipher is not None:
        raise WrongPayloadError(Reason.BAD_HEAD, "a key came with the payload, which is not encrypted")
    if cipher is not None:
        layer = cipher.apply(len(data), layer)
    check_layer(image.tree, layer, limits)
    return head, layer


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


def _parse(data: bytes, limits: Limits) -> Head:
    try:
        return parse_head(data, limits)
    except PayloadError as error:
        raise WrongPayloadError(error.reason, str(error)) from None

"""Writing envelopes: build one, add a signature, merge the signatures of several machines.

The same manifest always gives the same bytes. Blocks stand in order of the thumbprint that they name, one for
each key, so people who sign apart and merge in any order get the same file.

Nothing here verifies a signature, since a signing station need not have the public keys of the others.
Everything written is read back before it is handed out: the writer cannot make what the reader refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from uuid import UUID

from ..cbor import encode
from ..cose import signature_kid
from ..errors import PeerError, Reason, UsageError
from ..limits import DEFAULT_LIMITS, Limits
from .envelope import Envelope, digest_of, parse_envelope
from .manifest import PAYLOAD_URI, Image, Manifest
from .numbers import (
    MANIFEST_VERSION,
    REPORT_ALWAYS,
    REPORT_FAILURE,
    SHA256,
    CommonKey,
    Condition,
    Directive,
    FetchArgument,
    ManifestKey,
    Parameter,
)
from .profile import read_manifest


def build_envelope(manifest: Manifest, signatures: Iterable[bytes] = (), limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Write `manifest` in an envelope with these blocks over `Envelope.signed_payload`, if there are any yet.

    Raises `UsageError` if the manifest does not fit the profile or the limits.
    """
    data = _encode_manifest(manifest)
    try:
        if read_manifest(data, limits) != manifest:
            raise UsageError(Reason.BAD_USE, "expected a manifest that reads back as itself, got another")
    except PeerError as error:
        raise UsageError(Reason.BAD_USE, f"this manifest would be refused: {error}") from None
    return _finish(Envelope(digest_of(data), _in_order(signatures), data), limits)


def add_signature(data: bytes, signature: bytes, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Add a COSE_Sign1 block to an envelope. It replaces an earlier one of the same key.

    Raises a `PeerError` if either cannot be read, `UsageError` if the result would be over a limit.
    """
    envelope = parse_envelope(data, limits)
    kid = signature_kid(signature)
    others = [block for block in envelope.authentication if signature_kid(block) != kid]
    return _finish(replace(envelope, authentication=_in_order([*others, signature])), limits)


def merge_envelopes(first: bytes, second: bytes, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """One envelope with the signatures of two over the same manifest.

    Of two different blocks of one key, which ECDSA makes when it signs twice, the smaller is kept: any choice
    would do that does not depend on the order of merging. Raises as `add_signature`, and `UsageError` for
    envelopes of different releases.
    """
    ours, theirs = parse_envelope(first, limits), parse_envelope(second, limits)
    if ours.digest != theirs.digest:
        raise UsageError(
            Reason.BAD_USE,
            f"expected envelopes of one release, got {ours.digest.hex()} and {theirs.digest.hex()}",
        )
    merged = Envelope(
        digest=ours.digest,
        authentication=_in_order([*ours.authentication, *theirs.authentication]),
        manifest=ours.manifest,
        other_members=ours.other_members + theirs.other_members,
    )
    return _finish(merged, limits)


def _in_order(blocks: Iterable[bytes]) -> tuple[bytes, ...]:
    smallest_last = sorted(blocks, reverse=True)
    by_kid = {signature_kid(block): block for block in smallest_last}
    return tuple(by_kid[kid] for kid in sorted(by_kid))


def _finish(envelope: Envelope, limits: Limits) -> bytes:
    data = envelope.encode()
    try:
        parse_envelope(data, limits)
    except PeerError as error:
        raise UsageError(Reason.BAD_USE, f"this envelope would be refused: {error}") from None
    return data


def _encode_manifest(manifest: Manifest) -> bytes:
    images = manifest.images
    common = {
        CommonKey.COMPONENTS: [[image.component.encode()] for image in images],
        CommonKey.SHARED_SEQUENCE: _sequence(images, _shared_commands),
    }
    return encode(
        {
            ManifestKey.MANIFEST_VERSION: MANIFEST_VERSION,
            ManifestKey.MANIFEST_SEQUENCE_NUMBER: manifest.sequence,
            ManifestKey.COMMON: encode(common),
            ManifestKey.VALIDATE: _sequence(images, _validate_commands),
            ManifestKey.INSTALL: _sequence(images, _install_commands),
        }
    )


def _sequence(images: Sequence[Image], commands: Callable[[Image], list[object]]) -> bytes:
    """The commands for every image, each part led by the index of its component."""
    parts: list[object] = []
    for index, image in enumerate(images):
        parts += [Directive.SET_COMPONENT_INDEX, index, *commands(image)]
    return encode(parts)


def _shared_commands(image: Image) -> list[object]:
    parameters: dict[Parameter, object] = {
        Parameter.VENDOR_IDENTIFIER: image.vendor_id.bytes,
        Parameter.IMAGE_DIGEST: encode([SHA256, image.image_sha256]),
        Parameter.IMAGE_SIZE: image.size_bytes,
    }
    vendor: list[object] = [Condition.VENDOR_IDENTIFIER, REPORT_ALWAYS]
    if len(image.class_ids) == 1:
        parameters[Parameter.CLASS_IDENTIFIER] = image.class_ids[0].bytes
        classes: list[object] = [Condition.CLASS_IDENTIFIER, REPORT_ALWAYS]
    else:
        classes = [Directive.TRY_EACH, [_class_branch(class_id) for class_id in image.class_ids]]
    return [Directive.OVERRIDE_PARAMETERS, parameters, *vendor, *classes]


def _class_branch(class_id: UUID) -> bytes:
    parameters = {Parameter.CLASS_IDENTIFIER: class_id.bytes}
    return encode([Directive.OVERRIDE_PARAMETERS, parameters, Condition.CLASS_IDENTIFIER, REPORT_ALWAYS])


def _install_commands(image: Image) -> list[object]:
    arguments = {
        FetchArgument.TREE: image.tree.to_cbor(),
        FetchArgument.VERSION: image.version,
        FetchArgument.EPOCH: image.epoch,
    }
    parameters = {Parameter.URI: PAYLOAD_URI, Parameter.FETCH_ARGUMENTS: encode(arguments)}
    return [
        Directive.OVERRIDE_PARAMETERS,
        parameters,
        Directive.FETCH,
        REPORT_FAILURE,
        Condition.IMAGE_MATCH,
        REPORT_ALWAYS,
    ]


def _validate_commands(_image: Image) -> list[object]:
    return [Condition.IMAGE_MATCH, REPORT_ALWAYS]

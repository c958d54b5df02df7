"""A release as a gateway believes it: the manifest, its digest, and who signed.

A `Release` exists only after authentication: `parse_manifest` takes what `authenticate` returns and nothing
else. `open_release` is the whole way from bytes; the steps are public for tools that show them one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..keys import PublicKey
from ..limits import DEFAULT_LIMITS, Limits
from .envelope import Authenticated, authenticate, parse_envelope
from .manifest import Image
from .numbers import EnvelopeKey, named
from .profile import read_manifest
from .reading import outside_profile


@dataclass(frozen=True, slots=True)
class Release:
    """An authentic manifest. `digest` is the name of the release, `signers` are the thumbprints of its keys.

    Whether these keys may speak for these components and classes, and whether the sequence is high enough, is
    not judged here.
    """

    digest: bytes
    sequence: int
    images: tuple[Image, ...]
    signers: frozenset[bytes]


def open_release(
    data: bytes,
    keys: Mapping[bytes, PublicKey],
    threshold: int,
    limits: Limits = DEFAULT_LIMITS,
    *,
    accept_es256: bool = False,
) -> Release:
    """Read an envelope that `threshold` of `keys` (by thumbprint) signed.

    Raises a `PeerError`: about envelope and signatures first, about the manifest only if these are good.
    """
    envelope = parse_envelope(data, limits)
    return parse_manifest(authenticate(envelope, keys, threshold, accept_es256=accept_es256), limits)


def parse_manifest(authenticated: Authenticated, limits: Limits = DEFAULT_LIMITS) -> Release:
    """Read the manifest of an authentic envelope. Raises `TrustError` for what is outside profile OTA-1."""
    envelope = authenticated.envelope
    for key in envelope.other_members:
        kind = "integrated payload" if isinstance(key, str) else "severed envelope member"
        raise outside_profile(f"{kind} {named(EnvelopeKey, key)}")
    manifest = read_manifest(envelope.manifest, limits)
    return Release(envelope.digest, manifest.sequence, manifest.images, authenticated.signers)

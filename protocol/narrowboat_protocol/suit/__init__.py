"""Releases as SUIT envelopes: read, believed, written, merged.

A release is a SUIT manifest (draft-ietf-suit-manifest-37) in an envelope with one or several detached
COSE_Sign1 blocks. SUIT is a language of command sequences; we speak one sentence of it, profile OTA-1 (see
`profile`), and refuse everything else by name. So there is no interpreter: reading a manifest yields a
`Release`, a value, and what a gateway does with it is its own fixed procedure.

The order is: outer map and digest (`parse_envelope`), signatures (`authenticate`), manifest
(`parse_manifest`). Nothing inside the manifest is looked at before it is authentic (the draft's section
"Required Checks"), and the types keep that order: only `authenticate` returns what `parse_manifest` takes,
and only `parse_manifest` returns a `Release`. `open_release` does all three.

A release goes by its SUIT digest, never by the envelope's bytes: blocks may be added or dropped, and ECDSA
signatures altered, without a change of what was signed.
"""

from __future__ import annotations

from .encryption import AgreementKey, ContentKey, recipients_of, seal, unseal
from .envelope import Authenticated, Envelope, authenticate, parse_envelope
from .manifest import Image, Manifest, class_id, vendor_id
from .profile import read_manifest
from .release import Release, open_release, parse_manifest
from .writer import add_signature, build_envelope, merge_envelopes

__all__ = [
    "AgreementKey",
    "Authenticated",
    "ContentKey",
    "Envelope",
    "Image",
    "Manifest",
    "Release",
    "add_signature",
    "authenticate",
    "build_envelope",
    "class_id",
    "merge_envelopes",
    "open_release",
    "parse_envelope",
    "parse_manifest",
    "read_manifest",
    "recipients_of",
    "seal",
    "unseal",
    "vendor_id",
]

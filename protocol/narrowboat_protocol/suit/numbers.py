"""Every number of SUIT that we write, read or refuse, in one place.

The numbers are those of the CDDL in draft-ietf-suit-manifest-37. They are approved but not yet an RFC;
parameter 25 is missing from the draft's own IANA table and could still move, so no other module spells a
number out.

Numbers outside our profile are listed too, because a refusal names what it refuses. Those marked "update
management" are from draft-ietf-suit-update-management-14, those marked "trust domains" from
draft-ietf-suit-trust-domains-12.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeGuard

ENVELOPE_TAG = 107
ENCRYPT_TAG = 96
"""COSE_Encrypt (RFC 9052 section 5.1), as SUIT_Encryption_Info."""
MANIFEST_VERSION = 1
SHA256 = -16
"""suit-cose-hash-algs: cose-alg-sha-256, the only one that every implementation has (RFC 9054)."""

A128CTR, A128KW, ECDH_ES_A128KW = -65534, -3, -29
"""suit-cose-profiles: es-ecdh + aes-ctr (draft-ietf-suit-mti), by RFC 9459 and RFC 9053."""

REPORT_ALWAYS = 15
"""A reporting policy with all suit-reporting-bits: record and system information, on success and failure."""
REPORT_FAILURE = 2
"""A reporting policy with suit-send-record-on-failure only."""
REPORT_POLICY_MAX = 15


class EnvelopeKey(IntEnum):
    """Members of SUIT_Envelope. Text keys beside them are integrated payloads."""

    DELEGATION = 1
    AUTHENTICATION = 2  # suit-authentication-wrapper
    MANIFEST = 3
    PAYLOAD_FETCH = 16
    INSTALL = 20
    TEXT = 23


class ManifestKey(IntEnum):
    """Members of SUIT_Manifest."""

    MANIFEST_VERSION = 1
    MANIFEST_SEQUENCE_NUMBER = 2
    COMMON = 3
    REFERENCE_URI = 4
    MANIFEST_COMPONENT_ID = 5  # trust domains
    SET_VERSION = 6  # update management
    VALIDATE = 7
    LOAD = 8
    INVOKE = 9
    COSWID = 14  # update management
    PAYLOAD_FETCH = 16
    INSTALL = 20
    TEXT = 23
    UNINSTALL = 24  # trust domains


class CommonKey(IntEnum):
    """Members of SUIT_Common."""

    COMPONENTS = 2
    SHARED_SEQUENCE = 4


class Condition(IntEnum):
    """Commands that test. They share one space of numbers with the directives."""

    VENDOR_IDENTIFIER = 1
    CLASS_IDENTIFIER = 2
    IMAGE_MATCH = 3
    USE_BEFORE = 4  # update management
    COMPONENT_SLOT = 5
    CHECK_CONTENT = 6
    ABORT = 14
    DEVICE_IDENTIFIER = 24
    IMAGE_NOT_MATCH = 25  # update management
    MINIMUM_BATTERY = 26  # update management
    UPDATE_AUTHORIZED = 27  # update management
    VERSION = 28  # update management


class Directive(IntEnum):
    """Commands that act."""

    PROCESS_DEPENDENCY = 11  # trust domains
    SET_COMPONENT_INDEX = 12
    TRY_EACH = 15
    WRITE = 18
    SET_PARAMETERS = 19  # trust domains
    OVERRIDE_PARAMETERS = 20
    FETCH = 21
    COPY = 22
    INVOKE = 23
    WAIT = 29  # update management
    SWAP = 31
    RUN_SEQUENCE = 32
    UNLINK = 33  # trust domains
    OVERRIDE_MULTIPLE = 34  # update management
    COPY_PARAMS = 35  # update management


class Parameter(IntEnum):
    """What override-parameters sets."""

    VENDOR_IDENTIFIER = 1
    CLASS_IDENTIFIER = 2
    IMAGE_DIGEST = 3
    USE_BEFORE = 4  # update management
    COMPONENT_SLOT = 5
    STRICT_ORDER = 12
    SOFT_FAILURE = 13
    IMAGE_SIZE = 14
    CONTENT = 18
    ENCRYPTION_INFO = 19  # draft-ietf-suit-firmware-encryption-25
    URI = 21
    SOURCE_COMPONENT = 22
    INVOKE_ARGS = 23
    DEVICE_IDENTIFIER = 24
    FETCH_ARGUMENTS = 25


class FetchArgument(IntEnum):
    """Members of the map inside parameter 25. The draft leaves it to the implementation: they are our own."""

    TREE = 1
    VERSION = 2
    EPOCH = 3


def named(kind: type[IntEnum], number: object) -> str:
    """The number with its name in the draft, `32 (run-sequence)`, or what came if `kind` does not have it."""
    if not _is_listed(number, kind):
        return f"{number!r:.40}"
    return f"{number:d} ({kind(number).name.lower().replace('_', '-')})"


def command_name(number: object) -> str:
    """A command as the draft calls it: `condition 3 (image-match)`, `directive 32 (run-sequence)`."""
    for kind in (Condition, Directive):
        if _is_listed(number, kind):
            return f"{kind.__name__.lower()} {named(kind, number)}"
    return f"command {number!r:.40}"


def _is_listed(number: object, kind: type[IntEnum]) -> TypeGuard[int]:
    """True for a number, not a truth value, that `kind` lists."""
    return isinstance(number, int) and not isinstance(number, bool) and number in set(kind)

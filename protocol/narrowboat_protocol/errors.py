"""Every error that the protocol library raises, and every reason that travels on the wire.

The class says whose fault it is: a peer said something wrong (`PeerError` and its kinds), the storage medium failed
(`MediumError`), or the caller or the configuration is wrong (`UsageError`). The `reason` says what it was, in the same
word that reports, replies, metrics and logs use; docs/protocol.md lists them. The message carries what was expected,
what came, and what to do. Bytes of a key, a claim or a token never enter a message.
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why something was refused or failed. The values are wire words: they are never reused for another meaning."""

    # What a peer said could not be read.
    NOT_DETERMINISTIC = "not_deterministic"
    TOO_LARGE = "too_large"
    BAD_DOCUMENT = "bad_document"
    BAD_TOPIC = "bad_topic"
    UNKNOWN_FORMAT = "unknown_format"
    # What a peer said could be read and was not believed.
    BAD_SIGNATURE = "bad_signature"
    UNKNOWN_KEY = "unknown_key"
    WRONG_FLEET = "wrong_fleet"
    WRONG_DEVICE = "wrong_device"
    WRONG_CLASS = "wrong_class"
    NOT_PERMITTED = "not_permitted"
    STALE = "stale"
    EXPIRED = "expired"
    BELOW_FLOOR = "below_floor"
    WRONG_EPOCH = "wrong_epoch"
    UNSUPPORTED_MANIFEST = "unsupported_manifest"
    MISSING_RELEASE = "missing_release"
    # The bytes of an image or of a payload.
    BAD_HEAD = "bad_head"
    BAD_LAYER = "bad_layer"
    BAD_LEAVES = "bad_leaves"
    BAD_BLOCK = "bad_block"
    BAD_FRAME = "bad_frame"
    UNSUPPORTED_CODEC = "unsupported_codec"
    NO_KEY = "no_key"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_CONTRADICTS_RELEASE = "image_contradicts_release"
    NO_SOURCE = "no_source"
    # The gateway's own parts.
    MEDIUM_FAILED = "medium_failed"
    STORAGE_FULL = "storage_full"
    STATE_UNREADABLE = "state_unreadable"
    BOOT_CONTROL_FAILED = "boot_control_failed"
    HOOK_FAILED = "hook_failed"
    HEALTH_CHECK_FAILED = "health_check_failed"
    BOOT_FAILED = "boot_failed"
    TRIAL_NOT_COMMITTED = "trial_not_committed"
    UNKNOWN_STATE_ON_BOOT = "unknown_state_on_boot"
    SUPERSEDED = "superseded"
    WITHDRAWN = "withdrawn"
    # Operators and their requests.
    UNKNOWN_OPERATOR = "unknown_operator"
    UNKNOWN_DEVICE = "unknown_device"
    UNKNOWN_CAMPAIGN = "unknown_campaign"
    UNKNOWN_RELEASE = "unknown_release"
    UNKNOWN_PAYLOAD = "unknown_payload"
    TOO_LATE = "too_late"
    CONFLICT = "conflict"
    BUSY = "busy"
    # The caller or its configuration.
    BAD_CONFIG = "bad_config"
    BAD_USE = "bad_use"


class NarrowboatError(Exception):
    """Root of all errors raised by Narrowboat. `reason` is for machines, the message for people."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class PeerError(NarrowboatError):
    """A peer (broker, bridge, device, operator, file) said something that is refused."""


class EncodingError(PeerError):
    """Bytes are not the one deterministic CBOR encoding of a value that the protocol allows."""


class DocumentError(PeerError):
    """Well-formed CBOR that is not a document of the expected shape."""


class TrustError(PeerError):
    """A document that was read and is not believed: signature, role, freshness, identity, floor."""


class PayloadError(PeerError):
    """A payload, or a piece of one, does not decode to what the release signed."""


class MediumError(NarrowboatError):
    """Storage or boot control did not do what it was told."""


class UsageError(NarrowboatError):
    """The caller or the configuration is wrong; nothing that a peer says can cause it."""


class SigningError(Exception):
    """A key did not sign: the token that it is in was pulled out, or is broken.

    It is no `NarrowboatError`, since whoever handles what a peer said would take it for a refusal and go on. Whatever
    was to be signed is not done, so it ends the process.
    """

"""How an attempt begins: what an assignment or a release file wants, as an `Attempt` that nothing believes yet."""

from __future__ import annotations

import hashlib

from narrowboat_protocol.documents import Assignment, Delivery, PayloadReference, Target
from narrowboat_protocol.errors import NarrowboatError, Reason, UsageError
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.payload import parse_head
from narrowboat_protocol.states import State
from narrowboat_protocol.suit import parse_envelope

from .events import LocalReleaseOffered
from .memory import PATH_LENGTH_MAX, Attempt


def assigned(assignment: Assignment, target: Target, delivery: Delivery, slot: str, limits: Limits) -> Attempt:
    """What an assignment wants in `slot`. The envelope is empty if the delivery lacks it."""
    return Attempt(
        attempt=assignment.counter,
        component=target.component,
        release=target.release,
        envelope=envelope_of(target.release, delivery.envelopes, limits),
        state=State.OFFERED,
        slot=slot,
        payloads=target.payloads,
        reboot_windows=assignment.reboot_windows,
        byte_budget=assignment.byte_budget,
    )


def local(event: LocalReleaseOffered, release: bytes, component: str, slot: str, limits: Limits) -> Attempt:
    """What a release file wants in `slot`: no assignment stands behind it, so its number is 0. Raises
    `NarrowboatError` if the file is no release file that can be installed.
    """
    if len(event.path) > PATH_LENGTH_MAX:
        raise UsageError(Reason.BAD_USE, f"expected a path of at most {PATH_LENGTH_MAX} characters, got more")
    head_sha256 = hashlib.sha256(event.head).digest()
    payload = PayloadReference(
        digest=head_sha256,
        kind=parse_head(event.head, limits).kind,
        size=event.payload_size,
        head_size=len(event.head),
        head_sha256=head_sha256,
        encryption=event.encryption or None,
    )
    return Attempt(
        attempt=0,
        component=component,
        release=release,
        envelope=event.envelope,
        state=State.OFFERED,
        slot=slot,
        payloads=(payload,),
        path=event.path,
    )


def envelope_of(release: bytes, envelopes: tuple[bytes, ...], limits: Limits) -> bytes:
    """The envelope whose digest is the release's; empty if there is none. Nothing about it is believed by this."""
    for envelope in envelopes:
        try:
            if parse_envelope(envelope, limits).digest == release:
                return envelope
        except NarrowboatError:
            continue
    return b""

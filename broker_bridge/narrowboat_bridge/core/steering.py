"""What a device must be sent, if anything.

The newest campaign that wants a device has it. From that campaign's attempt follows what the device should
hold: an assignment of the release, or, if the campaign was aborted, one without targets. Then

    the device holds it (its hello names the counter, or a report does)     nothing
    we issued it, for the nonce of the device's newest hello                the same bytes again
    otherwise                                                               a new assignment, with the next counter

A device that is stopped is sent nothing.

A bridge that was started cannot know whether its store is the newest copy. Once after each start, a device that holds
an assignment and has not reported its end is sent the same bytes again, and answers with a report of where it stands.

A device accepts its last two nonces, but one that was started anew has only one and has forgotten those
before, so an assignment for an older nonce is never sent again. A counter that we did not issue means that
this bridge was restored from an older copy of its store, so the next one goes above what the hello says. An
attempt that lost its device to a newer campaign stays lost, whatever becomes of the newer one: work that
comes back to life when something else is aborted surprises people.
"""

from __future__ import annotations

from dataclasses import dataclass

from narrowboat_protocol.documents import Assignment, Target
from narrowboat_protocol.documents.fields import COUNTER_END

from .records import Attempt, Campaign, Device, Ending, Release

VALIDITY_S = 7 * 86_400


@dataclass(frozen=True, slots=True)
class Nothing:
    """The device has what it should have."""


@dataclass(frozen=True, slots=True)
class SendAgain:
    """The newest assignment of the device, as it was signed."""


@dataclass(frozen=True, slots=True)
class Issue:
    """A new assignment."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The device claims a counter above which there is none."""


Step = Nothing | SendAgain | Issue | Exhausted


@dataclass(frozen=True, slots=True)
class Terms:
    """What an assignment that is made now must fit."""

    root_version: int
    counter_floor: int
    """It counts higher."""
    now_s: int


def next_step(
    device: Device,
    attempt: Attempt,
    campaign: Campaign,
    release: Release,
    issued: Assignment | None,
    terms: Terms,
    *,
    is_unsure: bool,
) -> Step:
    """Decide by the table above. `attempt` is the newest of the device, `issued` its newest assignment; `is_unsure` if
    the attempt may have ended before this bridge was started.
    """
    if attempt.withdrawn and (campaign.ended is not Ending.ABORTED or not attempt.counters):
        return Nothing()
    if attempt.has_end or device.stopped or Assignment.FORMAT not in device.hello.formats:
        return Nothing()
    if issued is not None and is_for(issued, attempt):
        if device.accepted_counter == issued.counter:
            return SendAgain() if is_unsure and attempt.under_way else Nothing()
        is_fresh = issued.nonce == device.hello.nonce and terms.now_s < issued.expires_at
        if is_fresh and device.accepted_counter < issued.counter:
            return SendAgain()
    counter = max(device.accepted_counter, issued.counter if issued else 0, terms.counter_floor) + 1
    if counter >= COUNTER_END:
        return Exhausted()
    target = Target(component=release.component, release=release.digest, payloads=(release.payload,))
    return Issue(
        Assignment(
            device=device.name,
            counter=counter,
            issued_at=terms.now_s,
            expires_at=terms.now_s + VALIDITY_S,
            nonce=device.hello.nonce,
            root_version=terms.root_version,
            targets=() if attempt.withdrawn else (target,),
            campaign=campaign.name,
            reboot_windows=campaign.reboot_windows,
            byte_budget=campaign.byte_budget,
        )
    )


def is_for(issued: Assignment, attempt: Attempt) -> bool:
    """True if the device's newest assignment was issued for what its newest attempt wants now.

    The counter tells, and not the name of the campaign, which may have been another's that was forgotten.
    """
    return not issued.targets if attempt.withdrawn else issued.counter in attempt.counters

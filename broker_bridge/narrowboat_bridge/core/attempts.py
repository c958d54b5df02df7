"""What a report, or a hello, does to an attempt.

There is one attempt for each campaign and device. Reports come late, twice and out of order, and the outcome
must not depend on it:

    attempt                     report                                              then
    any                         of another release                                  contradiction
    has no end                  `succeeded` from the slot that it was to replace    contradiction
    has no end                  an end, whatever its pair                           taken
    has no end                  no end, pair above the attempt's                    taken
    has no end                  no end, pair not above                              history
    succeeded                   pair above, from the slot that it was to replace    taken as `rolled_back`
    has an end                  anything else                                       history

A contradiction changes nothing and is an alarm: an honest agent never says it. Success is believed from the
new slot only, and only as long as its release runs: whenever a newer hello comes from the old slot with the old
release in it, or shows another release that is not on trial, which somebody installed from a file, a success
turns into `rolled_back` (`judge_success`). `aborted` is an end like any other, and only a device can report it.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, auto

from narrowboat_protocol.documents import Report
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.states import State

from .records import Attempt, Device


class Verdict(Enum):
    """What became of a report."""

    TAKEN = auto()
    HISTORY = auto()
    CONTRADICTION = auto()


def judge_report(attempt: Attempt, report: Report, release: bytes) -> Verdict:
    """Apply the table above. `release` is the one that the attempt's campaign is about."""
    if report.release != release:
        return Verdict.CONTRADICTION
    later = attempt.pair is None or report.pair > attempt.pair
    if attempt.has_end:
        fell_back = attempt.state is State.SUCCEEDED and later and _from_old_slot(attempt, report, release)
        return Verdict.TAKEN if fell_back else Verdict.HISTORY
    if report.state is State.SUCCEEDED and _from_old_slot(attempt, report, release):
        return Verdict.CONTRADICTION
    return Verdict.TAKEN if later or report.state.terminal else Verdict.HISTORY


def take_report(attempt: Attempt, report: Report, received_at: int) -> Attempt:
    """The attempt after a report that `judge_report` took."""
    fell_back = attempt.state is State.SUCCEEDED
    ends_badly = report.state in (State.ROLLED_BACK, State.ROLLBACK_FAILED)
    return replace(
        attempt,
        accepted=True,
        state=State.ROLLED_BACK if fell_back and not ends_badly else report.state,
        pair=report.pair,
        hold=report.hold.reason if report.hold else None,
        reason=report.reason,
        detail=report.detail,
        done_bytes=report.done_bytes,
        total_bytes=report.total_bytes,
        wire_bytes=report.wire_bytes,
        reported_at=received_at,
    )


def judge_success(attempt: Attempt, device: Device, release: bytes, newest_counter: int, now_s: int) -> Attempt:
    """Turn a success into `rolled_back` if the device's newest hello came later and shows that something else runs for
    good. `newest_counter` is of the newest assignment that we know of: what a device runs that holds a newer one came
    by an attempt that a store put back to an older copy has forgotten.
    """
    hello, runs = device.hello, device.running_release
    if attempt.state is not State.SUCCEEDED or attempt.pair is None or hello.pair <= attempt.pair:
        return attempt
    if device.is_on_trial:
        return attempt
    if hello.running_slot == attempt.old_slot and runs == attempt.old_release:
        reason, detail = Reason.BOOT_FAILED, "the device went back to its old slot after the commit"
    elif runs not in (None, release) and hello.assignment_counter <= newest_counter:
        reason, detail = Reason.SUPERSEDED, "another release was installed on the device after the commit"
    else:
        return attempt
    return replace(attempt, state=State.ROLLED_BACK, pair=hello.pair, reason=reason, detail=detail, reported_at=now_s)


def already_runs(attempt: Attempt, device: Device, now_s: int) -> Attempt:
    """The attempt of a device that runs the release without having been told to. Falling back to its other slot would
    end that.
    """
    old_slot, old_release = before_the_work(device, device.running_release)
    return replace(
        attempt,
        state=State.SUCCEEDED,
        pair=device.hello.pair,
        old_slot=old_slot,
        old_release=old_release,
        detail="it already runs this release",
        reported_at=now_s,
    )


def before_the_work(device: Device, release: bytes | None) -> tuple[str | None, bytes | None]:
    """The slot that a device would be in without the release, and what is in it: the one that runs, or the other one if
    the release runs already, be it on trial. Which one it is is not known while another release is on trial.
    """
    if device.running_release == release:
        other = device.slot_other_than_running()
        return (other.name, other.release) if other else (None, None)
    return (None, None) if device.is_on_trial else (device.hello.running_slot, device.running_release)


def _from_old_slot(attempt: Attempt, report: Report, release: bytes) -> bool:
    """False for a device that ran the release before it was assigned: it has no other slot to succeed from."""
    return report.slot == attempt.old_slot and attempt.old_release != release

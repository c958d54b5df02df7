"""What follows from what devices say.

A hello admits or recognises its device, replaces what was known of it, and is answered by an Ack and by
whatever assignment the device lacks. A report is ordered by its pair, put into the history, moves its
attempt, and is answered by an Ack. What is alarming gets no Ack and changes nothing. `look_at` is the third
way in: the schedule names devices that were given to a campaign or did not answer.

An Ack names the one statement that is stored, not the highest: a device sends its hello and the ends in its
outbox together, with pairs of different boots, and the bridge cannot know what was lost between them. Only a
hello that is older than the newest one is answered with the highest pair, which tells a device that lost its
state where it stood.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from narrowboat_protocol.documents import BootPair, EventKind, Report

from .actions import Acknowledge, Emit, Record, SendRoots, StoreAssignment, StoreReport, Turn
from .attempts import Verdict, already_runs, before_the_work, judge_report, judge_success, take_report
from .changes import Changes
from .events import HelloArrived, Now, ReportArrived
from .pairs import Standing, admit, digest_of, heard, is_live, standing, with_hello
from .records import Attempt, Device
from .steering import Exhausted, Issue, Nothing, SendAgain, Terms, is_for, next_step

_COUNTERS_KEPT = 32


class Devices:
    """Decisions about single devices, made on the shared ledger."""

    def __init__(self, changes: Changes, root_version: int) -> None:
        self._changes = changes
        self._ledger = changes.ledger
        self.root_version = root_version

    def take_hello(self, event: HelloArrived, now: Now, turn: Turn) -> None:
        known = self._ledger.devices.get(event.hello.device)
        device = self._recognise(event, now, turn)
        if device is None:
            return
        is_news = known is None or event.hello.pair > known.hello.pair
        overtaken = event.hello.pair < device.hello.pair
        said = device.recent[-1] if overtaken else (event.hello.pair, digest_of(event.content))
        self._acknowledge(device, said, event.challenge, turn)
        turn.say(Emit(EventKind.DEVICE_SEEN, device=device.name, release=device.running_release))
        self._note_acceptance(device, turn)
        self._note_old_slot(device, turn)
        self._reconsider_success(device, now, turn)
        campaign = self._ledger.open_campaign_for(device)
        if campaign is not None:
            self._changes.give(device, campaign, now, turn)
        self._changes.schedule.calm(device.name)
        if is_news:
            self._conclude_if_it_runs(device, now, turn)
        if not overtaken and event.hello.root_version < self.root_version:
            # An assignment under a newer root is not for it yet. It says hello again when it has walked.
            turn.say(SendRoots(device.name, event.hello.root_version))
            return
        self.look_at(device.name, now, turn)

    def take_report(self, event: ReportArrived, now: Now, turn: Turn) -> None:
        report = event.report
        device = self._ledger.devices.get(report.device)
        if device is None:
            return
        digest = digest_of(event.content)
        match standing(device, report.pair, digest):
            case Standing.CLONE:
                self._changes.suspect(device, "a report under a pair that was used before", now, turn)
            case Standing.DUPLICATE:
                self._acknowledge(device, (report.pair, digest), event.challenge, turn)
            case Standing.NEW | Standing.LATE:
                turn.write(StoreReport(device.name, device.reports_stored, now.wall_s, event.content))
                device = replace(
                    heard(device, report.pair, digest, now.wall_s),
                    reports_stored=device.reports_stored + 1,
                    accepted_counter=self._accepted_counter(device, report),
                )
                self._acknowledge(device, (report.pair, digest), event.challenge, turn)
                self._note_acceptance(device, turn)
                self._move_attempt(device, report, now, turn)

    def look_at(self, name: str, now: Now, turn: Turn) -> None:
        """Send a device what it lacks, and look again if it does not answer."""
        device = self._ledger.devices[name]
        attempt = self._ledger.newest_attempt(name)
        if attempt is None:
            return
        campaign = self._ledger.campaigns[attempt.campaign]
        step = next_step(
            device,
            attempt,
            campaign,
            self._ledger.releases[campaign.release],
            self._ledger.assignments.get(name),
            Terms(self.root_version, self._ledger.counter_floor, now.wall_s),
            is_unsure=name in self._ledger.unsure,
        )
        match step:
            case Nothing():
                self._changes.schedule.drop(name)
            case SendAgain():
                self._changes.deliver(name, now, turn)
            case Issue():
                self._issue(step, device, attempt, turn)
                self._changes.deliver(name, now, turn)
            case Exhausted():
                self._changes.schedule.drop(name)
                self._changes.alarm(device, "its assignment counter leaves no room for another", now, turn)
            case _:
                assert_never(step)

    def _recognise(self, event: HelloArrived, now: Now, turn: Turn) -> Device | None:
        """The device after its hello, or None if the hello is refused."""
        hello = event.hello
        digest = digest_of(event.content)
        known = self._ledger.devices.get(hello.device)
        if known is None:
            turn.write(Record("device admitted", hello.device, {"key": event.key.kid.hex()}))
            return admit(hello, event.key, digest, now.wall_s)
        if known.key.kid != event.key.kid:
            registered = self._ledger.registered(hello.device)
            if registered is None or registered.kid != event.key.kid:
                self._changes.suspect(known, "a hello under another key than the one pinned", now, turn)
                return None
            turn.write(Record("device key changed", hello.device, {"key": event.key.kid.hex()}))
            fresh = admit(hello, event.key, digest, now.wall_s)
            return replace(fresh, first_seen_at=known.first_seen_at, reports_stored=known.reports_stored)
        order = standing(known, hello.pair, digest)
        if order is Standing.CLONE or (order is Standing.LATE and is_live(known, hello)):
            self._changes.suspect(known, "a hello under a pair that was used before", now, turn)
            return None
        if order is Standing.DUPLICATE:
            return replace(known, last_seen_at=now.wall_s)
        return heard(with_hello(known, hello), hello.pair, digest, now.wall_s)

    def _acknowledge(self, device: Device, said: tuple[BootPair, bytes], challenge: bytes, turn: Turn) -> None:
        """Store the device and say so. Whoever answers the challenge was told of the highest pair in the record."""
        pair, statement = said
        self._changes.put_device(replace(device, challenge=challenge), turn)
        turn.say(Acknowledge(device.name, pair, statement, challenge))

    def _accepted_counter(self, device: Device, report: Report) -> int:
        """A report of our newest assignment, or one that parks it, shows that the device holds it."""
        issued = self._ledger.assignments.get(device.name)
        if issued is None or issued.counter not in (report.attempt, report.parked):
            return device.accepted_counter
        return max(device.accepted_counter, issued.counter)

    def _note_acceptance(self, device: Device, turn: Turn) -> None:
        issued = self._ledger.assignments.get(device.name)
        if issued is None or device.accepted_counter != issued.counter:
            return
        newest = self._ledger.newest_attempt(device.name)
        if newest is None or is_for(issued, newest):
            self._changes.schedule.drop(device.name)
        attempt = self._ledger.attempt_with_counter(device.name, issued.counter)
        if attempt is not None and not attempt.accepted:
            self._changes.put_attempt(replace(attempt, accepted=True), turn)

    def _note_old_slot(self, device: Device, turn: Turn) -> None:
        """What was assigned during the trial of another release begins when that has ended, from the slot left then."""
        attempt = self._ledger.newest_attempt(device.name)
        if attempt is None or attempt.old_slot is not None or not attempt.counters:
            return
        slot, release = before_the_work(device, self._ledger.campaigns[attempt.campaign].release)
        if slot is not None:
            self._changes.put_attempt(replace(attempt, old_slot=slot, old_release=release), turn)

    def _move_attempt(self, device: Device, report: Report, now: Now, turn: Turn) -> None:
        attempt = self._ledger.attempt_with_counter(device.name, report.attempt)
        if attempt is None:
            return
        self._ledger.unsure.discard(device.name)
        match judge_report(attempt, report, self._ledger.campaigns[attempt.campaign].release):
            case Verdict.TAKEN:
                self._overtake_older(attempt, turn)
                self._changes.change_state(attempt, take_report(attempt, report, now.wall_s), turn)
                self._reconsider_success(device, now, turn)
            case Verdict.HISTORY:
                pass
            case Verdict.CONTRADICTION:
                stored = self._ledger.devices[device.name]
                self._changes.alarm(stored, f"a report of {report.state} that contradicts its assignment", now, turn)

    def _overtake_older(self, attempt: Attempt, turn: Turn) -> None:
        """A device works on one thing at a time, so older work without an end became this or was dropped for it."""
        newest_first = list(self._ledger.attempts_of(attempt.device))
        for older in newest_first[newest_first.index(attempt) + 1 :]:
            if older.under_way:
                self._changes.settle(replace(older, overtaken=True), turn)

    def _reconsider_success(self, device: Device, now: Now, turn: Turn) -> None:
        """Only the newest attempt that the device began can tell what its running slot means."""
        attempts = self._ledger.attempts_of(device.name)
        begun = next((attempt for attempt in attempts if attempt.accepted or attempt.state is not None), None)
        if begun is None:
            return
        issued = self._ledger.assignments.get(device.name)
        release = self._ledger.campaigns[begun.campaign].release
        judged = judge_success(begun, device, release, issued.counter if issued else 0, now.wall_s)
        if judged is not begun:
            self._changes.change_state(begun, judged, turn)

    def _conclude_if_it_runs(self, device: Device, now: Now, turn: Turn) -> None:
        """End the newest attempt if the hello that has just come shows that the device runs its release already and
        cannot be on trial with it.

        Nor may it be at work on an assignment that is on its way to it, or that a store put back to an older copy has
        forgotten. What an older hello said need not be true any more, since newer ones may have been lost: a campaign
        asks by an assignment, and the device answers that it runs the release.
        """
        attempt = self._ledger.newest_attempt(device.name)
        if attempt is None or attempt.state is not None or attempt.accepted or attempt.withdrawn:
            return
        issued = self._ledger.assignments.get(device.name)
        holds_ours = device.accepted_counter == (issued.counter if issued is not None else 0)
        under_way = any(other.under_way for other in self._ledger.attempts_of(device.name))
        if under_way or device.is_on_trial or not holds_ours:
            return
        if device.running_release == self._ledger.campaigns[attempt.campaign].release:
            self._changes.change_state(attempt, already_runs(attempt, device, now.wall_s), turn)

    def _issue(self, step: Issue, device: Device, attempt: Attempt, turn: Turn) -> None:
        assignment = step.assignment
        self._ledger.assignments[device.name] = assignment
        turn.write(StoreAssignment(assignment, device.agreement_key))
        if not assignment.targets:
            return
        slot, release = before_the_work(device, assignment.targets[0].release)
        counters = (*attempt.counters, assignment.counter)[-_COUNTERS_KEPT:]
        told = replace(attempt, counters=counters, old_slot=slot, old_release=release)
        self._changes.put_attempt(told, turn)

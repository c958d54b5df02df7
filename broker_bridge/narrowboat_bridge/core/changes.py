"""Every way in which a record changes, together with what must be written and said about it.

A decision calls one of these and cannot forget the store, the audit log, the event stream or a campaign that
this was the last thing to wait for. They share one `Turn`, in which whatever is written comes before whatever
is said.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from narrowboat_protocol.documents import EventKind

from .actions import Deliver, Emit, ForgetCampaign, Record, StoreAttempt, StoreCampaign, StoreDevice, Turn
from .events import Now
from .ledger import Ledger
from .records import Attempt, Campaign, Device, Ending
from .schedule import Schedule

ALARM_INTERVAL_S = 3600
"""A device raises one alarm in this time, so that a clone cannot fill the audit log."""

STEPS_RECORDED_MAX = 64
"""So many changes of state of one attempt go into the audit log while the bridge runs, beside its ends. An honest
device needs a handful; one that goes back and forth for ever must not fill a log that nobody can prune.
"""


class Changes:
    """The ledger and the schedule, and how they change."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.schedule = Schedule()
        self.approvals = Schedule()
        """Campaigns that wait, by the time at which they expire."""
        self._steps_recorded: Counter[tuple[str, str]] = Counter()

    def put_device(self, device: Device, turn: Turn) -> None:
        self.ledger.devices[device.name] = device
        turn.write(StoreDevice(device))

    def put_attempt(self, attempt: Attempt, turn: Turn) -> None:
        self.ledger.put_attempt(attempt)
        turn.write(StoreAttempt(attempt))

    def change_state(self, before: Attempt, after: Attempt, turn: Turn) -> None:
        """Replace an attempt by what a report or a hello made of it."""
        if after.state is not before.state and self._is_to_record(after):
            facts: dict[str, str | int] = {"campaign": after.campaign, "state": str(after.state)}
            if after.reason is not None:
                facts["reason"] = after.reason.value
            turn.write(Record("attempt", after.device, facts))
        turn.say(
            Emit(
                EventKind.REPORT,
                device=after.device,
                campaign=after.campaign,
                release=self.ledger.campaigns[after.campaign].release,
                state=after.state,
                hold=after.hold,
                done_bytes=after.done_bytes,
                total_bytes=after.total_bytes,
                wire_bytes=after.wire_bytes,
                reason=after.reason,
                detail=after.detail,
            )
        )
        self.settle(after, turn)

    def _is_to_record(self, attempt: Attempt) -> bool:
        """Whether a change of state goes into the audit log: each end, and the first steps on the way there."""
        if attempt.has_end:
            return True
        key = (attempt.campaign, attempt.device)
        self._steps_recorded[key] += 1
        return self._steps_recorded[key] <= STEPS_RECORDED_MAX

    def settle(self, attempt: Attempt, turn: Turn) -> None:
        """Replace an attempt by one of which less, or nothing more, is expected."""
        self.put_attempt(attempt, turn)
        if attempt.settled:
            self._complete_if_settled(attempt.campaign, turn)

    def give(self, device: Device, campaign: Campaign, now: Now, turn: Turn) -> None:
        """Let a campaign have a device: the attempt of an older one is withdrawn, and the device is due."""
        previous = self.ledger.newest_attempt(device.name)
        self.put_attempt(Attempt(campaign.name, device.name), turn)
        if previous is not None and not previous.settled and not previous.withdrawn:
            self.settle(replace(previous, withdrawn=True), turn)
        self.schedule.calm(device.name)
        self.schedule.at(device.name, now.monotonic_s)

    def end_campaign(self, campaign: Campaign, ending: Ending, turn: Turn) -> Campaign:
        ended = replace(campaign, ended=ending)
        self.approvals.drop(campaign.name)
        self.ledger.campaigns[campaign.name] = ended
        turn.write(StoreCampaign(ended), Record("campaign ended", campaign.name, {"ending": ending.value}))
        turn.say(Emit(EventKind.CAMPAIGN_ENDED, campaign=campaign.name, release=campaign.release, detail=ending.value))
        return ended

    def forget_campaign(self, campaign: Campaign, turn: Turn) -> None:
        self.ledger.forget_campaign(campaign.name)
        for key in [key for key in self._steps_recorded if key[0] == campaign.name]:
            del self._steps_recorded[key]
        turn.write(ForgetCampaign(campaign.name))

    def deliver(self, name: str, now: Now, turn: Turn) -> None:
        """Send the newest assignment of a device, and look at the device again if it does not answer."""
        targets = self.ledger.assignments[name].targets
        turn.say(Deliver(name, tuple(self.ledger.releases[target.release].envelope for target in targets)))
        self.schedule.again(name, now.monotonic_s)

    def suspect(self, device: Device, text: str, now: Now, turn: Turn) -> None:
        """There may be two of this device: neither is given anything until an operator has looked."""
        stopped = replace(device, stopped=True)
        if not device.stopped:
            self.put_device(stopped, turn)
        self.schedule.drop(device.name)
        self.alarm(stopped, text, now, turn)

    def alarm(self, device: Device, text: str, now: Now, turn: Turn) -> None:
        """Tell people, and the audit log, that something happened which an honest agent does not do."""
        if 0 <= now.wall_s - device.alarmed_at < ALARM_INTERVAL_S:
            return
        self.put_device(replace(device, alarmed_at=now.wall_s), turn)
        turn.write(Record("alarm", device.name, {"text": text}))
        turn.say(Emit(EventKind.ALARM, device=device.name, detail=text))

    def _complete_if_settled(self, name: str, turn: Turn) -> None:
        campaign = self.ledger.campaigns[name]
        if campaign.ended is not None or campaign.devices is None:
            return
        if all(attempt.settled for attempt in self.ledger.attempts_in(name)):
            self.end_campaign(campaign, Ending.COMPLETED, turn)

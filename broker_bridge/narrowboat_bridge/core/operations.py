"""What operators ask for: releases, campaigns, and looks at the fleet.

Whoever asks was authenticated and has the role for it; here it is decided whether the request makes sense for what
that operator sees (`sight`). Every request can be repeated without harm: a campaign that was started stays what it is,
one that was aborted is aborted, a release that is there is there. A request that cannot be carried out is refused with
what was expected.
"""

from __future__ import annotations

from dataclasses import replace

from narrowboat_protocol.documents import (
    CampaignAbort,
    CampaignApprove,
    CampaignList,
    CampaignShow,
    CampaignStart,
    DeviceList,
    DeviceShow,
    EventKind,
)
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.model import Document

from . import views
from .actions import Emit, Record, Refusal, StoreCampaign, StoreRelease, Turn
from .approvals import APPROVAL_LIFE_S, Approvals, needs_approval
from .changes import Changes
from .events import CommandAccepted, Now, ReleaseAdded
from .records import Campaign, Ending, Release
from .sight import Sight
from .warnings import before_start


class Operations:
    """Decisions about the whole fleet, made on the shared ledger."""

    def __init__(self, changes: Changes, *, releases_max: int, campaigns_max: int) -> None:
        self._changes = changes
        self._ledger = changes.ledger
        self._approvals = Approvals(changes)
        self._releases_max = releases_max
        self._campaigns_max = campaigns_max

    def carry_out(self, command: CommandAccepted, now: Now, turn: Turn) -> Document | Refusal:
        """Do what is asked, or say why not. The result is the document that the verb promises."""
        request, sight = command.request, Sight(self._ledger, command.operator, command.scope)
        match request:
            case DeviceList(after=after, limit=limit):
                return views.device_page(sight, after, limit)
            case DeviceShow(device=name):
                device = sight.device(name)
                return views.device_detail(self._ledger, device) if device else _unknown_device(name)
            case CampaignList():
                return views.campaign_page(sight)
            case CampaignShow(campaign=name):
                campaign = sight.campaign(name)
                if campaign is None:
                    return _unknown_campaign(name)
                return views.campaign_detail(sight, campaign, request.after, request.limit)
            case CampaignStart():
                return self._start(request, command, sight, now, turn)
            case CampaignApprove(campaign=name):
                campaign = sight.campaign(name)
                if campaign is None:
                    return _unknown_campaign(name)
                done = self._approvals.approve(request, campaign, command, now, turn)
                return done if isinstance(done, Refusal) else views.campaign_summary(sight, done)
            case CampaignAbort(campaign=name):
                return self._abort(name, sight, now, turn)
            case _:
                return Refusal(Reason.BAD_USE, "expected a request about devices or campaigns, got another")

    def add_release(self, event: ReleaseAdded, turn: Turn) -> Document | Refusal:
        release = event.release
        known = release.digest in self._ledger.releases
        if not known and len(self._ledger.releases) >= self._releases_max:
            return Refusal(Reason.BUSY, f"expected at most {self._releases_max} releases; this bridge takes no more")
        self._ledger.releases[release.digest] = release
        turn.write(StoreRelease(release))
        if not known:
            facts: dict[str, str | int] = {"release": release.digest.hex(), "version": release.version}
            turn.write(Record("release added", event.operator, facts))
            turn.say(
                Emit(EventKind.RELEASE_ADDED, release=release.digest, operator=event.operator, detail=release.version)
            )
        return views.taken_in(release)

    def watch_approvals(self, now: Now) -> None:
        """Make what waits for an approval due; to be called once, after a restart."""
        self._approvals.watch(now)

    def expire(self, now: Now, turn: Turn) -> None:
        """End the campaigns that nobody approved in time."""
        self._approvals.expire(now, turn)

    def _start(
        self, request: CampaignStart, command: CommandAccepted, sight: Sight, now: Now, turn: Turn
    ) -> Document | Refusal:
        release = self._ledger.releases.get(request.release)
        if release is None:
            return Refusal(Reason.UNKNOWN_RELEASE, "expected a release that was pushed to this bridge; push it first")
        wanted = Campaign(
            name=request.campaign,
            serial=self._ledger.next_serial,
            release=request.release,
            devices=None if request.devices is None else tuple(sorted(set(request.devices))),
            reboot_windows=request.reboot_windows,
            byte_budget=request.byte_budget,
            started_at=now.wall_s,
            started_by=sight.operator,
            starter_kid=command.kid,
            content=request.content,
        )
        if request.approval or needs_approval(wanted, command.approval_over):
            wanted = replace(wanted, approval_ends_at=now.wall_s + APPROVAL_LIFE_S)
        if wanted.devices is None and sight.scope is not None:
            return Refusal(Reason.NOT_PERMITTED, "your scope is not the whole fleet; name the devices")
        known = self._ledger.campaigns.get(request.campaign)
        if known is not None:
            return self._repeated(known, wanted, sight)
        refusal = self._unfit(wanted, release, sight) or self._make_room(turn)
        if refusal is not None:
            return refusal
        self._ledger.campaigns[wanted.name] = wanted
        turn.write(StoreCampaign(wanted))
        turn.write(
            Record("campaign started", sight.operator, {"campaign": wanted.name, "release": wanted.release.hex()})
        )
        turn.say(
            Emit(EventKind.CAMPAIGN_STARTED, campaign=wanted.name, release=wanted.release, operator=sight.operator)
        )
        self._approvals.schedule(wanted, now)
        for device in () if wanted.waits else self._ledger.devices_for(wanted):
            self._changes.give(device, wanted, now, turn)
        return views.campaign_summary(sight, wanted, before_start(sight, wanted))

    def _repeated(self, known: Campaign, wanted: Campaign, sight: Sight) -> Document | Refusal:
        """A start under a name that is taken: the same start again is answered, another one is refused."""
        if known.content != wanted.content or not sight.may_steer(known):
            return Refusal(Reason.CONFLICT, f"a campaign {known.name} with other content exists; choose another name")
        return views.campaign_summary(sight, known, before_start(sight, known))

    def _unfit(self, campaign: Campaign, release: Release, sight: Sight) -> Refusal | None:
        """Why a listed device cannot take part. All are looked at before anything is changed."""
        for name in campaign.devices or ():
            device = sight.device(name)
            if device is None:
                return _unknown_device(name)
            if not release.is_for(device):
                return Refusal(
                    Reason.WRONG_CLASS,
                    f"expected devices of the hardware that the release is made for, got {name}; leave it out",
                )
        return None

    def _make_room(self, turn: Turn) -> Refusal | None:
        """Forget the oldest campaign that is over, if as many are kept as may be. The audit log still has it.

        One that was aborted while a device worked on it is not over: it tells that device so when it comes back.
        """
        if len(self._ledger.campaigns) < self._campaigns_max:
            return None
        over = next(filter(self._is_over, self._ledger.campaigns.values()), None)
        if over is None:
            return Refusal(
                Reason.BUSY,
                f"expected at most {self._campaigns_max} campaigns that run or wait for a device;"
                " abort one that is done, or bring back the devices of one that was aborted",
            )
        self._changes.forget_campaign(over, turn)
        return None

    def _is_over(self, campaign: Campaign) -> bool:
        return campaign.ended is not None and all(
            attempt.settled for attempt in self._ledger.attempts_in(campaign.name)
        )

    def _abort(self, name: str, sight: Sight, now: Now, turn: Turn) -> Document | Refusal:
        campaign = sight.campaign(name)
        if campaign is None:
            return _unknown_campaign(name)
        if not sight.may_steer(campaign):
            return Refusal(Reason.NOT_PERMITTED, f"campaign {name} has devices outside of your scope")
        if campaign.ended is Ending.COMPLETED:
            return Refusal(Reason.CONFLICT, f"campaign {name} is completed; there is nothing left to abort")
        if campaign.ended is None:
            campaign = self._changes.end_campaign(campaign, Ending.ABORTED, turn)
            for attempt in list(self._ledger.attempts_in(name)):
                if not attempt.has_end and not attempt.withdrawn:
                    self._changes.put_attempt(replace(attempt, withdrawn=True), turn)
                    self._changes.schedule.at(attempt.device, now.monotonic_s)
        return views.campaign_summary(sight, campaign)


def _unknown_device(name: str) -> Refusal:
    return Refusal(Reason.UNKNOWN_DEVICE, f"expected a device that has said hello, got {name}; check the name")


def _unknown_campaign(name: str) -> Refusal:
    return Refusal(Reason.UNKNOWN_CAMPAIGN, f"expected a campaign of this bridge, got {name}; check the name")

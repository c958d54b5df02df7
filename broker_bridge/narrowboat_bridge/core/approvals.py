"""A second person's approval: a campaign that waits for it, gets it, or expires.

A campaign waits if whoever starts it asks for that, or if it is for more devices than the operators document lets one
person decide on; one for all devices of its hardware has no number, so it always does where there is a limit. While it
waits it is given no device. Its approval names the digest of what was asked for, so that it counts for this content and
no other, and comes from another name and another key than those that started it. A campaign that is approved is the
newest from then on, as if it had been started in that moment.
"""

from __future__ import annotations

from dataclasses import replace

from narrowboat_protocol.documents import CampaignApprove, EventKind
from narrowboat_protocol.errors import Reason

from .actions import Emit, Record, Refusal, StoreCampaign, Turn
from .changes import Changes
from .events import CommandAccepted, Now
from .records import Campaign, Ending
from .sight import Sight

APPROVAL_LIFE_S = 7 * 86_400
"""So long a campaign waits."""


def needs_approval(campaign: Campaign, approval_over: int | None) -> bool:
    """True if this campaign is for more devices than one operator may decide on."""
    if approval_over is None:
        return False
    return campaign.devices is None or len(campaign.devices) > approval_over


class Approvals:
    """The campaigns that wait, on the shared ledger."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._ledger = changes.ledger

    def watch(self, now: Now) -> None:
        """Make every campaign that waits due when it expires. Called after a start."""
        for campaign in self._ledger.campaigns.values():
            self.schedule(campaign, now)

    def schedule(self, campaign: Campaign, now: Now) -> None:
        if campaign.waits and campaign.approval_ends_at is not None:
            left_s = max(0, campaign.approval_ends_at - now.wall_s)
            self._changes.approvals.at(campaign.name, now.monotonic_s + left_s)

    def expire(self, now: Now, turn: Turn) -> None:
        """End what waited too long. The wall clock decides, which may have been set since."""
        for name in self._changes.approvals.take(now.monotonic_s):
            campaign = self._ledger.campaigns[name]
            if _is_late(campaign, now):
                self._changes.end_campaign(campaign, Ending.EXPIRED, turn)
            else:
                self.schedule(campaign, now)

    def approve(
        self, request: CampaignApprove, campaign: Campaign, command: CommandAccepted, now: Now, turn: Turn
    ) -> Campaign | Refusal:
        """Let it begin, or say why not. `campaign` is one that the operator sees."""
        refusal = self._refuse(request, campaign, command, now)
        if refusal is not None:
            return refusal
        if campaign.approved_by is not None:
            return campaign
        approved = replace(campaign, approved_by=command.operator, serial=self._ledger.next_serial)
        self._ledger.put_newest_campaign(approved)
        self._changes.approvals.drop(approved.name)
        facts: dict[str, str | int] = {"campaign": approved.name, "content": approved.content.hex()}
        turn.write(StoreCampaign(approved), Record("campaign approved", command.operator, facts))
        turn.say(
            Emit(
                EventKind.CAMPAIGN_APPROVED,
                campaign=approved.name,
                release=approved.release,
                operator=command.operator,
            )
        )
        for device in self._ledger.devices_for(approved):
            self._changes.give(device, approved, now, turn)
        return approved

    def _refuse(
        self, request: CampaignApprove, campaign: Campaign, command: CommandAccepted, now: Now
    ) -> Refusal | None:
        name = campaign.name
        if not Sight(self._ledger, command.operator, command.scope).may_steer(campaign):
            return Refusal(Reason.NOT_PERMITTED, f"campaign {name} has devices outside of your scope")
        if request.content != campaign.content:
            return Refusal(Reason.CONFLICT, f"campaign {name} is not what the digest names; look at it again")
        if command.operator == campaign.started_by or command.kid == campaign.starter_kid:
            return Refusal(
                Reason.NOT_PERMITTED, f"expected another person's approval than that of who started {name}; ask one"
            )
        if campaign.approval_ends_at is None:
            return Refusal(Reason.CONFLICT, f"campaign {name} needs no approval; it runs without one")
        if campaign.ended is Ending.EXPIRED or (campaign.waits and _is_late(campaign, now)):
            return Refusal(Reason.EXPIRED, f"campaign {name} waited too long for its approval; start it anew")
        if campaign.ended is not None and campaign.approved_by is None:
            return Refusal(Reason.CONFLICT, f"campaign {name} is over; there is nothing left to approve")
        return None


def _is_late(campaign: Campaign, now: Now) -> bool:
    return campaign.approval_ends_at is not None and now.wall_s >= campaign.approval_ends_at

"""What one operator sees of the fleet, and what it may steer.

A device outside an operator's scope does not exist for it: it is in no list, its name is answered like one that nobody
has, and it counts in no campaign. A campaign is seen by who started it and by whoever sees one of its devices. It may
be steered by who sees all of its devices; one for all devices of its hardware has no such list, since any device may
join it, so only an operator without a scope steers that.

Names of campaigns are one space for all, so that a name is taken can be learned by trying it. Releases belong to the
fleet and to no device.
"""

from __future__ import annotations

from dataclasses import dataclass

from narrowboat_protocol.documents import Scope

from .ledger import Ledger
from .records import Attempt, Campaign, Device


@dataclass(frozen=True, slots=True)
class Sight:
    """The ledger, as one operator sees it."""

    ledger: Ledger
    operator: str
    scope: Scope | None

    def sees(self, device: Device) -> bool:
        hello = device.hello
        return self.scope is None or self.scope.covers(device.name, hello.class_id, hello.component)

    def device(self, name: str) -> Device | None:
        device = self.ledger.devices.get(name)
        return device if device is not None and self.sees(device) else None

    def names(self) -> list[str]:
        """The devices that there are, in order of name."""
        return sorted(name for name, device in self.ledger.devices.items() if self.sees(device))

    def devices_for(self, campaign: Campaign) -> list[Device]:
        return [device for device in self.ledger.devices_for(campaign) if self.sees(device)]

    def attempts_in(self, campaign: Campaign) -> list[Attempt]:
        """Its attempts; of a campaign that waits, those that there would be if it were approved now."""
        if campaign.waits:
            return [Attempt(campaign.name, device.name) for device in self.devices_for(campaign)]
        attempts = self.ledger.attempts_in(campaign.name)
        return [attempt for attempt in attempts if self.device(attempt.device) is not None]

    def campaign(self, name: str) -> Campaign | None:
        campaign = self.ledger.campaigns.get(name)
        return campaign if campaign is not None and self._sees_campaign(campaign) else None

    def campaigns(self) -> list[Campaign]:
        """All campaigns, oldest first."""
        return [campaign for campaign in self.ledger.campaigns.values() if self._sees_campaign(campaign)]

    def may_steer(self, campaign: Campaign) -> bool:
        if self.scope is None:
            return True
        return campaign.devices is not None and all(self.device(name) is not None for name in campaign.devices)

    def _sees_campaign(self, campaign: Campaign) -> bool:
        if self.scope is None or campaign.started_by == self.operator:
            return True
        return any(self.device(name) for name in campaign.devices or ()) or bool(self.attempts_in(campaign))

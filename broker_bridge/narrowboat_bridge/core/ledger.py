"""All records in memory, with the indexes that decisions need.

The store is the truth after a crash, this is the truth while the process runs: the two differ only by what
the last turn has not committed yet. Campaigns stand in order of their serial, and so do the attempts of a
device, so the newest is the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from narrowboat_protocol.documents import Admission, Assignment

from .events import Restored
from .records import Attempt, Campaign, Claim, Device, Registration, Release


class Ledger:
    """What the bridge knows."""

    def __init__(self) -> None:
        self.devices: dict[str, Device] = {}
        self.releases: dict[bytes, Release] = {}
        self.campaigns: dict[str, Campaign] = {}
        self.assignments: dict[str, Assignment] = {}
        self.counter_floor = 0
        """Every new assignment counts higher."""
        self.unsure: set[str] = set()
        """Devices whose attempt may have ended already, for all that this copy of the store can tell."""
        self.claims: dict[str, Claim] = {}
        self.registrations: dict[bytes, Registration] = {}
        """By the key that certificates are issued for."""
        self._by_key: dict[bytes, bytes] = {}
        self._by_name: dict[str, bytes] = {}
        self._by_device: dict[str, dict[str, Attempt]] = {}
        self._by_campaign: dict[str, dict[str, Attempt]] = {}

    def restore(self, state: Restored) -> None:
        self.devices = {device.name: device for device in state.devices}
        self.releases = {release.digest: release for release in state.releases}
        self.claims = {claim.name: claim for claim in state.claims}
        for registration in sorted(state.registrations, key=lambda each: each.admission is Admission.REVOKED):
            self.put_registration(registration)
        in_order = sorted(state.campaigns, key=lambda campaign: campaign.serial)
        self.campaigns = {campaign.name: campaign for campaign in in_order}
        self.assignments = {assignment.device: assignment for assignment in state.assignments}
        known = (attempt for attempt in state.attempts if attempt.campaign in self.campaigns)
        for attempt in sorted(known, key=lambda attempt: self.campaigns[attempt.campaign].serial):
            self.put_attempt(attempt)

    def put_registration(self, registration: Registration) -> None:
        """Add a registration, or replace the one with the same first key. A key leads to the newest that has it."""
        before = self.registration_of_key(registration.kids[0])
        if before is not None and before.kids[0] == registration.kids[0]:
            self._take_out(self.registrations.pop(before.kid))
        self.registrations[registration.kid] = registration
        self._by_key.update(dict.fromkeys(registration.kids, registration.kid))
        if registration.admission is Admission.APPROVED:
            self._by_name[registration.device] = registration.kid

    def _take_out(self, registration: Registration) -> None:
        """Forget what leads to a registration, and to no other."""
        for kid in registration.kids:
            if self._by_key.get(kid) == registration.kid:
                del self._by_key[kid]
        if self._by_name.get(registration.device) == registration.kid:
            del self._by_name[registration.device]

    def registration_of_key(self, kid: bytes) -> Registration | None:
        found = self._by_key.get(kid)
        return None if found is None else self.registrations[found]

    def registered(self, name: str) -> Registration | None:
        """The registration that has this name."""
        kid = self._by_name.get(name)
        return None if kid is None else self.registrations[kid]

    def key_of(self, name: str) -> bytes | None:
        """The key that has this name, by registration or by hello. A revoked one has none."""
        registered, device = self.registered(name), self.devices.get(name)
        if registered is not None:
            return registered.kid
        return device.key.kid if device is not None and not self.is_revoked(device.key.kid) else None

    def revoked_under(self, name: str) -> Registration | None:
        """A revoked registration that had this name."""
        revoked = (each for each in self.registrations.values() if each.admission is Admission.REVOKED)
        return next((each for each in revoked if each.device == name), None)

    def is_revoked(self, kid: bytes) -> bool:
        registration = self.registration_of_key(kid)
        return registration is not None and registration.admission is Admission.REVOKED

    def put_attempt(self, attempt: Attempt) -> None:
        """Add or replace an attempt. A new one must belong to the newest campaign of its device."""
        self._by_device.setdefault(attempt.device, {})[attempt.campaign] = attempt
        self._by_campaign.setdefault(attempt.campaign, {})[attempt.device] = attempt

    def put_newest_campaign(self, campaign: Campaign) -> None:
        """Add a campaign, or replace it by one with a higher serial than all."""
        self.campaigns.pop(campaign.name, None)
        self.campaigns[campaign.name] = campaign

    def forget_campaign(self, name: str) -> None:
        del self.campaigns[name]
        for device in self._by_campaign.pop(name, {}):
            del self._by_device[device][name]

    @property
    def next_serial(self) -> int:
        return max((campaign.serial for campaign in self.campaigns.values()), default=0) + 1

    def attempts_of(self, device: str) -> Iterator[Attempt]:
        """The attempts of a device, newest first."""
        return reversed(self._by_device.get(device, {}).values())

    def newest_attempt(self, device: str) -> Attempt | None:
        return next(self.attempts_of(device), None)

    def attempt_with_counter(self, device: str, counter: int) -> Attempt | None:
        return next((attempt for attempt in self.attempts_of(device) if counter in attempt.counters), None)

    def attempts_in(self, campaign: str) -> Iterable[Attempt]:
        return self._by_campaign.get(campaign, {}).values()

    def devices_for(self, campaign: Campaign) -> list[Device]:
        """The devices that a campaign wants now, in order of name."""
        release = self.releases[campaign.release]
        if campaign.devices is not None:
            return [self.devices[name] for name in sorted(campaign.devices)]
        return [device for _, device in sorted(self.devices.items()) if release.is_for(device)]

    def open_campaign_for(self, device: Device) -> Campaign | None:
        """The newest running campaign for all devices that wants this one and is newer than what it has."""
        newest = self.newest_attempt(device.name)
        beyond = self.campaigns[newest.campaign].serial if newest else 0
        for campaign in reversed(self.campaigns.values()):
            if campaign.serial <= beyond:
                return None
            is_open = campaign.ended is None and not campaign.waits and campaign.devices is None
            if is_open and self.releases[campaign.release].is_for(device):
                return campaign
        return None

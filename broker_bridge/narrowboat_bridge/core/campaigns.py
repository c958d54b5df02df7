"""The bridge's brain: every decision about devices, releases and campaigns, as a total function of state, event
and time.

    hello, report    `devices`       who speaks (`pairs`), what it changes (`attempts`), what to send (`steering`)
    request          `admission`     who becomes a device, and under which key
    command          `operations`    start, abort, show (`views`, `warnings`) what is in `sight`, add a release
                     `registrar`     claims, keys and names
                     `approvals`     let begin what waits for a second person
    time             `schedule`      look again at devices that did not answer, and at those of a new campaign

Each decision reads the `ledger` and goes through `changes`, which makes it an action. A campaign for a list
of devices is completed when nothing more is expected of any of them. One for all devices of its hardware has
no end of its own, as another device may come tomorrow: its counts show when all known ones are through, and
it runs until it is aborted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from .actions import Action, Answer, Turn
from .admission import NEVER_S, Admissions
from .changes import Changes
from .devices import Devices
from .events import (
    CommandAccepted,
    EnrolmentRequested,
    Event,
    HelloArrived,
    Now,
    ReleaseAdded,
    ReportArrived,
    Restored,
    RootAdded,
    TimeReached,
)
from .operations import Operations
from .records import Device, Release
from .registrar import REQUESTS as REGISTRAR_REQUESTS
from .registrar import Registrar
from .schedule import FIRST_INTERVAL_S, RESTORED_PER_S


@dataclass(frozen=True, slots=True)
class Settings:
    """What the core is told about its bridge."""

    root_version: int
    releases_max: int = 1000
    campaigns_max: int = 200
    authority_ends_s: int = NEVER_S
    """When the authority that issues devices' certificates ends, in seconds since 1970."""


class Campaigns:
    """The state of the fleet. `handle` is the only way to change it."""

    def __init__(self, settings: Settings) -> None:
        self._changes = Changes()
        self._ledger = self._changes.ledger
        self._devices = Devices(self._changes, settings.root_version)
        self._admissions = Admissions(self._changes, settings.authority_ends_s)
        self._registrar = Registrar(self._changes)
        self._operations = Operations(
            self._changes, releases_max=settings.releases_max, campaigns_max=settings.campaigns_max
        )

    @property
    def deadline(self) -> float | None:
        """The monotonic time at which `TimeReached` is wanted, if any."""
        due_s = (self._changes.schedule.next_due_s, self._changes.approvals.next_due_s)
        return min((each for each in due_s if each is not None), default=None)

    @property
    def device_count(self) -> int:
        return len(self._ledger.devices)

    def device(self, name: str) -> Device | None:
        return self._ledger.devices.get(name)

    def is_revoked(self, kid: bytes) -> bool:
        """True if nothing is believed under this key any more."""
        return self._ledger.is_revoked(kid)

    def release(self, digest: bytes) -> Release | None:
        """A release that is in the store."""
        return self._ledger.releases.get(digest)

    def release_of_file(self, file_digest: bytes) -> Release | None:
        """The release that this release file brought, if it is in the store."""
        return next((item for item in self._ledger.releases.values() if item.file_digest == file_digest), None)

    def needs_payload(self, digest: bytes) -> bool:
        """True if a release in the store is served from this payload."""
        return any(item.payload.digest == digest for item in self._ledger.releases.values())

    def handle(self, event: Event, now: Now) -> list[Action]:
        """Take note of one event and return what is to be done, in order."""
        turn = Turn()
        match event:
            case Restored():
                self._restore(event, now)
            case HelloArrived():
                self._devices.take_hello(event, now, turn)
            case ReportArrived():
                self._devices.take_report(event, now, turn)
            case EnrolmentRequested():
                self._admissions.take_request(event, now, turn)
            case CommandAccepted():
                if isinstance(event.request, REGISTRAR_REQUESTS):
                    outcome = self._registrar.carry_out(event, now, turn)
                else:
                    outcome = self._operations.carry_out(event, now, turn)
                turn.say(Answer(event.operator, event.request_id, outcome))
            case ReleaseAdded():
                outcome = self._operations.add_release(event, turn)
                turn.say(Answer(event.operator, event.request_id, outcome))
            case RootAdded(version):
                self._devices.root_version = version
            case TimeReached():
                self._operations.expire(now, turn)
                for name in self._changes.schedule.take(now.monotonic_s):
                    self._devices.look_at(name, now, turn)
            case _:
                assert_never(event)
        return turn.actions()

    def _restore(self, event: Restored, now: Now) -> None:
        """Every device that may wait for something is looked at again, spread out: a start must not be a storm.

        What is in the store may be an older copy, and nothing in it can tell. So counters go on above the time, where
        no earlier run has issued any, and a device that had not ended its attempt is asked how far it is.
        """
        self._ledger.restore(event)
        self._operations.watch_approvals(now)
        if event.devices:
            self._ledger.counter_floor = now.wall_s
        waiting = [name for name in self._ledger.devices if self._may_wait(name)]
        self._ledger.unsure.update(waiting)
        for index, name in enumerate(waiting):
            self._changes.schedule.at(name, now.monotonic_s + FIRST_INTERVAL_S + index / RESTORED_PER_S)

    def _may_wait(self, name: str) -> bool:
        attempt = self._ledger.newest_attempt(name)
        return attempt is not None and not attempt.has_end

"""What must always be true of the bridge and the network, checked after every event.

    success        the server says `succeeded` only of a release that the device committed
    once           an end is an end: it changes no more, save that a success may turn out to be rolled back
    delivered      every end that a device wrote down is stored by the bridge at last; of equal ends of installations
                   from files, which have no number, the newest
    agreement      in calm weather, over a connection that carries, the server and the slot of a device that waits for
                   no answer contradict each other for `AGREEMENT_S` at most
    clones         no healthy device raises the alarm, whatever was lost, doubled, late, or put back to an older copy
    uploads        what the bridge tells as stored of a file is a beginning of it, and no less than before; what it
                   takes in is whole
    approved       no gateway is given a campaign that waits for a second operator
    floor          no gateway takes a release that is older than one that it committed
    root           the root that a gateway trusts is never an older one than before
    bounds         no queue and no table grows beyond what was declared
    convergence    after all faults have healed, whatever was asked for last is true everywhere, within a bounded time
    silence        and then nobody has anything to say

They look at what is durable: the rows of the bridge's commits, the records and slots of the devices. A breach is a
`BrokenError` that names its invariant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import cbor2

from narrowboat_bridge.core.events import Restored
from narrowboat_bridge.core.records import RECENT_PAIRS
from narrowboat_bridge.server import schema
from narrowboat_bridge.server.rows import Row, campaign_row
from narrowboat_device.boot.state import BootState
from narrowboat_device.core.memory import Letter
from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import Report
from narrowboat_protocol.states import State

from .bridge import CAMPAIGNS_MAX, REPLAYS_MAX
from .bridge_disk import HISTORY_ROWS, Batch
from .site import GATEWAYS_MAX, Site
from .weather import Weather
from .world import World

AGREEMENT_S = 120.0
_COUNTERS_MAX = 32
_RECENT_BYTES = 48


class BrokenError(AssertionError):
    """An invariant does not hold."""

    def __init__(self, invariant: str, text: str) -> None:
        super().__init__(f"{invariant}: {text}")
        self.invariant = invariant


class Box(Protocol):
    """What is looked at of a gateway."""

    @property
    def name(self) -> str: ...

    @property
    def running(self) -> str | None: ...

    @property
    def boot(self) -> BootState: ...

    @property
    def letters(self) -> tuple[Letter, ...]: ...

    @property
    def root(self) -> bytes | None: ...

    @property
    def waits_for_answer(self) -> bool:
        """It will say again what nobody has answered."""
        ...

    def release_in(self, slot: str) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class Known:
    """An attempt as the store has it."""

    serial: int
    release: bytes
    state: State | None


class ServerInvariants:
    """Watches the commits of one bridge and the gateways that it serves."""

    def __init__(self, world: World, site: Site, weather: Weather, rows: Callable[[], Mapping[str, int]]) -> None:
        self._world = world
        self._site = site
        self._weather = weather
        self._rows = rows
        self._boxes: dict[str, Box] = {}
        self._hears: dict[str, Callable[[], bool]] = {}
        self._boots: dict[str, BootState] = {}
        self._committed: set[tuple[str, bytes]] = set()
        self._outboxes: dict[str, tuple[Letter, ...]] = {}
        self._ends: dict[str, dict[bytes | tuple[bytes, State], bytes]] = {}
        self._stored: set[bytes] = set()
        self._campaigns: dict[str, tuple[int, bytes]] = {}
        self._waiting: set[str] = set()
        """Campaigns that nobody has approved and somebody must."""
        self._roots: dict[str, bytes | None] = {}
        self._disagree_since_s: dict[str, float] = {}
        self._unheard: set[str] = set()
        self._old: set[tuple[str, str]] = set()
        self._is_restored = False
        self.attempts: dict[tuple[str, str], Known] = {}
        """By device and campaign."""

    def add(self, box: Box, hears: Callable[[], bool]) -> None:
        """Watch a gateway, of which something is promised; `hears` says whether it and the bridge can talk."""
        self._boxes[box.name], self._hears[box.name] = box, hears
        self._ends[box.name] = {}
        self.look_at(box.name)

    # What the bridge makes durable.

    def started(self, state: Restored) -> None:
        """The bridge began on what it found, which may be an older copy."""
        self._campaigns = {campaign.name: (campaign.serial, campaign.release) for campaign in state.campaigns}
        self._waiting = {campaign.name for campaign in state.campaigns if _waits(campaign_row(campaign))}
        self.attempts = {
            (item.device, item.campaign): Known(*self._campaigns[item.campaign], item.state) for item in state.attempts
        }
        if self._is_restored:
            self._old, self._is_restored = set(self.attempts), False

    def restored(self) -> None:
        """The database is an older copy. What it says of a device may be old until the device's next hello; what it
        says of an attempt is history, as the device may have gone on to another that the copy does not know.
        """
        self._unheard.update(self._boxes)
        self._is_restored = True

    def uploaded(self, got: bytes, expected: bytes) -> None:
        if got != expected:
            raise BrokenError("uploads", f"expected {len(expected)} bytes of the file, got {len(got)} or others")

    def committed(self, batch: Batch) -> None:
        for row in batch.get(schema.campaigns, ()):
            self._campaigns[row["name"]] = (row["serial"], row["release"])
            (self._waiting.add if _waits(row) else self._waiting.discard)(row["name"])
        for row in batch.get(schema.reports, ()):
            self._stored.add(row["content"])
        for row in batch.get(schema.hellos, ()):
            self._unheard.discard(row["device"])
        for row in batch.get(schema.audit, ()):
            self._check_entry(row["content"])
        for row in batch.get(schema.devices, ()):
            if len(row["recent"]) > RECENT_PAIRS * _RECENT_BYTES:
                raise BrokenError("bounds", f"{row['name']}: more than {RECENT_PAIRS} pairs are remembered")
        for row in batch.get(schema.attempts, ()):
            self._check_attempt(row)
        self._check_rows()
        for name in self._boxes:
            self._check_agreement(name)

    def _check_entry(self, content: bytes) -> None:
        entry = cbor2.loads(content)
        if entry[3] == "alarm" and entry[4] in self._boxes:
            raise BrokenError("clones", f"{entry[4]}: {entry[5]}")

    def _check_attempt(self, row: Row) -> None:
        device, campaign = row["device"], row["campaign"]
        if device not in self._boxes:
            return
        if campaign in self._waiting:
            raise BrokenError("approved", f"{device} was given {campaign}, which nobody approved")
        serial, release = self._campaigns[campaign]
        state = None if row["state"] is None else State(row["state"])
        before = self.attempts.get((device, campaign))
        if before is not None and before.serial == serial and before.state is not None and before.state.terminal:
            fell_back = before.state is State.SUCCEEDED and state is State.ROLLED_BACK
            if state is not before.state and not fell_back:
                raise BrokenError("once", f"{device} in {campaign}: {before.state} became {state}")
        if state is State.SUCCEEDED and (device, release) not in self._committed:
            raise BrokenError("success", f"{device} in {campaign} never committed what it is said to run")
        if len(row["counters"]) > 8 * _COUNTERS_MAX:
            raise BrokenError("bounds", f"{device} in {campaign}: more than {_COUNTERS_MAX} counters")
        if before is None or before.state is not state:
            self._old.discard((device, campaign))
            self._world.note("server", device, campaign, state)
        self.attempts[device, campaign] = Known(serial, release, state)

    def _check_rows(self) -> None:
        devices = GATEWAYS_MAX
        bounds = {
            "devices": devices,
            "hellos": devices,
            "assignments": devices,
            "reports": devices * HISTORY_ROWS,
            "releases": len(self._site.releases),
            "campaigns": CAMPAIGNS_MAX,
            "attempts": CAMPAIGNS_MAX * devices,
            "replays": REPLAYS_MAX,
        }
        rows = self._rows()
        for table, most in bounds.items():
            if rows[table] > most:
                raise BrokenError("bounds", f"{table}: expected at most {most} rows, got {rows[table]}")

    # What the devices do.

    def look_at(self, name: str) -> None:
        """Look at a gateway after it handled an event."""
        box = self._boxes[name]
        letters, boot = box.letters, box.boot
        if letters is not self._outboxes.get(name):
            self._outboxes[name] = letters
            for letter in letters:
                content = SignedDocument.decode(letter.report).content
                report = Report.decode(content)
                self._ends[name][content if report.attempt else (report.release, report.state)] = content
        if boot is not self._boots.get(name):
            self._boots[name] = boot
            primary = box.release_in(boot.primary)
            if primary is not None and boot.trial is None:
                self._commit(name, primary)
        if (root := box.root) is not self._roots.get(name):
            self._check_root(name, root)
        self._check_agreement(name)

    def _commit(self, name: str, release: bytes) -> None:
        sequences = self._site.sequences
        before = max((sequences[known] for box, known in self._committed if box == name), default=0)
        if (name, release) not in self._committed and sequences[release] < before:
            raise BrokenError("floor", f"{name} took a release of sequence {sequences[release]} after one of {before}")
        self._committed.add((name, release))

    def _check_root(self, name: str, root: bytes | None) -> None:
        roots, before = self._site.roots, self._roots.get(name) or self._site.roots[0]
        if roots.index(root or roots[0]) < roots.index(before):
            raise BrokenError("root", f"{name} trusts an older root than before")
        self._roots[name] = root

    def runs(self, name: str) -> bytes | None:
        """The release in the slot that runs and boots, by its bytes."""
        box = self._boxes[name]
        return box.release_in(box.running) if box.running == box.boot.primary else None

    def undelivered(self, name: str) -> list[str]:
        """The ends of a device that the bridge never stored."""
        return [str(Report.decode(content).pair) for content in sorted({*self._ends[name].values()} - self._stored)]

    def newest(self, name: str) -> Known | None:
        """The device's newest attempt that was reported on, of those that are no history of an older copy."""
        begun = [
            item
            for key, item in self.attempts.items()
            if key[0] == name and item.state is not None and key not in self._old
        ]
        return max(begun, key=lambda item: item.serial, default=None)

    def disagreement(self, name: str) -> str:
        """How the server and the slot contradict each other; empty if they do not."""
        newest = self.newest(name)
        if newest is None or newest.state is None:
            return ""
        if newest.state is State.SUCCEEDED and self.runs(name) != newest.release:
            return f"{name}: the server says succeeded, the slot that runs holds another release"
        return ""

    def _check_agreement(self, name: str) -> None:
        may_judge = self._weather.calm and name not in self._unheard and self._hears[name]()
        if not may_judge or self._boxes[name].waits_for_answer or not (text := self.disagreement(name)):
            self._disagree_since_s.pop(name, None)
            return
        since_s = self._disagree_since_s.setdefault(name, self._world.now_s)
        if self._world.now_s - since_s > AGREEMENT_S:
            raise BrokenError("agreement", f"{text}, for {self._world.now_s - since_s:.0f} s")


def _waits(row: Row) -> bool:
    """Whether a campaign, as it is stored, may not begin."""
    return row["approval_ends_at"] is not None and row["approved_by"] is None

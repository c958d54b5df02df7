"""A gateway to torment: provisioned, with one release in its slots and another one in a file beside them, and so small
that its whole life takes a few hundred system calls.

`live` is what the machine does from power-on to power-on: the boot loader chooses a slot, the agent starts and installs
the file, and where it asks for a reboot, the machine boots again. It uses the shells as `narrowboat-device install`
does. On trial the offer of the file comes too late and is refused, so the command waits there until the slot is
committed, as a script that is started with each boot would.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from narrowboat_device.assembly import open_gateway
from narrowboat_device.boot.loader import power_on
from narrowboat_device.boot.state import BootState, read_state, write_state
from narrowboat_device.config import Config, load_config
from narrowboat_device.envelopes import EnvelopeFolder
from narrowboat_device.inbox import Inbox
from narrowboat_device.install import install
from narrowboat_protocol.errors import NarrowboatError, UsageError
from tests.device.kit import DISK, make_gateway
from tests.support.fleet import FleetKit, MadeRelease
from tests.support.gateway import SMALL
from tests.support.images import small_image

LIMITS = SMALL
OLD_SEQUENCE, NEW_SEQUENCE = 3, 4
OLD_BYTES, NEW_BYTES = 41_000, 45_001
BOOTS_MAX = 6
DONE, REFUSED, WRONG_USE, NOT_DONE = 0, 1, 2, 3
"""How `live` ends: the first three as `narrowboat-device install` does, the last if it booted in vain."""


@dataclass(frozen=True, slots=True)
class Station:
    """The folder of a gateway, and what may ever lie in its slots."""

    folder: Path
    old: MadeRelease
    new: MadeRelease

    @property
    def config(self) -> Config:
        return load_config(self.folder / "device.toml")

    @property
    def release_file(self) -> Path:
        return self.folder / "update.nbr"

    def envelope_of(self, release: bytes | None) -> bytes | None:
        """The envelope of one of the two releases, by its digest."""
        return {self.old.digest: self.old.envelope, self.new.digest: self.new.envelope}.get(release or b"")

    def moved_to(self, folder: Path) -> Station:
        """The same gateway, when its folder was copied."""
        return Station(folder, self.old, self.new)


def make_station(folder: Path) -> Station:
    """Make a gateway in an empty folder, that was started and updated before: both slots hold the old release, and may
    boot.
    """
    fleet = FleetKit.create(limits=LIMITS)
    old = fleet.make_release(small_image(1, OLD_BYTES), version="1.0.0", sequence=OLD_SEQUENCE)
    new = fleet.make_release(small_image(2, NEW_BYTES), version="2.0.0", sequence=NEW_SEQUENCE)
    gateway = make_gateway(folder, fleet)
    for name in gateway.config.slot_names:
        with (folder / f"slot-{name}.img").open("r+b") as slot:
            slot.write(old.image)
        EnvelopeFolder(DISK, gateway.data, LIMITS).save(name, old.envelope)
    write_state(DISK, gateway.config.boot.state_file, BootState("a", None, 0, frozenset("ab")))
    with open_gateway(DISK, gateway.config, LIMITS, with_link=False):
        pass
    station = Station(folder, old, new)
    station.release_file.write_bytes(new.file)
    return station


def live(station: Station, boots_max: int = BOOTS_MAX) -> int:
    """Boot and install until a boot began with the new release committed; returns the exit status. What is not an error
    of ours leaves it as an exception.
    """
    try:
        for _ in range(boots_max):
            config = station.config
            power_on(DISK, config.boot.state_file, config.boot.booted_path, config.slot_names)
            was_updated = is_updated(station)
            install(DISK, config, LIMITS, station.release_file, lambda line: print(line, flush=True), _unstoppable)
            if was_updated and is_updated(station):
                return DONE
    except UsageError as error:
        print(f"{error.reason}: {error}", flush=True)
        return WRONG_USE
    except NarrowboatError as error:
        print(f"{error.reason}: {error}", flush=True)
        return REFUSED
    return NOT_DONE


def is_updated(station: Station) -> bool:
    """Whether the new release is what boots from now on."""
    state = read_state(DISK, station.config.boot.state_file)
    if state is None or state.trial is not None:
        return False
    return EnvelopeFolder(DISK, station.config.storage.data_dir, LIMITS).load(state.primary) == station.new.envelope


@contextmanager
def _unstoppable(_inbox: Inbox) -> Iterator[None]:
    yield

"""Provisioning as a subject of power cuts: whatever was cut, running it again makes a whole gateway, and one that was
whole stays the same gateway.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from narrowboat_device.assembly import open_storage
from narrowboat_device.boot.loader import power_on
from narrowboat_device.provision import make_folders, make_missing, signing_request
from tests.sim.disk import SimDisk
from tests.sim.factory import make_config
from tests.sim.medium import garbage
from tests.sim.scenes import LIMITS
from tests.sim.world import World
from tests.support.fleet import FleetKit

_SLOT_BYTES = 16 * 4096


@dataclass(slots=True)
class Bare:
    """A machine that left the factory without us, but for the root."""

    disk: SimDisk
    private_key: bytes | None = None
    """The key of a provisioning that ended: the fleet may know it from then on."""

    def fork(self) -> Bare:
        return Bare(self.disk.fork(), self.private_key)

    @property
    def key(self) -> object:
        return self.disk.key, self.private_key is None


@dataclass(frozen=True, slots=True)
class Provisioning:
    """`provision`, run until it ends."""

    fleet: FleetKit
    name: str = "provision"

    def begin(self) -> Bare:
        world, config = World(3), make_config("gw-1")
        disk = SimDisk(world.rng)
        for slot in config.slots:
            disk.make_slot(slot.path, garbage(world.rng, b"", _SLOT_BYTES))
        disk.make_file(config.storage.root, self.fleet.root_data)
        return Bare(disk)

    def play(self, state: object, seed: int, watch: Callable[[str, Callable[[], Bare]], None]) -> None:
        assert isinstance(state, Bare)
        config, disk = make_config("gw-1"), state.disk
        disk.rng = World(seed).rng
        disk.watch = lambda what: watch(what, state.fork)
        make_folders(disk, config, LIMITS)
        make_missing(disk, config, LIMITS)
        disk.watch = lambda _what: None
        signing_request(disk, config)
        key = disk.durable(config.broker.key)
        assert state.private_key in (None, key), "expected the same key as before"
        state.private_key = key
        watch("the end", state.fork)
        slot = power_on(disk, config.boot.state_file, config.boot.booted_path, config.slot_names)
        assert slot == config.slot_names[0]
        with open_storage(disk, config, LIMITS) as storage:
            assert set(storage.started.records.values()) == {b""}, "expected empty records that can be read"

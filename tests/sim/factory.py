"""Where simulated gateways come from: a configuration whose paths lie on the simulated disk, and a disk as the factory
leaves it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from narrowboat_device.boot.state import STATE_BYTES_MAX, BootState, write_state
from narrowboat_device.config import Config
from narrowboat_device.core.actions import Record
from narrowboat_device.records import RecordFile, record_bytes_max, record_path
from narrowboat_protocol.limits import Limits
from tests.sim.disk import SimDisk
from tests.sim.medium import garbage
from tests.sim.world import World
from tests.support.fleet import COMPONENT, FleetKit, MadeRelease

HOME = Path("/gateway")


@cache
def make_config(name: str) -> Config:
    """A configuration whose paths lie on the simulated disk. All have the same path objects, which are quickly told to
    be equal.
    """
    config = _nameless()
    return config.model_copy(update={"gateway": config.gateway.model_copy(update={"name": name})})


@cache
def _nameless() -> Config:
    keys = HOME / "keys"
    return Config.model_validate(
        {
            "gateway": {"name": "gateway", "vendor": "example.com", "class": "gateway-a", "component": COMPONENT},
            "broker": {
                "host": "broker",
                "server_ca": keys / "ca.pem",
                "certificate": keys / "certificate.pem",
                "key": keys / "key.pem",
            },
            "storage": {"data_dir": HOME / "data", "root": HOME / "root.cbor"},
            "boot": {"state_file": HOME / "boot" / "state"},
            "slots": [{"name": slot, "path": Path("/dev") / slot} for slot in ("a", "b")],
            "health": {"deadline_s": 60.0, "retry_s": 10.0},
            "hooks": {"retry_s": 30.0},
        }
    )


def make_disk(
    world: World, fleet: FleetKit, limits: Limits, factory: MadeRelease | bytes, slot_bytes: int = 64 * 1024
) -> SimDisk:
    """The disk of a gateway that left the factory: provisioned, with `factory` in slot a and garbage elsewhere."""
    disk, config = SimDisk(world.rng), make_config("factory")
    image = factory if isinstance(factory, bytes) else factory.image
    disk.make_slot(config.slots[0].path, image + garbage(world.rng, image, slot_bytes - len(image)))
    disk.make_slot(config.slots[1].path, garbage(world.rng, image[::-1], slot_bytes))
    disk.make_file(config.storage.root, fleet.root_data)
    disk.make_folders(config.storage.data_dir, config.boot.state_file.parent)
    for record in Record:
        RecordFile.allocate(disk, record_path(config.storage.data_dir, record), record_bytes_max(record, limits))
    RecordFile.allocate(disk, config.boot.state_file, STATE_BYTES_MAX)
    write_state(disk, config.boot.state_file, BootState("a", None, 0, frozenset("a")))
    if not isinstance(factory, bytes):
        disk.make_file(config.storage.data_dir / "slot-a.suit", factory.envelope)
    return disk

"""What the commands left on disk."""

from __future__ import annotations

import random

from narrowboat_device.boot.state import BootState, read_state
from tests.device.kit import DISK, GatewayFolder

IMAGE = random.Random(1).randbytes(300_000) + bytes(400_000)


def put(gateway: GatewayFolder, data: bytes) -> str:
    path = gateway.folder / "release.nbr"
    path.write_bytes(data)
    return str(path)


def boot_state(gateway: GatewayFolder) -> BootState | None:
    return read_state(DISK, gateway.config.boot.state_file)


def slot_b(gateway: GatewayFolder) -> bytes:
    return (gateway.folder / "slot-b.img").read_bytes()

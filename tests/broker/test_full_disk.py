"""A disk that fills up in the middle of a download ends the attempt, and nothing else.

The slot that is written lies on a small file system which only the first machine sees. A second one, with the same
folder and room in it, shows that nothing was lost.
"""

from __future__ import annotations

import sys

from narrowboat_protocol.limits import MIB
from narrowboat_protocol.payload import Codec
from tests.support.agent_thread import AgentThread
from tests.support.live_fleet import NARROWBOAT_DEVICE
from tests.support.processes import wait_for
from tests.support.rogue import PATIENCE_S

from .lab import SLOT_BYTES, Lab, noise

IMAGE_BYTES = 3 * MIB
ROOM_BYTES = 2 * MIB
_WITH_LITTLE_ROOM = """
import os, subprocess, sys
from tests.faults.mounts import keep_mounts_to_ourselves
folder, room, slot_bytes, *command = sys.argv[1:]
keep_mounts_to_ourselves()
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "small", folder], check=True)
with open(f"{folder}/slot-b.img", "wb") as slot:
    slot.truncate(int(slot_bytes))
os.execv(command[0], command)
"""


def test_a_disk_that_fills_up_ends_the_attempt_keeps_the_slot_that_runs_and_is_told(lab: Lab) -> None:
    pushed = lab.push(noise(100, IMAGE_BYTES), "10.0.0", codec=Codec.STORED)
    gateway = lab.make_gateway("gw-full-disk")
    running = (gateway.folder / "slot-a.img").read_bytes()
    small = gateway.folder / "small"
    small.mkdir()
    (gateway.folder / "slot-b.img").rename(small / "slot-b.img")
    gateway.config.write_text(gateway.config.read_text().replace('"slot-b.img"', '"small/slot-b.img"'))
    machine = [NARROWBOAT_DEVICE, "machine", "--config", str(gateway.config)]
    with_little_room = [sys.executable, "-c", _WITH_LITTLE_ROOM, str(small), str(ROOM_BYTES), str(SLOT_BYTES), *machine]
    child = lab.children.start("gw-full-disk", with_little_room)
    lab.start(pushed, "full-disk", "gw-full-disk")
    attempt = lab.wait_for_end("full-disk", "gw-full-disk")
    assert (attempt["state"], attempt["reason"]) == ("failed", "storage_full")
    assert child.running
    child.stop()
    with AgentThread(gateway.config) as machine_with_room:
        assert (machine_with_room.boot.primary, sorted(machine_with_room.boot.bootable)) == ("a", ["a"])
        assert machine_with_room.slot("a") == running
        wait_for(lambda: not machine_with_room.outbox, PATIENCE_S, "the Ack of the end")
        lab.start(pushed, "room-again", "gw-full-disk")
        assert lab.wait_for_end("room-again", "gw-full-disk")["state"] == "succeeded"
        assert machine_with_room.slot("b")[:IMAGE_BYTES] == pushed.made.image

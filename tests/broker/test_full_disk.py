"""A disk that fills up in the middle of a download ends the attempt, and nothing else.

The disk is full for the agent alone, by RLIMIT_FSIZE: beyond it, every write fails as it would on a full file system,
and no test needs a file system of its own or the rights to make one.
"""

from __future__ import annotations

import sys

from narrowboat_protocol.limits import MIB
from narrowboat_protocol.payload import Codec
from tests.support.agent_thread import AgentThread
from tests.support.live_fleet import NARROWBOAT_DEVICE
from tests.support.processes import wait_for
from tests.support.rogue import PATIENCE_S

from .lab import Lab, noise

IMAGE_BYTES = 3 * MIB
ROOM_BYTES = 2 * MIB + 1000
_WITH_LITTLE_ROOM = (
    "import os, resource, sys\n"
    f"resource.setrlimit(resource.RLIMIT_FSIZE, ({ROOM_BYTES}, {ROOM_BYTES}))\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)


def test_a_disk_that_fills_up_ends_the_attempt_keeps_the_slot_that_runs_and_is_told(lab: Lab) -> None:
    pushed = lab.push(noise(100, IMAGE_BYTES), "10.0.0", codec=Codec.STORED)
    gateway = lab.make_gateway("gw-full-disk")
    running = (gateway.folder / "slot-a.img").read_bytes()
    machine = [sys.executable, "-c", _WITH_LITTLE_ROOM, NARROWBOAT_DEVICE, "machine", "--config", str(gateway.config)]
    child = lab.children.start("gw-full-disk", machine)
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

"""One gateway in a process of its own, measured: `python -m tests.bench.probe CONFIG WANTED [--plain] [--for-s S]`.
Prints one line of JSON.

It is the real agent and the real shell; between the two stands a clock that notes when the link began and opened, when
the first block came, when the last frame was decoded, proved and written (the read-back that follows reads the medium,
not the link), and when the slot was read back. Memory is the peak of the whole process, which has nothing else in it.
With `--plain` the link leaves out TLS, which no gateway does: it shows what TLS costs, and compares with a plain server
as it should be. With `--for-s` it ends so long after it began to connect, whatever has happened by then.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Sequence
from math import inf
from pathlib import Path

from paho.mqtt.client import Client

from narrowboat_device import assembly
from narrowboat_device.assembly import open_gateway
from narrowboat_device.boot.loader import power_on
from narrowboat_device.config import load_config
from narrowboat_device.core import Agent
from narrowboat_device.core.actions import Action, ReadBackSlot
from narrowboat_device.core.events import BlockArrived, Event, LinkOpened, Now, SlotReadBack, earliest
from narrowboat_device.disk import SystemDisk
from narrowboat_device.inbox import InboxClosedError
from narrowboat_device.link import Link
from narrowboat_device.loop import Shell
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.transfer import decode_block

DISK = SystemDisk()


class Clocked:
    """The agent, with a clock beside it. Ends the process's loop once `wanted` has happened."""

    def __init__(self, agent: Agent, wanted: str, end_s: float) -> None:
        self._agent = agent
        self._wanted = wanted
        self._end_s = end_s
        self.times: dict[str, float] = {}
        self.blocks: dict[int, int] = {}
        """What came of the payload: bytes by offset."""

    @property
    def deadline(self) -> float | None:
        return earliest(self._agent.deadline, None if self._end_s == inf else self._end_s)

    def handle(self, event: Event, now: Now) -> Sequence[Action]:
        if isinstance(event, LinkOpened):
            self._note("link_opened")
        if isinstance(event, BlockArrived):
            self._note("first_block")
            if self._end_s < inf:
                block = decode_block(event.message)
                self.blocks[block.offset] = len(block.data)
        actions = self._agent.handle(event, now)
        if any(isinstance(action, ReadBackSlot) for action in actions):
            self._note("written")
        if isinstance(event, SlotReadBack):
            self._note("proved")
        if self._wanted in self.times or time.monotonic() >= self._end_s:
            raise InboxClosedError
        return actions

    def _note(self, what: str) -> None:
        self.times.setdefault(what, time.monotonic())


class TimedLink(Link):
    """The agent's link, with a note of when it began to connect."""

    began_s = 0.0

    def start(self) -> None:
        TimedLink.began_s = time.monotonic()
        super().start()


class PlainLink(TimedLink):
    """The agent's link over bare TCP, to a broker that takes a user name for a proof."""

    def _new_client(self) -> Client:
        client = super()._new_client()
        client.username_pw_set(self._endpoint.device)
        client._ssl = False  # noqa: SLF001  # paho has no way back from `tls_set_context`
        return client


def peak_memory_kib() -> int:
    """The peak of this process alone. `ru_maxrss` would do, but it counts what the parent had before it began us."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.probe")
    parser.add_argument("config", type=Path)
    parser.add_argument("wanted")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--for-s", type=float, default=inf)
    given = parser.parse_args()
    config = load_config(given.config)
    # The one place where the process is not the agent's.
    setattr(assembly, "Link", PlainLink if given.plain else TimedLink)  # noqa: B010
    power_on(DISK, config.boot.state_file, config.boot.booted_path, config.slot_names)
    with open_gateway(DISK, config, DEFAULT_LIMITS, with_link=True) as gateway:
        clocked = Clocked(gateway.agent, given.wanted, time.monotonic() + given.for_s)
        Shell(clocked, gateway.machine, gateway.inbox).run([gateway.started])
    used = resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        **{name: moment - TimedLink.began_s for name, moment in clocked.times.items()},
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_memory_kib": peak_memory_kib(),
        "ended": time.monotonic() - TimedLink.began_s,
        "received_bytes": sum(clocked.blocks.values()),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

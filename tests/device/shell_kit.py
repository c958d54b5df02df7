"""A shell over real files, with a core that does as the test says and a link that remembers what went into it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from narrowboat_device.boot.file import FileBootControl
from narrowboat_device.boot.loader import power_on
from narrowboat_device.boot.state import STATE_BYTES_MAX, BootState, write_state
from narrowboat_device.core import actions as act
from narrowboat_device.core import events as ev
from narrowboat_device.core.actions import Action, Hook, Record
from narrowboat_device.core.events import Event, Now
from narrowboat_device.disk import SystemDisk
from narrowboat_device.envelopes import EnvelopeFolder
from narrowboat_device.hooks import HookCommand, HookRunner
from narrowboat_device.inbox import Inbox
from narrowboat_device.loop import Ending, Machine, Shell
from narrowboat_device.records import RecordFile
from narrowboat_device.slots import SlotFile
from narrowboat_device.status import StatusFile
from narrowboat_device.workers import Jobs, Workers
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.states import State
from narrowboat_protocol.topics import Channel

DISK = SystemDisk()
LIMITS = Limits(log2_chunk_size=4, subtree_chunks=4, image_bytes_max=4096)
SLOT_BYTES = 1024
CONTENT_BYTES_MAX = 100
LINK_OPENED, STOP = ev.LinkOpened(), ev.LinkLost()
DONE = act.Log("done")
STATUS = act.ShowStatus(State.DOWNLOADING, None, bytes(32), 1, 2, 3, None, None)


class ScriptedCore:
    """Answers each event with the next list of its script; closes the inbox at `STOP` and at its end."""

    def __init__(self, inbox: Inbox, *script: Sequence[Action]) -> None:
        self.deadline: float | None = None
        self.heard: list[Event] = []
        self._inbox = inbox
        self._script = deque(script)

    def handle(self, event: Event, now: Now) -> Sequence[Action]:
        self.heard.append(event)
        actions = self._script.popleft() if self._script else ()
        if event == STOP or not self._script:
            self._inbox.close()
        return actions


@dataclass
class RecordingLink:
    """Keeps what is published."""

    published: list[tuple[Channel, bytes, int]] = field(default_factory=list)
    brokers: list[act.UseBroker] = field(default_factory=list)
    times: list[act.BelieveTime] = field(default_factory=list)

    def publish(self, channel: Channel, payload: bytes, qos: int) -> None:
        self.published.append((channel, payload, qos))

    def use_broker(self, broker: act.UseBroker) -> None:
        self.brokers.append(broker)

    def believe_time(self, known: act.BelieveTime) -> None:
        self.times.append(known)


class Clocks:
    """Time that passes by a second with each look, so that no deadline is waited for in vain."""

    def __init__(self) -> None:
        self.monotonic_s = 1000.0

    def __call__(self) -> Now:
        self.monotonic_s += 1.0
        return Now(self.monotonic_s, 1_800_000_000)


@dataclass
class Rig:
    """A whole machine in a folder, but for the network."""

    folder: Path
    inbox: Inbox
    link: RecordingLink
    machine: Machine
    reboots: list[str]

    def run(self, *script: Sequence[Action], first: Sequence[Event] = (LINK_OPENED,)) -> ScriptedCore:
        core = ScriptedCore(self.inbox, *script)
        self.ending = Shell(core, self.machine, self.inbox, Clocks()).run(first)
        return core

    ending: Ending | None = None

    @property
    def slot_b(self) -> bytes:
        return (self.folder / "slot-b").read_bytes()

    def record(self, record: Record) -> bytes | None:
        return self.machine.records[record].load()


def build_rig(folder: Path, hook: str = "exit 21") -> Iterator[Rig]:
    state_file, booted_file = folder / "state", folder / "booted"
    RecordFile.allocate(DISK, state_file, STATE_BYTES_MAX)
    write_state(DISK, state_file, BootState("a", None, 0, frozenset("a")))
    power_on(DISK, state_file, booted_file, ("a", "b"))
    reboots: list[str] = []
    with ExitStack() as stack:
        for name in ("slot-a", "slot-b"):
            (folder / name).write_bytes(bytes(SLOT_BYTES))
        slots = {
            name: stack.enter_context(SlotFile(DISK, name, folder / f"slot-{name}", LIMITS, writable=name == "b"))
            for name in ("a", "b")
        }
        for record in Record:
            RecordFile.allocate(DISK, folder / record, CONTENT_BYTES_MAX)
        records = {
            record: stack.enter_context(RecordFile(DISK, folder / record, CONTENT_BYTES_MAX)) for record in Record
        }
        inbox = Inbox(block_bytes_max=1000)
        hooks = HookRunner({Hook.DOWNLOAD: HookCommand(("/bin/sh", "-c", hook), 60.0)}, "a", folder / "status")
        workers = Workers(Jobs(DISK, slots, hooks, inbox), inbox)
        stack.callback(workers.close)
        stack.callback(hooks.close)
        link = RecordingLink()
        machine = Machine(
            slots=slots,
            records=records,
            envelopes=EnvelopeFolder(DISK, folder, LIMITS),
            boot=FileBootControl(DISK, state_file, booted_file, ("a", "b"), 3),
            workers=workers,
            link=link,
            status=StatusFile(DISK, folder / "status", {"device": "gw-1"}),
            reboot=lambda: reboots.append("reboot"),
        )
        yield Rig(folder, inbox, link, machine, reboots)

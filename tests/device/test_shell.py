"""The loop around the agent: actions in their order, failures told, nothing lost that decides anything."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from narrowboat_device.boot.file import FileBootControl
from narrowboat_device.boot.loader import power_on
from narrowboat_device.boot.state import STATE_BYTES_MAX, BootState, read_state, write_state
from narrowboat_device.core import actions as act
from narrowboat_device.core import events as ev
from narrowboat_device.core.actions import Action, Hook, Record
from narrowboat_device.core.events import Event, Now
from narrowboat_device.disk import SystemDisk
from narrowboat_device.envelopes import EnvelopeFolder
from narrowboat_device.hooks import HookCommand, HookRunner
from narrowboat_device.inbox import Inbox, InboxClosedError
from narrowboat_device.loop import Ending, Machine, Shell
from narrowboat_device.records import RecordFile
from narrowboat_device.slots import SlotFile
from narrowboat_device.status import StatusFile, read_status
from narrowboat_device.workers import Jobs, Workers
from narrowboat_protocol.errors import MediumError, Reason
from narrowboat_protocol.limits import MIB, Limits
from narrowboat_protocol.release_file import encode_header
from narrowboat_protocol.states import State
from narrowboat_protocol.topics import Channel
from narrowboat_protocol.transfer import FetchRequest, decode_block
from narrowboat_protocol.tree import TreeBuilder
from tests.device.kit import file_size_limit

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


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    yield from build_rig(tmp_path)


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


def test_every_action_reaches_its_part_of_the_machine(rig: Rig) -> None:
    core = rig.run(
        [
            act.Publish(Channel.REPORT, b"report", 1),
            act.Fetch("mqtt:", Channel.GET, bytes(32), ((0, 2048),), 1024),
            act.WriteChunks("b", 16, b"x" * 16),
            act.Save(Record.JOURNAL, b"journal"),
            act.Save(Record.TRUST, b"before"),
            act.Save(Record.TRUST, b"trust", both=True),
            act.SaveEnvelope("b", b"envelope"),
            act.ArmTrial("b"),
            STATUS,
            DONE,
        ]
    )
    request = FetchRequest(payload=bytes(32), ranges=((0, 2048),), block_bytes=1024).encode()
    assert rig.link.published == [(Channel.REPORT, b"report", 1), (Channel.GET, request, 0)]
    assert rig.slot_b[:48] == bytes(16) + b"x" * 16 + bytes(16)
    assert rig.record(Record.JOURNAL) == b"journal"
    assert (rig.folder / Record.TRUST).read_bytes().count(b"trust") == 2
    assert rig.machine.envelopes.load("b") == b"envelope"
    assert rig.machine.boot.status().trial == "b"
    assert read_status(DISK, rig.folder / "status")["state"] == "downloading"
    assert core.heard == [LINK_OPENED]
    assert rig.ending is Ending.STOPPED


@pytest.mark.parametrize(
    ("action", "state"),
    [
        (act.MarkUnbootable("b"), BootState("a", None, 0, frozenset("a"))),
        (act.ArmTrial("b"), BootState("a", "b", 3, frozenset("ab"))),
        (act.CommitSlot("b"), BootState("b", None, 0, frozenset("ab"))),
        (act.RestoreBoot("b"), BootState("b", None, 0, frozenset("b"))),
    ],
)
def test_boot_actions_change_what_boots(rig: Rig, action: Action, state: BootState) -> None:
    rig.run([action])
    assert read_state(DISK, rig.folder / "state") == state


def test_an_envelope_is_removed(rig: Rig) -> None:
    rig.run([act.SaveEnvelope("b", b"old"), act.SaveEnvelope("b", None), act.SaveEnvelope("a", None)])
    assert rig.machine.envelopes.load("b") is None


def test_what_follows_a_failed_action_is_dropped_and_the_failure_told_first(rig: Rig) -> None:
    failing = act.WriteChunks("b", SLOT_BYTES, b"beyond the end")
    core = rig.run(
        [act.Save(Record.JOURNAL, b"before"), failing, act.Save(Record.JOURNAL, b"after"), act.ArmTrial("b")],
        [act.Save(Record.OUTBOX, b"told")],
        [],
        first=[LINK_OPENED, STOP],
    )
    assert rig.record(Record.JOURNAL) == b"before"
    assert rig.machine.boot.status().trial is None
    opened, failed, stop = core.heard
    assert (opened, stop) == (LINK_OPENED, STOP)
    assert isinstance(failed, ev.ActionFailed)
    assert (failed.action, failed.reason) == (failing, Reason.BAD_USE)
    assert rig.record(Record.OUTBOX) == b"told"


@pytest.mark.parametrize(
    "action",
    [
        act.WriteChunks("b", 0, b"x" * 100),
        act.Save(Record.JOURNAL, b"content"),
        act.SaveEnvelope("b", b"envelope"),
    ],
)
def test_a_full_disk_is_told_in_its_own_word(rig: Rig, action: Action) -> None:
    core = ScriptedCore(rig.inbox, [action], [])
    rig.machine.status.flush(Now(0.0, 0), at_once=True)
    with file_size_limit(0):
        Shell(core, rig.machine, rig.inbox, Clocks()).run([LINK_OPENED])
    assert [heard.reason for heard in core.heard if isinstance(heard, ev.ActionFailed)] == [Reason.STORAGE_FULL]


def test_an_agent_is_not_let_write_to_the_slot_that_runs(rig: Rig) -> None:
    core = rig.run([act.WriteChunks("a", 0, b"x")], [])
    assert isinstance(core.heard[1], ev.ActionFailed)
    assert (rig.folder / "slot-a").read_bytes() == bytes(SLOT_BYTES)


def test_a_machine_on_which_everything_fails_is_given_up(rig: Rig) -> None:
    failing = [act.MarkUnbootable("a")]
    with pytest.raises(MediumError, match="in a row"):
        rig.run(*[failing] * 100)


def test_a_reboot_is_the_last_thing_that_happens(rig: Rig) -> None:
    core = rig.run(
        [act.Save(Record.JOURNAL, b"rebooting"), act.Reboot(), act.Save(Record.JOURNAL, b"never")],
        first=[LINK_OPENED, STOP],
    )
    assert rig.ending is Ending.REBOOT
    assert rig.reboots == ["reboot"]
    assert rig.record(Record.JOURNAL) == b"rebooting"
    assert core.heard == [LINK_OPENED]


def test_workers_answer_in_the_order_of_their_slot(rig: Rig) -> None:
    image = bytes(range(100))
    builder = TreeBuilder(LIMITS)
    builder.update(image)
    built = builder.finish()
    core = rig.run(
        [
            act.WriteChunks("b", 0, image),
            act.SyncSlot("b", 7),
            act.HashSlot("b", built.tree, 1, 2),
            act.ReadBackSlot("b", built.tree),
        ],
        *[[]] * 3,
    )
    assert core.heard == [
        LINK_OPENED,
        ev.SlotSynced(7),
        ev.SlotHashed(1, built.leaves[32:96]),
        ev.SlotReadBack(built.layer, built.image_sha256),
    ]


def test_a_hook_answers_as_an_event(rig: Rig) -> None:
    core = rig.run([act.RunHook(Hook.DOWNLOAD, 7)], [])
    assert core.heard[1] == ev.HookFinished(Hook.DOWNLOAD, 7, ev.HookOutcome.NOT_NOW, "")


def test_a_worker_that_fails_tells_which_action(rig: Rig) -> None:
    builder = TreeBuilder(LIMITS)
    builder.update(bytes(SLOT_BYTES + 1))
    action = act.ReadBackSlot("b", builder.finish().tree)
    core = rig.run([action], [])
    failed = core.heard[1]
    assert isinstance(failed, ev.ActionFailed)
    assert (failed.action, failed.reason) == (action, Reason.MEDIUM_FAILED)


def test_a_mistake_of_ours_in_a_worker_ends_the_process(rig: Rig) -> None:
    with pytest.raises(KeyError):
        rig.run([act.SyncSlot("no such slot", 1)], [], [])


def test_a_release_file_answers_as_a_bridge_would(rig: Rig, tmp_path: Path) -> None:
    payload = bytes(range(250))
    path = tmp_path / "release.nbr"
    path.write_bytes(encode_header(len(payload), Limits()) + payload)
    core = rig.run(
        [act.Fetch(f"file:{path}", Channel.GET, b"digest 8" + bytes(24), ((10, 150), (200, 50)), 100)], [], [], []
    )
    blocks = [decode_block(heard.message) for heard in core.heard if isinstance(heard, ev.BlockArrived)]
    assert [(block.offset, bytes(block.data)) for block in blocks] == [
        (10, payload[10:110]),
        (110, payload[110:160]),
        (200, payload[200:250]),
    ]
    assert {bytes(block.digest_prefix) for block in blocks} == {b"digest 8"}


@pytest.mark.parametrize("content", [None, b"NBRELS1\n" + bytes(20)])
def test_a_release_file_that_went_away_is_told(rig: Rig, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "release.nbr"
    if content is not None:
        path.write_bytes(content)
    core = rig.run([act.Fetch(f"file:{path}", Channel.GET, bytes(32), ((0, 100),), 100)], [])
    failed = core.heard[1]
    assert isinstance(failed, ev.ActionFailed)
    assert failed.reason is Reason.NO_SOURCE


def test_a_deadline_is_told_when_nothing_else_happens(rig: Rig) -> None:
    core = ScriptedCore(rig.inbox, [], [])
    core.deadline = 1002.0
    Shell(core, rig.machine, rig.inbox, Clocks()).run([LINK_OPENED])
    assert core.heard == [LINK_OPENED, ev.TimeReached()]


def test_a_flood_of_events_does_not_keep_a_deadline_waiting(rig: Rig) -> None:
    for number in range(3):
        rig.inbox.put(ev.WireBytesCounted(number))
    core = ScriptedCore(rig.inbox, *[[]] * 5)
    core.deadline = 0.0
    Shell(core, rig.machine, rig.inbox, Clocks()).run([])
    assert core.heard[:4] == [
        ev.WireBytesCounted(0),
        ev.TimeReached(),
        ev.WireBytesCounted(1),
        ev.TimeReached(),
    ]


# The inbox.


def test_data_blocks_are_what_a_full_inbox_drops(rig: Rig) -> None:
    inbox = Inbox(block_bytes_max=100)
    for number in range(5):
        inbox.offer_block(ev.BlockArrived(bytes([number]) * 40))
        inbox.put(ev.SlotSynced(number))
        inbox.put_from_peer(ev.AckArrived(bytes([number])))
    got = [inbox.get(0.0) for _ in range(12)]
    assert [event.message[0] for event in got if isinstance(event, ev.BlockArrived)] == [0, 1]
    assert [event.token for event in got if isinstance(event, ev.SlotSynced)] == [0, 1, 2, 3, 4]
    assert [event.data[0] for event in got if isinstance(event, ev.AckArrived)] == [0, 1, 2, 3, 4]
    assert inbox.get(0.0) is None


def test_room_for_blocks_comes_back_as_they_are_taken() -> None:
    inbox = Inbox(block_bytes_max=100)
    for _ in range(10):
        inbox.offer_block(ev.BlockArrived(bytes(90)))
        assert inbox.get(0.0) is not None


@pytest.mark.parametrize("block", [b"", b"x"])
def test_blocks_of_next_to_nothing_do_not_fill_the_memory(block: bytes) -> None:
    inbox = Inbox(block_bytes_max=2 * MIB)
    for _ in range(10_000):
        inbox.offer_block(ev.BlockArrived(block))
    assert len(inbox) == 2048
    while inbox.get(0.0) is not None:
        pass
    inbox.offer_block(ev.BlockArrived(block))
    assert len(inbox) == 1


def test_a_block_above_the_bound_is_taken_when_nothing_else_waits() -> None:
    inbox = Inbox(block_bytes_max=100)
    inbox.offer_block(ev.BlockArrived(bytes(200)))
    assert isinstance(inbox.get(0.0), ev.BlockArrived)


@pytest.mark.parametrize(("kind", "most"), [("documents", 64), ("file blocks", 10)])
def test_a_source_that_floods_the_inbox_is_made_to_wait_and_loses_nothing(kind: str, most: int) -> None:
    inbox = Inbox(block_bytes_max=1000)
    sent = range(500)

    def flood() -> None:
        for number in sent:
            if kind == "documents":
                inbox.put_from_peer(ev.AckArrived(number.to_bytes(2)))
            else:
                inbox.put_block(ev.BlockArrived(number.to_bytes(2) + bytes(98)))

    source = threading.Thread(target=flood, daemon=True)
    source.start()
    waiting_max = 0
    for number in sent:
        waiting_max = max(waiting_max, len(inbox))
        event = inbox.get(60.0)
        assert isinstance(event, ev.AckArrived | ev.BlockArrived)
        data = event.data if isinstance(event, ev.AckArrived) else event.message
        assert int.from_bytes(data[:2]) == number
    source.join(60.0)
    assert waiting_max <= most


def test_closing_frees_those_who_wait() -> None:
    inbox = Inbox(block_bytes_max=100)
    inbox.put_block(ev.BlockArrived(bytes(90)))
    source = threading.Thread(target=lambda: inbox.put_block(ev.BlockArrived(bytes(90))), daemon=True)
    source.start()
    inbox.close()
    source.join(60.0)
    assert not source.is_alive()
    with pytest.raises(InboxClosedError):
        inbox.get(None)


def test_a_signal_that_comes_just_before_the_wait_still_ends_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = Inbox(block_bytes_max=100)
    waits: list[float | None] = []

    def wait(changed: threading.Condition, timeout_s: float | None = None) -> bool:
        if not waits:
            inbox.close()
        waits.append(timeout_s)
        return False

    monkeypatch.setattr(threading.Condition, "wait", wait)
    with pytest.raises(InboxClosedError):
        inbox.get(None)
    assert waits[0] is not None, "a wait without an end, though nobody will wake it"


def test_nothing_comes_too_late_or_too_soon_out_of_an_empty_inbox(monkeypatch: pytest.MonkeyPatch) -> None:
    waited_s: list[float] = []
    monkeypatch.setattr(threading.Condition, "wait_for", lambda _self, _ready, timeout_s: waited_s.append(timeout_s))
    assert Inbox(block_bytes_max=100).get(2.5) is None
    assert sum(waited_s) == 2.5


# The status file.


def test_the_status_file_is_written_five_times_a_second_at_most(tmp_path: Path) -> None:
    path = tmp_path / "status"
    status = StatusFile(DISK, path, {"device": "gw-1"})
    written = 0
    for tick in range(100):
        before = path.stat().st_mtime_ns if path.exists() else None
        inode = path.stat().st_ino if path.exists() else None
        status.show(STATUS)
        status.flush(Now(tick / 100, tick))
        written += path.stat().st_ino != inode or path.stat().st_mtime_ns != before
    assert 4 <= written <= 6


def test_the_last_status_is_never_held_back_for_good(tmp_path: Path) -> None:
    status = StatusFile(DISK, tmp_path / "status", {})
    status.flush(Now(0.0, 1))
    status.count_link()
    status.flush(Now(0.1, 1))
    deadline = status.deadline
    assert deadline is not None
    status.flush(Now(deadline, 2))
    assert read_status(DISK, tmp_path / "status")["links_opened"] == 1
    assert status.deadline is None


def test_a_status_file_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    status = StatusFile(DISK, tmp_path / "absent" / "status", {})
    for second in range(3):
        status.show(STATUS)
        status.flush(Now(float(second), second))
    assert len(caplog.records) == 1


def test_the_status_says_what_the_agent_showed(tmp_path: Path) -> None:
    status = StatusFile(DISK, tmp_path / "status", {"device": "gw-1"})
    status.show(STATUS)
    status.flush(Now(0.0, 1_800_000_000))
    assert json.loads((tmp_path / "status").read_text()) == {
        "device": "gw-1",
        "state": "downloading",
        "hold": None,
        "release": "00" * 32,
        "done_bytes": 1,
        "total_bytes": 2,
        "wire_bytes": 3,
        "reason": None,
        "detail": None,
        "hold_since": None,
        "hold_next_check": None,
        "links_opened": 0,
        "updated_at": 1_800_000_000,
    }

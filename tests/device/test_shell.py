"""The loop around the agent: actions in their order, failures told, nothing lost that decides anything."""

from __future__ import annotations

import threading

import pytest

from narrowboat_device.boot.state import BootState, read_state
from narrowboat_device.core import actions as act
from narrowboat_device.core import events as ev
from narrowboat_device.core.actions import Action, Record
from narrowboat_device.core.events import Now
from narrowboat_device.inbox import Inbox, InboxClosedError
from narrowboat_device.loop import Ending, Shell
from narrowboat_device.status import read_status
from narrowboat_protocol.errors import MediumError, Reason
from narrowboat_protocol.limits import MIB
from narrowboat_protocol.topics import Channel
from narrowboat_protocol.transfer import FetchRequest
from tests.device.kit import file_size_limit
from tests.device.shell_kit import DISK, DONE, LINK_OPENED, SLOT_BYTES, STATUS, STOP, Clocks, Rig, ScriptedCore


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

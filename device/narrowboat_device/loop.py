"""The loop: one event in, the agent's actions out, for as long as the process lives.

    event = inbox.get(until the agent's deadline) -> agent.handle(event, now) -> perform each action, in order

Everything that can happen comes through the inbox, so the agent is never entered twice and needs no lock.
What may block is a worker action: it is started here, and its end is an event. The rest (writes into the
page cache, small durable saves, boot variables) is done in place, since the next action of the list may
rest on it.

When an action fails, the rest of its list is dropped and the agent is told at once, before any other event,
by `ActionFailed`. What it does then may fail too. A machine on which a whole chain of answers fails is not
one to go on with: the shell gives up, and the service manager starts the agent anew. Where no start helps, a
watchdog reboots the machine, and a release on trial falls back.

This is the only module of the agent's shell that reads the clocks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from threading import Event as Flag
from typing import Protocol, assert_never

from narrowboat_protocol.errors import MediumError, NarrowboatError
from narrowboat_protocol.topics import Channel
from narrowboat_protocol.transfer import FetchRequest

from .boot import BootControl
from .core import actions as act
from .core.actions import Action, Record
from .core.events import ActionFailed, Event, LinkOpened, Now, SlotCommitted, TimeReached, earliest
from .envelopes import EnvelopeFolder
from .inbox import Inbox, InboxClosedError
from .records import RecordFile
from .slots import SlotFile
from .status import StatusFile
from .workers import FILE_SOURCE, WorkerAction

_FAILURES_IN_A_ROW_MAX = 8

_agent_log = logging.getLogger("narrowboat_device.agent")


class Core(Protocol):
    """The state machine that the loop drives."""

    @property
    def deadline(self) -> float | None:
        """When it wants `TimeReached`, in monotonic seconds."""
        ...

    def handle(self, event: Event, now: Now) -> Sequence[Action]:
        """Take one event; return what to do, in order."""
        ...


class Publisher(Protocol):
    """What the loop asks of the link."""

    def publish(self, channel: Channel, payload: bytes, qos: int) -> None:
        """Send a message if the link is up."""
        ...

    def use_broker(self, broker: act.UseBroker) -> None:
        """Connect as the newest root says from the next connection on."""
        ...

    def believe_time(self, known: act.BelieveTime) -> None:
        """Judge certificates by what is known of the time from the next connection on."""
        ...


class Worker(Protocol):
    """Whoever does what may block."""

    def start(self, action: WorkerAction, /) -> None:
        """Take a job and return at once; its end is an event."""
        ...


class NoLink:
    """The publisher of a gateway that is not to talk: what is published is lost, as on a link that is down."""

    def __init__(self) -> None:
        self.expired = Flag()

    def publish(self, channel: Channel, payload: bytes, qos: int) -> None:
        """Send nothing."""

    def ask(self, kid: bytes, request: bytes, /) -> bytes | None:
        """Ask nobody."""

    def use_broker(self, broker: act.UseBroker) -> None:
        """Connect to nobody."""

    def believe_time(self, known: act.BelieveTime) -> None:
        """Judge nobody."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything that an action can touch."""

    slots: Mapping[str, SlotFile]
    records: Mapping[Record, RecordFile]
    envelopes: EnvelopeFolder
    boot: BootControl
    workers: Worker
    link: Publisher
    status: StatusFile
    reboot: Callable[[], None]
    """Raises `MediumError` if the machine will not reboot."""


class Ending(Enum):
    """Why the loop ended."""

    STOPPED = auto()
    REBOOT = auto()


def read_clocks() -> Now:
    return Now(time.monotonic(), int(time.time()))


def monotonic_s() -> float:
    return read_clocks().monotonic_s


def wall_s() -> int:
    return read_clocks().wall_s


class Shell:
    """Drives one core on one machine: `run` does it as events come and time passes, `turn` is one step of that, for
    whoever has an inbox and a time of their own.
    """

    def __init__(self, core: Core, machine: Machine, inbox: Inbox, clocks: Callable[[], Now] = read_clocks) -> None:
        self._core = core
        self._machine = machine
        self._inbox = inbox
        self._clocks = clocks

    def run(self, first_events: Iterable[Event]) -> Ending:
        """Handle `first_events`, then what comes, until the inbox is closed or the machine reboots."""
        status = self._machine.status
        try:
            for event in first_events:
                if self._handle(event) is Ending.REBOOT:
                    return Ending.REBOOT
            while True:
                ending = self.turn(self._inbox.get(self._patience_s()))
                if ending is not None:
                    return ending
        except InboxClosedError:
            return Ending.STOPPED
        finally:
            status.flush(self._clocks(), at_once=True)

    @property
    def deadline(self) -> float | None:
        """When `turn` has something to do though nothing happened, in monotonic seconds."""
        return earliest(self._core.deadline, self._machine.status.deadline)

    def turn(self, event: Event | None) -> Ending | None:
        """Handle what happened, if anything did, and the deadline, if it has come: an event does not keep a deadline
        waiting, nor the reverse.
        """
        ending = None if event is None else self._handle(event)
        deadline = self._core.deadline
        if ending is None and deadline is not None and self._clocks().monotonic_s >= deadline:
            ending = self._handle(TimeReached())
        self._machine.status.flush(self._clocks())
        return ending

    def _patience_s(self) -> float | None:
        deadline = self.deadline
        return max(0.0, deadline - self._clocks().monotonic_s) if deadline is not None else None

    def _handle(self, event: Event) -> Ending | None:
        """Have an event handled, and the failures that follow from it."""
        if isinstance(event, LinkOpened):
            self._machine.status.count_link()
        outcome = self._perform_all(self._core.handle(event, self._clocks()))
        failures = 0
        while isinstance(outcome, ActionFailed):
            failures += 1
            if failures == _FAILURES_IN_A_ROW_MAX:
                raise MediumError(
                    outcome.reason, f"{failures} actions failed in a row, the last one: {outcome.message}"
                )
            outcome = self._perform_all(self._core.handle(outcome, self._clocks()))
        return outcome

    def _perform_all(self, actions: Sequence[Action]) -> ActionFailed | Ending | None:
        for action in actions:
            try:
                self._perform(action)
            except NarrowboatError as error:
                return ActionFailed(action, error.reason, str(error))
            if isinstance(action, act.Reboot):
                return Ending.REBOOT
        return None

    def _perform(self, action: Action) -> None:  # noqa: C901, PLR0912  # one line for each action is the whole of it
        machine = self._machine
        match action:
            case act.Publish(channel, payload, qos):
                machine.link.publish(channel, payload, qos)
            case act.Fetch():
                self._fetch(action)
            case act.WriteChunks(slot, offset, data):
                machine.slots[slot].write(offset, data)
            case act.SyncSlot() | act.HashSlot() | act.ReadBackSlot() | act.RunHook():
                machine.workers.start(action)
            case act.Save(record, content, both):
                machine.records[record].save(content, both=both)
            case act.SaveEnvelope(slot, envelope):
                machine.envelopes.save(slot, envelope)
            case act.MarkUnbootable(slot):
                machine.boot.mark_unbootable(slot)
            case act.ArmTrial(slot):
                machine.boot.arm_trial(slot)
            case act.CommitSlot(slot):
                machine.boot.commit(slot)
                self._inbox.put(SlotCommitted(slot))
            case act.RestoreBoot(slot):
                machine.boot.restore(slot)
            case act.UseBroker():
                machine.link.use_broker(action)
            case act.BelieveTime():
                machine.link.believe_time(action)
            case act.Reboot():
                machine.reboot()
            case act.ShowStatus() | act.ShowTrust():
                machine.status.show(action)
            case act.Log(text, warning):
                _agent_log.log(logging.WARNING if warning else logging.INFO, "%s", text)
            case _:
                assert_never(action)

    def _fetch(self, fetch: act.Fetch) -> None:
        if fetch.source.startswith(FILE_SOURCE):
            self._machine.workers.start(fetch)
            return
        request = FetchRequest(payload=fetch.payload, ranges=fetch.ranges, block_bytes=fetch.block_bytes)
        self._machine.link.publish(fetch.channel, request.encode(), qos=0)

"""The loop: messages and outcomes in, decisions of the core, a commit, and only then everything that is said.

    item = inbox.get(until the core's deadline) -> event -> core.handle -> write, and keep what is to be said
    ... more items, until none waits, the batch is full, or its time is up ...
    store.commit() -> say it all

A commit costs a sync of the disk, so one serves all that came in a fifth of a second or five hundred items.
An Ack therefore means what it says: the rows were on the disk before it was made public. When the process
dies between commit and saying, devices and operators ask again, and the answer is a repetition.

Everything that can happen comes through the inbox, so core and store are used by one thread and need no lock.
What the inbox sheds is repeated by its sender. A commit that
fails ends the process (see `store`). This is the only module that reads the clocks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import assert_never

from narrowboat_protocol.documents import LOOKS, AuditList, EventKind, RoleName, UploadBegin, UploadFinish
from narrowboat_protocol.errors import NarrowboatError, PeerError, Reason
from narrowboat_protocol.topics import ROOT_TOPIC, Channel, Topic, operator_topic

from ..core.actions import Answer, Emit, Refusal
from ..core.campaigns import Campaigns
from ..core.events import CommandAccepted, Event, Now, ReleaseAdded, RootAdded, TimeReached
from ..core.records import Release
from ..core.views import taken_in
from .buckets import Buckets
from .crew import Crew
from .enrolment import EnrolmentIntake
from .inbox import Inbox, Item, LinkOpened, MessageArrived
from .intake import Intake
from .metrics import Metrics
from .operators import Accepted, OperatorDesk, Refused, Repeated, subject_of
from .performer import AT_LEAST_ONCE, Performer, Publisher
from .root_shelf import RootShelf
from .upload_worker import Begin, Finish, UploadOutcome, UploadWorker

BATCH_ITEMS_MAX = 500
BATCH_S = 0.2
METRICS_INTERVAL_S = 60.0
_IDLE_S_MAX = 0.5
"""How long a stop may go unnoticed."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop drives."""

    campaigns: Campaigns
    intake: Intake
    enrolments: EnrolmentIntake
    desk: OperatorDesk
    performer: Performer
    uploads: UploadWorker
    publisher: Publisher
    metrics: Metrics
    roots: RootShelf
    """The newest is published retained whenever the link opens, and when there is a newer one."""
    read_operators: Callable[[], bytes]
    crew: Crew
    """Whose threads the rest of the bridge relies on."""


def read_clocks() -> Now:
    return Now(time.monotonic(), int(time.time()))


class Loop:
    """Drives the core."""

    def __init__(
        self,
        parts: Parts,
        inbox: Inbox,
        operator_messages_per_s: float,
        clocks: Callable[[], Now] = read_clocks,
    ) -> None:
        self._parts = parts
        self._inbox = inbox
        self._clocks = clocks
        self._buckets = Buckets(operator_messages_per_s, 4 * operator_messages_per_s)
        self._stopping = False
        self._reloading = False
        self._next_metrics_s = clocks().monotonic_s + METRICS_INTERVAL_S

    def stop(self) -> None:
        """End the loop after its batch. May be called by a signal handler, so it takes no lock."""
        self._stopping = True

    def reload(self) -> None:
        """Read roots and operators again before the next batch. May be called by a signal handler."""
        self._reloading = True

    def run(self) -> None:
        while not self._stopping:
            self.turn()
        _log.info("stopped: %s", self._parts.metrics.line())

    def turn(self) -> None:
        """Gather one batch, commit it, and say what it has to say. Raises `RuntimeError` if a thread failed."""
        self._parts.crew.check()
        if self._reloading:
            self._reloading = False
            self._read_roots()
            self._read_operators()
        item = self._inbox.get(self._patience_s())
        started_s = self._clocks().monotonic_s
        items = 0
        while item is not None:
            self._take(item)
            items += 1
            full = items == BATCH_ITEMS_MAX or self._clocks().monotonic_s - started_s > BATCH_S
            item = None if full else self._inbox.get(0)
        deadline_s = self._parts.campaigns.deadline
        if deadline_s is not None and self._clocks().monotonic_s >= deadline_s:
            self._feed(TimeReached())
        self._parts.performer.flush(self._clocks())
        self._show_metrics()

    def _patience_s(self) -> float:
        deadline_s = self._parts.campaigns.deadline
        now_s = self._clocks().monotonic_s
        return _IDLE_S_MAX if deadline_s is None else min(_IDLE_S_MAX, max(0.0, deadline_s - now_s))

    def _show_metrics(self) -> None:
        now_s = self._clocks().monotonic_s
        if now_s >= self._next_metrics_s:
            self._next_metrics_s = now_s + METRICS_INTERVAL_S
            _log.info("counts: %s", self._parts.metrics.line())

    def _read_operators(self) -> None:
        desk, before = self._parts.desk, self._parts.desk.taken
        try:
            desk.replace_operators(self._parts.read_operators())
        except NarrowboatError as error:
            _log.warning("the operators document stays as it was: %s", error)
            return
        if desk.taken != before:
            self._parts.performer.note_operators(desk.taken)
            facts = {"version": desk.taken.version}
            self._parts.performer.record("operators replaced", RoleName.ADMIN.value, facts, self._clocks())

    def _read_roots(self) -> None:
        """Take up the roots that were put into the folder, and tell everybody."""
        if self._parts.roots.read_newer():
            version = self._parts.roots.trust.root.version
            _log.info("root version %d is in force", version)
            self._feed(RootAdded(version))
            self._publish_root()

    def _publish_root(self) -> None:
        self._parts.publisher.publish(ROOT_TOPIC, self._parts.roots.trust.root_data, qos=AT_LEAST_ONCE, retain=True)

    def _feed(self, event: Event) -> None:
        now = self._clocks()
        self._parts.performer.perform(self._parts.campaigns.handle(event, now), now)

    def _take(self, item: Item) -> None:
        match item:
            case MessageArrived():
                self._take_message(item)
            case UploadOutcome():
                self._take_outcome(item)
            case LinkOpened():
                self._publish_root()
            case _:
                assert_never(item)

    def _take_message(self, item: MessageArrived) -> None:
        self._parts.metrics.count(f"messages.{item.topic.channel}")
        if item.topic.channel in (Channel.HELLO, Channel.REPORT):
            event = self._parts.intake.read(item.topic, item.data, self._clocks())
            if event is not None:
                self._feed(event)
        elif item.topic.channel is Channel.REQUEST:
            asked = self._parts.enrolments.read(item.topic, item.data, self._clocks())
            if asked is not None:
                self._feed(asked)
        elif item.topic.channel is Channel.COMMAND:
            self._take_command(item.topic, item.data)
        else:
            self._parts.metrics.count(f"unexpected.{item.topic.channel}")

    def _take_command(self, topic: Topic, data: bytes) -> None:
        now, performer, metrics = self._clocks(), self._parts.performer, self._parts.metrics
        if not self._buckets.take(topic.name, 1, now.monotonic_s):
            metrics.limit("limited.command", "operator_messages_per_s")
            return
        try:
            judged = self._parts.desk.judge(topic.name, data, now.wall_s)
        except PeerError as error:
            metrics.refuse("command", error)
            return
        match judged:
            case Accepted():
                self._carry_out(judged, now)
            case Repeated(operator, reply):
                if reply is not None:
                    performer.send(operator_topic(operator, Channel.REPLY), reply, AT_LEAST_ONCE)
            case Refused(operator, request_id, verb, refusal):
                metrics.refuse("command", PeerError(refusal.reason, refusal.message))
                if judged.noteworthy:
                    facts = {"verb": verb.value, "reason": refusal.reason.value}
                    performer.record("command refused", operator, facts, now)
                performer.refuse(Answer(operator, request_id, refusal))
            case _:
                assert_never(judged)

    def _carry_out(self, accepted: Accepted, now: Now) -> None:
        request = accepted.request
        if accepted.verb not in LOOKS:
            facts = {"verb": accepted.verb.value, "subject": subject_of(request)}
            self._parts.performer.record("command", accepted.operator, facts, now)
            event = Emit(EventKind.COMMAND, operator=accepted.operator, detail=accepted.verb.value)
            self._parts.performer.perform([event], now)
        if isinstance(request, AuditList):
            self._show_audit(accepted, request, now)
            return
        if not isinstance(request, (UploadBegin, UploadFinish)):
            self._feed(
                CommandAccepted(
                    accepted.operator,
                    accepted.kid,
                    accepted.scope,
                    accepted.request_id,
                    request,
                    accepted.approval_over,
                )
            )
            return
        known = self._parts.campaigns.release_of_file(request.digest)
        if known is not None and self._parts.uploads.has(known.payload):
            self._parts.performer.perform([Answer(accepted.operator, accepted.request_id, taken_in(known))], now)
            return
        job = (
            Begin(accepted.operator, accepted.request_id, request.digest, request.size)
            if isinstance(request, UploadBegin)
            else Finish(accepted.operator, accepted.request_id, request.digest)
        )
        if not self._parts.uploads.offer(job):
            busy = Refusal(Reason.BUSY, "expected room for another upload, got none; try again in a moment")
            self._parts.performer.perform([Answer(accepted.operator, accepted.request_id, busy)], now)

    def _show_audit(self, accepted: Accepted, request: AuditList, now: Now) -> None:
        """The log is of the whole fleet, so only who sees all of it may read it."""
        outcome = (
            self._parts.performer.audit_page(request.after, request.limit)
            if accepted.scope is None
            else Refusal(
                Reason.NOT_PERMITTED, "expected an admin of the whole fleet, got one with a scope; ask another"
            )
        )
        self._parts.performer.perform([Answer(accepted.operator, accepted.request_id, outcome)], now)

    def _take_outcome(self, outcome: UploadOutcome) -> None:
        if isinstance(outcome.result, Release):
            self._take_in(outcome.result, outcome)
            return
        answer = Answer(outcome.operator, outcome.request_id, outcome.result)
        self._parts.performer.perform([answer], self._clocks())

    def _take_in(self, came: Release, outcome: UploadOutcome) -> None:
        """A release and its payload are there: the core decides whether they stay."""
        uploads, known = self._parts.uploads, self._parts.campaigns.release(came.digest)
        # Gateways are in the middle of the payload that is known; another file of the release changes nothing.
        release = known if known is not None and uploads.has(known.payload) else came
        if not uploads.has(release.payload):
            gone = Refusal(Reason.CONFLICT, "expected the payload in the store, it was cleared away; push once more")
            self._parts.performer.perform([Answer(outcome.operator, outcome.request_id, gone)], self._clocks())
            return
        self._feed(ReleaseAdded(release, outcome.operator, outcome.request_id))
        self._parts.performer.after_commit(partial(self._clear_up, came))

    def _clear_up(self, came: Release) -> None:
        """The file was taken in; the payload too, unless the release was refused or is served from another."""
        if not self._parts.campaigns.needs_payload(came.payload.digest):
            self._parts.uploads.discard(came.payload)
        self._parts.uploads.forget(came.file_digest)

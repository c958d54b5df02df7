"""The agent: every event that can happen to a gateway, and what it does about it.

`handle` is total: any event in any state gives a list of actions, and nothing that a peer says raises. It keeps the
documents (root, assignment, Ack) and hands the attempt they lead to to `Lifecycle`. An assignment for the release at
work continues it; one for another ends it first, if it may still be ended, and is parked otherwise. It is written down
as accepted after what it led to: a power cut in between leaves an assignment that is asked for again, and never one
that the director takes for done. What is refused is counted by reason and logged once for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import inf
from typing import assert_never

from narrowboat_protocol.documents import Assignment, Delivery, Target
from narrowboat_protocol.errors import NarrowboatError, PeerError, Reason, TrustError
from narrowboat_protocol.keys import Signer
from narrowboat_protocol.limits import DEFAULT_LIMITS, Limits
from narrowboat_protocol.states import State
from narrowboat_protocol.suit import Image, Release
from narrowboat_protocol.transfer import decode_block
from narrowboat_protocol.trust import Freshness, Trust

from . import events as ev
from . import offers
from .actions import Action, Log, Reboot, Record, SaveEnvelope
from .arrears import Arrears
from .aside import Aside, newer_records
from .events import Event, Now, earliest
from .inventory import Inventory
from .judge import judge_start
from .lifecycle import Lifecycle
from .memory import (
    ASSIGNMENT_BYTES_MAX,
    Attempt,
    Journal,
    Memory,
    Outbox,
    TrustRecord,
    read_record,
)
from .roots import Roots
from .settings import Settings
from .telling import Telling
from .voice import Voice


class Agent:
    """One gateway. Give it `Started` first."""

    def __init__(
        self,
        settings: Settings,
        signer: Signer,
        random: Callable[[int], bytes],
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._settings = settings
        self._limits = limits
        trust = Trust(settings.first_root, limits=limits)
        fresh = TrustRecord(root=settings.first_root, fleet_id=trust.fleet_id, time_floor=settings.built_at_s)
        self._memory = Memory(Journal(), fresh, Outbox())
        self._voice = Voice(settings, signer, random, self._memory)
        self._roots = Roots(settings, trust, self._memory, self._voice, limits)
        self._lifecycle = Lifecycle(settings, self._memory, self._voice, self._open_release, limits)
        self._inventory = Inventory(settings, limits)
        self._arrears = Arrears(self._memory)
        self._aside: Aside | None = None
        self._wire_total = 0
        self._telling = Telling(settings, self._memory, self._voice, self._roots, self._lifecycle)
        self.refusals: Counter[Reason] = Counter()

    @property
    def deadline(self) -> float | None:
        """When to call `handle(TimeReached(), now)` though nothing happened, in monotonic seconds."""
        if self._aside is not None:
            return self._aside.deadline_s
        return earliest(
            self._lifecycle.deadline_s, self._voice.deadline_s, self._arrears.deadline_s, self._roots.deadline_s
        )

    @property
    def state(self) -> State | None:
        """The state of the newest attempt."""
        return self._lifecycle.attempt.state if self._lifecycle.attempt is not None else None

    def handle(self, event: Event, now: Now) -> list[Action]:
        """Take one event; return what to do, in order."""
        if isinstance(event, ev.Started) and (newer := newer_records(event)):
            self._aside = Aside(event.boot, newer)
            return self._aside.begin()
        if self._aside is not None:
            return self._aside.handle(event, now)
        dropped: list[Action] = []
        if isinstance(event, ev.ActionFailed):
            self._roots.failed(event.action)
            self._telling.failed()
            dropped = self._arrears.failed(event.action, ended=not self._lifecycle.active)
        try:
            actions = self._dispatch(event, dropped, now)
        except NarrowboatError as error:
            actions = self._refused(event, error)
            if isinstance(event, ev.DeliveryArrived) and error.reason is Reason.STALE:
                self._voice.plan_hello(now)
        actions = [*actions, *self._act_on_parked(now)]
        last = len(actions) - any(isinstance(action, Reboot) for action in actions)
        actions[last:last] = self._telling.changes()
        actions = (self._arrears.answer if dropped else self._arrears.settle)(actions, now.monotonic_s)
        for action in actions:
            if isinstance(action, SaveEnvelope):
                self._inventory.change(action)
                self._voice.slots = self._inventory.slot_infos()
        return actions

    def _dispatch(self, event: Event, dropped: list[Action], now: Now) -> list[Action]:
        life = self._lifecycle
        match event:
            case ev.Started():
                return self._started(event, now)
            case ev.LinkOpened():
                return [*self._voice.link_opened(now), *life.link_opened(now)]
            case ev.LinkLost():
                self._voice.link_up = False
                life.link_lost()
                return []
            case ev.RootArrived(data, retained):
                return self._roots.arrived(data, now, retained=retained)
            case ev.RootChainArrived(data):
                return self._roots.chain_arrived(data, now)
            case ev.DeliveryArrived(data):
                return self._delivery_arrived(data, now)
            case ev.AckArrived(data):
                return self._voice.acknowledged(self._roots.trust.open_ack(data, self._settings.device), now)
            case ev.BlockArrived():
                return self._block_arrived(event, now)
            case ev.WireBytesCounted(total):
                return self._count(total, now)
            case ev.LocalReleaseOffered():
                return self._local_release_offered(event, now)
            case ev.SlotSynced(token):
                return life.download_event(lambda download: download.slot_synced(token), now)
            case ev.SlotHashed(first_chunk, leaves):
                return life.download_event(lambda download: download.slot_hashed(first_chunk, leaves), now)
            case ev.SlotReadBack(layer, image_sha256):
                return life.download_event(lambda download: download.read_back(layer, image_sha256), now)
            case ev.SlotCommitted(slot):
                return life.slot_committed(slot, now)
            case ev.HookFinished():
                return life.hook_finished(event, now)
            case ev.ActionFailed(action, reason, message):
                failed = Log(f"{type(action).__name__} failed: {reason}: {message}", warning=True)
                return [failed, *life.action_failed(action, dropped, reason, message, now)]
            case ev.TimeReached():
                return [*self._roots.time_reached(now), *self._voice.time_reached(now), *life.time_reached(now)]
            case _:
                assert_never(event)

    # Starting.

    def _started(self, event: ev.Started, now: Now) -> list[Action]:
        provisioned = self._memory.trust
        lost = [*self._memory.recall(event.records), *self._roots.take_up(provisioned)]
        lost += self._memory.end_from_outbox()
        self._inventory.begin(event.envelopes)
        if read_record(Journal, event.records[Record.JOURNAL]) is None:
            lost += self._memory.begin_journal()
        trust, attempt = self._memory.trust, self._lifecycle.attempt
        # The other records may know of more than this one: it is saved last, and may have failed to be.
        used = max([trust.boot_number, *(letter.pair[0] for letter in self._memory.outbox.letters)])
        floor = max(trust.floor, self._inventory.committed_floor(event.boot, self._roots.trust))
        raised = self._memory.save_trust(
            boot_number=used + 1,
            assignment_counter=max(trust.assignment_counter, attempt.attempt if attempt is not None else 0),
            floor_epoch=floor.epoch,
            floor_sequence=floor.sequence,
            time_floor=max(trust.time_floor, self._settings.built_at_s),
        )
        self._voice.begin(event.boot, self._inventory.slot_infos(), now)
        verdict = judge_start(attempt, event.boot)
        begun = Log(f"started in slot {event.boot.running}: {verdict.name.lower()}")
        return [raised, *lost, begun, *self._lifecycle.start(verdict, event.boot, now)]

    # Documents.

    def _delivery_arrived(self, data: bytes, now: Now) -> list[Action]:
        delivery = Delivery.decode(data)
        if len(delivery.assignment) > ASSIGNMENT_BYTES_MAX:
            raise TrustError(
                Reason.TOO_LARGE,
                f"expected an assignment of at most {ASSIGNMENT_BYTES_MAX} bytes, got {len(delivery.assignment)}",
            )
        trust = self._memory.trust
        certain_s = self._settings.built_at_s
        freshness = Freshness(self._voice.nonces, trust.assignment_counter, trust.assignment, certain_s)
        assignment = self._roots.trust.open_assignment(delivery.assignment, self._settings.device, freshness)
        if delivery.assignment == trust.assignment:
            return self._answer_again(now)
        must_wait = self._must_wait(assignment)
        actions = self._park(assignment, delivery, now) if must_wait else self._act_on(assignment, delivery, now)
        accepted = self._memory.save_trust(
            assignment=delivery.assignment,
            assignment_counter=assignment.counter,
            time_floor=self._roots.time_floor(assignment.issued_at),
        )
        # What leads to no report is answered by a hello, which names the counter: else it would come again for ever.
        return [*actions, accepted, *(self._voice.say_hello(now) if not actions else ())]

    # Bytes.

    def _block_arrived(self, event: ev.BlockArrived, now: Now) -> list[Action]:
        """Count what it cost, be it useful or not, before anything follows from it."""
        counted = self._count(event.wire_bytes, now) if event.wire_bytes is not None else []
        try:
            block = decode_block(event.message, self._limits)
        except PeerError as error:
            return [*counted, *self._refused(event, error)]
        now_s = now.monotonic_s
        waited_s = now_s - event.arrived_s if event.arrived_s is not None else inf
        return [*counted, *self._lifecycle.download_event(lambda d: d.block_arrived(block, now_s, waited_s), now)]

    def _count(self, total: int, now: Now) -> list[Action]:
        count, self._wire_total = total - self._wire_total, total
        return self._lifecycle.wire_bytes(count, now)

    def _answer_again(self, now: Now) -> list[Action]:
        """What was accepted has come again: a bridge asks what became of it."""
        running, life = self._inventory.release_in(self._voice.running_slot), self._lifecycle
        return self._voice.say_hello(now) if life.attempt is None else life.say_again(running, now)

    def _must_wait(self, assignment: Assignment) -> bool:
        """Whether an attempt for something else is past the point of no return."""
        attempt = self._lifecycle.attempt
        if attempt is None or not attempt.active or self._lifecycle.abortable:
            return False
        target = self._target_of(assignment)
        return target is None or target.release != attempt.release

    def _park(self, assignment: Assignment, delivery: Delivery, now: Now) -> list[Action]:
        """Keep an assignment for later, with the one envelope that it needs, and answer that it came too late."""
        attempt, target = self._lifecycle.attempt, self._target_of(assignment)
        assert attempt is not None
        envelope = b"" if target is None else offers.envelope_of(target.release, delivery.envelopes, self._limits)
        kept = Delivery(assignment=delivery.assignment, envelopes=(envelope,) if envelope else ())
        self._memory.note_parked(kept.encode())
        return [self._memory.save(Record.JOURNAL), *self._voice.too_late(attempt, assignment.counter, now)]

    def _act_on_parked(self, now: Now) -> list[Action]:
        """Once the attempt that could not be ended has ended, act on the newest assignment that came meanwhile. The
        journal forgets it by the same save that takes it up.
        """
        parked = self._memory.journal.parked
        if parked is None or self._lifecycle.active or not self._voice.has_room:
            return []
        delivery = Delivery.decode(parked)
        trust = self._memory.trust
        freshness = Freshness((), trust.assignment_counter, delivery.assignment, self._settings.built_at_s)
        self._memory.note_parked(None)
        try:
            assignment = self._roots.trust.open_assignment(delivery.assignment, self._settings.device, freshness)
            actions = self._act_on(assignment, delivery, now)
        except NarrowboatError as error:
            actions = [Log(f"the parked assignment is not believed any more: {error.reason}", warning=True)]
        return [*actions, self._memory.save(Record.JOURNAL)]

    def _act_on(self, assignment: Assignment, delivery: Delivery, now: Now) -> list[Action]:
        """Do what the newest assignment says; one that was parked is void by it."""
        target = self._target_of(assignment)
        if target is not None:
            wanted = offers.assigned(assignment, target, delivery, self._inactive_slot, self._limits)
            return self._take_up(wanted, now)
        self._memory.note_parked(None)
        return self._lifecycle.abort(Reason.WITHDRAWN, now) if self._lifecycle.active else []

    def _take_up(self, wanted: Attempt, now: Now) -> list[Action]:
        """Continue the attempt at work, if it is for the same release; else end it and begin another."""
        attempt = self._lifecycle.attempt
        if attempt is not None and attempt.active and attempt.release == wanted.release:
            self._memory.note_parked(None)
            return self._lifecycle.adopt(wanted, now)
        if not self._voice.has_room:
            raise PeerError(Reason.BUSY, "too many terminal reports wait for their Ack; assign again after it")
        self._memory.note_parked(None)
        aborted = self._lifecycle.abort(Reason.SUPERSEDED, now) if self._lifecycle.active else []
        return [*aborted, *self._offer(wanted, now)]

    def _target_of(self, assignment: Assignment) -> Target | None:
        return next((item for item in assignment.targets if item.component == self._settings.component), None)

    def _local_release_offered(self, event: ev.LocalReleaseOffered, now: Now) -> list[Action]:
        """Install from a file: no assignment, but every other proof. The result is reported with attempt 0."""
        if not self._settings.local_install_allowed:
            raise TrustError(Reason.NOT_PERMITTED, "this gateway's configuration does not allow local installation")
        if self._lifecycle.active and not self._lifecycle.abortable:
            raise TrustError(Reason.TOO_LATE, "an update is being booted; wait for its end")
        release = self._open_release(event.envelope)
        component, slot = self._settings.component, self._inactive_slot
        return self._take_up(offers.local(event, release.digest, component, slot, self._limits), now)

    def _offer(self, attempt: Attempt, now: Now) -> list[Action]:
        """Judge a release before its first byte: signatures, hardware, floor, and whether it fits into the slot."""
        try:
            if not attempt.envelope:
                raise TrustError(
                    Reason.MISSING_RELEASE, "the delivery lacks the envelope of the release that it assigns"
                )
            release = self._open_release(attempt.envelope)
            image = self._image_of(release)
            runs = self._inventory.release_in(self._voice.running_slot) == release.digest
            if runs and self._lifecycle.running_is_committed:
                return self._lifecycle.already_runs(attempt, image, now)
            size_max = next(slot.size_bytes for slot in self._settings.slots if slot.name == attempt.slot)
            if image.size_bytes > size_max:
                raise TrustError(
                    Reason.IMAGE_TOO_LARGE,
                    f"the image has {image.size_bytes} bytes, slot {attempt.slot} holds {size_max}",
                )
        except NarrowboatError as error:
            return self._lifecycle.refuse(attempt, error, now)
        return self._lifecycle.offer(attempt, image, now)

    def _open_release(self, envelope: bytes) -> Release:
        """Believe a release for this device, under the root and the floor as they are now."""
        release = self._roots.trust.open_release(envelope)
        if len(release.images) != 1:
            raise TrustError(
                Reason.UNSUPPORTED_MANIFEST,
                f"this agent updates one component, the release has {len(release.images)}",
            )
        settings = self._settings
        self._roots.trust.judge_release(release, settings.component, settings.hardware, self._memory.trust.floor)
        return release

    def _image_of(self, release: Release) -> Image:
        return next(image for image in release.images if image.component == self._settings.component)

    # What others see.

    @property
    def _inactive_slot(self) -> str:
        running = self._voice.running_slot
        return next(slot.name for slot in self._settings.slots if slot.name != running)

    def _refused(self, event: Event, error: NarrowboatError) -> list[Action]:
        self.refusals[error.reason] += 1
        if self.refusals[error.reason] > 1:
            return []
        return [Log(f"{type(event).__name__} refused: {error.reason}: {error}", warning=True)]

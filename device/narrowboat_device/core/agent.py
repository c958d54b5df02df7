"""The agent: every event that can happen to a gateway, and what it does about it.

`handle` is total: any event in any state gives a list of actions, and nothing that a peer says raises. It keeps the
documents (root, assignment, Ack) and hands the attempt they lead to to `Lifecycle`. An assignment for the release at
work continues it; one for another ends it first, if it may still be ended, and is parked otherwise. What is refused is
counted by reason and logged once for each.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import assert_never

from narrowboat_protocol.documents import Assignment, Delivery, PayloadReference, SlotInfo, Target
from narrowboat_protocol.errors import NarrowboatError, Reason, TrustError
from narrowboat_protocol.keys import Signer
from narrowboat_protocol.limits import DEFAULT_LIMITS, Limits
from narrowboat_protocol.payload import parse_head
from narrowboat_protocol.states import State
from narrowboat_protocol.suit import Image, Release, parse_envelope
from narrowboat_protocol.transfer import decode_block
from narrowboat_protocol.trust import Freshness, Trust

from . import events as ev
from .actions import Action, Log, Record, SaveEnvelope, ShowStatus
from .events import Event, Now
from .judge import judge_start
from .lifecycle import Lifecycle
from .memory import Attempt, Journal, Memory, Outbox, TrustRecord, read_record
from .settings import Settings
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
        self._trust = Trust(settings.first_root, limits=limits)
        fresh = TrustRecord(root=settings.first_root, fleet_id=self._trust.fleet_id, time_floor=settings.built_at_s)
        self._memory = Memory(Journal(), fresh, Outbox())
        self._voice = Voice(settings, signer, random, self._memory)
        self._lifecycle = Lifecycle(settings, self._memory, self._voice, self._open_release, limits)
        self._envelopes: dict[str, bytes] = {}
        self._wire_total = 0
        self._shown: ShowStatus | None = None
        self.refusals: Counter[Reason] = Counter()

    @property
    def deadline(self) -> float | None:
        """When to call `handle(TimeReached(), now)` though nothing happened, in monotonic seconds."""
        times = (self._lifecycle.deadline_s, self._voice.deadline_s)
        return min((time for time in times if time is not None), default=None)

    @property
    def state(self) -> State | None:
        """The state of the newest attempt."""
        return self._lifecycle.attempt.state if self._lifecycle.attempt is not None else None

    def handle(self, event: Event, now: Now) -> list[Action]:
        """Take one event; return what to do, in order."""
        try:
            actions = self._dispatch(event, now)
        except NarrowboatError as error:
            actions = self._refused(event, error)
        for action in actions:
            if isinstance(action, SaveEnvelope):
                self._envelope_changed(action)
        return [*actions, *self._act_on_parked(now), *self._show()]

    def _dispatch(self, event: Event, now: Now) -> list[Action]:
        life = self._lifecycle
        match event:
            case ev.Started():
                return self._started(event, now)
            case ev.LinkOpened():
                return [*self._voice.link_opened(now), *life.pump(now)]
            case ev.LinkLost():
                self._voice.link_up = False
                life.link_lost()
                return []
            case ev.RootArrived(data):
                return self._root_arrived(data, now)
            case ev.DeliveryArrived(data):
                return self._delivery_arrived(data, now)
            case ev.AckArrived(data):
                ack = self._trust.open_ack(data, self._settings.device)
                return self._voice.acknowledged(ack.pair, ack.challenge, now)
            case ev.BlockArrived(message):
                block = decode_block(message, self._limits)
                return life.download_event(lambda download: download.block_arrived(block, now.monotonic_s), now)
            case ev.WireBytesCounted(total):
                count, self._wire_total = total - self._wire_total, total
                return life.wire_bytes(count, now)
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
            case ev.HookFinished(hook, outcome, output):
                return life.hook_finished(hook, outcome, output, now)
            case ev.ActionFailed(action, reason, message):
                failed = Log(f"{type(action).__name__} failed: {reason}: {message}", warning=True)
                return [failed, *life.action_failed(action, reason, message, now)]
            case ev.TimeReached():
                return [*self._voice.time_reached(now), *life.time_reached(now)]
            case _:
                assert_never(event)

    # Starting.

    def _started(self, event: ev.Started, now: Now) -> list[Action]:
        lost = self._recall(event.records)
        self._envelopes = dict(event.envelopes)
        trust = self._memory.trust
        floor = max(trust.floor, self._sequence_beside(event.boot.running))
        raised = self._memory.save_trust(
            boot_number=trust.boot_number + 1,
            floor=floor,
            time_floor=max(trust.time_floor, self._settings.built_at_s),
        )
        self._voice.root_version = self._trust.root.version
        self._voice.begin(event.boot, self._slot_infos(), now)
        verdict = judge_start(self._lifecycle.attempt, event.boot)
        begun = Log(f"started in slot {event.boot.running}: {verdict.name.lower()}")
        return [raised, *lost, begun, *self._lifecycle.start(verdict, event.boot, now)]

    def _recall(self, records: dict[Record, bytes | None]) -> list[Action]:
        """Take up the records; what cannot be read is said, and the agent goes on without it."""
        journal = read_record(Journal, records[Record.JOURNAL])
        trust = read_record(TrustRecord, records[Record.TRUST])
        outbox = read_record(Outbox, records[Record.OUTBOX])
        found = {Record.JOURNAL: journal, Record.TRUST: trust, Record.OUTBOX: outbox}
        self._memory.journal = journal or self._memory.journal
        self._memory.outbox = outbox or self._memory.outbox
        if trust is not None:
            self._memory.trust = trust
            self._trust = Trust(trust.root, trust.fleet_id, self._limits)
        return [
            Log(f"{record}: expected a record, found none that can be read; going on without it", warning=True)
            for record, value in found.items()
            if value is None and records[record] != b""
        ]

    def _sequence_beside(self, slot: str) -> int:
        """The sequence of the release that runs: a lost data partition does not lower the floor."""
        try:
            return self._trust.open_release(self._envelopes[slot]).sequence
        except (KeyError, NarrowboatError):
            return 0

    # Documents.

    def _root_arrived(self, data: bytes, now: Now) -> list[Action]:
        if not self._trust.update_root(data):
            return []
        self._voice.root_version = self._trust.root.version
        return [
            self._memory.save_trust(root=data),
            Log(f"root version {self._trust.root.version} accepted"),
            *self._voice.say_hello(now),
        ]

    def _delivery_arrived(self, data: bytes, now: Now) -> list[Action]:
        delivery = Delivery.decode(data)
        trust = self._memory.trust
        freshness = Freshness(self._voice.nonces, trust.assignment_counter, trust.assignment, trust.time_floor)
        assignment = self._trust.open_assignment(delivery.assignment, self._settings.device, freshness)
        if delivery.assignment == trust.assignment:
            return []
        accepted = self._memory.save_trust(
            assignment=delivery.assignment,
            assignment_counter=assignment.counter,
            time_floor=max(trust.time_floor, assignment.issued_at),
        )
        attempt = self._lifecycle.attempt
        if self._must_wait(assignment):
            assert attempt is not None
            parked = self._memory.save_parked(data)
            return [accepted, parked, *self._voice.too_late(attempt, assignment.counter, now)]
        return [accepted, *self._act_on(assignment, delivery, now)]

    def _must_wait(self, assignment: Assignment) -> bool:
        """Whether an attempt for something else is past the point of no return."""
        attempt = self._lifecycle.attempt
        if attempt is None or not attempt.active or self._lifecycle.abortable:
            return False
        return all(target.release != attempt.release for target in assignment.targets)

    def _act_on_parked(self, now: Now) -> list[Action]:
        """Once the attempt that could not be ended has ended, act on the newest assignment that came meanwhile."""
        attempt, parked = self._lifecycle.attempt, self._memory.journal.parked
        if parked is None or (attempt is not None and attempt.active):
            return []
        delivery = Delivery.decode(parked)
        trust = self._memory.trust
        freshness = Freshness((), trust.assignment_counter, delivery.assignment, trust.time_floor)
        cleared = self._memory.save_parked(None)
        try:
            assignment = self._trust.open_assignment(delivery.assignment, self._settings.device, freshness)
        except NarrowboatError as error:
            return [
                cleared,
                Log(f"the parked assignment is not believed any more: {error.reason}", warning=True),
            ]
        return [cleared, *self._act_on(assignment, delivery, now)]

    def _act_on(self, assignment: Assignment, delivery: Delivery, now: Now) -> list[Action]:
        attempt = self._lifecycle.attempt
        active = attempt is not None and attempt.active
        target = next((item for item in assignment.targets if item.component == self._settings.component), None)
        if target is None:
            return self._lifecycle.abort(Reason.WITHDRAWN, now) if active else []
        wanted = self._attempt_for(assignment, target, delivery)
        if active and attempt is not None and attempt.release == target.release:
            return self._lifecycle.adopt(wanted, now)
        aborted = self._lifecycle.abort(Reason.SUPERSEDED, now) if active else []
        return [*aborted, *self._offer(wanted, now)]

    def _attempt_for(self, assignment: Assignment, target: Target, delivery: Delivery) -> Attempt:
        return Attempt(
            attempt=assignment.counter,
            component=target.component,
            release=target.release,
            envelope=_envelope_of(target.release, delivery.envelopes, self._limits),
            state=State.OFFERED,
            slot=self._inactive_slot,
            payloads=target.payloads,
            reboot_windows=assignment.reboot_windows,
            byte_budget=assignment.byte_budget,
        )

    def _local_release_offered(self, event: ev.LocalReleaseOffered, now: Now) -> list[Action]:
        """Install from a file: no assignment, but every other proof. The result is reported with attempt 0."""
        if not self._settings.local_install_allowed:
            raise TrustError(Reason.NOT_PERMITTED, "this gateway's configuration does not allow local installation")
        if self._lifecycle.attempt is not None and self._lifecycle.attempt.active and not self._lifecycle.abortable:
            raise TrustError(Reason.TOO_LATE, "an update is being booted; wait for its end")
        release = self._open_release(event.envelope)
        head = parse_head(event.head, self._limits)
        payload = PayloadReference(
            digest=_digest(event.head),
            kind=head.kind,
            size=event.payload_size,
            head_size=len(event.head),
            head_sha256=_digest(event.head),
        )
        wanted = Attempt(
            attempt=0,
            component=self._settings.component,
            release=release.digest,
            envelope=event.envelope,
            state=State.OFFERED,
            slot=self._inactive_slot,
            payloads=(payload,),
            path=event.path,
        )
        attempt = self._lifecycle.attempt
        if attempt is not None and attempt.active:
            if attempt.release == release.digest:
                return self._lifecycle.adopt(wanted, now)
            return [*self._lifecycle.abort(Reason.SUPERSEDED, now), *self._offer(wanted, now)]
        return self._offer(wanted, now)

    def _offer(self, attempt: Attempt, now: Now) -> list[Action]:
        """Judge a release before its first byte: signatures, hardware, floor, and whether it fits into the slot."""
        try:
            if not attempt.envelope:
                raise TrustError(
                    Reason.MISSING_RELEASE, "the delivery lacks the envelope of the release that it assigns"
                )
            release = self._open_release(attempt.envelope)
            image = self._image_of(release)
            if self._slot_release(self._voice.running_slot) == release.digest:
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
        release = self._trust.open_release(envelope)
        if len(release.images) != 1:
            raise TrustError(
                Reason.UNSUPPORTED_MANIFEST,
                f"this agent updates one component, the release has {len(release.images)}",
            )
        settings = self._settings
        self._trust.judge_release(release, settings.component, settings.hardware, self._memory.trust.floor)
        return release

    def _image_of(self, release: Release) -> Image:
        return next(image for image in release.images if image.component == self._settings.component)

    # What others see.

    @property
    def _inactive_slot(self) -> str:
        running = self._voice.running_slot
        return next(slot.name for slot in self._settings.slots if slot.name != running)

    def _slot_release(self, slot: str) -> bytes | None:
        return next(info.release for info in self._voice.slots if info.name == slot)

    def _slot_infos(self) -> tuple[SlotInfo, ...]:
        return tuple(self._slot_info(slot.name, slot.size_bytes) for slot in self._settings.slots)

    def _slot_info(self, name: str, size_bytes: int) -> SlotInfo:
        """A slot with the release whose envelope lies beside it; the version only if the release is believed."""
        try:
            release = self._trust.open_release(self._envelopes[name])
            return SlotInfo(name=name, size=size_bytes, release=release.digest, version=self._image_of(release).version)
        except (KeyError, NarrowboatError, StopIteration):
            return SlotInfo(name=name, size=size_bytes)

    def _envelope_changed(self, action: SaveEnvelope) -> None:
        if action.envelope is None:
            self._envelopes.pop(action.slot, None)
        else:
            self._envelopes[action.slot] = action.envelope
        self._voice.slots = self._slot_infos()

    def _refused(self, event: Event, error: NarrowboatError) -> list[Action]:
        self.refusals[error.reason] += 1
        if self.refusals[error.reason] > 1:
            return []
        return [Log(f"{type(event).__name__} refused: {error.reason}: {error}", warning=True)]

    def _show(self) -> list[Action]:
        life = self._lifecycle
        attempt = life.attempt
        status = ShowStatus(
            state=self.state,
            hold=life.hold.reason if life.hold is not None else None,
            release=attempt.release if attempt is not None else None,
            done_bytes=life.done_bytes,
            total_bytes=life.total_bytes,
            wire_bytes=attempt.wire_bytes if attempt is not None else 0,
            reason=attempt.reason if attempt is not None else None,
            detail=attempt.detail if attempt is not None else None,
        )
        if status == self._shown:
            return []
        self._shown = status
        return [status]


def _envelope_of(release: bytes, envelopes: tuple[bytes, ...], limits: Limits) -> bytes:
    """The envelope whose digest is the release's; empty if there is none. Nothing about it is believed by this."""
    for envelope in envelopes:
        try:
            if parse_envelope(envelope, limits).digest == release:
                return envelope
        except NarrowboatError:
            continue
    return b""


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()

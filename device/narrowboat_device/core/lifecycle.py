"""The life of one attempt, from offered to its end: what is done in each state, and in which order it becomes durable.

The order of actions is the promise. The slot is marked unbootable before its first byte changes; the journal counts
chunks only after the sync that proves them; the envelope lies beside the slot before the journal says `installed`; the
boot switch is written and read back before the journal says `rebooting`; a commit marks the slot good, then raises the
floor, then writes the end; and a terminal report is in the outbox before the journal forgets the attempt. Reports
follow from states and never the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from narrowboat_protocol.documents import Hold
from narrowboat_protocol.documents.director import SOURCE_MQTT
from narrowboat_protocol.errors import NarrowboatError, Reason
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.states import TABLE, HoldReason, State
from narrowboat_protocol.suit import Image, Release

from .acceptance import Capabilities
from .actions import (
    Action,
    ArmTrial,
    CommitSlot,
    Hook,
    MarkUnbootable,
    Reboot,
    RestoreBoot,
    RunHook,
    SaveEnvelope,
)
from .download import Download
from .events import BootStatus, HookOutcome, Now
from .judge import Verdict
from .memory import Attempt, Memory
from .progress import Blame, Phase, Progress
from .settings import Settings
from .voice import Voice
from .window import Window
from .windows import next_opening_s

_DETAIL_MAX = 500
_BUDGET_CHECK_S = 3600.0
OpenRelease = Callable[[bytes], Release]
"""Believe an envelope under the root and floor of this moment, for this device; raises `PeerError`."""


@dataclass(slots=True)
class _Wait:
    """A hold, and when to look again."""

    hold: Hold
    until_s: float


class Lifecycle:
    """Drives the attempt in the journal. One at a time."""

    def __init__(
        self, settings: Settings, memory: Memory, voice: Voice, open_release: OpenRelease, limits: Limits
    ) -> None:
        self._settings = settings
        self._memory = memory
        self._voice = voice
        self._open_release = open_release
        self._limits = limits
        self._window = Window(limits)
        self._boot: BootStatus | None = None
        self._image: Image | None = None
        self._download: Download | None = None
        self._wait: _Wait | None = None
        self._health_until_s: float | None = None
        self._hook: Hook | None = None
        self._reported_s = 0.0

    @property
    def attempt(self) -> Attempt | None:
        return self._memory.journal.attempt

    @property
    def hold(self) -> Hold | None:
        return self._wait.hold if self._wait is not None else None

    @property
    def abortable(self) -> bool:
        return self.attempt is not None and TABLE[self.attempt.state].abortable

    @property
    def done_bytes(self) -> int:
        if self._download is not None:
            return self._download.done_bytes
        if self.attempt is None or self._image is None:
            return 0
        return min(self.attempt.next_chunk << self._image.tree.log2_chunk_size, self._image.size_bytes)

    @property
    def total_bytes(self) -> int:
        return self._image.size_bytes if self._image is not None else 0

    @property
    def deadline_s(self) -> float | None:
        if self._wait is not None:
            return self._wait.until_s
        return self._download.deadline_s if self._download is not None else None

    # Beginning, continuing, ending.

    def start(self, verdict: Verdict, boot: BootStatus, now: Now) -> list[Action]:
        """Take up the attempt in the journal after a start of the agent."""
        self._boot = boot
        attempt = self.attempt
        if attempt is None or verdict is Verdict.REST:
            return []
        if verdict is Verdict.ROLLED_BACK:
            reason = attempt.reason or (
                Reason.BOOT_FAILED if attempt.state is State.REBOOTING else Reason.TRIAL_NOT_COMMITTED
            )
            with suppress(NarrowboatError):  # only the size in the report rests on it
                self._image = self._image_of(attempt)
            return [RestoreBoot(boot.running), *self.end(State.ROLLED_BACK, reason, attempt.detail, now)]
        if verdict is Verdict.STRANDED:
            return self.end(State.FAILED, Reason.UNKNOWN_STATE_ON_BOOT, "the slot being written was booted", now)
        if verdict is Verdict.GO_BACK:
            return self._go_back(attempt, now)
        if verdict is Verdict.COMMITTED:
            return self._finish_commit(attempt, now)
        try:
            self._image = self._image_of(attempt)
        except NarrowboatError as error:
            if verdict is Verdict.ON_TRIAL:
                return self._trial_failed(error.reason, str(error), now)
            return self.end(State.REJECTED, error.reason, str(error), now)
        if verdict is Verdict.ON_TRIAL:
            return self._begin_trial(attempt, now)
        if verdict is Verdict.REBOOT_AGAIN:
            return self._reboot(attempt, now)
        return self._resume(attempt, now)

    def offer(self, attempt: Attempt, image: Image, now: Now) -> list[Action]:
        """Begin an attempt that was believed and judged. What an ended attempt left of the same image in the slot is
        kept.
        """
        self._image = image
        before = self.attempt
        if before is not None and self._same_image(before, attempt, image):
            attempt = attempt.model_copy(update={"next_chunk": before.next_chunk, "suspects": before.suspects})
        return [*self._enter(attempt, State.OFFERED, now), *self._ask(Hook.DOWNLOAD)]

    def adopt(self, attempt: Attempt, now: Now) -> list[Action]:
        """The same release was assigned anew: state, bytes and place stay; what the new assignment says of the way
        counts.
        """
        current = self.attempt
        assert current is not None
        merged = current.model_copy(
            update={
                "attempt": attempt.attempt,
                "payloads": attempt.payloads,
                "payload_index": 0,
                "reboot_windows": attempt.reboot_windows,
                "byte_budget": attempt.byte_budget,
                "path": attempt.path,
            }
        )
        if merged.state is not State.ON_TRIAL:
            self._wait = None
        actions: list[Action] = [self._memory.save_attempt(merged), *self._report(now)]
        if merged.state is State.OFFERED:
            actions += self._ask(Hook.DOWNLOAD)
        elif merged.state is State.DOWNLOADING:
            actions += self._start_download(merged, now)
        elif merged.state is State.INSTALLED:
            actions += self._consider_reboot(merged, now)
        return actions

    def refuse(self, attempt: Attempt, error: NarrowboatError, now: Now) -> list[Action]:
        """End an attempt before it began."""
        self._image = None
        self._memory.journal = self._memory.journal.model_copy(update={"attempt": attempt})
        return self.end(State.REJECTED, error.reason, str(error), now)

    def already_runs(self, attempt: Attempt, image: Image, now: Now) -> list[Action]:
        """The release that is assigned is the one that runs and was committed: there is nothing to do but to say so."""
        self._image = image
        self._memory.journal = self._memory.journal.model_copy(update={"attempt": attempt})
        return self.end(State.SUCCEEDED, None, "runs already", now)

    def abort(self, reason: Reason, now: Now) -> list[Action]:
        """End an attempt that may still be ended: the slot stays unbootable, the boot order is as it was."""
        attempt = self.attempt
        assert attempt is not None
        assert self._boot is not None
        undo: list[Action] = []
        if attempt.state is not State.OFFERED:
            undo = [
                MarkUnbootable(attempt.slot),
                RestoreBoot(self._boot.running),
                SaveEnvelope(attempt.slot, None),
            ]
        self._memory.journal = self._memory.journal.model_copy(
            update={"attempt": attempt.model_copy(update={"next_chunk": 0, "suspects": ()})}
        )
        return [*undo, *self.end(State.ABORTED, reason, None, now)]

    def end(self, state: State, reason: Reason | None, detail: str | None, now: Now) -> list[Action]:
        """Write an end: outbox first, then the journal."""
        attempt = self.attempt
        assert attempt is not None
        done, total = self.done_bytes, self.total_bytes
        self._download, self._wait, self._hook, self._health_until_s = None, None, None, None
        ended = attempt.model_copy(
            update={"state": state, "reason": reason, "detail": detail[:_DETAIL_MAX] if detail else None}
        )
        letter = self._voice.report_end(ended, done, total, now)
        return [letter[0], self._memory.save_attempt(ended), *letter[1:]]

    # Events.

    def hook_finished(self, hook: Hook, outcome: HookOutcome, output: str, now: Now) -> list[Action]:
        attempt = self.attempt
        if attempt is None or hook is not self._hook:
            return []
        self._hook = None
        if hook is Hook.HEALTH:
            return self._health_answered(attempt, outcome, output, now)
        if outcome is HookOutcome.NOT_NOW:
            return self._hold(HoldReason.HOOK, now.monotonic_s + self._settings.hook_retry_s, now)
        if outcome is HookOutcome.FAILED:
            return self.end(State.FAILED, Reason.HOOK_FAILED, output, now)
        return self._begin_download(attempt, now) if hook is Hook.DOWNLOAD else self._reboot(attempt, now)

    def slot_committed(self, slot: str, now: Now) -> list[Action]:
        attempt = self.attempt
        if attempt is None or attempt.state is not State.ON_TRIAL or attempt.slot != slot:
            return []
        return self._finish_commit(attempt, now)

    def download_event(self, deliver: Callable[[Download], list[Action]], now: Now) -> list[Action]:
        """Give the download an event, then do what its new condition asks for."""
        download, attempt = self._download, self.attempt
        if download is None or attempt is None:
            return []
        actions = deliver(download)
        if download.fault is not None:
            return [*actions, *self._download_failed(attempt, download, now)]
        actions = [*self._save_progress(attempt, download, now), *actions]
        if download.phase is Phase.PROVED:
            return [*actions, *self._installed(now)]
        return [*actions, *self.pump(now)]

    def pump(self, now: Now) -> list[Action]:
        """Let the download ask for more, unless something holds it."""
        if self._download is None or self._wait is not None or not (self._voice.link_up or self._is_local):
            return []
        return self._download.pump(now.monotonic_s)

    def link_lost(self) -> None:
        if self._download is not None and not self._is_local:
            self._download.link_lost()

    def wire_bytes(self, count: int, now: Now) -> list[Action]:
        """Charge bytes read from the socket to the attempt, and hold it when they exceed the campaign's budget."""
        attempt = self.attempt
        if attempt is None or not attempt.active or count <= 0:
            return []
        attempt = attempt.model_copy(update={"wire_bytes": attempt.wire_bytes + count})
        self._memory.journal = self._memory.journal.model_copy(update={"attempt": attempt})
        if attempt.byte_budget is None or attempt.wire_bytes <= attempt.byte_budget or self._download is None:
            return []
        if self._wait is not None and self._wait.hold.reason is HoldReason.BYTE_BUDGET:
            return []
        return [
            self._memory.save_attempt(attempt),
            *self._hold(HoldReason.BYTE_BUDGET, now.monotonic_s + _BUDGET_CHECK_S, now),
        ]

    def time_reached(self, now: Now) -> list[Action]:
        attempt = self.attempt
        if attempt is None or not attempt.active:
            return []
        if self._wait is None or now.monotonic_s < self._wait.until_s:
            return self.download_event(lambda _: [], now)
        reason, self._wait = self._wait.hold.reason, None
        if reason is HoldReason.BYTE_BUDGET:
            return self._hold(reason, now.monotonic_s + _BUDGET_CHECK_S, now)
        if attempt.state is State.ON_TRIAL:
            return self._ask(Hook.HEALTH)
        if attempt.state is State.INSTALLED:
            return self._consider_reboot(attempt, now)
        if attempt.state is State.OFFERED:
            return self._ask(Hook.DOWNLOAD)
        return self.pump(now)

    def action_failed(self, action: Action, reason: Reason, message: str, now: Now) -> list[Action]:
        """What could not be done decides the end; a slot that runs is never given up for it."""
        attempt = self.attempt
        if attempt is None or not attempt.active or self._boot is None:
            return []
        if attempt.state is State.ON_TRIAL:
            if isinstance(action, RestoreBoot):
                return self.end(State.ROLLBACK_FAILED, reason, message, now)
            return self._trial_failed(reason, message, now)
        if isinstance(action, ArmTrial | Reboot):
            return [RestoreBoot(self._boot.running), *self.end(State.FAILED, reason, message, now)]
        return self.end(State.FAILED, reason, message, now)

    # Downloading to installed.

    def _resume(self, attempt: Attempt, now: Now) -> list[Action]:
        if attempt.state is State.OFFERED:
            return self._ask(Hook.DOWNLOAD)
        if attempt.state is State.INSTALLED:
            return self._consider_reboot(attempt, now)
        return self._start_download(attempt, now)

    def _begin_download(self, attempt: Attempt, now: Now) -> list[Action]:
        return [
            MarkUnbootable(attempt.slot),
            SaveEnvelope(attempt.slot, None),
            *self._enter(attempt, State.DOWNLOADING, now),
            *self._start_download(self._current, now),
        ]

    def _start_download(self, attempt: Attempt, now: Now) -> list[Action]:
        usable = [
            payload
            for payload in attempt.payloads[attempt.payload_index :]
            if self._source_of(attempt, payload.sources)
        ]
        if self._image is None or not usable:
            self._download = None
            return self._hold(HoldReason.NO_SOURCE, now.monotonic_s + _BUDGET_CHECK_S, now)
        self._download = Download(
            self._image,
            attempt.slot,
            usable[0],
            self._source_of(attempt, usable[0].sources),
            Capabilities(frozenset(self._settings.codecs), self._settings.memory_bytes_max),
            Progress(attempt.next_chunk, attempt.suspects),
            self._window,
            self._limits,
        )
        return self.download_event(lambda download: download.start(), now)

    def _download_failed(self, attempt: Attempt, download: Download, now: Now) -> list[Action]:
        fault = download.fault
        assert fault is not None
        following = attempt.payload_index + 1
        if fault.blame is Blame.PAYLOAD and following < len(attempt.payloads):
            moved = self._current.model_copy(update={"payload_index": following})
            return [self._memory.save_attempt(moved), *self._start_download(moved, now)]
        state = State.REJECTED if fault.blame is Blame.RELEASE else State.FAILED
        return self.end(state, fault.reason, fault.detail, now)

    def _save_progress(self, attempt: Attempt, download: Download, now: Now) -> list[Action]:
        """Write the journal when more is synced, and tell of it now and then."""
        progress = download.progress
        changed = (progress.next_chunk, progress.suspects) != (attempt.next_chunk, attempt.suspects)
        moved = self._current.model_copy(update={"next_chunk": progress.next_chunk, "suspects": progress.suspects})
        if download.phase in (Phase.READ_BACK, Phase.PROVED) and attempt.state is State.DOWNLOADING:
            return self._enter(moved, State.VERIFYING, now)
        if not changed:
            return []
        actions: list[Action] = [self._memory.save_attempt(moved)]
        if now.monotonic_s >= self._reported_s + self._settings.report_interval_s:
            actions += self._report(now)
        return actions

    def _installed(self, now: Now) -> list[Action]:
        attempt = self._current
        self._download = None
        return [
            SaveEnvelope(attempt.slot, attempt.envelope),
            *self._enter(attempt, State.INSTALLED, now),
            *self._consider_reboot(self._current, now),
        ]

    # Rebooting, trial, commit and the way back.

    def _consider_reboot(self, attempt: Attempt, now: Now) -> list[Action]:
        opening_s = next_opening_s(attempt.reboot_windows, now.wall_s)
        if opening_s > 0:
            return self._hold(HoldReason.WINDOW, now.monotonic_s + opening_s, now)
        return self._ask(Hook.REBOOT)

    def _reboot(self, attempt: Attempt, now: Now) -> list[Action]:
        """Judge root, floor and signers once more, write the boot switch, and only then call it rebooting."""
        assert self._boot is not None
        try:
            self._image_of(attempt)
        except NarrowboatError as error:
            return [RestoreBoot(self._boot.running), *self.end(State.REJECTED, error.reason, str(error), now)]
        moved = attempt.model_copy(update={"boot_id": self._boot.boot_id, "reboots": attempt.reboots + 1})
        return [ArmTrial(attempt.slot), *self._enter(moved, State.REBOOTING, now), Reboot()]

    def _begin_trial(self, attempt: Attempt, now: Now) -> list[Action]:
        self._health_until_s = now.monotonic_s + self._settings.health_deadline_s
        return [*self._enter(attempt, State.ON_TRIAL, now), *self._ask(Hook.HEALTH)]

    def _health_answered(self, attempt: Attempt, outcome: HookOutcome, output: str, now: Now) -> list[Action]:
        if outcome is HookOutcome.GO_ON:
            return [CommitSlot(attempt.slot)]
        if self._health_until_s is None or now.monotonic_s >= self._health_until_s:
            return self._trial_failed(Reason.HEALTH_CHECK_FAILED, output, now)
        retry_s = min(now.monotonic_s + self._settings.health_retry_s, self._health_until_s)
        return self._hold(HoldReason.HOOK, retry_s, now)

    def _finish_commit(self, attempt: Attempt, now: Now) -> list[Action]:
        """The slot is committed: raise the floor to its release, then write the end."""
        sequence = self._memory.trust.floor
        try:
            sequence = max(sequence, self._open_release(attempt.envelope).sequence)
            self._image = self._image_of(attempt)
        except NarrowboatError:
            # The root moved on since the release was judged for the reboot; its own minimum bounds the floor now.
            self._image = None
        return [self._memory.save_trust(floor=sequence), *self.end(State.SUCCEEDED, None, None, now)]

    def _trial_failed(self, reason: Reason, detail: str, now: Now) -> list[Action]:
        attempt = self._current.model_copy(
            update={"state": State.ON_TRIAL, "reason": reason, "detail": detail[:_DETAIL_MAX]}
        )
        return [self._memory.save_attempt(attempt), *self._go_back(attempt, now)]

    def _go_back(self, attempt: Attempt, now: Now) -> list[Action]:
        old = next(slot.name for slot in self._settings.slots if slot.name != attempt.slot)
        return [*self._report(now), RestoreBoot(old), Reboot()]

    # Small parts.

    @property
    def _current(self) -> Attempt:
        assert self.attempt is not None
        return self.attempt

    @property
    def _is_local(self) -> bool:
        return self.attempt is not None and self.attempt.path is not None

    def _source_of(self, attempt: Attempt, sources: tuple[str, ...]) -> str:
        """The source to fetch from, or an empty text if this device can use none of them."""
        if attempt.path is not None:
            return f"file:{attempt.path}"
        return SOURCE_MQTT if SOURCE_MQTT in sources else ""

    def _image_of(self, attempt: Attempt) -> Image:
        release = self._open_release(attempt.envelope)
        return next(image for image in release.images if image.component == attempt.component)

    def _same_image(self, before: Attempt, attempt: Attempt, image: Image) -> bool:
        if before.slot != attempt.slot or before.component != attempt.component or not before.next_chunk:
            return False
        try:
            old = self._image_of(before)
        except NarrowboatError:
            return False
        return (old.tree, old.image_sha256) == (image.tree, image.image_sha256)

    def _enter(self, attempt: Attempt, state: State, now: Now) -> list[Action]:
        """Make a state durable, then report it."""
        moved = attempt.model_copy(update={"state": state})
        self._wait = None
        return [self._memory.save_attempt(moved), *self._report(now)]

    def _ask(self, hook: Hook) -> list[Action]:
        self._hook = hook
        return [RunHook(hook)]

    def _hold(self, reason: HoldReason, until_s: float, now: Now) -> list[Action]:
        since = self._wait.hold.since if self._wait and self._wait.hold.reason is reason else now.wall_s
        next_check = now.wall_s + int(until_s - now.monotonic_s)
        self._wait = _Wait(Hold(reason=reason, since=since, next_check=next_check), until_s)
        return self._report(now)

    def _report(self, now: Now) -> list[Action]:
        self._reported_s = now.monotonic_s
        return self._voice.report(self._current, self.hold, self.done_bytes, self.total_bytes, now)

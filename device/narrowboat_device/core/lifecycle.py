"""The life of one attempt, from offered to its end: what is done in each state, and in which order it becomes durable.

The order of actions is the promise. The slot is marked unbootable before its first byte changes; the journal counts
chunks only after the sync that proves them; the envelope lies beside the slot before the journal says `installed`; the
boot switch is written and read back before the journal says `rebooting`; a commit marks the slot good, then raises the
floor, then writes the end; and a terminal report is in the outbox before the journal forgets the attempt. Reports
follow from states and never the other way round.

The part between downloading and installed is `Fetching`'s, what follows the proof is `Trial`'s.
"""

from __future__ import annotations

from collections.abc import Callable

from narrowboat_protocol.documents import Hold
from narrowboat_protocol.errors import MediumError, NarrowboatError, Reason
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.states import TABLE, HoldReason, State
from narrowboat_protocol.suit import Image

from .actions import (
    Action,
    ArmTrial,
    Fetch,
    HashSlot,
    Hook,
    MarkUnbootable,
    Publish,
    ReadBackSlot,
    Reboot,
    Record,
    RestoreBoot,
    Save,
    SaveEnvelope,
    SyncSlot,
    Told,
)
from .course import DETAIL_MAX, Course, OpenRelease
from .download import Download
from .events import BootStatus, HookFinished, HookOutcome, Now, earliest
from .fetching import Fetching
from .judge import Verdict
from .memory import Attempt, Memory, content_of
from .settings import Settings
from .trial import Trial
from .voice import Voice

_BUDGET_CHECK_S = 3600.0


class Lifecycle:
    """Drives the attempt in the journal. One at a time."""

    def __init__(
        self, settings: Settings, memory: Memory, voice: Voice, open_release: OpenRelease, limits: Limits
    ) -> None:
        self._settings = settings
        self._memory = memory
        self._course = Course(settings, memory, voice, open_release)
        self._trial = Trial(self._course)
        self._fetching = Fetching(self._course, limits, self._installed)

    @property
    def attempt(self) -> Attempt | None:
        return self._course.attempt

    @property
    def active(self) -> bool:
        return self.attempt is not None and self.attempt.active

    @property
    def abortable(self) -> bool:
        return self.attempt is not None and TABLE[self.attempt.state].abortable

    @property
    def running_is_committed(self) -> bool:
        """The slot that runs is also the one that boots when no trial is on."""
        boot = self._course.boot
        return boot is not None and boot.running == boot.primary

    @property
    def hold(self) -> Hold | None:
        return self._course.hold

    @property
    def done_bytes(self) -> int:
        return self._course.done_bytes

    @property
    def total_bytes(self) -> int:
        return self._course.total_bytes

    @property
    def deadline_s(self) -> float | None:
        waiting_s = self._course.wait.until_s if self._course.wait is not None else None
        return earliest(waiting_s, self._fetching.deadline_s, self._trial.deadline_s)

    # Beginning, continuing, ending.

    def start(self, verdict: Verdict, boot: BootStatus, now: Now) -> list[Action]:
        """Take up the attempt in the journal after a start of the agent."""
        self._course.boot = boot
        match verdict:
            case Verdict.REST:
                return []
            case Verdict.ROLLED_BACK:
                return self._trial.rolled_back(now)
            case Verdict.STRANDED:
                detail = "the slot being written was booted"
                return self._course.end(State.FAILED, Reason.UNKNOWN_STATE_ON_BOOT, detail, now)
            case Verdict.NEVER_BOOTED:
                return self._trial.never_booted(now)
            case Verdict.FORGOTTEN:
                return [RestoreBoot(boot.primary), Reboot()]
            case Verdict.GO_BACK:
                return [*self._course.report(now), *self._trial.go_back()]
            case Verdict.COMMITTED:
                return self._trial.finish_commit(now)
            case Verdict.RESUME | Verdict.REBOOT_AGAIN | Verdict.ON_TRIAL:
                return self._go_on(verdict, now)

    def _go_on(self, verdict: Verdict, now: Now) -> list[Action]:
        """Take up an attempt that has its way before it, if its release is still believed."""
        course, trial = self._course, self._trial
        try:
            course.image = course.image_of(course.current)
        except NarrowboatError as error:
            if verdict is Verdict.ON_TRIAL:
                return trial.fail(error.reason, str(error), now)
            if verdict is Verdict.REBOOT_AGAIN:
                return trial.disarm(error, now)
            return course.end(State.REJECTED, error.reason, str(error), now)
        if verdict is Verdict.ON_TRIAL:
            return trial.begin(now)
        return trial.reboot(now) if verdict is Verdict.REBOOT_AGAIN else self._resume(now)

    def offer(self, attempt: Attempt, image: Image, now: Now) -> list[Action]:
        """Begin an attempt that was believed and judged. What is in the slot of the same image is kept."""
        attempt, content = self._with_progress(attempt), content_of(image.image_sha256, image.tree)
        if attempt.content != content:
            attempt = attempt.model_copy(update={"next_chunk": 0, "suspects": (), "content": content})
        self._course.image = image
        return [*self._course.enter(attempt, State.OFFERED, now), *self._course.ask(Hook.DOWNLOAD)]

    def adopt(self, attempt: Attempt, now: Now) -> list[Action]:
        """The same release was assigned anew: state, bytes and place stay; what the new assignment says of the way
        counts. A release file is but another way; the assignment that began the attempt is still answered.
        """
        course = self._course
        merged = course.current.model_copy(
            update={
                "attempt": attempt.attempt or course.current.attempt,
                "payloads": attempt.payloads,
                "payload_index": 0,
                "reboot_windows": attempt.reboot_windows,
                "byte_budget": attempt.byte_budget,
                "path": attempt.path,
            }
        )
        if merged.state is not State.ON_TRIAL:
            course.wait = None
        actions: list[Action] = [self._memory.save_attempt(merged), *course.report(now)]
        if merged.state is State.OFFERED:
            actions += course.ask(Hook.DOWNLOAD)
        elif merged.state in (State.DOWNLOADING, State.VERIFYING):
            actions += [*self._hold_if_spent(now), *self._fetching.adopt(now)]
        elif merged.state is State.INSTALLED:
            actions += self._trial.consider_reboot(now)
        return actions

    def say_again(self, running: bytes | None, now: Now) -> list[Action]:
        """Report the attempt as it stands, an end too: a bridge asks that lost what it had.

        `running` is the release that runs: a success counts as long as it does.
        """
        course = self._course
        if course.voice.awaits_ack:
            return []
        if self.active:
            return course.report(now)
        attempt = course.current
        if attempt.state is State.SUCCEEDED and attempt.release != running:
            left = {"state": State.ROLLED_BACK, "reason": Reason.BOOT_FAILED, "detail": "left after the commit"}
            attempt = attempt.model_copy(update=left)
        return course.voice.report_end(attempt, course.done_bytes, course.total_bytes, now)

    def refuse(self, attempt: Attempt, error: NarrowboatError, now: Now) -> list[Action]:
        """End an attempt before it began."""
        self._course.image = None
        self._memory.note_attempt(self._with_progress(attempt))
        return self._course.end(State.REJECTED, error.reason, str(error), now)

    def already_runs(self, attempt: Attempt, image: Image, now: Now) -> list[Action]:
        """The release that is assigned is the one that runs and was committed: there is nothing to do but to say so."""
        self._course.image = image
        self._memory.note_attempt(self._with_progress(attempt))
        return self._course.end(State.SUCCEEDED, None, "runs already", now)

    def abort(self, reason: Reason, now: Now) -> list[Action]:
        """End an attempt that may still be ended: the slot stays unbootable, the boot order is as it was."""
        attempt = self._course.current
        ended = self._course.end(State.ABORTED, reason, None, now)
        if attempt.state is State.OFFERED:
            return ended
        # The envelope goes last: an attempt that a power cut brings back as installed still has it.
        undo = (MarkUnbootable(attempt.slot), RestoreBoot(self._course.running_slot))
        return [*undo, *ended, SaveEnvelope(attempt.slot, None)]

    # Events.

    def hook_finished(self, finished: HookFinished, now: Now) -> list[Action]:
        course = self._course
        if self.attempt is None or not course.answers(finished):
            return []
        if finished.hook is Hook.HEALTH:
            return self._trial.health_answered(finished.outcome, finished.output, now)
        if finished.outcome is HookOutcome.NOT_NOW:
            return course.wait_for(HoldReason.HOOK, now.monotonic_s + self._settings.hook_retry_s, now)
        if finished.outcome is HookOutcome.FAILED:
            return course.end(State.FAILED, Reason.HOOK_FAILED, finished.output[-DETAIL_MAX:], now)
        return self._begin_download(now) if finished.hook is Hook.DOWNLOAD else self._trial.reboot_allowed(now)

    def slot_committed(self, slot: str, now: Now) -> list[Action]:
        return self._trial.committed(slot, now)

    def download_event(self, deliver: Callable[[Download], list[Action]], now: Now) -> list[Action]:
        return self._fetching.deliver(deliver, now)

    def link_opened(self, now: Now) -> list[Action]:
        return self._fetching.pump(now)

    def link_lost(self) -> None:
        self._fetching.link_lost()

    def wire_bytes(self, count: int, now: Now) -> list[Action]:
        """Charge bytes read from the socket to the attempt, and hold it when they exceed the campaign's budget."""
        attempt, course = self.attempt, self._course
        if attempt is None or not attempt.active or count <= 0:
            return []
        attempt = attempt.model_copy(update={"wire_bytes": attempt.wire_bytes + count})
        self._memory.note_attempt(attempt)
        held = course.hold is not None and course.hold.reason is HoldReason.BYTE_BUDGET
        if not attempt.budget_is_spent or course.download is None or held:
            return []
        return [self._memory.save_attempt(attempt), *self._wait_for_budget(now)]

    def time_reached(self, now: Now) -> list[Action]:
        attempt, course = self.attempt, self._course
        if attempt is None or not attempt.active:
            return []
        if attempt.state is State.ON_TRIAL and (overdue := self._trial.time_reached(now)):
            return overdue
        if course.wait is None or now.monotonic_s < course.wait.until_s:
            return self._fetching.work(now)
        reason = course.wait.hold.reason
        if reason is HoldReason.BYTE_BUDGET:
            return [*self._wait_for_budget(now), *self._fetching.pump(now)]
        course.wait = None
        if attempt.state is State.ON_TRIAL:
            return course.ask(Hook.HEALTH)
        return self._resume(now)

    def action_failed(
        self, action: Action, dropped: list[Action], reason: Reason, message: str, now: Now
    ) -> list[Action]:
        """What could not be done decides the end; a slot that runs is never given up for it. `dropped`: the failed
        action and what followed it in its list; empty for the work of a worker.
        """
        attempt = self.attempt
        if attempt is None or not attempt.active or _only_words(dropped) or self._is_stale(action):
            return []
        if attempt.state is State.ON_TRIAL:
            return self._trial.action_failed(action, reason, message, now)
        undo: list[Action] = []
        if isinstance(action, ArmTrial | Reboot) or attempt.state is State.REBOOTING:
            undo = [RestoreBoot(self._course.running_slot)]
        return [*undo, *self._course.end(State.FAILED, reason, message, now)]

    def _is_stale(self, action: Action) -> bool:
        """A worker failed at what nobody waits for any more."""
        if not isinstance(action, Fetch | SyncSlot | HashSlot | ReadBackSlot):
            return False
        return self._course.download is None or not self._course.download.asked(action)

    # From state to state.

    def _resume(self, now: Now) -> list[Action]:
        state = self._course.current.state
        if state is State.OFFERED:
            return self._course.ask(Hook.DOWNLOAD)
        if state is State.INSTALLED:
            return self._trial.consider_reboot(now)
        return [*self._hold_if_spent(now), *self._fetching.start(now)]

    def _hold_if_spent(self, now: Now) -> list[Action]:
        """Before a download or its proof goes on: no request leaves once the budget is spent, for rot neither."""
        attempt = self._course.current
        may_fetch = attempt.state in (State.DOWNLOADING, State.VERIFYING)
        return self._wait_for_budget(now) if may_fetch and attempt.budget_is_spent else []

    def _wait_for_budget(self, now: Now) -> list[Action]:
        return self._course.wait_for(HoldReason.BYTE_BUDGET, now.monotonic_s + _BUDGET_CHECK_S, now)

    def _begin_download(self, now: Now) -> list[Action]:
        course, attempt = self._course, self._course.current
        if not self.running_is_committed:
            error = MediumError(
                Reason.BOOT_CONTROL_FAILED,
                f"expected slot {course.running_slot} to be the one that boots, it is not; reboot first",
            )
            return course.end(State.FAILED, error.reason, str(error), now)
        return [
            MarkUnbootable(attempt.slot),
            SaveEnvelope(attempt.slot, None),
            *course.enter(attempt, State.DOWNLOADING, now),
            *self._hold_if_spent(now),
            *self._fetching.start(now),
        ]

    def _installed(self, now: Now) -> list[Action]:
        attempt = self._course.current
        return [
            SaveEnvelope(attempt.slot, attempt.envelope),
            *self._course.enter(attempt, State.INSTALLED, now),
            *self._trial.consider_reboot(now),
        ]

    def _with_progress(self, attempt: Attempt) -> Attempt:
        """What the attempt before knew of the slot that both write to."""
        before = self.attempt
        if before is None or (before.slot, before.component) != (attempt.slot, attempt.component):
            return attempt
        kept = {"next_chunk": before.next_chunk, "suspects": before.suspects, "content": before.content}
        return attempt.model_copy(update=kept)


def _only_words(dropped: list[Action]) -> bool:
    """Nothing was lost but what is said, and records that do not lead the attempt: `Arrears` sees to both."""
    return bool(dropped) and all(
        isinstance(item, Publish | Told) or (isinstance(item, Save) and item.record is not Record.JOURNAL)
        for item in dropped
    )

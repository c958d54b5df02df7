"""Rebooting, trial, commit and the way back.

The boot switch is written and read back before the journal says `rebooting`, after root, floor and signers were judged
once more. On trial the new system is asked for its health until it says yes or its time is up. A commit marks the slot
good, then raises the floor, then writes the end. The way back needs nothing but boot control: its reason is written
down first, but a journal that cannot be written does not keep a gateway in a system that failed its trial, since the
old one finds out by itself.

Nothing that a trial waits for may keep it for ever: a health check that does not answer in its time has failed, an
agent that is started again and again on trial has too, and a reboot that did not happen is asked for again after a
while.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from narrowboat_protocol.errors import NarrowboatError, Reason
from narrowboat_protocol.states import HoldReason, State
from narrowboat_protocol.trust import Floor

from .actions import Action, ArmTrial, CommitSlot, Hook, Reboot, RestoreBoot, Save
from .course import DETAIL_MAX, Course
from .events import HookOutcome, Now
from .memory import Attempt
from .windows import next_opening_s

TRIAL_STARTS_MAX = 8
"""An agent that starts more often than this while its system is on trial is no agent to stay with."""
_REBOOT_RETRY_S = 30.0


class Trial:
    """What becomes of a slot that is proved."""

    def __init__(self, course: Course) -> None:
        self._course = course
        self._health_until_s: float | None = None
        self._reboot_again_s: float | None = None

    @property
    def deadline_s(self) -> float | None:
        """When a trial is over though nobody answers, or its way back is tried again."""
        attempt = self._course.attempt
        if attempt is None or attempt.state is not State.ON_TRIAL:
            return None
        if attempt.reason is not None:
            return self._reboot_again_s
        return None if self._health_until_s is None else self._health_until_s + self._course.settings.hook_timeout_s

    def consider_reboot(self, now: Now) -> list[Action]:
        waiting = self._wait_for_window(now)
        return self._course.ask(Hook.REBOOT) if waiting is None else waiting

    def reboot_allowed(self, now: Now) -> list[Action]:
        """The hook said go on, which may have taken it so long that the window is over."""
        waiting = self._wait_for_window(now)
        return self.reboot(now) if waiting is None else waiting

    def _wait_for_window(self, now: Now) -> list[Action] | None:
        """None if a reboot is allowed now."""
        course = self._course
        opening_s = next_opening_s(course.current.reboot_windows, now.wall_s)
        return course.wait_for(HoldReason.WINDOW, now.monotonic_s + opening_s, now) if opening_s > 0 else None

    def reboot(self, now: Now) -> list[Action]:
        """Judge root, floor and signers once more, write the boot switch, and only then call it rebooting."""
        course, attempt = self._course, self._course.current
        assert course.boot is not None
        try:
            course.image_of(attempt)
        except NarrowboatError as error:
            return self.disarm(error, now)
        reboots = attempt.reboots + (attempt.boot_id != course.boot.boot_id)
        moved = attempt.model_copy(update={"boot_id": course.boot.boot_id, "reboots": reboots})
        return [ArmTrial(attempt.slot), *course.enter(moved, State.REBOOTING, now), Reboot()]

    def never_booted(self, now: Now) -> list[Action]:
        """The switch is written, and yet nothing tried the slot: that is a fault of boot control, not of the slot."""
        course = self._course
        detail = "the boot loader did not try the slot that was armed"
        ended = course.end(State.FAILED, Reason.BOOT_CONTROL_FAILED, detail, now)
        return [RestoreBoot(course.running_slot), *ended]

    def disarm(self, error: NarrowboatError, now: Now) -> list[Action]:
        """The release is not believed any more: nothing may boot it, though the switch may be written already."""
        course = self._course
        state = State.FAILED if course.current.state is State.REBOOTING else State.REJECTED
        return [RestoreBoot(course.running_slot), *course.end(state, error.reason, str(error), now)]

    def begin(self, now: Now) -> list[Action]:
        course, attempt = self._course, self._course.current
        if attempt.trial_starts >= TRIAL_STARTS_MAX:
            return self.fail(Reason.HEALTH_CHECK_FAILED, f"the agent ended {attempt.trial_starts} times on trial", now)
        self._health_until_s = now.monotonic_s + course.settings.health_deadline_s
        moved = attempt.model_copy(update={"trial_starts": attempt.trial_starts + 1})
        return [*course.enter(moved, State.ON_TRIAL, now), *course.ask(Hook.HEALTH)]

    def time_reached(self, now: Now) -> list[Action]:
        """Go back if nothing else ends the trial in time; go on going back if the reboot did not come."""
        if self.deadline_s is None or now.monotonic_s < self.deadline_s:
            return []
        if self._course.current.reason is not None:
            self._reboot_again_s = None
            return self.go_back()
        return self.fail(Reason.HEALTH_CHECK_FAILED, "expected the health check to answer in time, it did not", now)

    def health_answered(self, outcome: HookOutcome, output: str, now: Now) -> list[Action]:
        course = self._course
        if outcome is HookOutcome.GO_ON:
            return [CommitSlot(course.current.slot)]
        if self._health_until_s is None or now.monotonic_s >= self._health_until_s:
            return self.fail(Reason.HEALTH_CHECK_FAILED, output[-DETAIL_MAX:], now)
        retry_s = min(now.monotonic_s + course.settings.health_retry_s, self._health_until_s)
        return course.wait_for(HoldReason.HOOK, retry_s, now)

    def committed(self, slot: str, now: Now) -> list[Action]:
        """A commit was carried out. One that was overtaken by a failure does not count: the way back is taken."""
        attempt = self._course.attempt
        if attempt is None or attempt.state is not State.ON_TRIAL or attempt.slot != slot or attempt.reason is not None:
            return []
        return self.finish_commit(now)

    def finish_commit(self, now: Now) -> list[Action]:
        """The slot is committed: raise the floor to its release, then write the end."""
        course, attempt = self._course, self._course.current
        assert course.boot is not None
        course.boot = replace(course.boot, primary=attempt.slot, trial=None)
        course.image = None
        floor = course.memory.trust.floor
        # If the root moved on since the release was judged for the reboot, its own minimum bounds the floor now.
        with suppress(NarrowboatError):
            course.image = course.image_of(attempt)
            floor = Floor(course.image.epoch, course.open_release(attempt.envelope).sequence)
        return [course.memory.raise_floor(floor), *course.end(State.SUCCEEDED, None, None, now)]

    def fail(self, reason: Reason, detail: str, now: Now) -> list[Action]:
        """The new system is not fit: write down why, then go back."""
        course = self._course
        attempt = self._unfit(reason, detail)
        return [course.memory.save_attempt(attempt), *course.report(now), *self.go_back()]

    def action_failed(self, action: Action, reason: Reason, message: str, now: Now) -> list[Action]:
        """A slot on trial is never kept for want of something else; it is, if the way back itself is closed."""
        if isinstance(action, RestoreBoot):
            return self._course.end(State.ROLLBACK_FAILED, reason, message, now)
        if isinstance(action, Reboot):
            self._reboot_again_s = now.monotonic_s + _REBOOT_RETRY_S
            return []
        if isinstance(action, Save):
            self._course.memory.note_attempt(self._unfit(reason, message))
            return self.go_back()
        return self.fail(reason, message, now)

    def rolled_back(self, now: Now) -> list[Action]:
        """The old slot runs again."""
        course, attempt = self._course, self._course.current
        never_ran = attempt.state is State.REBOOTING
        reason = attempt.reason or (Reason.BOOT_FAILED if never_ran else Reason.TRIAL_NOT_COMMITTED)
        with suppress(NarrowboatError):  # only the size in the report rests on it
            course.image = course.image_of(attempt)
        return [RestoreBoot(course.running_slot), *course.end(State.ROLLED_BACK, reason, attempt.detail, now)]

    def go_back(self) -> list[Action]:
        course = self._course
        course.ask_no_more()
        old = next(slot.name for slot in course.settings.slots if slot.name != course.current.slot)
        return [RestoreBoot(old), Reboot()]

    def _unfit(self, reason: Reason, detail: str) -> Attempt:
        """The first reason stays."""
        attempt = self._course.current
        if attempt.reason is not None:
            return attempt
        return attempt.model_copy(
            update={"state": State.ON_TRIAL, "reason": reason, "detail": detail[:DETAIL_MAX] or None}
        )

"""The attempt at work, and the steps that every part of its life shares: enter a state, wait, ask a hook, end.

`Lifecycle`, `Fetching` and `Trial` act on one `Course` and keep nothing of their own that another must know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from narrowboat_protocol.documents import Hold
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.states import HoldReason, State
from narrowboat_protocol.suit import Image, Release

from .actions import Action, Hook, RunHook
from .download import Download
from .events import BootStatus, HookFinished, Now
from .memory import Attempt, Memory
from .settings import Settings
from .voice import Voice

DETAIL_MAX = 500
"""Characters of a detail. What is wrong stands at the start of our own messages, and at the end of a hook's output."""
OpenRelease = Callable[[bytes], Release]
"""Believe an envelope under the root and floor of this moment, for this device; raises `PeerError`."""


@dataclass(slots=True)
class Wait:
    """A hold, and when to look again."""

    hold: Hold
    until_s: float


class Course:
    """Where the attempt in the journal stands. One at a time."""

    def __init__(self, settings: Settings, memory: Memory, voice: Voice, open_release: OpenRelease) -> None:
        self.settings = settings
        self.memory = memory
        self.voice = voice
        self.open_release = open_release
        self.boot: BootStatus | None = None
        """Boot control as the agent found it and changed it since."""
        self.image: Image | None = None
        self.download: Download | None = None
        self.wait: Wait | None = None
        self._asked: RunHook | None = None
        self._hook_tokens = count(1)
        self.reported_s = 0.0

    @property
    def attempt(self) -> Attempt | None:
        return self.memory.journal.attempt

    @property
    def current(self) -> Attempt:
        assert self.attempt is not None
        return self.attempt

    @property
    def running_slot(self) -> str:
        assert self.boot is not None
        return self.boot.running

    @property
    def is_local(self) -> bool:
        """The payload is read from a file of this machine."""
        return self.attempt is not None and self.attempt.path is not None

    @property
    def hold(self) -> Hold | None:
        return self.wait.hold if self.wait is not None else None

    @property
    def done_bytes(self) -> int:
        if self.download is not None:
            return self.download.done_bytes
        if self.attempt is None or self.image is None:
            return 0
        return min(self.attempt.next_chunk << self.image.tree.log2_chunk_size, self.image.size_bytes)

    @property
    def total_bytes(self) -> int:
        return self.image.size_bytes if self.image is not None else 0

    def image_of(self, attempt: Attempt) -> Image:
        """Judge the attempt's release anew. Raises `PeerError`."""
        release = self.open_release(attempt.envelope)
        return next(image for image in release.images if image.component == attempt.component)

    def enter(self, attempt: Attempt, state: State, now: Now, wait: Wait | None = None) -> list[Action]:
        """Make a state durable, then report it. What was waited for is over, but for `wait`."""
        moved = attempt.model_copy(update={"state": state})
        self.wait = wait
        return [self.memory.save_attempt(moved), *self.report(now)]

    def end(self, state: State, reason: Reason | None, detail: str | None, now: Now) -> list[Action]:
        """Write an end: outbox first, then the journal. After a trial of a release file a hello says that what runs is
        no trial any more, since no report of an assignment does.
        """
        done, total = self.done_bytes, self.total_bytes
        self.download, self.wait, self._asked = None, None, None
        ended = self.current.model_copy(
            update={"state": state, "reason": reason, "detail": detail[:DETAIL_MAX] if detail else None}
        )
        was_local_trial = self.current.attempt == 0 and self.current.state is State.ON_TRIAL
        kept, *said = self.voice.report_end(ended, done, total, now)
        saved = self.memory.save_attempt(ended)
        return [kept, saved, *said, *(self.voice.say_hello(now) if was_local_trial else ())]

    def ask(self, hook: Hook) -> list[Action]:
        """Only the answer to the newest question counts, and none once the attempt waits or has moved on."""
        self._asked = RunHook(hook, next(self._hook_tokens))
        return [self._asked]

    def answers(self, finished: HookFinished) -> bool:
        """Whether this is the answer that is waited for. It is not any more after this."""
        if self._asked is None or self._asked != RunHook(finished.hook, finished.token):
            return False
        self._asked = None
        return True

    def ask_no_more(self) -> None:
        """Whatever comes, and whatever was waited for, does not count any more."""
        self._asked, self.wait = None, None

    def wait_for(self, reason: HoldReason, until_s: float, now: Now) -> list[Action]:
        """Put a hold on the attempt. A hook that was asked before it is asked again after it."""
        self._asked = None
        since = self.wait.hold.since if self.wait and self.wait.hold.reason is reason else now.wall_s
        next_check = now.wall_s + int(until_s - now.monotonic_s)
        self.wait = Wait(Hold(reason=reason, since=since, next_check=next_check), until_s)
        return self.report(now)

    def report(self, now: Now) -> list[Action]:
        self.reported_s = now.monotonic_s
        return self.voice.report(self.current, self.hold, self.done_bytes, self.total_bytes, now)

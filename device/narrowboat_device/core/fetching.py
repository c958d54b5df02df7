"""From downloading to installed: keeps one download going, and writes down how far it came.

Fetching stops while no link stands or a hold is on; writing down does not: what has arrived is synced and counted all
the same, so that neither a long hold nor a lost link leaves bytes to the mercy of a power cut. A payload that proves
useless gives way to the next one that the assignment names.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from narrowboat_protocol.documents import PayloadReference
from narrowboat_protocol.documents.director import SOURCE_MQTT
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.states import HoldReason, State

from .acceptance import Capabilities
from .actions import Action
from .course import Course
from .download import Download
from .events import Now
from .memory import SUSPECTS_MAX, Attempt
from .progress import Blame, Phase
from .syncs import Syncs
from .window import Window

_SOURCE_CHECK_S = 3600.0


class Fetching:
    """The download of the attempt at work."""

    def __init__(self, course: Course, limits: Limits, installed: Callable[[Now], list[Action]]) -> None:
        """`installed` says what follows when the image is proved."""
        self._course = course
        self._limits = limits
        self._installed = installed
        self._window = Window(limits)
        self._sync_tokens = count(1)
        self._payload_index = 0

    @property
    def deadline_s(self) -> float | None:
        download = self._course.download
        return download.deadline_s(fetching=self._may_fetch) if download is not None else None

    def start(self, now: Now) -> list[Action]:
        """Begin with the first payload that this device can use, from where the journal stands."""
        course, attempt = self._course, self._course.current
        course.download = None
        usable = _usable(attempt, attempt.payload_index)
        if course.image is None or usable is None:
            return course.wait_for(HoldReason.NO_SOURCE, now.monotonic_s + _SOURCE_CHECK_S, now)
        self._payload_index = usable
        payload = attempt.payloads[usable]
        course.download = Download(
            course.image,
            payload,
            _source_of(attempt, payload),
            Capabilities(
                frozenset(course.settings.codecs), course.settings.memory_bytes_max, course.settings.agreement_key
            ),
            Syncs(attempt.slot, course.image.tree, attempt.next_chunk, self._sync_tokens, self._limits),
            attempt.suspects,
            self._window,
            self._limits,
        )
        return self.deliver(lambda download: download.start(), now)

    def adopt(self, now: Now) -> list[Action]:
        """The assignment was made anew: go on with the download if it still names its payload."""
        download, attempt = self._course.download, self._course.current
        usable = _usable(attempt, 0)
        if download is not None and usable is not None:
            payload = attempt.payloads[usable]
            if download.is_from(payload.digest, _source_of(attempt, payload)):
                self._payload_index = usable
                return self.pump(now)
        return self.start(now)

    def deliver(self, event: Callable[[Download], list[Action]], now: Now) -> list[Action]:
        """Give the download an event, then do what its new condition asks for."""
        download = self._course.download
        if download is None:
            return []
        actions = event(download)
        if download.fault is not None:
            return [*actions, *self._failed(download, now)]
        actions = [*self._save_progress(download, now), *actions]
        if download.phase is Phase.PROVED:
            self._course.download = None
            return [*actions, *self._installed(now)]
        return [*actions, *self.pump(now)]

    def work(self, now: Now) -> list[Action]:
        """Let the download go on with what has come, and start what is due."""
        return self.deliver(lambda download: download.work(now.monotonic_s), now)

    def pump(self, now: Now) -> list[Action]:
        """Let the download start what is due: syncs always, requests unless something holds them."""
        download = self._course.download
        return download.pump(now.monotonic_s, fetching=self._may_fetch) if download is not None else []

    def link_lost(self) -> None:
        if self._course.download is not None and not self._course.is_local:
            self._course.download.link_lost()

    @property
    def _may_fetch(self) -> bool:
        return self._course.wait is None and (self._course.voice.link_up or self._course.is_local)

    def _failed(self, download: Download, now: Now) -> list[Action]:
        course, fault = self._course, download.fault
        assert fault is not None
        attempt = course.current
        following = _usable(attempt, self._payload_index + 1)
        if fault.blame is Blame.PAYLOAD and following is not None:
            moved = attempt.model_copy(update={"payload_index": following})
            return [course.memory.save_attempt(moved), *self.start(now)]
        state = State.REJECTED if fault.blame is Blame.RELEASE else State.FAILED
        return course.end(state, fault.reason, fault.detail, now)

    def _save_progress(self, download: Download, now: Now) -> list[Action]:
        """Write the journal when more is synced, and tell of it now and then."""
        course, attempt, progress = self._course, self._course.current, download.progress
        suspects = progress.suspects[:SUSPECTS_MAX]
        moved = attempt.model_copy(update={"next_chunk": progress.next_chunk, "suspects": suspects})
        if download.phase in (Phase.READ_BACK, Phase.PROVED) and attempt.state is State.DOWNLOADING:
            # A proof needs no request, but what rotted does: a spent budget holds that too.
            return course.enter(moved, State.VERIFYING, now, course.wait)
        if moved == attempt:
            return []
        actions: list[Action] = [course.memory.save_attempt(moved)]
        if now.monotonic_s >= course.reported_s + course.settings.report_interval_s:
            actions += course.report(now)
        return actions


def _usable(attempt: Attempt, first: int) -> int | None:
    """The index of the first payload from `first` on that this device has a source for."""
    return next((i for i in range(first, len(attempt.payloads)) if _source_of(attempt, attempt.payloads[i])), None)


def _source_of(attempt: Attempt, payload: PayloadReference) -> str:
    """The source to fetch from, or an empty text if this device can use none of them."""
    if attempt.path is not None:
        return f"file:{attempt.path}"
    return SOURCE_MQTT if SOURCE_MQTT in payload.sources else ""

"""The thread in which uploads are written, synced and verified: none of it may keep the loop waiting.

Blocks come straight from the broker's thread; announcements and endings come from the loop, which has
authenticated them. All go through one bounded queue, so they are handled in the order in which they came.
When it is full, what comes is dropped: a lost block stops the upload until its operator asks how far it has
come, and a lost question is asked again.
"""

from __future__ import annotations

import errno
import queue
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import assert_never

from narrowboat_protocol.documents import PayloadReference, UploadState
from narrowboat_protocol.errors import MediumError, NarrowboatError, PeerError, Reason

from ..core.actions import Refusal
from ..core.records import Release
from .crew import Crew
from .metrics import Metrics
from .uploads import Uploads

_JOBS_MAX = 256
_STOP_WAIT_S = 5.0
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""RLIMIT_FSIZE and quotas say "full" in words of their own."""


@dataclass(frozen=True, slots=True)
class Begin:
    """Announce a file, or ask how far it has come."""

    operator: str
    request_id: bytes
    digest: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True)
class AddBlock:
    operator: str
    message: bytes


@dataclass(frozen=True, slots=True)
class Finish:
    """Verify a file and take its release in."""

    operator: str
    request_id: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Forget:
    """The release of this file is committed; its partial file is of no more use."""

    digest: bytes


Job = Begin | AddBlock | Finish | Forget


@dataclass(frozen=True, slots=True)
class UploadOutcome:
    """What became of an announcement or an ending."""

    operator: str
    request_id: bytes
    result: UploadState | Refusal | Release


class UploadWorker:
    """Runs upload jobs one by one and hands their outcomes on."""

    def __init__(self, uploads: Uploads, on_outcome: Callable[[UploadOutcome], None], metrics: Metrics) -> None:
        self._uploads = uploads
        self._on_outcome = on_outcome
        self._metrics = metrics
        self._jobs: queue.Queue[Job | None] = queue.Queue(_JOBS_MAX)
        self._thread: Thread | None = None

    def start(self, crew: Crew) -> None:
        self._thread = crew.start("uploads", self._run)

    def offer(self, job: Job) -> bool:
        """Queue a job; False if there is no room for it."""
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self._metrics.limit("dropped.upload", f"{_JOBS_MAX} blocks and announcements that wait")
            return False
        return True

    def has(self, payload: PayloadReference) -> bool:
        """True if the payload is in the store."""
        return self._uploads.has(payload)

    def discard(self, payload: PayloadReference) -> None:
        """Remove a payload that no release is served from."""
        try:
            self._uploads.discard(payload)
        except OSError as error:
            self._metrics.refuse("upload", _medium_error(error))

    def forget(self, digest: bytes) -> None:
        """Drop a partial file when there is time; one that stays for lack of room is dropped when it is abandoned."""
        self.offer(Forget(digest))

    def stop(self) -> None:
        """End the thread after what is queued. What takes longer is lost with the process, and can be done again."""
        with suppress(queue.Full):
            self._jobs.put_nowait(None)
        if self._thread is not None:
            self._thread.join(_STOP_WAIT_S)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            self.do(job)

    def do(self, job: Job) -> None:
        """Carry out one job in the calling thread."""
        match job:
            case AddBlock() | Forget():
                self._carry_out(job)
            case Begin() | Finish():
                self._on_outcome(self._outcome(job))
            case _:
                assert_never(job)

    def _carry_out(self, job: AddBlock | Forget) -> None:
        """Do what nobody waits for; what goes wrong is counted. Of a block that was not written, the next announcement
        of its file tells the operator.
        """
        try:
            if isinstance(job, AddBlock):
                self._uploads.add_block(job.operator, job.message)
            else:
                self._uploads.forget(job.digest)
        except PeerError as error:
            self._metrics.refuse("upload", error)
        except OSError as error:
            self._metrics.refuse("upload", _medium_error(error))

    def _outcome(self, job: Begin | Finish) -> UploadOutcome:
        try:
            if isinstance(job, Begin):
                state = self._uploads.begin(job.operator, job.digest, job.size_bytes)
                return UploadOutcome(job.operator, job.request_id, state)
            return UploadOutcome(job.operator, job.request_id, self._uploads.finish(job.operator, job.digest))
        except NarrowboatError as error:
            return UploadOutcome(job.operator, job.request_id, Refusal(error.reason, str(error)))
        except OSError as error:
            failure = _medium_error(error)
            return UploadOutcome(job.operator, job.request_id, Refusal(failure.reason, str(failure)))


def _medium_error(error: OSError) -> MediumError:
    cause = error.strerror or type(error).__name__
    if error.errno in _NO_ROOM:
        return MediumError(Reason.STORAGE_FULL, f"expected room for uploads, got: {cause}; make room on the bridge")
    return MediumError(Reason.MEDIUM_FAILED, f"expected to store uploads, got: {cause}; check the disk of the bridge")

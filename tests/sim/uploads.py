"""Uploads in simulated fleets: the bridge's real upload code over real files, and operators who push a release file.

Fault model. Blocks are lost, come twice, late or after the bridge was started anew; questions and answers too. A bridge
that dies forgets what was announced and the jobs that wait; one whose machine loses its power may lose of a partial
file what was written after the last sync, which is what it told last. The database may be put back to a copy that does
not know the release. Two operators push the same file at once, and give up whenever an answer does not come.

The worker has no thread: a job is carried out a random time after the one before. What the bridge tells as stored must
be a beginning of the file that was pushed, and no less than what was told before; a release that it takes in must be
there whole.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from narrowboat_bridge.server.metrics import Metrics
from narrowboat_bridge.server.upload_worker import Job, UploadOutcome, UploadWorker
from narrowboat_bridge.server.uploads import UploadLimits, Uploads
from narrowboat_protocol.documents import Reply, UploadBegin, UploadFinish, UploadState
from narrowboat_protocol.documents.operator import Request
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.transfer import DIGEST_PREFIX_BYTES, Block
from tests.support.fleet import MadeRelease

from .site import LIMITS, Site
from .world import Handle, World

_LIMITS = UploadLimits(uploads_max=4, upload_bytes_max=1 << 20)
_JOBS_MAX = 64
_JOB_S = 0.05
_BLOCK_BYTES = 2000
_BATCH_BLOCKS = 8
_BATCH_S = 5.0
_MEMORY = Path("/dev/shm")  # noqa: S108  # what is cut here is the link, not the power, so no medium need be waited for
_IN_MEMORY = _MEMORY if _MEMORY.is_dir() else None


class UploadEyes(Protocol):
    """Who sees what the bridge says that it has."""

    def uploaded(self, got: bytes, expected: bytes) -> None: ...


class UploadFolder:
    """The files of one bridge, which outlive its processes."""

    def __init__(self, world: World, site: Site, eyes: UploadEyes) -> None:
        self._world = world
        self._site = site
        self._eyes = eyes
        self._files = {release.file_digest: release for release in site.releases}
        self._path = Path(tempfile.mkdtemp(prefix="narrowboat-uploads-", dir=_IN_MEMORY))
        self._told: dict[bytes, int] = {}

    def open(self, wall_s: Callable[[], int], on_outcome: Callable[[UploadOutcome], None]) -> SimUploadWorker:
        """The worker of a process that starts."""
        uploads = _Uploads(self, self._path, self._path / "payloads", self._site.fleet.trust(), _LIMITS, wall_s, LIMITS)
        return SimUploadWorker(self._world, uploads, on_outcome)

    def told(self, digest: bytes, offset: int) -> None:
        """The bridge synced a partial file, and will say how long it is."""
        stored = self._part(digest).read_bytes()[:offset]
        self._eyes.uploaded(stored, self._files[digest].file[: max(offset, self._told.get(digest, 0))])
        self._told[digest] = offset

    def forgotten(self, digest: bytes) -> None:
        self._told.pop(digest, None)

    def took_in(self, release: MadeRelease) -> None:
        """A release is in the database."""
        self._eyes.uploaded((self._path / "payloads" / release.payload_digest.hex()).read_bytes(), release.payload)

    def lose_power(self, rng: random.Random) -> None:
        """What was not synced of partial files may be gone."""
        for digest, synced in self._told.items():
            path = self._part(digest)
            os.truncate(path, rng.randint(synced, path.stat().st_size))

    def remove(self) -> None:
        shutil.rmtree(self._path)

    def _part(self, digest: bytes) -> Path:
        return self._path / f"{digest.hex()}.part"


class _Uploads(Uploads):
    """The real ones, seen."""

    def __init__(self, seen_by: UploadFolder, *places: object) -> None:
        super().__init__(*places)  # type: ignore[arg-type]
        self._seen_by = seen_by

    def begin(self, operator: str, digest: bytes, size_bytes: int) -> UploadState:
        state = super().begin(operator, digest, size_bytes)
        self._seen_by.told(digest, state.offset)
        return state

    def forget(self, digest: bytes) -> None:
        super().forget(digest)
        self._seen_by.forgotten(digest)


class SimUploadWorker(UploadWorker):
    """Jobs one by one, each a random time after the one before."""

    def __init__(self, world: World, uploads: Uploads, on_outcome: Callable[[UploadOutcome], None]) -> None:
        super().__init__(uploads, on_outcome, Metrics())
        self._world = world
        self._line: deque[Job] = deque()
        self._next: Handle | None = None

    def offer(self, job: Job) -> bool:
        if len(self._line) >= _JOBS_MAX:
            return False
        self._line.append(job)
        if self._next is None:
            self._plan()
        return True

    def die(self) -> None:
        """With its process."""
        self._line.clear()
        if self._next is not None:
            self._next.cancel()

    def _plan(self) -> None:
        self._next = self._world.after(self._world.rng.expovariate(1.0 / _JOB_S), self._do_next)

    def _do_next(self) -> None:
        self._next = None
        self.do(self._line.popleft())
        if self._line:
            self._plan()


class Asker(Protocol):
    """The operator who pushes."""

    def ask(self, request: Request, on_reply: Callable[[Reply | None], None], /) -> None: ...

    def send_block(self, block: bytes, /) -> None: ...


class Push:
    """One release file on its way to the bridge, as `narrowboat release push` does it: ask, send some, ask again."""

    def __init__(self, world: World, asker: Asker, release: MadeRelease) -> None:
        self._world = world
        self._asker = asker
        self._release = release
        self.is_over = False
        """The release is in the store, or the operator gave up."""
        self._ask()

    def _ask(self) -> None:
        release = self._release
        self._asker.ask(UploadBegin(digest=release.file_digest, size=len(release.file)), self._told)

    def _told(self, reply: Reply | None) -> None:
        if reply is None or reply.reason is not None:
            self.is_over = True
            return
        state, file = UploadState.from_cbor(reply.result), self._release.file
        if state.release is not None:
            self.is_over = True
        elif state.offset == len(file):
            self._asker.ask(UploadFinish(digest=self._release.file_digest), self._finished)
        else:
            prefix = self._release.file_digest[:DIGEST_PREFIX_BYTES]
            for offset in range(state.offset, len(file), _BLOCK_BYTES)[:_BATCH_BLOCKS]:
                self._asker.send_block(Block(prefix, offset, file[offset : offset + _BLOCK_BYTES]).encode())
            self._world.after(_BATCH_S, self._ask)

    def _finished(self, reply: Reply | None) -> None:
        """A bridge that was started since knows of no announcement."""
        if reply is not None and reply.reason is Reason.CONFLICT:
            self._ask()
        else:
            self.is_over = True

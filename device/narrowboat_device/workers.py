"""Threads for what blocks: syncs, hashing, read-back, hooks, and reading release files.

Work is done in lanes. Each slot is a lane, hooks are one, and files are one; a lane has a thread of its own
and does one job at a time, in the order in which they were given. So a sync covers every write that the
loop made before it asked, and a slow hook delays no sync. A job ends as an event in the inbox: its result,
or `ActionFailed` with the action that asked for it.

The threads are daemons. Storage that hangs must not keep the process from ending, and what is lost by that
is lost in a power cut too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Protocol, assert_never

from narrowboat_protocol.errors import MediumError, NarrowboatError, Reason
from narrowboat_protocol.release_file import HEADER_BYTES
from narrowboat_protocol.transfer import DIGEST_PREFIX_BYTES, Block, split_range
from narrowboat_protocol.tree import Tree

from .core.actions import Fetch, HashSlot, Hook, ReadBackSlot, RunHook, SyncSlot
from .core.events import ActionFailed, BlockArrived, Event, HookFinished, SlotHashed, SlotReadBack, SlotSynced
from .disk import Disk
from .files import medium_failed, pread_all
from .inbox import Inbox
from .slots import SlotFile

FILE_SOURCE = "file:"
WorkerAction = SyncSlot | HashSlot | ReadBackSlot | RunHook | Fetch

_CLOSE_WAIT_S = 2.0
_HOOK_LANE = "hooks"
_FILE_LANE = "files"


class HookAsker(Protocol):
    """Whoever runs the integrator's executables."""

    def run(self, hook: Hook, token: int, /) -> HookFinished:
        """Ask a hook and wait for its answer, which carries `token`."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work: the lane it is done in, and what to do there."""

    action: WorkerAction
    lane: str
    work: Callable[[], Event | None]

    def run(self) -> Event | None:
        """Do it. Returns the event that it ends with, if it is not one that it has put into the inbox itself."""
        try:
            return self.work()
        except NarrowboatError as error:
            return ActionFailed(self.action, error.reason, str(error))


class Jobs:
    """What each worker action means on one machine."""

    def __init__(self, disk: Disk, slots: Mapping[str, SlotFile], hooks: HookAsker, inbox: Inbox) -> None:
        self._disk = disk
        self._slots = slots
        self._hooks = hooks
        self._inbox = inbox

    def job(self, action: WorkerAction) -> Job:
        match action:
            case SyncSlot(slot, token):
                return Job(action, slot_lane(slot), lambda: self._sync(slot, token))
            case HashSlot(slot, tree, first_chunk, chunk_count):
                return Job(action, slot_lane(slot), lambda: self._hash(slot, tree, first_chunk, chunk_count))
            case ReadBackSlot(slot, tree):
                return Job(action, slot_lane(slot), lambda: SlotReadBack(*self._slots[slot].read_back(tree)))
            case RunHook(hook, token):
                return Job(action, _HOOK_LANE, lambda: self._hooks.run(hook, token))
            case Fetch():
                return Job(action, _FILE_LANE, lambda: self._read_blocks(action))
            case _:
                assert_never(action)

    def _sync(self, slot: str, token: int) -> SlotSynced:
        self._slots[slot].sync()
        return SlotSynced(token)

    def _hash(self, slot: str, tree: Tree, first_chunk: int, chunk_count: int) -> SlotHashed:
        return SlotHashed(first_chunk, self._slots[slot].leaves(tree, first_chunk, chunk_count))

    def _read_blocks(self, fetch: Fetch) -> None:
        """Answer a request from a release file as a bridge would: blocks of the payload, in order."""
        path = Path(fetch.source.removeprefix(FILE_SOURCE))
        spans = [span for start, length in fetch.ranges for span in split_range(start, length, fetch.block_bytes)]
        try:
            fd = self._disk.open(path, os.O_RDONLY)
            try:
                for offset, length in spans:
                    data = pread_all(self._disk, fd, length, HEADER_BYTES + offset)
                    if len(data) != length:
                        raise MediumError(
                            Reason.NO_SOURCE, f"{path}: expected {length} bytes of payload at {offset}, got {len(data)}"
                        )
                    block = Block(fetch.payload[:DIGEST_PREFIX_BYTES], offset, data)
                    self._inbox.put_block(BlockArrived(block.encode()))
            finally:
                self._disk.close(fd)
        except FileNotFoundError as error:
            raise MediumError(Reason.NO_SOURCE, f"{path}: expected the release file, it is gone") from error
        except OSError as error:
            raise medium_failed(f"read {path}", error) from error


class Workers:
    """Does jobs in threads; their ends come to the inbox."""

    def __init__(self, jobs: Jobs, inbox: Inbox) -> None:
        self._jobs = jobs
        self._inbox = inbox
        self._lanes: dict[str, tuple[SimpleQueue[Job | None], Thread]] = {}

    def start(self, action: WorkerAction) -> None:
        """Take a job and return at once."""
        job = self._jobs.job(action)
        if job.lane not in self._lanes:
            queue: SimpleQueue[Job | None] = SimpleQueue()
            thread = Thread(target=self._work, args=(queue,), name=job.lane, daemon=True)
            self._lanes[job.lane] = queue, thread
            thread.start()
        self._lanes[job.lane][0].put(job)

    def close(self) -> None:
        """Let each lane end after its job, if that is soon. Close the hooks before."""
        for queue, thread in self._lanes.values():
            queue.put(None)
            thread.join(_CLOSE_WAIT_S)

    def _work(self, queue: SimpleQueue[Job | None]) -> None:
        try:
            while job := queue.get():
                event = job.run()
                if event is not None:
                    self._inbox.put(event)
        except BaseException as error:  # noqa: BLE001  # a mistake of ours must end the process, not a lane of it
            self._inbox.fail(error)


def slot_lane(slot: str) -> str:
    return f"slot {slot}"

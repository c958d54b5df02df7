"""Threads for what blocks: syncs, hashing, read-back, hooks, and reading release files.

Work is done in lanes. Each slot is a lane, hooks are one, and files are one; a lane has a thread of its own
and does one job at a time, in the order in which they were given. So a sync covers every write that the
loop made before it asked, and a slow hook delays no sync. A job ends as an event in the inbox: its result,
or `ActionFailed` with the action that asked for it.

The threads are daemons. Storage that hangs must not keep the process from ending, and what is lost by that
is lost in a power cut too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import assert_never

from narrowboat_protocol.errors import MediumError, NarrowboatError, Reason
from narrowboat_protocol.release_file import HEADER_BYTES
from narrowboat_protocol.transfer import DIGEST_PREFIX_BYTES, Block, split_range

from .core.actions import Action, Fetch, HashSlot, ReadBackSlot, RunHook, SyncSlot
from .core.events import ActionFailed, BlockArrived, Event, SlotHashed, SlotReadBack, SlotSynced
from .files import medium_failed, pread_all
from .hooks import HookRunner
from .inbox import Inbox
from .slots import SlotFile

FILE_SOURCE = "file:"
WorkerAction = SyncSlot | HashSlot | ReadBackSlot | RunHook | Fetch

_CLOSE_WAIT_S = 2.0
_HOOK_LANE = "hooks"
_FILE_LANE = "files"
_Job = tuple[Action, Callable[[], Event | None]]


class Workers:
    """Starts worker actions; their ends come to the inbox."""

    def __init__(self, slots: Mapping[str, SlotFile], hooks: HookRunner, inbox: Inbox) -> None:
        self._slots = slots
        self._hooks = hooks
        self._inbox = inbox
        self._lanes: dict[str, tuple[SimpleQueue[_Job | None], Thread]] = {}

    def start(self, action: WorkerAction) -> None:
        """Take a job and return at once."""
        match action:
            case SyncSlot(slot, token):
                self._queue(f"slot {slot}", action, lambda: self._sync(slot, token))
            case HashSlot(slot, tree, first_chunk, chunk_count):
                self._queue(
                    f"slot {slot}",
                    action,
                    lambda: SlotHashed(first_chunk, self._slots[slot].leaves(tree, first_chunk, chunk_count)),
                )
            case ReadBackSlot(slot, tree):
                self._queue(f"slot {slot}", action, lambda: SlotReadBack(*self._slots[slot].read_back(tree)))
            case RunHook(hook, token):
                self._queue(_HOOK_LANE, action, lambda: self._hooks.run(hook, token))
            case Fetch():
                self._queue(_FILE_LANE, action, lambda: self._read_blocks(action))
            case _:
                assert_never(action)

    def close(self) -> None:
        """Kill the hook that runs, and let each lane end after its job, if that is soon."""
        self._hooks.close()
        for jobs, thread in self._lanes.values():
            jobs.put(None)
            thread.join(_CLOSE_WAIT_S)

    def _queue(self, lane: str, action: Action, work: Callable[[], Event | None]) -> None:
        if lane not in self._lanes:
            jobs: SimpleQueue[_Job | None] = SimpleQueue()
            thread = Thread(target=self._work, args=(jobs,), name=lane, daemon=True)
            self._lanes[lane] = jobs, thread
            thread.start()
        self._lanes[lane][0].put((action, work))

    def _work(self, jobs: SimpleQueue[_Job | None]) -> None:
        try:
            while job := jobs.get():
                action, work = job
                try:
                    event = work()
                except NarrowboatError as error:
                    event = ActionFailed(action, error.reason, str(error))
                if event is not None:
                    self._inbox.put(event)
        except BaseException as error:  # noqa: BLE001  # a mistake of ours must end the process, not a lane of it
            self._inbox.fail(error)

    def _sync(self, slot: str, token: int) -> SlotSynced:
        self._slots[slot].sync()
        return SlotSynced(token)

    def _read_blocks(self, fetch: Fetch) -> None:
        """Answer a request from a release file as a bridge would: blocks of the payload, in order."""
        path = Path(fetch.source.removeprefix(FILE_SOURCE))
        spans = [span for start, length in fetch.ranges for span in split_range(start, length, fetch.block_bytes)]
        try:
            with path.open("rb", buffering=0) as file:
                for offset, length in spans:
                    data = pread_all(file.fileno(), length, HEADER_BYTES + offset)
                    if len(data) != length:
                        raise MediumError(
                            Reason.NO_SOURCE, f"{path}: expected {length} bytes of payload at {offset}, got {len(data)}"
                        )
                    block = Block(fetch.payload[:DIGEST_PREFIX_BYTES], offset, data)
                    self._inbox.put_block(BlockArrived(block.encode()))
        except OSError as error:
            raise medium_failed(f"read {path}", error) from error

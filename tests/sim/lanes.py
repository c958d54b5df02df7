"""The simulated workers: one job at a time in each lane, each for a random time, and its end is an event.

A sync covers what was written when it began, no more, however late it ends.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from narrowboat_device.core.actions import SyncSlot
from narrowboat_device.core.events import Event
from narrowboat_device.workers import Job, Jobs, WorkerAction
from tests.sim.disk import PowerCut, SimDisk
from tests.sim.world import Handle, World


class Host(Protocol):
    """The gateway that the workers belong to."""

    def take_turn(self, event: Event | None, /) -> None:
        """A job has ended."""
        ...

    def fuse_blew(self) -> None:
        """The power went in the middle of a job."""
        ...


class Lanes:
    """The workers: one job at a time in each lane, each for a random time."""

    def __init__(self, host: Host, world: World, disk: SimDisk, jobs: Jobs, job_s: tuple[float, float]) -> None:
        self._host = host
        self._world = world
        self._disk = disk
        self._jobs = jobs
        self._job_s = job_s
        self._lanes: dict[str, deque[Job]] = {}
        self._ends: dict[str, Handle] = {}

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._lanes.values())

    def start(self, action: WorkerAction, /) -> None:
        job = self._jobs.job(action)
        self._lanes.setdefault(job.lane, deque()).append(job)
        if job.lane not in self._ends:
            self._begin(job.lane)

    def clear(self) -> None:
        for end in self._ends.values():
            end.cancel()
        self._ends.clear()
        self._lanes.clear()

    def _begin(self, lane: str) -> None:
        world, covered = self._world, self._disk.newest_write
        when_s = world.now_s + world.rng.uniform(*self._job_s)
        self._ends[lane] = world.at(when_s, lambda: self._end(lane, covered))

    def _end(self, lane: str, covered: int) -> None:
        del self._ends[lane]
        job = self._lanes[lane].popleft()
        disk = self._disk
        disk.horizon = covered if isinstance(job.action, SyncSlot) else None
        try:
            event = job.run()
        except PowerCut:
            self._host.fuse_blew()
            return
        finally:
            disk.horizon = None
        if self._lanes[lane]:
            self._begin(lane)
        self._host.take_turn(event)

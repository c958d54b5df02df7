"""`narrowboat-device machine`: stands for the hardware, in the demo, in tests and in labs.

    power-on   the boot loader chooses a slot, counts a try down, and begins a boot with a new boot id
    boot       the agent runs as a child process; when it ends, it is started again in the same boot, as a
               service would be
    reboot     the agent ended with the exit status for it: power-cycle
    watchdog   the agent ended several times in a row without having lived for a while: power-cycle, so that a
               new system whose agent cannot run uses up its tries and the loader falls back

The agent dies with the machine, even if the machine is killed (PR_SET_PDEATHSIG). And an agent that ends leaves
nothing running: the machine is the reaper of whatever it left behind (PR_SET_CHILD_SUBREAPER), and kills it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from types import FrameType

from .boot.loader import power_on
from .config import Config
from .disk import Disk
from .loop import monotonic_s

AGENT_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1", "PYTHONNODEBUGRANGES": "1"}
"""What a service should set for the agent, to save memory: one heap for its threads, which take turns anyway, and no
columns in tracebacks.
"""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_TERMINATE_WAIT_S = 10.0

_log = logging.getLogger(__name__)
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Supervision:
    """How a service manager and a watchdog treat an agent that ends."""

    restart_s: float = 1.0
    """The wait before a restart; it doubles with each start that failed."""
    restart_s_max: float = 10.0
    lived_s_min: float = 30.0
    """A start that lived this long did not fail, however it ended."""
    failed_starts_max: int = 5


class SimulatedMachine:
    """One machine: a boot loader and, in each boot, an agent."""

    def __init__(
        self,
        disk: Disk,
        config: Config,
        command: Sequence[str],
        reboot_status: int,
        supervision: Supervision = Supervision(),
        monotonic_s: Callable[[], float] = monotonic_s,
    ) -> None:
        """`command` starts the agent, which asks for a reboot by ending with `reboot_status`."""
        self._disk = disk
        self._config = config
        self._reboot_status = reboot_status
        self._command = tuple(command)
        self._supervision = supervision
        self._monotonic_s = monotonic_s
        self._switched_off = Flag()
        self._agent: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Boot, and boot again, until `switch_off`. To be called from the main thread, since the signals go there."""
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            while not self._switched_off.is_set():
                slot = power_on(
                    self._disk, self._config.boot.state_file, self._config.boot.booted_path, self._config.slot_names
                )
                _log.info("power on, slot %s", slot)
                self._boot()
        finally:
            self._end_agent()
            kill_orphans()
            _prctl(_PR_SET_CHILD_SUBREAPER, 0)
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def switch_off(self) -> None:
        """Let the agent end, then the machine."""
        self._switched_off.set()
        agent = self._agent
        if agent is not None:
            agent.terminate()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.switch_off()

    def _boot(self) -> None:
        """Keep an agent running until it asks for a reboot or the watchdog has seen enough."""
        failed_starts = 0
        while not self._switched_off.is_set():
            begun_s = self._monotonic_s()
            status = self._run_agent()
            if status == self._reboot_status:
                _log.info("reboot")
                return
            lived = self._monotonic_s() - begun_s >= self._supervision.lived_s_min
            failed_starts = 0 if lived else failed_starts + 1
            if failed_starts >= self._supervision.failed_starts_max:
                _log.warning("watchdog: %s starts failed, power-cycle", failed_starts)
                return
            pause_s = min(self._supervision.restart_s * 2**failed_starts, self._supervision.restart_s_max)
            _log.info("the agent ended with status %s", status)
            self._switched_off.wait(pause_s)

    def _run_agent(self) -> int:
        machine = os.getpid()
        self._agent = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **AGENT_ENVIRONMENT},
            preexec_fn=lambda: _die_with(machine),  # noqa: PLW1509  # this process has one thread
        )
        if self._switched_off.is_set():
            self._agent.terminate()
        status = self._end_of(self._agent)
        kill_orphans()
        return status

    def _end_of(self, agent: subprocess.Popen[bytes]) -> int:
        """Wait for the agent, without end unless the machine was switched off."""
        while True:
            with suppress(subprocess.TimeoutExpired):
                return agent.wait(_TERMINATE_WAIT_S)
            if self._switched_off.is_set():
                agent.kill()

    def _end_agent(self) -> None:
        if self._agent is not None:
            self._agent.kill()
            self._agent.wait()


def agent_command(config_path: Path, log_level: str) -> list[str]:
    """How the agent is started, by this same Python."""
    return [
        sys.executable,
        "-m",
        "narrowboat_device",
        "--log-level",
        log_level,
        "run",
        "--config",
        str(config_path.absolute()),
    ]


def kill_orphans() -> None:
    """Kill what is left of this process's children, and theirs, until there is none."""
    while children := _children():
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(child, 0)


def _children() -> list[int]:
    tasks = Path("/proc/self/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _die_with(machine: int) -> None:
    """In the child: be killed when the machine dies, and at once if it did already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != machine:
        os.kill(os.getpid(), signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

"""Hooks: the integrator's programs that may hold an update back, and the health check that judges a new
system.

The contract is Mender's. A hook answers by its exit status: 0 is go on, 21 is not now, anything else (a
signal, no answer in time, a program that is not there) is failed. It gets no input. When it has failed, the
end of what it printed goes into the report, 500 characters of it. It finds in its environment, besides what
the agent was started with:

    NARROWBOAT_HOOK      download, reboot or health
    NARROWBOAT_SLOT      the slot that runs now
    NARROWBOAT_STATUS    the agent's status file, JSON: release, state and progress

A hook runs in a process group of its own, which is killed as a whole when the hook has answered, when its time is up
or when the agent ends. The kernel does not end a process that sleeps in a driver or on a file server that is gone. Such
a hook is left to it after a moment and has failed, since on trial an answer must come.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread
from typing import IO

from .config import Config
from .core.actions import Hook
from .core.events import HookFinished, HookOutcome

NOT_NOW_STATUS = 21
OUTPUT_BYTES_MAX = 4096
_READER_WAIT_S = 1.0
_KILLED_WAIT_S = 2.0


@dataclass(frozen=True, slots=True)
class HookCommand:
    """One executable with its arguments, and how long it may take."""

    command: tuple[str, ...]
    timeout_s: float


def hook_commands(config: Config) -> dict[Hook, HookCommand]:
    """The hooks that a configuration names."""
    commands = {
        Hook.DOWNLOAD: (config.hooks.download, config.hooks.timeout_s),
        Hook.REBOOT: (config.hooks.reboot, config.hooks.timeout_s),
        Hook.HEALTH: (config.health.command, min(config.hooks.timeout_s, config.health.deadline_s)),
    }
    return {hook: HookCommand(command, timeout_s) for hook, (command, timeout_s) in commands.items() if command}


class HookRunner:
    """Runs one hook at a time."""

    def __init__(self, commands: Mapping[Hook, HookCommand], running_slot: str, status_path: Path) -> None:
        self._commands = commands
        self._facts = {"NARROWBOAT_SLOT": running_slot, "NARROWBOAT_STATUS": str(status_path)}
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def run(self, hook: Hook, token: int) -> HookFinished:
        """Ask a hook and wait for its answer, which carries `token`. A hook that is not configured says go on."""
        command = self._commands.get(hook)
        if command is None:
            return HookFinished(hook, token, HookOutcome.GO_ON, "")
        try:
            process = self._start(hook, command)
        except OSError as error:
            text = f"expected to run {command.command[0]}: {error.strerror}"
            return HookFinished(hook, token, HookOutcome.FAILED, text)
        tail = _Tail(process.stdout)
        try:
            outcome, text = _outcome(process.wait(command.timeout_s)), ""
        except subprocess.TimeoutExpired:
            outcome, text = HookOutcome.FAILED, f"expected an answer within {command.timeout_s:g} s, got none"
        with self._lock:
            self._process = None
        kill_group(process)
        return HookFinished(hook, token, outcome, "\n".join(filter(None, [tail.text(), text])))

    def close(self) -> None:
        """Kill a hook that runs; none is started after this."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                kill_group(self._process)

    def _start(self, hook: Hook, command: HookCommand) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise OSError(errno.ECANCELED, "the agent ends")
            self._process = subprocess.Popen(
                command.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=os.environ | self._facts | {"NARROWBOAT_HOOK": hook.value},
                start_new_session=True,
            )
            return self._process


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a whole group, whose leader may have ended a moment ago, and wait for the leader, but not for long."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_KILLED_WAIT_S)


def _outcome(status: int) -> HookOutcome:
    return {0: HookOutcome.GO_ON, NOT_NOW_STATUS: HookOutcome.NOT_NOW}.get(status, HookOutcome.FAILED)


class _Tail:
    """Reads what a hook prints, so that it never blocks on a full pipe, and keeps the end of it."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        self._bytes = b""
        self._reader = Thread(target=self._read, args=(stream,), name="hook-output", daemon=True)
        self._reader.start()

    def text(self) -> str:
        """Printable characters and line ends only. A process that cannot be killed holds the pipe open: it is not
        waited for.
        """
        self._reader.join(_READER_WAIT_S)
        text = self._bytes.decode(errors="replace")
        return "".join(character for character in text if character.isprintable() or character == "\n").strip()

    def _read(self, stream: IO[bytes] | None) -> None:
        if stream is None:
            return
        with stream:
            while data := os.read(stream.fileno(), OUTPUT_BYTES_MAX):
                self._bytes = (self._bytes + data)[-OUTPUT_BYTES_MAX:]

"""Child processes of the demo, the tests and the bench: started with a log, ended for certain.

A child runs in a session of its own, so that a Ctrl-C at the terminal reaches only us and we end it in order, and so
that everything it started can be ended with it. If we die without a word, the kernel ends it (PR_SET_PDEATHSIG). Only
processes started here are ever signalled.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_PR_SET_PDEATHSIG = 1
_STOP_S = 10.0
_POLL_S = 0.05
_libc = ctypes.CDLL(None, use_errno=True)


class Child:
    """One process, and whatever it starts in its session."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        self._parent = os.getpid()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                preexec_fn=self._die_with_parent,  # noqa: PLW1509  # no thread runs when children are started
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Ask it to end, and end it if it does not."""
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it and its session at once, as a power cut would."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _signal(self, number: int) -> None:
        if self.running:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _die_with_parent(self) -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._parent:
            os._exit(1)


class Children:
    """All processes of one run; leaving the `with` block ends those that are left, the newest first."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._logs.mkdir(parents=True, exist_ok=True)
        self._children: list[Child] = []

    @property
    def folder(self) -> Path:
        """Where the logs are."""
        return self._logs

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._children:
            self._children.pop().stop()

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Child:
        child = Child(name, command, self._logs / f"{name}.log", environment)
        self._children.append(child)
        return child

    @property
    def ended(self) -> list[Child]:
        return [child for child in self._children if not child.running]

    def forget(self, child: Child) -> None:
        """The child was ended on purpose."""
        self._children.remove(child)


def wait_for(condition: Callable[[], bool], deadline_s: float, what: str) -> None:
    """Wait until `condition` holds; the deadline is for what never happens, not a measure of speed."""
    give_up = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"expected {what} within {deadline_s:.0f} s, and it did not happen")
        time.sleep(_POLL_S)

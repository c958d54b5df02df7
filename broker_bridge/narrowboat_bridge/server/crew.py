"""The threads of a bridge, none of which dies alone.

A bridge of which one thread is gone still answers operators, acknowledges reports and looks healthy, while every
download or upload stands still. So what a thread does runs under a guard: an exception that it did not expect is
logged where it happened, and the loop, which asks `check` at each turn, ends the process with it. The service manager
starts it again, and nothing is lost that was acknowledged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

_log = logging.getLogger(__name__)


class Crew:
    """Starts threads, and knows whether one of them failed."""

    def __init__(self) -> None:
        self._failure: Exception | None = None
        self._failed = ""

    def start(self, name: str, body: Callable[[], None]) -> Thread:
        """A thread that runs `body` under the guard."""

        def run() -> None:
            with self.guard(name):
                body()

        thread = Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    @contextmanager
    def guard(self, name: str) -> Iterator[None]:
        """Keep an exception of the block for `check`. Whatever it is: only the end of the process is safe then."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  # what nobody expected has no class
            _log.exception("expected the thread %s to go on, got an error; the bridge ends", name)
            self._failed, self._failure = name, error

    def check(self) -> None:
        """Raise `RuntimeError` if a thread failed."""
        if self._failure is not None:
            raise RuntimeError(f"the thread {self._failed} failed") from self._failure

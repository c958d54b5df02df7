"""Counters, and the one line that shows them.

Whatever is dropped, refused or too much is counted under a fixed name, since a peer that can make us write a
line of log for each message can fill a disk. A refusal and a limit that is reached are logged the first time
that their cause occurs; after that only the counter moves. Causes are a closed set (channel and reason, or the
name of a limit), so this cannot grow either.
"""

from __future__ import annotations

import logging
from collections import Counter
from threading import Lock

from narrowboat_protocol.errors import NarrowboatError

_log = logging.getLogger(__name__)


class Metrics:
    """Counts by name. Any thread may count."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counter[str] = Counter()

    def count(self, name: str, by: int = 1) -> None:
        with self._lock:
            self._counts[name] += by

    def refuse(self, channel: str, error: NarrowboatError) -> None:
        """Count something that a peer said and that changes nothing; log it if it is the first of its cause.

        The message names what was expected and never what came.
        """
        name = f"refused.{channel}.{error.reason}"
        with self._lock:
            self._counts[name] += 1
            first = self._counts[name] == 1
        if first:
            _log.warning("%s refused: %s: %s; further ones are only counted", channel, error.reason, error)

    def limit(self, name: str, setting: str, by: int = 1) -> None:
        """Count what a limit stopped; log it if it is the first that this limit stops."""
        with self._lock:
            first = name not in self._counts
            self._counts[name] += by
        if first:
            _log.warning("%s: the limit %s is reached; what is beyond it is dropped and only counted", name, setting)

    def value(self, name: str) -> int:
        with self._lock:
            return self._counts[name]

    def line(self) -> str:
        """All counts, in order of name."""
        with self._lock:
            return " ".join(f"{name}={count}" for name, count in sorted(self._counts.items()))

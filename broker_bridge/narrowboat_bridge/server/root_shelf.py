"""Every root of the fleet, from the first to the newest, for devices that missed some.

The roots lie in a folder as `N.root`. They are walked as a device walks them, one version at a time, so what is on the
shelf is what devices will believe; a file that is not believed stops the walk there, and is said. The shelf holds them
in memory: a root is at most 16 KiB, and a fleet makes a few in a year. `read_newer` takes up what was put into the
folder since, without a restart. One trust is shared with everything of the bridge that believes by it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from narrowboat_protocol.documents import RootChain
from narrowboat_protocol.errors import PeerError, Reason, UsageError
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.trust import FIRST_ROOT_VERSION, Trust

_log = logging.getLogger(__name__)

ReadRoot = Callable[[int], bytes | None]
"""The bytes of a version, or None if there is none."""


class RootShelf:
    """The roots of one fleet. `trust` is the newest."""

    def __init__(self, read: ReadRoot, fleet_id: bytes) -> None:
        """Raises `PeerError` if version 1 is not of this fleet, and `UsageError` if there is none."""
        first = read(FIRST_ROOT_VERSION)
        if first is None:
            raise UsageError(Reason.BAD_CONFIG, "expected root version 1, got none; copy 1.root from the fleet folder")
        self.trust = Trust(first, fleet_id)
        self._read = read
        self._roots = [first]
        self.read_newer()

    def read_newer(self) -> bool:
        """Walk to the newest root in the folder. True if there is one that is new."""
        before = len(self._roots)
        try:
            while (data := self._read(FIRST_ROOT_VERSION + len(self._roots))) is not None:
                if not self.trust.update_root(data):
                    _log.warning("root version %d stays out: the file holds an older one", 1 + len(self._roots))
                    break
                self._roots.append(data)
        except (PeerError, OSError) as error:
            _log.warning("root version %d stays out: %s", FIRST_ROOT_VERSION + len(self._roots), error)
        return len(self._roots) > before

    def after(self, version: int) -> RootChain | None:
        """The roots that follow on `version`, as many as one message carries; None if there are none."""
        return RootChain.first_of(islice(self._roots, max(version, 0) + 1 - FIRST_ROOT_VERSION, None))


def roots_in(folder: Path) -> ReadRoot:
    """Read `N.root` in a folder, and of a file that is too large no more than shows that it is."""

    def read(version: int) -> bytes | None:
        try:
            with (folder / f"{version}.root").open("rb") as file:
                return file.read(DEFAULT_LIMITS.root_bytes_max + 1)
        except FileNotFoundError:
            return None

    return read

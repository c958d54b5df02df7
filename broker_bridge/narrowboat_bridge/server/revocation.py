"""The list of what is revoked (RFC 5280 section 5), a file for the broker.

It only grows: what it says stays on it and its number counts on, whatever older copy the bridge's store was put back
to. A certificate on it is refused by this bridge from then on, and by the broker once that has read it. How the broker
is told is a command of whoever runs both: Mosquitto 2.0 reads its list again on SIGHUP. Where bridge and broker do not
share a machine, the command copies the file. A connection that stands is not ended by it; nothing that comes over it is
believed.

The store has a revocation before the file has it. A bridge that ends in between makes up for it at its next start, from
the keys that its store says are revoked.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from cryptography import x509

from ..files import PUBLIC, write_atomically
from ..pki import Authority, issue_crl, read_crl
from .crew import Crew

_COMMAND_TIMEOUT_S = 30.0
_log = logging.getLogger(__name__)


class _Job(Enum):
    WRITE = auto()
    STOP = auto()


class RevocationList:
    """The file, what is on it, and the thread that writes it."""

    def __init__(
        self, path: Path, authority: Authority, command: Sequence[str] | None, wall_s: Callable[[], int]
    ) -> None:
        """Raises `UsageError` if there is a file that the authority did not sign."""
        self._path = path
        self._authority = authority
        self._command = command
        self._wall_s = wall_s
        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        self._thread: Thread | None = None
        self._number, self._serials = self._read()

    def start(self, crew: Crew) -> None:
        if not self._path.exists():
            self._write()
        self._thread = crew.start("revocation", self._run)

    def stop(self) -> None:
        """End the thread after what is to be written."""
        self._jobs.put(_Job.STOP)
        if self._thread is not None:
            self._thread.join(_COMMAND_TIMEOUT_S)

    def has(self, certificate: bytes) -> bool:
        """True if this certificate (DER), which was verified, is revoked. May be called by any thread."""
        return bool(self._serials) and x509.load_der_x509_certificate(certificate).serial_number in self._serials

    def add(self, serials: Iterable[int]) -> None:
        """Believe these no longer, and have the file written."""
        self._serials |= frozenset(serials)
        self._jobs.put(_Job.WRITE)

    def make_up_for(self, serials: Iterable[int]) -> None:
        """Add what the store says is revoked and the list does not."""
        missing = frozenset(serials) - self._serials
        if missing:
            _log.warning("%s: expected all that is revoked, got %d less; adding them", self._path, len(missing))
            self.add(missing)

    def _run(self) -> None:
        while self._jobs.get() is _Job.WRITE:
            self._write()
            self._tell_broker()

    def _read(self) -> tuple[int, frozenset[int]]:
        if not self._path.exists():
            return 0, frozenset()
        return read_crl(self._path.read_bytes(), self._authority.certificate)

    def _write(self) -> None:
        """Replace the file. What came on it otherwise stays."""
        number, serials = self._read()
        self._number = max(number, self._number) + 1
        content = issue_crl(self._authority, self._number, serials | self._serials, self._wall_s())
        write_atomically(self._path, content, PUBLIC)

    def _tell_broker(self) -> None:
        if self._command is None:
            _log.warning("%s: expected a crl_command that has the broker read it, got none; do it by hand", self._path)
            return
        try:
            subprocess.run(self._command, check=True, stdin=subprocess.DEVNULL, timeout=_COMMAND_TIMEOUT_S)
        except (OSError, subprocess.SubprocessError) as error:
            _log.warning("[enrolment] crl_command: expected the broker to be told, got %s", type(error).__name__)

"""`install FILE`: an update from a release file on this machine, without broker or bridge.

The same agent in the same shell takes it, with a file as the source of blocks and no link: threshold, class and floor
decide as they do for a remote update, the slot is written, proved and armed in the same way, and the result waits in
the outbox for the next connection. An encrypted release can be installed if its file brings the key for this gateway.
The command ends where the machine must reboot, which it leaves to whoever typed
it, or where the attempt ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.limits import MIB, Limits
from narrowboat_protocol.states import State
from narrowboat_protocol.suit import parse_envelope

from .assembly import open_gateway
from .config import Config
from .core.actions import Action, ShowStatus
from .core.events import Event, LocalReleaseOffered, Now
from .disk import Disk
from .inbox import Inbox
from .loop import Core, Ending, Shell
from .release_file import ReleaseFile

_PERCENT_STEP = 10


def install(
    disk: Disk,
    config: Config,
    limits: Limits,
    path: Path,
    say: Callable[[str], None],
    stoppable: Callable[[Inbox], AbstractContextManager[None]],
) -> bool:
    """Install a release file. True if the machine is ready to boot it, or already runs it; `say` takes lines of
    progress.
    """
    if not config.install.allow_local:
        raise UsageError(Reason.NOT_PERMITTED, "[install] allow_local: local installation is switched off here")
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        raise UsageError(Reason.BAD_USE, f"expected a path in UTF-8, got {str(path)!r:.200}; rename the file") from None
    with ReleaseFile(disk, path, limits) as file:
        offer = LocalReleaseOffered(str(file.path), file.envelope, file.payload_length, file.head, file.encryption)
    release = parse_envelope(offer.envelope, limits).digest
    with open_gateway(disk, config, limits, with_link=False) as gateway, stoppable(gateway.inbox):
        watch = _Watch(gateway.agent, release, gateway.inbox, say)
        ending = Shell(watch, gateway.machine, gateway.inbox).run([gateway.started, offer])
    if ending is Ending.STOPPED:
        return watch.state is State.SUCCEEDED
    ready = watch.state is State.REBOOTING
    say("ready: the next boot tries it" if ready else "refused: an earlier update waits for its boot; reboot first")
    return ready


class _Watch:
    """Stands between loop and agent, tells of progress, and closes the inbox when there is nothing left to wait for."""

    def __init__(self, core: Core, release: bytes, inbox: Inbox, say: Callable[[str], None]) -> None:
        self._core = core
        self._release = release
        self._inbox = inbox
        self._say = say
        self._was_offered = False
        self._shown: ShowStatus | None = None
        self._line = ""

    @property
    def deadline(self) -> float | None:
        return self._core.deadline

    @property
    def state(self) -> State | None:
        """How far this release came; None if the agent did not take it up."""
        shown = self._shown
        return shown.state if shown is not None and shown.release == self._release else None

    def handle(self, event: Event, now: Now) -> Sequence[Action]:
        actions = self._core.handle(event, now)
        self._was_offered = self._was_offered or isinstance(event, LocalReleaseOffered)
        for action in actions:
            if isinstance(action, ShowStatus):
                self._shown = action
        if self._was_offered:
            self._tell()
            if self.state is None or self.state.terminal:
                self._inbox.close()
        return actions

    def _tell(self) -> None:
        line = "refused" if self.state is None or self._shown is None else _describe(self._shown)
        if line != self._line:
            self._line = line
            self._say(line)


def _describe(shown: ShowStatus) -> str:
    parts = [str(shown.state)]
    if shown.state is State.DOWNLOADING and shown.total_bytes:
        percent = 100 * shown.done_bytes // shown.total_bytes // _PERCENT_STEP * _PERCENT_STEP
        parts.append(f"{percent} % of {shown.total_bytes / MIB:.1f} MiB")
    if shown.hold is not None:
        parts.append(f"waits for {shown.hold}")
    if shown.reason is not None:
        parts.append(f"{shown.reason}: {shown.detail}" if shown.detail else str(shown.reason))
    return ", ".join(parts)

"""What a start means: the verdict over an attempt in the journal and what boot control says, as one table.

The boot id tells a new boot from a restarted agent, so that no agent commits a slot it does not run from, and none
takes the restart of a service for a reboot. Whatever the table does not expect ends in the slot that runs being kept.
"""

from __future__ import annotations

from enum import Enum, auto

from narrowboat_protocol.states import TABLE, OnStart, State

from .events import BootStatus
from .memory import Attempt

REBOOTS_MAX = 3
"""In so many boots the boot loader may leave an armed slot untried. A restart of the agent is no boot."""


class Verdict(Enum):
    REST = auto()
    """There is no unfinished attempt."""
    RESUME = auto()
    """Go on where the journal stands."""
    REBOOT_AGAIN = auto()
    """The boot switch is written, and the new slot was not booted yet."""
    ON_TRIAL = auto()
    """The new slot runs and is to be judged."""
    GO_BACK = auto()
    """The new slot runs and was judged unfit; the way back is not finished."""
    COMMITTED = auto()
    """The new slot runs and was committed; only the rest of the commit is missing."""
    ROLLED_BACK = auto()
    """The old slot runs again after a trial."""
    NEVER_BOOTED = auto()
    """The boot switch was written, and no boot loader acted on it."""
    FORGOTTEN = auto()
    """A slot is on trial, and no attempt is known that could commit it: the journal was lost."""
    STRANDED = auto()
    """The slot that was being written runs now: somebody switched slots. It is left as it is."""


def judge_start(attempt: Attempt | None, boot: BootStatus) -> Verdict:
    """What an agent that starts now does with the attempt in its journal."""
    if attempt is None or TABLE[attempt.state].on_start is OnStart.REST:
        # Where the way back could not be armed, that was said, and a person decides.
        on_trial = boot.trial == boot.running != boot.primary
        decided = attempt is not None and attempt.state is State.ROLLBACK_FAILED
        return Verdict.FORGOTTEN if on_trial and not decided else Verdict.REST
    if boot.running == attempt.slot:
        return _in_new_slot(attempt, boot)
    return _in_old_slot(attempt, boot)


def committed_slot(attempt: Attempt | None, running: str, slots: tuple[str, str]) -> str:
    """Which slot to go back to when boot control has forgotten it: the one that runs, unless the journal says that it
    is on trial.
    """
    on_trial = (State.INSTALLED, State.REBOOTING, State.ON_TRIAL)
    if attempt is None or attempt.slot != running or attempt.state not in on_trial:
        return running
    return next(slot for slot in slots if slot != running)


def _in_new_slot(attempt: Attempt, boot: BootStatus) -> Verdict:
    if attempt.state is State.ON_TRIAL and boot.primary == attempt.slot and boot.trial is None:
        return Verdict.COMMITTED
    if attempt.state is State.ON_TRIAL and attempt.reason is not None:
        return Verdict.GO_BACK
    if attempt.state in (State.ON_TRIAL, State.REBOOTING):
        return Verdict.ON_TRIAL if attempt.boot_id != boot.boot_id else Verdict.REBOOT_AGAIN
    armed = attempt.state is State.INSTALLED and boot.trial == attempt.slot
    return Verdict.ON_TRIAL if armed else Verdict.STRANDED


def _in_old_slot(attempt: Attempt, boot: BootStatus) -> Verdict:
    armed = boot.trial == attempt.slot
    if attempt.state is State.INSTALLED and armed:
        return Verdict.REBOOT_AGAIN
    if attempt.state is State.REBOOTING:
        same_boot = attempt.boot_id == boot.boot_id
        if armed and (same_boot or attempt.reboots < REBOOTS_MAX):
            return Verdict.REBOOT_AGAIN
        return Verdict.NEVER_BOOTED if armed or same_boot else Verdict.ROLLED_BACK
    if attempt.state is State.ON_TRIAL:
        return Verdict.ROLLED_BACK
    return Verdict.RESUME

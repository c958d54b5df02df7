"""What a boot loader does at power-on, for the `file` adapter.

    trial armed, tries left      count one try down, durably; boot the trial slot
    trial armed, no tries left   end the trial, mark its slot unbootable, durably; boot the primary slot
    no trial                     boot the primary slot; if it is not bootable, the other one that is
    nothing is bootable          boot the primary slot all the same: it was committed once, and a machine that
                                 stays in its loader is lost for certain
    no copy of it is intact      write the default environment (the first configured slot is primary, both are
                                 bootable) and boot by it: the one case in which two faults at once may boot a
                                 slot that nobody committed
    reading it fails             boot by the default environment and write nothing: what cannot be read now may be
                                 whole, and count again at the next power-on

A try is counted before the slot is booted, so a slot that hangs or loses power in its first instruction has
used it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from narrowboat_protocol.errors import MediumError, Reason

from ..disk import Disk
from ..records import RecordFile
from .file import BOOT_ID_BYTES, Booted
from .state import STATE_BYTES_MAX, BootState, read_state, write_state

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """The slot to boot, and the state to make durable before."""

    slot: str
    state: BootState


def default_environment(slots: tuple[str, str], primary: str | None = None) -> BootState:
    """The state of a machine that has none."""
    return BootState(primary or slots[0], None, 0, frozenset(slots))


def choose(state: BootState) -> Choice:
    """What to boot in this state."""
    if state.trial is not None and state.tries_left > 0:
        return Choice(state.trial, replace(state, tries_left=state.tries_left - 1))
    if state.trial is not None:
        state = replace(state, trial=None, tries_left=0, bootable=state.bootable - {state.trial})
    others = sorted(state.bootable - {state.primary})
    if state.primary not in state.bootable and others:
        return Choice(others[0], state)
    return Choice(state.primary, state)


def power_on(
    disk: Disk,
    state_file: Path,
    booted_file: Path,
    slots: tuple[str, str],
    random: Callable[[int], bytes] = os.urandom,
) -> str:
    """Choose the slot to boot, write down the choice, and begin a new boot. Returns the slot."""
    RecordFile.allocate(disk, state_file, STATE_BYTES_MAX)
    state, answered = _read(disk, state_file, slots)
    if state is None:
        _log.warning("the boot state is missing or unreadable; the default environment counts")
    choice = choose(state or default_environment(slots))
    if choice.state != state and answered:
        write_state(disk, state_file, choice.state)
    Booted(choice.slot, random(BOOT_ID_BYTES).hex()).write(disk, booted_file)
    return choice.slot


def _read(disk: Disk, state_file: Path, slots: tuple[str, str]) -> tuple[BootState | None, bool]:
    """The state, if there is one of this machine, and whether the medium answered at all."""
    try:
        state = read_state(disk, state_file)
    except MediumError as error:
        return None, error.reason is Reason.STATE_UNREADABLE
    return state if state is not None and state.slots <= set(slots) else None, True

"""The one state enum, the same on the device, on the wire and on the server, and the table that is its meaning.

    offered -> downloading -> verifying -> installed -> rebooting -> on_trial -> succeeded

and the ends `failed`, `rolled_back`, `rollback_failed`, `rejected`, `aborted`. A hold may stand on any state and is
reported beside it: waiting never loses the place. `TABLE` says for each state which states may follow, whether an abort
or a newer assignment still ends it (afterwards the answer is `too_late` and the newest assignment is parked), what an
agent that starts in it does, and what is durable by then. docs/protocol.md shows this table; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum, auto


class State(StrEnum):
    """Where an attempt to bring one release to one component stands."""

    OFFERED = "offered"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    INSTALLED = "installed"
    REBOOTING = "rebooting"
    ON_TRIAL = "on_trial"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"
    REJECTED = "rejected"
    ABORTED = "aborted"

    @property
    def terminal(self) -> bool:
        return not TABLE[self].followers


class HoldReason(StrEnum):
    """What an attempt waits for. It keeps its state and everything that it has."""

    WINDOW = "window"
    HOOK = "hook"
    BYTE_BUDGET = "byte_budget"
    NO_SOURCE = "no_source"


class OnStart(Enum):
    """What an agent does when it starts and finds an attempt in a state."""

    RESUME = auto()
    """Go on from the journal, whatever boot this is."""
    JUDGE_BOOT = auto()
    """Compare running slot, boot id and boot control: trial, another reboot, or rolled back."""
    REST = auto()
    """Nothing: the attempt has ended."""


@dataclass(frozen=True, slots=True)
class StateRule:
    """One row of the table."""

    followers: frozenset[State]
    abortable: bool
    on_start: OnStart
    durable: str


def _rule(followers: str, *, abortable: bool, on_start: OnStart, durable: str) -> StateRule:
    return StateRule(frozenset(State(word) for word in followers.split()), abortable, on_start, durable)


TABLE: dict[State, StateRule] = {
    State.OFFERED: _rule(
        "downloading aborted rejected failed",
        abortable=True,
        on_start=OnStart.RESUME,
        durable="the assignment and the release envelope, in the journal",
    ),
    State.DOWNLOADING: _rule(
        "verifying aborted rejected failed",
        abortable=True,
        on_start=OnStart.RESUME,
        durable="the inactive slot is marked unbootable; every chunk that the journal counts is synced in it",
    ),
    State.VERIFYING: _rule(
        "installed aborted rejected failed",
        abortable=True,
        on_start=OnStart.RESUME,
        durable="every chunk is synced in the inactive slot",
    ),
    State.INSTALLED: _rule(
        "rebooting aborted rejected failed",
        abortable=True,
        on_start=OnStart.RESUME,
        durable="the slot was read back and equals the release, whose envelope is beside it; boot variables: as before",
    ),
    State.REBOOTING: _rule(
        "on_trial rolled_back failed",
        abortable=False,
        on_start=OnStart.JUDGE_BOOT,
        durable="the boot switch is written and read back",
    ),
    State.ON_TRIAL: _rule(
        "succeeded rolled_back rollback_failed",
        abortable=False,
        on_start=OnStart.JUDGE_BOOT,
        durable="the boot loader booted the new slot",
    ),
    State.SUCCEEDED: _rule(
        "",
        abortable=False,
        on_start=OnStart.REST,
        durable="the new slot is committed and read back, the floor is raised",
    ),
    State.FAILED: _rule(
        "",
        abortable=False,
        on_start=OnStart.REST,
        durable="the running slot is as it was; nothing boots the release",
    ),
    State.ROLLED_BACK: _rule(
        "", abortable=False, on_start=OnStart.REST, durable="the old slot runs and is the only one that boots"
    ),
    State.ROLLBACK_FAILED: _rule(
        "",
        abortable=False,
        on_start=OnStart.REST,
        durable="the new slot runs uncommitted and the way back could not be armed",
    ),
    State.REJECTED: _rule(
        "",
        abortable=False,
        on_start=OnStart.REST,
        durable="the running slot is as it was; nothing boots the release",
    ),
    State.ABORTED: _rule(
        "",
        abortable=False,
        on_start=OnStart.REST,
        durable="the inactive slot is unbootable and the boot order is as it was",
    ),
}

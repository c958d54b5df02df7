"""What the machine still owes the agent after an action failed.

The agent's memory is changed before its actions are performed. When one fails, the rest of its list is dropped, and
memory is ahead of the disk: a record that was not saved, the end of an attempt of which only a part became true. A
power cut would then bring back what the agent, or a bridge that heard it, takes for settled: a boot number used twice,
an ended attempt that works again.

So what was dropped is kept here and done before anything else is, at the latest after `RETRY_S`: every record, in its
newest form, and, if the attempt had ended, what was to undo it. As long as something is owed, nothing is said: a word
that rests on a record goes out after it. If it fails again, the list that it stands in front of is dropped with it.
"""

from __future__ import annotations

from .actions import (
    Action,
    Fetch,
    HashSlot,
    MarkUnbootable,
    Publish,
    ReadBackSlot,
    Record,
    RestoreBoot,
    RunHook,
    Save,
    SaveEnvelope,
    SyncSlot,
    Told,
)
from .memory import Memory

RETRY_S = 30.0
_UNDO = MarkUnbootable | RestoreBoot | SaveEnvelope
_WORK = Fetch | HashSlot | ReadBackSlot | RunHook | SyncSlot
_IN_ORDER = (Record.TRUST, Record.OUTBOX, Record.JOURNAL)


class Arrears:
    """Owed actions. Tell it of every list that goes out, and of every action of it that failed."""

    __slots__ = ("_dropped_records", "_last", "_memory", "_owed", "_paid", "_retry_s")

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._last: list[Action] = []
        self._dropped_records: set[Record] = set()
        self._owed: list[Action] = []
        self._paid: list[Action] = []
        """What went out last of what was owed."""
        self._retry_s: float | None = None

    @property
    def deadline_s(self) -> float | None:
        return self._retry_s

    def failed(self, action: Action, *, ended: bool) -> list[Action]:
        """Keep what is owed of the list that `action` cut short, and return what was dropped of it, `action` first.
        Nothing was, if a worker failed. `ended`: there is no attempt at work, so that what the list undoes is owed too.
        """
        last, self._last = self._last, []
        position = next((number for number, item in enumerate(last) if item is action), len(last))
        if isinstance(action, _WORK):
            return []
        dropped = last[position:]
        self._owed += [
            item for item in dropped if isinstance(item, _UNDO) and (ended or any(item is paid for paid in self._paid))
        ]
        self._dropped_records = {item.record for item in dropped if isinstance(item, Save)}
        return dropped

    def answer(self, actions: list[Action], now_s: float) -> list[Action]:
        """The list that answers a failure. It does not wait for what just failed; if it does not settle everything, it
        says nothing. Records are owed as they are now: what changes later is saved by its own list, in its own order.
        """
        missing = {item.record for item in self._owed if isinstance(item, Save)} | self._dropped_records
        missing -= {item.record for item in actions if isinstance(item, Save)}
        undo = [item for item in self._owed if not isinstance(item, Save)]
        self._owed = [*undo, *self._records(missing)]
        self._dropped_records, self._paid = set(), []
        self._retry_s = now_s + RETRY_S if self._owed else None
        self._last = [item for item in actions if not (self._owed and isinstance(item, Publish))]
        return self._last

    def _records(self, missing: set[Record]) -> list[Action]:
        """Each record that is missing, as it is now. What the trust record says of roots, numbers and floors comes
        before the others; that the newest assignment was accepted comes after the journal, which has what it led to. A
        power cut between them would else leave an assignment that nobody asks for again.
        """
        saves: list[Action] = [self._memory.save(record) for record in _IN_ORDER if record in missing]
        if {Record.TRUST, Record.JOURNAL} <= missing:
            saves = [self._memory.save_unaccepting(), *saves[1:], saves[0]]
        return saves

    def settle(self, actions: list[Action], now_s: float) -> list[Action]:
        """The list to perform: what is owed goes first, if there is anything to perform or it is time."""
        self._paid = []
        due = self._retry_s is not None and now_s >= self._retry_s
        if self._owed and (due or not all(isinstance(item, Told) for item in actions)):
            self._paid, self._owed, self._retry_s = self._owed, [], None
        self._last = [*self._paid, *actions]
        return self._last

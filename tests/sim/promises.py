"""What is promised of a gateway's storage, in words, and the error that says which promise was broken."""

from __future__ import annotations

INVARIANTS = {
    "bootable": "a slot can boot, and each that can holds a signed release or the factory's image, whole and synced",
    "trial": "a trial is of the release in the journal, and is booted a bounded number of times",
    "commit": "only a slot that runs and said that it is well is committed, or one that was committed before",
    "floor": "the floor never falls",
    "earned": "the floor is never above what was committed or what the root says",
    "journal": "what the journal counts is on the medium",
    "envelope": "the release lies beside its slot before the journal calls it installed",
    "again": "nothing that is on the medium and in the journal is fetched again",
    "format": "no agent writes over records of a newer one, and one on trial writes what the one before it can read",
    "window": "a release is armed and its boot asked for only in a reboot window of its assignment",
    "budget": "nothing more is asked for once the byte budget is known to be spent",
    "outbox": "a terminal report is in the outbox before the journal says so, and until it is acknowledged",
    "said": "nothing is said that a power cut could take back",
    "readable": "a record that could be read can be read for ever",
    "alive": "an agent that can read its disk starts and goes on",
    "bounded": "no queue, file or table grows without end",
}


class InvariantError(AssertionError):
    """An invariant does not hold."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}: expected that {INVARIANTS[name]}; {detail}")
        self.name = name

"""Each invariant, proved by a mutation of the real code that trips it.

A mutation is a piece of source text in one function and what stands there instead. While it is in force, the code of
that very function is the mutated one, so whoever holds the function runs it; nothing else changes, and nothing is left
behind. The mutated code is then put through one scene and cut everywhere, until the named invariant, and no other
before it, is broken. What the same scenes do unmutated is the exhaustive run in `cuts`: nothing.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType

from tests.sim.cuts import Explorer, Subject

_DEVICE = "narrowboat_device"


@dataclass(frozen=True, slots=True)
class Mutation:
    """`invariant` must be the first to break when `old` is `new` in `function` of `module`, in `scene`."""

    name: str
    module: str
    function: str
    old: str
    new: str
    scene: str
    invariant: str


MUTATIONS = (
    Mutation(
        "a slot that can boot is downloaded into",
        "core.lifecycle", "Lifecycle._begin_download",
        "MarkUnbootable(attempt.slot),", "",
        "second update", "bootable",
    ),
    Mutation(
        "a slot is called proved whatever was read back",
        "core.download", "Download.read_back",
        "if self.phase is not Phase.READ_BACK:", "self.phase = Phase.PROVED\n        if self.phase is Phase.PROVED:",
        "rot", "bootable",
    ),
    Mutation(
        "the loader does not count a try",
        "boot.loader", "choose",
        "tries_left=state.tries_left - 1", "tries_left=state.tries_left",
        "panic", "trial",
    ),
    Mutation(
        "a trial is committed unasked",
        "core.trial", "Trial.begin",
        "*course.ask(Hook.HEALTH)", "CommitSlot(course.current.slot)",
        "update", "commit",
    ),
    Mutation(
        "the stored floor is forgotten at a start",
        "core.agent", "Agent._started",
        "max(trust.floor, self._inventory.committed_floor(event.boot, self._roots.trust))",
        "self._inventory.committed_floor(event.boot, self._roots.trust)",
        "update", "floor",
    ),
    Mutation(
        "a trial raises the floor before its commit",
        "core.inventory", "Inventory.committed_floor",
        "boot.running == boot.primary", "boot.running",
        "update", "earned",
    ),
    Mutation(
        "the journal counts what is written instead of what is synced",
        "core.download", "Download.progress",
        "synced = self._syncs.synced", "synced = self._syncs.written",
        "update", "journal",
    ),
    Mutation(
        "a slot's sync does nothing",
        "slots", "SlotFile.sync",
        "self._disk.fdatasync(self._fd)", "pass",
        "update", "journal",
    ),
    Mutation(
        "an installed slot gets no envelope",
        "core.lifecycle", "Lifecycle._installed",
        "SaveEnvelope(attempt.slot, attempt.envelope),", "",
        "update", "envelope",
    ),
    Mutation(
        "a renamed file's folder is not synced",
        "files", "write_durably",
        "sync_folder(disk, path.parent)", "pass",
        "update", "envelope",
    ),
    Mutation(
        "a restarted download begins at the first chunk",
        "core.fetching", "Fetching.start",
        "attempt.next_chunk, self._sync_tokens", "0, self._sync_tokens",
        "update", "again",
    ),
    Mutation(
        "an agent takes the records of a newer one for lost",
        "core.aside", "newer_records",
        "if is_newer(content)", "if False",
        "older agent", "format",
    ),
    Mutation(
        "a release is booted whatever the time",
        "core.trial", "Trial._wait_for_window",
        "if opening_s > 0 else None", "if False else None",
        "window", "window",
    ),
    Mutation(
        "a budget that is spent holds nothing",
        "core.lifecycle", "Lifecycle._hold_if_spent",
        "and attempt.budget_is_spent", "and False",
        "budget", "budget",
    ),
    Mutation(
        "the journal ends an attempt before its report is kept",
        "core.course", "Course.end",
        "[kept, saved, *said,", "[saved, kept, *said,",
        "update", "outbox",
    ),
    Mutation(
        "an Ack ends the reports before it too",
        "core.voice", "Voice.acknowledged",
        "if not _answers(ack, (letter.pair, letter.report))", "if letter.pair > ack.pair",
        "deaf", "outbox",
    ),
    Mutation(
        "an end is said before it is kept",
        "core.course", "Course.end",
        "[kept, saved, *said,", "[*said, kept, saved,",
        "abort", "said",
    ),
    Mutation(
        "a record is not synced",
        "records", "RecordFile._write",
        "self._disk.fdatasync(self._fd)", "pass",
        "start", "said",
    ),
    Mutation(
        "a record is written over its newest copy",
        "records", "RecordFile._write",
        "self._newest_half ^ 1 if", "self._newest_half if",
        "update", "readable",
    ),
    Mutation(
        "a damaged copy stops the agent",
        "records", "RecordFile._warn_of_damage",
        "if len(damaged) == 1:", "if damaged: raise UsageError(Reason.BAD_CONFIG, 'a damaged copy')\n        if False:",
        "update", "alive",
    ),
    Mutation(
        "an attempt begins without room for its end",
        "core.voice", "Voice.has_room",
        "len(self._memory.outbox.letters) + 2 <= LETTERS_MAX", "True",
        "deaf", "outbox",
    ),
    Mutation(
        "each status gets a file of its own",
        "status", "StatusFile.flush",
        "self._disk, self._path,", "self._disk, self._path.with_name(f'{now.monotonic_s}.json'),",
        "update", "bounded",
    ),
)  # fmt: skip


@contextmanager
def mutated(mutation: Mutation) -> Iterator[None]:
    """The mutation is in force inside the `with` block."""
    module = importlib.import_module(f"{_DEVICE}.{mutation.module}")
    source = inspect.getsource(module)
    function = _function(module, mutation.function)
    lines, first = inspect.getsourcelines(function)
    body = "".join(lines)
    assert body.count(mutation.old) == 1, f"{mutation.function}: expected {mutation.old!r} once"
    before = "".join(source.splitlines(keepends=True)[: first - 1])
    after = source[len(before) + len(body) :]
    code = compile(
        before + body.replace(mutation.old, mutation.new) + after, str(module.__file__), "exec", dont_inherit=True
    )
    original = function.__code__
    function.__code__ = _find(code, mutation.function)
    try:
        yield
    finally:
        function.__code__ = original


def explore(subject: Subject) -> None:
    """Cut everywhere once, with one mixture of each cut."""
    Explorer(subject, mixtures=1).explore()


def _function(module: object, name: str) -> FunctionType:
    """A function, a method or what stands behind a property."""
    found = module
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
    if isinstance(found, property):
        found = found.fget
    assert isinstance(found, FunctionType)
    return found


def _find(code: CodeType, name: str) -> CodeType:
    """The code of a function by its qualified name."""
    head, _, rest = name.partition(".")
    inner = next(item for item in code.co_consts if isinstance(item, CodeType) and item.co_name == head)
    return _find(inner, rest) if rest else inner

"""Every file of a gateway, damaged in every way that a file can be.

    python -m tests.faults.corruption                     # every variant, some thousands
    python -m tests.faults.corruption --variants 500 --seed 7
    python -m tests.faults.corruption --only "data/journal.record: byte 17 flipped"

The gateway was switched off in the middle of a download, with a report of an earlier failure waiting in its outbox, so
that every record has something to lose. A variant replaces one file: one bit of each byte flipped, cut off at each
length, replaced by garbage, by zeros, by text, by a folder, or by the file of another gateway, or gone. Of a record,
which is mostly room, the bytes that say something are damaged one by one, and the room is damaged as a whole.

Then the agent starts, as the product assembles it. What holds state (records, envelopes, boot state) may never keep it
from starting: it says what it lost, names the slot that runs, writes to no slot that may boot, and numbers what it says
above all that it said before. What a person wrote (configuration, keys, certificate, root), or the loader writes anew
with each boot, may stop it, by an error of use that names the place, and before anything is changed.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from narrowboat_device.assembly import open_gateway
from narrowboat_device.boot.loader import power_on
from narrowboat_device.core import actions as act
from narrowboat_device.core import events as ev
from narrowboat_device.core.actions import Action, Record
from narrowboat_device.inbox import Inbox
from narrowboat_device.loop import Core, Shell
from narrowboat_device.records import record_path
from narrowboat_device.release_file import ReleaseFile
from narrowboat_device.rendezvous import Papers
from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import Hello
from narrowboat_protocol.errors import NarrowboatError, UsageError
from narrowboat_protocol.topics import Channel
from tests.device.kit import DISK

from .sampling import add_options, chosen, tell_failure
from .station import LIMITS, Station, make_station

STATE = (
    *(str(record_path(Path("data"), record)) for record in Record),
    "data/slot-a.suit",
    "data/slot-b.suit",
    "data/certificate.note",
    "boot-state",
)
_TRUST = str(record_path(Path("data"), Record.TRUST))
_RECORDS = STATE[:3]
WRITTEN = ("device.toml", "key.pem", "certificate.pem", "server-ca.pem", "root.cbor", "boot-state.booted")
_NOW = ev.Now(1000.0, 1_800_000_000)
_SYNCS_BEFORE = 2
_GARBAGE_BYTES = 3000
_HEADER_BYTES = 52


@dataclass(frozen=True, slots=True)
class Variant:
    """One file, and what stands in its place: bytes, a folder, or nothing."""

    file: str
    damage: str
    content: bytes | Path | None

    def __str__(self) -> str:
        return f"{self.file}: {self.damage}"


@dataclass(frozen=True, slots=True)
class Start:
    """How the agent started: what it asked for and warned of, or why it did not."""

    actions: list[Action]
    warnings: list[str]
    error: NarrowboatError | None


def make_victim(folder: Path) -> Station:
    """A gateway whose agent was stopped in the middle of a download."""
    station = make_station(folder)
    broken = bytearray(station.new.file)
    broken[len(broken) // 2] ^= 1
    for data, syncs in ((bytes(broken), None), (station.new.file, _SYNCS_BEFORE)):
        station.release_file.write_bytes(data)
        power_on(DISK, station.config.boot.state_file, station.config.boot.booted_path, station.config.slot_names)
        with open_gateway(DISK, station.config, LIMITS, with_link=False) as gateway:
            core = _StopsInTheMiddle(gateway.agent, gateway.inbox, syncs)
            Shell(core, gateway.machine, gateway.inbox).run([gateway.started, offer_of(station)])
    return station


def offer_of(station: Station) -> ev.LocalReleaseOffered:
    """The release file, as `install` offers it."""
    with ReleaseFile(DISK, station.release_file, LIMITS) as file:
        return ev.LocalReleaseOffered(str(file.path), file.envelope, file.payload_length, file.head)


class _StopsInTheMiddle:
    """Closes the inbox after some syncs, or at the end of the attempt."""

    def __init__(self, core: Core, inbox: Inbox, syncs: int | None) -> None:
        self._core, self._inbox, self._syncs = core, inbox, syncs

    @property
    def deadline(self) -> float | None:
        return self._core.deadline

    def handle(self, event: ev.Event, now: ev.Now) -> Sequence[Action]:
        actions = self._core.handle(event, now)
        if isinstance(event, ev.SlotSynced) and self._syncs is not None:
            self._syncs -= 1
        ended = any(isinstance(action, act.ShowStatus) and action.state and action.state.terminal for action in actions)
        if self._syncs == 0 or (self._syncs is None and ended):
            self._inbox.close()
        return actions


def variants(station: Station, other: Station, file: str) -> Iterator[Variant]:
    """Every damage to one file."""
    content = (station.folder / file).read_bytes() if (station.folder / file).exists() else b""
    telling = _telling(content) if file.endswith(".record") or file == "boot-state" else range(len(content))
    for place in telling:
        flipped = content[place] ^ (1 << place % 8)
        yield Variant(file, f"byte {place} flipped", content[:place] + bytes([flipped]) + content[place + 1 :])
        yield Variant(file, f"cut at {place}", content[:place])
    noise = random.Random(file).randbytes(max(len(content), _GARBAGE_BYTES))
    yield Variant(file, "garbage", noise)
    yield Variant(file, "zeros", bytes(len(content)))
    yield Variant(file, "ones", b"\xff" * len(content))
    yield Variant(file, "text", b"hello\n" * 100)
    yield Variant(file, "garbage behind it", content + noise)
    if file in WRITTEN:
        yield Variant(file, "a folder", station.folder)
    yield Variant(file, "gone", None)
    if (other.folder / file).exists():
        yield Variant(file, "another gateway's", (other.folder / file).read_bytes())


def _telling(content: bytes) -> list[int]:
    """The bytes of a record that say something: in each half, the header and as much content as it announces."""
    half = len(content) // 2
    lengths = [_HEADER_BYTES + int.from_bytes(content[start + 16 : start + 20], "big") for start in (0, half)]
    return [start + place for start, length in zip((0, half), lengths, strict=True) for place in range(length)]


class Ward:
    """The gateway, damaged and whole again for each variant."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "victim").mkdir()
        (folder / "other").mkdir()
        self.station = make_victim(folder / "victim")
        self.other = make_victim(folder / "other")
        self._whole = {path: path.read_bytes() for path in self.station.folder.rglob("*") if path.is_file()}
        with self._warnings() as warnings:
            self._pair = _hello(_start(self.station, warnings)).pair
        self.heal()

    def variants(self) -> list[Variant]:
        return [variant for file in (*STATE, *WRITTEN) for variant in variants(self.station, self.other, file)]

    def suffer(self, variant: Variant) -> list[str]:
        """What does not hold when the agent starts on the damaged file."""
        self.damage(variant)
        before = self._content()
        with self._warnings() as warnings:
            try:
                started = _start(self.station, warnings)
            except Exception as error:  # noqa: BLE001  # whatever is not an error of ours is what is looked for
                return [f"{type(error).__name__}: {error}"]
            finally:
                after = self._content()
                self.heal(variant)
        if started.error is not None:
            changed = [str(path) for path in before if before[path] != after.get(path)]
            return [*self._wrong_stop(variant, started.error), *(f"{path} was changed" for path in changed)]
        return self._wrong_start(variant, started)

    def damage(self, variant: Variant) -> None:
        path = self.station.folder / variant.file
        path.unlink(missing_ok=True)
        if isinstance(variant.content, bytes):
            path.write_bytes(variant.content)
        elif variant.content is not None:
            path.mkdir()

    def heal(self, variant: Variant | None = None) -> None:
        """Make everything as it was."""
        if variant is not None and (place := self.station.folder / variant.file).is_dir():
            place.rmdir()
        for path in self.station.folder.rglob("*"):
            if path.is_file() and path not in self._whole:
                path.unlink()
        for path, content in self._whole.items():
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)

    def _content(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self._whole if path.is_file()}

    def _wrong_stop(self, variant: Variant, error: NarrowboatError) -> list[str]:
        if variant.file in STATE:
            return [f"expected the agent to start, got {type(error).__name__}: {error}"]
        if not isinstance(error, UsageError):
            return [f"expected an error of use, got {type(error).__name__}: {error}"]
        return []

    def _wrong_start(self, variant: Variant, started: Start) -> list[str]:
        wrong = []
        hello = _hello(started)
        if hello.running_slot != "a":
            wrong.append(f"it says that slot {hello.running_slot} runs")
        for action in started.actions:
            if isinstance(action, act.CommitSlot | act.ArmTrial | act.Reboot):
                wrong.append(f"it asks for {type(action).__name__}")
            if isinstance(action, act.WriteChunks | act.MarkUnbootable) and action.slot == "a":
                wrong.append("it touches the slot that runs")
        if hello.pair < self._pair and not _forgets_pairs(variant):
            wrong.append(f"it says {hello.pair} again, after {self._pair}")
        if variant.file in _RECORDS and not _is_harmless(variant) and not started.warnings:
            wrong.append("it does not say what was lost")
        return wrong

    @contextmanager
    def _warnings(self) -> Iterator[list[str]]:
        lines: list[str] = []
        handler = _Collector(lines)
        logger = logging.getLogger("narrowboat_device")
        logger.addHandler(handler)
        try:
            yield lines
        finally:
            logger.removeHandler(handler)


class _Collector(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


def _is_harmless(variant: Variant) -> bool:
    """A record is zeros until it is written, and nothing reads what is behind it. An attempt or a report of another
    gateway is refused when it is taken up, by whoever judges it; only another fleet's root must be refused at once.
    """
    foreign = variant.damage == "another gateway's" and variant.file != _TRUST
    return foreign or variant.damage in ("zeros", "garbage behind it")


def _forgets_pairs(variant: Variant) -> bool:
    """Both copies of what counts them are lost, or they were counted in another fleet."""
    both = variant.file == _TRUST and not variant.damage.startswith("byte")
    return both or (variant.file == "root.cbor" and variant.damage == "another gateway's")


def _start(station: Station, warnings: list[str]) -> Start:
    """Start the agent as `run` does, connect, and perform nothing."""
    try:
        config = station.config
        Papers(config.broker.server_ca, config.broker.certificate, config.broker.key).context()
        with open_gateway(DISK, config, LIMITS, with_link=False) as gateway:
            actions = [*gateway.agent.handle(gateway.started, _NOW), *gateway.agent.handle(ev.LinkOpened(), _NOW)]
    except NarrowboatError as error:
        return Start([], warnings, error)
    warnings += [action.text for action in actions if isinstance(action, act.Log) and action.warning]
    return Start(actions, warnings, None)


def _hello(started: Start) -> Hello:
    said = (action for action in started.actions if isinstance(action, act.Publish) and action.channel is Channel.HELLO)
    return Hello.decode(SignedDocument.decode(next(said).payload).content)


def explore(ward: Ward, variants: Sequence[Variant]) -> int:
    """Try variants; print what does not hold, and a table. Returns how many did not end well."""
    begun_s = time.monotonic()
    tried = Counter(variant.file for variant in variants)
    failed = 0
    for variant in variants:
        if wrong := ward.suffer(variant):
            failed += 1
            tell_failure(variant, wrong)
    for file, count in tried.items():
        print(f"{file:24}{count:8}")
    print(f"{len(variants)} variants, {failed} that did not end well, {time.monotonic() - begun_s:.0f} s")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.corruption")
    add_options(parser, "variants")
    options = parser.parse_args()
    logging.getLogger("narrowboat_device").propagate = False
    with tempfile.TemporaryDirectory(prefix="narrowboat-") as name:
        ward = Ward(Path(name))
        variants = ward.variants()
        print(f"a gateway has {len(variants)} variants")
        variants = chosen(variants, options)
        return 1 if explore(ward, variants) or not variants else 0


if __name__ == "__main__":
    sys.exit(main())

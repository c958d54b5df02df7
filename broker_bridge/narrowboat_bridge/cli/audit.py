"""`narrowboat audit`: the audit log of a bridge, checked and exported: from its store, without the bridge, or from the
bridge itself, which an admin asks for one page after the other. Each page is verified before the next one is asked for.

The store is only read, and may be in use. An export has one entry a line, as JSON: what it says in words, and the bytes
that were hashed, so that it can be verified where it is kept. Verifying one also compares the words with the bytes.

A chain that is whole may still have lost its end, or be another one, written anew by who may write the file. Note the
head that `verify` prints, in another place, and give it back with `--head` the next time.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import tee
from pathlib import Path
from urllib.parse import quote

from narrowboat_protocol.cbor import decode
from narrowboat_protocol.documents import AuditLink, AuditList, AuditPage
from narrowboat_protocol.errors import EncodingError, MediumError, Reason, UsageError

from ..audit import ENTRY_BYTES_MAX, AuditEntry, Head, verify_chain, walk_chain
from .arguments import Subparsers, add_command, add_group, digest, parse_digest
from .client import OperatorClient, connect, every
from .exits import ExitCode
from .fleet_folder import FleetFolder
from .operator_toml import add_operator_arguments
from .output import JsonValue, iso_time, print_json_line, print_result

_Entries = Generator[AuditEntry, None, None]

_SQLITE_MAGIC = b"SQLite format 3\0"
_LINE_BYTES_MAX = 16 * ENTRY_BYTES_MAX
_TIME_END_S = 1 << 37
_HEAD_DIGITS_MAX = 15
PAGE_ENTRIES = 200
_ENTRIES = "SELECT sequence, content, hash FROM audit ORDER BY sequence"


def add_parser(subparsers: Subparsers) -> None:
    commands = add_group(subparsers, "audit", "The audit log of a bridge.")
    verify = add_command(
        commands, "verify", _verify, "check that nothing in an audit log was changed", "Prints the head to be noted."
    )
    verify.add_argument(
        "--head", metavar="N:HASH", type=_head, help="a head that was noted: the log must lead through it"
    )
    export = add_command(
        commands, "export", _export, "print an audit log as JSON lines", "Ends with an error at an entry that is wrong."
    )
    for parser in (verify, export):
        parser.add_argument(
            "file",
            metavar="FILE",
            type=Path,
            nargs="?",
            help="a store, or what export printed (default: bridge/data/bridge.sqlite of the fleet folder)",
        )
        parser.add_argument(
            "--fleet", metavar="FOLDER", type=Path, default=Path(), help="the fleet folder (default: the current one)"
        )
        parser.add_argument(
            "--fleet-id", metavar="HEX", type=digest, help="where the chain begins, if there is no fleet folder"
        )
        parser.add_argument("--from-bridge", action="store_true", help="ask the bridge, as an admin of the whole fleet")
        add_operator_arguments(parser)


def _verify(arguments: argparse.Namespace) -> int:
    with _opened(arguments) as (fleet_id, entries):
        end = verify_chain(fleet_id, entries, arguments.head)
    print_result({"entries": end.sequence, "head": f"{end.sequence}:{end.hash.hex()}"}, as_json=arguments.json)
    return ExitCode.OK


def _export(arguments: argparse.Namespace) -> int:
    with _opened(arguments) as (fleet_id, entries):
        walked, shown = tee(entries)
        for _ in walk_chain(fleet_id, walked):
            print_json_line(_described(next(shown)))
    return ExitCode.OK


@contextmanager
def _opened(arguments: argparse.Namespace) -> Iterator[tuple[bytes, _Entries]]:
    """The fleet id, and the entries from wherever they are asked for, nothing of them checked."""
    if arguments.from_bridge:
        if arguments.file is not None:
            raise UsageError(Reason.BAD_USE, "expected a FILE or --from-bridge, got both; leave one out")
        with connect(arguments) as client, closing(_told(client)) as entries:
            yield client.trust.fleet_id, entries
        return
    fleet_id, path = _source(arguments)
    with closing(_entries(path)) as entries:
        yield fleet_id, entries


def _told(client: OperatorClient) -> _Entries:
    """What the bridge tells, page by page: the next page is asked for when this one was used up."""

    def page_after(last: AuditLink | None) -> tuple[Sequence[AuditLink], bool]:
        page = client.call(AuditList(after=last.sequence if last else 0, limit=PAGE_ENTRIES), AuditPage)
        return page.entries, page.more

    for link in every(page_after):
        yield AuditEntry(link.sequence, link.content, link.hash)


def _source(arguments: argparse.Namespace) -> tuple[bytes, Path]:
    """The fleet id and the file."""
    if arguments.fleet_id is not None and arguments.file is not None:
        return arguments.fleet_id, arguments.file
    fleet = FleetFolder.open(arguments.fleet)
    fleet_id = arguments.fleet_id or bytes.fromhex(fleet.toml.fleet_id)
    return fleet_id, arguments.file or fleet.bridge / "data" / "bridge.sqlite"


def _entries(path: Path) -> _Entries:
    """What a store or an export holds, in the order in which it stands there, nothing of it checked."""
    with path.open("rb") as file:
        is_store = file.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC
    return _stored(path) if is_store else _exported(path)


def _stored(path: Path) -> _Entries:
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)) as store:
            store.text_factory = bytes
            for sequence, *columns in store.execute(_ENTRIES):
                # SQLite lets a column hold any type, and whoever altered a row may have used that.
                content, hashed = (column if isinstance(column, bytes) else b"" for column in columns)
                yield AuditEntry(sequence, content, hashed)
    except sqlite3.Error as error:
        raise MediumError(
            Reason.STATE_UNREADABLE, f"{path}: expected the store of a bridge: {error}; is it the right file?"
        ) from None


def _exported(path: Path) -> _Entries:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_LINE_BYTES_MAX):
            number += 1
            yield _parsed(line, f"{path}: line {number}")


def _parsed(line: bytes, place: str) -> AuditEntry:
    try:
        said = json.loads(line)
        entry = AuditEntry(said["sequence"], bytes.fromhex(said["content"]), bytes.fromhex(said["hash"]))
    except (ValueError, LookupError, TypeError, RecursionError):
        raise MediumError(
            Reason.STATE_UNREADABLE, f"{place}: expected an entry as audit export prints it; compare a backup"
        ) from None
    if said != _described(entry):
        raise MediumError(
            Reason.STATE_UNREADABLE, f"{place}: entry {entry.sequence} does not say what its content says"
        )
    return entry


def _described(entry: AuditEntry) -> dict[str, JsonValue]:
    try:
        content = decode(entry.content, max_bytes=ENTRY_BYTES_MAX)
    except EncodingError:
        content = None
    match content:
        case {2: int(at), 3: str(what), 4: str(who), 5: dict(facts)} if 0 <= at < _TIME_END_S:
            plain = {str(key): fact if isinstance(fact, str | int) else None for key, fact in facts.items()}
            words: dict[str, JsonValue] = {"at": iso_time(at), "what": what, "who": who, "facts": plain}
        case _:
            words = {}
    return {"sequence": entry.sequence, **words, "content": entry.content.hex(), "hash": entry.hash.hex()}


def _head(text: str) -> Head:
    number, _, hashed = text.partition(":")
    parsed = parse_digest(hashed)
    if not number.isdecimal() or len(number) > _HEAD_DIGITS_MAX or parsed is None:
        raise argparse.ArgumentTypeError(f"expected a head as verify prints it, 12:5e88..., got {text!r:.80}")
    return Head(int(number), parsed)

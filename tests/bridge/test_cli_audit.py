"""`narrowboat audit`: whoever altered, cut or swapped an audit log is found out, from its file alone."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from narrowboat_bridge.audit import AuditChain
from narrowboat_bridge.server.store import Store
from tests.bridge.cli_kit import Outcome, run
from tests.support.fleet import NOW

FLEET_ID = bytes(range(32))


@dataclass
class Log:
    """A store with five entries that a bridge has open."""

    store: Store
    path: Path
    chain: AuditChain

    def grow(self, count: int) -> None:
        for number in range(count):
            self.store.put_audit_entry(self.chain.append(NOW + number, "command", "anna", {"verb": "\x1b[2J"}))
        self.store.commit(NOW)

    def change(self, *statements: str) -> None:
        """What somebody does who may write the file."""
        with closing(sqlite3.connect(self.path)) as connection:
            for statement in ("DROP TRIGGER audit_refuses_UPDATE", "DROP TRIGGER audit_refuses_DELETE", *statements):
                connection.execute(statement)
            connection.commit()

    def head(self) -> str:
        head = json.loads(self.verify("--json").out)["head"]
        assert isinstance(head, str)
        return head

    def verify(self, *options: object) -> Outcome:
        return run("audit", "verify", self.path, "--fleet-id", FLEET_ID.hex(), *options)

    def export(self) -> Outcome:
        return run("audit", "export", self.path, "--fleet-id", FLEET_ID.hex())


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    path = tmp_path / "bridge.sqlite"
    with closing(Store(path, FLEET_ID, 200)) as store:
        log = Log(store, path, AuditChain(FLEET_ID))
        log.grow(5)
        yield log


def test_a_log_that_grew_leads_through_the_head_that_was_noted(log: Log) -> None:
    noted = log.head()
    assert noted.startswith("5:")
    log.grow(2)
    assert log.verify("--head", noted).status == 0
    assert log.head().startswith("7:")


ALTERED = {
    "a fact changed": ("UPDATE audit SET content = replace(content, 'anna', 'eve!') WHERE sequence = 3", 3),
    "an entry of another type": ("UPDATE audit SET hash = 5 WHERE sequence = 2", 2),
    "an entry removed": ("DELETE FROM audit WHERE sequence = 4", 4),
    "the first entries removed": ("DELETE FROM audit WHERE sequence < 3", 1),
}


@pytest.mark.parametrize("case", ALTERED)
def test_the_first_broken_entry_is_named_and_the_export_ends_before_it(log: Log, case: str) -> None:
    statement, place = ALTERED[case]
    log.change(statement)
    assert log.verify().status == 1
    assert f"entry {place} " in log.verify().error_line
    export = log.export()
    assert export.status == 1
    assert len(export.out.splitlines()) == place - 1


def test_a_log_whose_end_was_cut_off_is_whole_but_does_not_lead_to_the_noted_head(log: Log) -> None:
    noted = log.head()
    log.change("DELETE FROM audit WHERE sequence > 3")
    assert log.verify().status == 0
    cut = log.verify("--head", noted)
    assert cut.status == 1
    assert "entry 4 " in cut.error_line


def test_a_log_that_was_written_anew_does_not_lead_through_the_noted_head(log: Log) -> None:
    noted = log.head()
    forged = AuditChain(FLEET_ID)
    rows = [forged.append(NOW, "command", "eve", {}) for _ in range(6)]
    log.change("DELETE FROM audit")
    for entry in rows:
        log.store.put_audit_entry(entry)
    log.store.commit(NOW)
    assert log.verify().status == 0
    assert "entry 5 " in log.verify("--head", noted).error_line


def test_an_export_is_verified_like_the_store_it_came_from(log: Log, tmp_path: Path) -> None:
    export = tmp_path / "audit.jsonl"
    export.write_text(log.export().out)
    first = json.loads(export.read_text().splitlines()[0])
    assert (first["sequence"], first["what"], first["who"], first["facts"]) == (
        1,
        "command",
        "anna",
        {"verb": "\x1b[2J"},
    )
    assert "\x1b" not in export.read_text()
    verified = run("audit", "verify", export, "--fleet-id", FLEET_ID.hex(), "--head", log.head())
    assert verified.status == 0


def in_words(text: str) -> str:
    return text.replace('"anna"', '"mallory"', 1)


def in_bytes(text: str) -> str:
    first, rest = text.split("\n", 1)
    entry = json.loads(first)
    return json.dumps(entry | {"content": entry["content"].replace(b"anna".hex(), b"eve!".hex())}) + "\n" + rest


def without_a_line(text: str) -> str:
    return text.split("\n", 1)[1]


def no_json(text: str) -> str:
    return "{" + text


@pytest.mark.parametrize("alter", [in_words, in_bytes, without_a_line, no_json])
def test_an_altered_export_is_refused(log: Log, tmp_path: Path, alter: Callable[[str], str]) -> None:
    export = tmp_path / "audit.jsonl"
    export.write_text(alter(log.export().out))
    refused = run("audit", "verify", export, "--fleet-id", FLEET_ID.hex())
    assert refused.status == 1
    assert refused.error_line


def test_the_log_of_another_fleet_is_refused(log: Log) -> None:
    assert run("audit", "verify", log.path, "--fleet-id", bytes(32).hex()).status == 1

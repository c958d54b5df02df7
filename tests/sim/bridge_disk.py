"""The bridge's database: what a crash leaves of it, and an older copy of it.

Fault model. A commit is there whole or not at all; the process may die right before it or right after it. What was put
and not committed is gone with the process. Somebody may put an older copy of the database back, which was whole when it
was made.

`MemoryStore` is the real store with its transaction replaced: it gathers, converts, forgets and loads by the same code
and keeps the rows in dictionaries. `SqliteStore` is the real one, on a file; a test shows that both make one world.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Table

from narrowboat_bridge.audit import AuditEntry
from narrowboat_bridge.server import schema
from narrowboat_bridge.server.rows import Row
from narrowboat_bridge.server.store import Store

HISTORY_ROWS = 64
_TABLES = tuple(table.name for table in schema.metadata.sorted_tables)

Tables = dict[Table, dict[tuple[Any, ...], Row]]
Batch = Mapping[Table, list[Row]]
"""The rows of one commit, by table."""


class Watch(Protocol):
    """Who stands beside the disk. Each may end the process by an exception."""

    def committing(self) -> None:
        """A commit is about to begin."""
        ...

    def committed(self, batch: Batch) -> None:
        """These rows are durable."""
        ...


class BridgeDisk(Protocol):
    """A disk with one bridge's database on it."""

    def open(self, fleet_id: bytes, watch: Watch) -> Store:
        """A store on what is durable."""
        ...

    def copy(self) -> None:
        """Make a copy of what is durable."""
        ...

    def restore(self, index: int) -> None:
        """Put a copy back; those made after it are gone."""
        ...

    @property
    def copies(self) -> int: ...

    def rows(self) -> dict[str, int]:
        """How many rows each table has."""
        ...


class _Watched(Store):
    """A store whose commits are watched."""

    watch: Watch

    def commit(self, now_s: int) -> None:
        batch = {table: list(rows.values()) for table, rows in self._pending.items() if rows}
        if batch:
            self.watch.committing()
        super().commit(now_s)
        if batch:
            self.watch.committed(batch)


class MemoryStore(_Watched):
    """The real store over dictionaries."""

    def __init__(self, tables: Tables, watch: Watch) -> None:
        self.watch = watch
        self._tables = tables
        self._history_rows = HISTORY_ROWS
        self._pending = {table: {} for table in tables}
        self._forgotten_campaigns = []
        self._written_hellos = {}

    def close(self) -> None:
        pass

    def _write(self, now_s: int) -> None:
        for name in self._forgotten_campaigns:
            self._tables[schema.campaigns].pop((name,), None)
            attempts = self._tables[schema.attempts]
            for key in [key for key in attempts if key[0] == name]:
                del attempts[key]
        for table, rows in self._pending.items():
            self._tables[table].update(rows)
        if self._pending[schema.replays]:
            replays = self._tables[schema.replays]
            for key in [key for key, row in replays.items() if row["expires_at"] < now_s]:
                del replays[key]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        yield

    def _newest_audit_entry(self) -> AuditEntry | None:
        rows = self._tables[schema.audit]
        return AuditEntry(**rows[max(rows)]) if rows else None

    def _rows(self, table: Table) -> list[Row]:
        return list(self._tables[table].values())

    def _meta(self, key: str) -> bytes | None:
        row = self._tables[schema.meta].get((key,))
        return None if row is None else row["value"]


class SqliteStore(_Watched):
    """The real store."""

    def __init__(self, path: Path, fleet_id: bytes, watch: Watch) -> None:
        self.watch = _Nobody()
        super().__init__(path, fleet_id, HISTORY_ROWS)
        self.watch = watch


class MemoryDisk:
    """Dictionaries, and copies of them."""

    def __init__(self) -> None:
        self.tables: Tables = {table: {} for table in schema.metadata.sorted_tables}
        self._copies: list[Tables] = []

    def open(self, fleet_id: bytes, watch: Watch) -> Store:
        return MemoryStore(self.tables, watch)

    def copy(self) -> None:
        self._copies.append({table: dict(rows) for table, rows in self.tables.items()})

    def restore(self, index: int) -> None:
        self.tables = {table: dict(rows) for table, rows in self._copies[index].items()}
        del self._copies[index + 1 :]

    @property
    def copies(self) -> int:
        return len(self._copies)

    def rows(self) -> dict[str, int]:
        return {table.name: len(rows) for table, rows in self.tables.items()}


class SqliteDisk:
    """A database file, and copies of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "bridge.sqlite"
        self._copies = 0
        self._open: Store | None = None

    def open(self, fleet_id: bytes, watch: Watch) -> Store:
        if self._open is not None:
            self._open.close()
        self._open = SqliteStore(self._file, fleet_id, watch)
        return self._open

    def copy(self) -> None:
        self._move(self._file, self._copy_path(self._copies))
        self._copies += 1

    def restore(self, index: int) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
        self._move(self._copy_path(index), self._file)
        self._copies = index + 1

    @property
    def copies(self) -> int:
        return self._copies

    def rows(self) -> dict[str, int]:
        with closing(sqlite3.connect(self._file)) as reading:
            return {name: reading.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in _TABLES}  # noqa: S608

    def _copy_path(self, index: int) -> Path:
        return self._folder / f"copy-{index}.sqlite"

    def _move(self, source: Path, target: Path) -> None:
        with closing(sqlite3.connect(source)) as reading, closing(sqlite3.connect(target)) as writing:
            reading.backup(writing)


class _Nobody:
    def committing(self) -> None:
        pass

    def committed(self, batch: Batch) -> None:
        pass

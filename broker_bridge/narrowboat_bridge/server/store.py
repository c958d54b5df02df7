"""The store: what the core knows, on disk. SQLite in WAL mode with full synchronisation, through SQLAlchemy
Core.

Writes are gathered in memory and reach the disk in `commit`, all in one transaction: a batch is there whole
or not at all, whenever the process dies. Gathering keeps the last row of each key, so that ten reports of one
device in a batch write one row, and a transaction takes no longer than its own writes. A commit that fails is
the end of the process, as the core's memory is then ahead of the disk; whoever starts it again finds the last
batch that was whole.

`load` reads everything that the core needs to go on. The history of reports is written for people and never
read here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, create_engine, delete, event, select
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.exc import SQLAlchemyError

from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import Assignment, Hello
from narrowboat_protocol.errors import MediumError, PeerError, Reason, UsageError

from ..audit import AuditEntry
from ..core.events import Restored
from ..core.records import Attempt, Campaign, Claim, Device, Registration, Release
from . import schema
from .issuer import IssuedCertificate
from .rows import (
    Row,
    attempt_from,
    attempt_row,
    campaign_from,
    campaign_row,
    claim_from,
    claim_row,
    device_from,
    device_row,
    registration_from,
    registration_row,
    release_from,
    release_row,
)

_VERSION_KEY, _FLEET_KEY, _EVENTS_KEY = "schema_version", "fleet_id", "event_sequence"
_OPERATORS_KEY = "operators_taken"
_WRITE_ORDER: tuple[Table, ...] = (
    schema.meta,
    schema.devices,
    schema.hellos,
    schema.reports,
    schema.releases,
    schema.campaigns,
    schema.attempts,
    schema.assignments,
    schema.replays,
    schema.claims,
    schema.registrations,
    schema.certificates,
    schema.audit,
)


@dataclass(frozen=True, slots=True)
class Replay:
    """A command that was carried out, and what was replied."""

    operator: str
    request_id: bytes
    digest: bytes
    expires_at: int
    reply: bytes


@dataclass(frozen=True, slots=True)
class OperatorsTaken:
    """Which operators document a bridge follows: none of a lower version counts after it, and no other of the same."""

    version: int
    digest: bytes
    """SHA-256 of its content."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Everything that a bridge starts from."""

    state: Restored
    assignments: dict[str, bytes]
    """The newest of each device, as signed."""
    replays: tuple[Replay, ...]
    event_sequence: int
    operators_taken: OperatorsTaken | None
    certificates: tuple[IssuedCertificate, ...]
    newest_audit_entry: AuditEntry | None


class Store:
    """One open database. Used by one thread."""

    def __init__(self, path: Path, fleet_id: bytes, history_rows_per_device: int) -> None:
        """Open the database, or make it. Raises `UsageError` if it is another fleet's or another version's."""
        self._history_rows = history_rows_per_device
        self._pending: dict[Table, dict[tuple[Any, ...], Row]] = {table: {} for table in _WRITE_ORDER}
        self._forgotten_campaigns: list[str] = []
        self._written_hellos: dict[str, Hello] = {}
        self._upserts = {table: _upsert(table) for table in _WRITE_ORDER}
        engine = create_engine(f"sqlite:///{path}")
        event.listen(engine, "connect", _configure)
        with _medium():
            self._connection: Connection = engine.connect()
        with self._transaction():
            schema.metadata.create_all(self._connection)
            for trigger in schema.AUDIT_TRIGGERS:
                self._connection.exec_driver_sql(trigger)
        self._check(path, _VERSION_KEY, schema.SCHEMA_VERSION.to_bytes(4, "big"), "this version's schema")
        self._check(path, _FLEET_KEY, fleet_id, "this fleet's store")

    def close(self) -> None:
        self._connection.close()
        self._connection.engine.dispose()

    def load(self) -> Loaded:
        try:
            with self._transaction():
                return self._load()
        except (PeerError, LookupError, ValueError) as error:
            raise MediumError(
                Reason.STATE_UNREADABLE, f"expected rows that a bridge wrote: {error}; restore a backup"
            ) from None

    def put_device(self, device: Device) -> None:
        self._put(schema.devices, device_row(device))
        if self._written_hellos.get(device.name) is not device.hello:
            self._written_hellos[device.name] = device.hello
            self._put(schema.hellos, {"device": device.name, "content": device.hello.encode()})

    def put_report(self, device: str, number: int, received_at: int, content: bytes) -> None:
        row = {"device": device, "place": number % self._history_rows, "number": number}
        self._put(schema.reports, row | {"received_at": received_at, "content": content})

    def put_release(self, release: Release) -> None:
        self._put(schema.releases, release_row(release))

    def put_campaign(self, campaign: Campaign) -> None:
        self._put(schema.campaigns, campaign_row(campaign))

    def forget_campaign(self, name: str) -> None:
        """Delete a campaign and its attempts, before anything that this batch writes."""
        self._forgotten_campaigns.append(name)
        self._pending[schema.campaigns].pop((name,), None)
        attempts = self._pending[schema.attempts]
        for key in [key for key in attempts if key[0] == name]:
            del attempts[key]

    def put_attempt(self, attempt: Attempt) -> None:
        self._put(schema.attempts, attempt_row(attempt))

    def put_assignment(self, device: str, counter: int, signed: bytes) -> None:
        self._put(schema.assignments, {"device": device, "counter": counter, "signed": signed})

    def put_claim(self, claim: Claim) -> None:
        self._put(schema.claims, claim_row(claim))

    def put_registration(self, registration: Registration) -> None:
        self._put(schema.registrations, registration_row(registration))

    def put_certificate(self, certificate: IssuedCertificate) -> None:
        self._put(schema.certificates, asdict(certificate))

    def put_replay(self, replay: Replay) -> None:
        row = {"operator": replay.operator, "request_id": replay.request_id, "digest": replay.digest}
        self._put(schema.replays, row | {"expires_at": replay.expires_at, "reply": replay.reply})

    def put_event_sequence(self, sequence: int) -> None:
        self._put(schema.meta, {"key": _EVENTS_KEY, "value": sequence.to_bytes(8, "big")})

    def put_operators_taken(self, taken: OperatorsTaken) -> None:
        self._put(schema.meta, {"key": _OPERATORS_KEY, "value": taken.version.to_bytes(8, "big") + taken.digest})

    def put_audit_entry(self, entry: AuditEntry) -> None:
        self._put(schema.audit, {"sequence": entry.sequence, "content": entry.content, "hash": entry.hash})

    def commit(self, now_s: int) -> None:
        """Make everything that was put durable, and drop replays that expired before `now_s`."""
        if not self._forgotten_campaigns and not any(self._pending.values()):
            return
        self._write(now_s)
        self._forgotten_campaigns.clear()
        for rows in self._pending.values():
            rows.clear()

    def audit_entries_after(self, sequence: int, limit: int) -> list[AuditEntry]:
        """The next entries that are on disk."""
        rows = select(schema.audit).where(schema.audit.c.sequence > sequence).order_by(schema.audit.c.sequence)
        with self._transaction():
            return [AuditEntry(**row) for row in self._connection.execute(rows.limit(limit)).mappings()]

    def _write(self, now_s: int) -> None:
        """The transaction of one commit."""
        with self._transaction():
            for table in (schema.campaigns, schema.attempts):
                column = table.c.name if table is schema.campaigns else table.c.campaign
                for name in self._forgotten_campaigns:
                    self._connection.execute(delete(table).where(column == name))
            for table in _WRITE_ORDER:
                if rows := self._pending[table]:
                    self._connection.execute(self._upserts[table], list(rows.values()))
            if self._pending[schema.replays]:
                self._connection.execute(delete(schema.replays).where(schema.replays.c.expires_at < now_s))

    def _load(self) -> Loaded:
        hellos = {row["device"]: row["content"] for row in self._rows(schema.hellos)}
        devices = tuple(device_from(row, hellos[row["name"]]) for row in self._rows(schema.devices))
        self._written_hellos = {device.name: device.hello for device in devices}
        signed = {row["device"]: row["signed"] for row in self._rows(schema.assignments)}
        state = Restored(
            devices=devices,
            releases=tuple(map(release_from, self._rows(schema.releases))),
            campaigns=tuple(map(campaign_from, self._rows(schema.campaigns))),
            attempts=tuple(map(attempt_from, self._rows(schema.attempts))),
            claims=tuple(map(claim_from, self._rows(schema.claims))),
            registrations=tuple(map(registration_from, self._rows(schema.registrations))),
            assignments=tuple(Assignment.decode(SignedDocument.decode(data).content) for data in signed.values()),
        )
        return Loaded(
            state=state,
            assignments=signed,
            replays=tuple(Replay(**row) for row in self._rows(schema.replays)),
            event_sequence=int.from_bytes(self._meta(_EVENTS_KEY) or b"", "big"),
            operators_taken=self._operators_taken(),
            certificates=tuple(IssuedCertificate(**row) for row in self._rows(schema.certificates)),
            newest_audit_entry=self._newest_audit_entry(),
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All that is read is of one moment, all that is written is there whole or not at all."""
        with _medium(), self._connection.begin():
            yield

    def _operators_taken(self) -> OperatorsTaken | None:
        found = self._meta(_OPERATORS_KEY)
        return OperatorsTaken(int.from_bytes(found[:8], "big"), found[8:]) if found else None

    def _newest_audit_entry(self) -> AuditEntry | None:
        newest = select(schema.audit).order_by(schema.audit.c.sequence.desc()).limit(1)
        entry = self._connection.execute(newest).mappings().first()
        return AuditEntry(**entry) if entry else None

    def _rows(self, table: Table) -> list[Row]:
        return [dict(row) for row in self._connection.execute(select(table)).mappings()]

    def _meta(self, key: str) -> bytes | None:
        found: bytes | None = self._connection.execute(
            select(schema.meta.c.value).where(schema.meta.c.key == key)
        ).scalar()
        return found

    def _put(self, table: Table, row: Row) -> None:
        self._pending[table][tuple(row[column.name] for column in table.primary_key)] = row

    def _check(self, path: Path, key: str, value: bytes, expected: str) -> None:
        """Compare what the store says of itself; a new store is made to say it."""
        with self._transaction():
            found = self._meta(key)
        if found is None:
            self._put(schema.meta, {"key": key, "value": value})
            self.commit(0)
        elif found != value:
            raise UsageError(Reason.BAD_CONFIG, f"{path}: expected {expected}, got another; name another data folder")


def _upsert(table: Table) -> Insert:
    statement = insert(table)
    if table is schema.audit:
        return statement
    keys = [column.name for column in table.primary_key]
    others = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in keys}
    return statement.on_conflict_do_update(index_elements=keys, set_=others)


def _configure(connection: sqlite3.Connection, _record: object) -> None:
    """What makes a commit durable. `FULL` syncs the log at each commit, so a power cut takes nothing back."""
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


@contextmanager
def _medium() -> Iterator[None]:
    """Whatever the database cannot do is the medium's fault."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        raise MediumError(
            Reason.MEDIUM_FAILED,
            f"the store did not do what it was told: {type(cause).__name__}: {cause}; check disk and rights",
        ) from None

"""The tables of the store.

Columns are what is looked up, compared or shown by other tools; what only the bridge reads stays in the
encoding that it has on the wire. Everything that could grow has a bound: the history of a device is a ring,
replays expire, campaigns are forgotten. Only the audit log grows. Nothing writes it but the commands of operators
that steer, or that are refused although they are an operator's own, and changes of state; its triggers refuse
changes, so that even a mistake of ours cannot rewrite it.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

SCHEMA_VERSION = 3

metadata = MetaData()

meta = Table("meta", metadata, Column("key", String, primary_key=True), Column("value", LargeBinary, nullable=False))

devices = Table(
    "devices",
    metadata,
    Column("name", String, primary_key=True),
    Column("cose_key", LargeBinary, nullable=False),
    Column("accepted_counter", Integer, nullable=False),
    Column("boot", Integer, nullable=False),
    Column("n", Integer, nullable=False),
    Column("recent", LargeBinary, nullable=False),
    Column("challenge", LargeBinary, nullable=False),
    Column("first_seen_at", Integer, nullable=False),
    Column("last_seen_at", Integer, nullable=False),
    Column("alarmed_at", Integer, nullable=False),
    Column("reports_stored", Integer, nullable=False),
    Column("stopped", Boolean, nullable=False),
)

hellos = Table(
    "hellos",
    metadata,
    Column("device", String, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)
"""The newest of each device. Apart from `devices`, which changes with every report."""

reports = Table(
    "reports",
    metadata,
    Column("device", String, primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("received_at", Integer, nullable=False),
    Column("content", LargeBinary, nullable=False),
)
"""The history of each device: report `number` stands at `place` = number modulo the length of the ring."""

releases = Table(
    "releases",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("component", String, nullable=False),
    Column("version", String, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("vendor_id", LargeBinary, nullable=False),
    Column("class_ids", LargeBinary, nullable=False),
    Column("image_size_bytes", Integer, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("file_digest", LargeBinary, nullable=False),
    Column("added_at", Integer, nullable=False),
    Column("codecs", LargeBinary, nullable=False),
)

campaigns = Table(
    "campaigns",
    metadata,
    Column("name", String, primary_key=True),
    Column("serial", Integer, nullable=False, unique=True),
    Column("release", LargeBinary, ForeignKey("releases.digest"), nullable=False),
    Column("devices", LargeBinary),
    Column("reboot_windows", LargeBinary, nullable=False),
    Column("byte_budget", Integer),
    Column("started_at", Integer, nullable=False),
    Column("started_by", String, nullable=False),
    Column("starter_kid", LargeBinary, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("approval_ends_at", Integer),
    Column("approved_by", String),
    Column("ended", String),
)

attempts = Table(
    "attempts",
    metadata,
    Column("campaign", String, primary_key=True),
    Column("device", String, primary_key=True),
    Column("counters", LargeBinary, nullable=False),
    Column("old_slot", String),
    Column("old_release", LargeBinary),
    Column("accepted", Boolean, nullable=False),
    Column("withdrawn", Boolean, nullable=False),
    Column("overtaken", Boolean, nullable=False),
    Column("state", String),
    Column("boot", Integer),
    Column("n", Integer),
    Column("hold", String),
    Column("reason", String),
    Column("detail", String),
    Column("done_bytes", Integer, nullable=False),
    Column("total_bytes", Integer, nullable=False),
    Column("wire_bytes", Integer, nullable=False),
    Column("reported_at", Integer),
)

assignments = Table(
    "assignments",
    metadata,
    Column("device", String, primary_key=True),
    Column("counter", Integer, nullable=False),
    Column("signed", LargeBinary, nullable=False),
)
"""The newest of each device, as signed: the same bytes are sent again."""

replays = Table(
    "replays",
    metadata,
    Column("operator", String, primary_key=True),
    Column("request_id", LargeBinary, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("expires_at", Integer, nullable=False, index=True),
    Column("reply", LargeBinary, nullable=False),
)

claims = Table(
    "claims",
    metadata,
    Column("name", String, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("count", Integer, nullable=False),
    Column("used", Integer, nullable=False),
    Column("expires_at", Integer),
    Column("kids", LargeBinary, nullable=False),
    Column("listed", Boolean, nullable=False),
    Column("admits", Boolean, nullable=False),
    Column("revoked", Boolean, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("created_by", String, nullable=False),
)

registrations = Table(
    "registrations",
    metadata,
    Column("first_kid", LargeBinary, primary_key=True),
    Column("kid", LargeBinary, nullable=False),
    Column("kids", LargeBinary, nullable=False),
    Column("admission", String, nullable=False),
    Column("device", String, nullable=False),
    Column("claim", String),
    Column("serial", String),
    Column("asked_at", Integer),
    Column("certified_at", Integer),
    Column("expires_at", Integer),
)
"""By the first key of each: the one that certificates are issued for may change."""

certificates = Table(
    "certificates",
    metadata,
    Column("serial", String, primary_key=True),
    Column("device", String, nullable=False),
    Column("kid", LargeBinary, nullable=False),
    Column("issued_at", Integer, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("voucher", LargeBinary),
)

audit = Table(
    "audit",
    metadata,
    Column("sequence", Integer, primary_key=True),
    Column("content", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)

AUDIT_TRIGGERS = tuple(
    f"CREATE TRIGGER IF NOT EXISTS audit_refuses_{verb} BEFORE {verb} ON audit "
    "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
    for verb in ("UPDATE", "DELETE")
)

"""The store: what was committed survives any death of the process, what was not is gone, and nothing is half there."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from narrowboat_bridge.core.events import Restored
from narrowboat_bridge.core.pairs import admit, heard
from narrowboat_bridge.core.records import Attempt, Campaign, Device, Ending
from narrowboat_bridge.server.config import LimitsConfig
from narrowboat_bridge.server.store import Replay, Store
from narrowboat_protocol.documents import CampaignStart, Hello, UploadBegin
from narrowboat_protocol.errors import MediumError, Reason, UsageError
from narrowboat_protocol.states import HoldReason, State
from tests.bridge.kit import running_bridge
from tests.bridge.world import digest, key_of, nonce, release
from tests.support.fleet import NOW, FleetKit, hello_document

FLEET_ID = digest(1)
HISTORY_ROWS = 4


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bridge.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with closing(open_store(path)) as opened:
        yield opened


def open_store(path: Path, fleet_id: bytes = FLEET_ID) -> Store:
    return Store(path, fleet_id, HISTORY_ROWS)


def state_in(path: Path) -> Restored:
    with closing(open_store(path)) as opened:
        return opened.load().state


def a_device(name: str = "gw-1") -> Device:
    hello = hello_document(FleetKit.create().device(name))
    device = replace(admit(hello, key_of(name), digest(2), NOW), challenge=nonce(1))
    return heard(device, (1, 2), digest(3), NOW + 1)


CAMPAIGN = Campaign(
    "c1", 1, digest(1), ("gw-1", "gw-2"), ((0, 3600), (7200, 86_400)), 10_000, NOW, "anna", digest(7), digest(8)
)
ATTEMPT = Attempt(
    "c1", "gw-1", (1, 2), "a", digest(9), accepted=True, withdrawn=True, overtaken=True, state=State.FAILED,
    pair=(1, 5),
    hold=HoldReason.WINDOW, reason=Reason.BAD_FRAME, detail="frame 7", done_bytes=1, total_bytes=2, wire_bytes=3,
    reported_at=NOW,
)  # fmt: skip


def test_every_record_comes_back_as_it_was(store: Store, path: Path) -> None:
    device = a_device()
    open_ended = replace(CAMPAIGN, name="c2", serial=2, devices=None, byte_budget=None, ended=Ending.ABORTED)
    approved = replace(CAMPAIGN, name="c3", serial=3, approval_ends_at=NOW + 9, approved_by="eve")
    untouched = Attempt("c2", "gw-1")
    store.put_device(device)
    store.put_release(release(1))
    for campaign in (CAMPAIGN, open_ended, approved):
        store.put_campaign(campaign)
    for attempt in (ATTEMPT, untouched):
        store.put_attempt(attempt)
    store.commit(NOW)
    assert state_in(path) == Restored((device,), (release(1),), (CAMPAIGN, open_ended, approved), (ATTEMPT, untouched))


def test_the_last_of_two_rows_of_one_key_counts(store: Store, path: Path) -> None:
    device = a_device()
    store.put_device(device)
    store.put_device(replace(device, accepted_counter=7))
    store.commit(NOW)
    store.put_device(replace(device, accepted_counter=8))
    store.commit(NOW)
    (found,) = state_in(path).devices
    assert found.accepted_counter == 8


def test_a_newer_hello_replaces_the_older_one(store: Store, path: Path) -> None:
    device = a_device()
    store.put_device(device)
    store.commit(NOW)
    newer = Hello.model_validate(device.hello.model_dump() | {"running_slot": "b"})
    store.put_device(replace(device, hello=newer))
    store.commit(NOW)
    (found,) = state_in(path).devices
    assert found.hello.running_slot == "b"


def test_what_was_not_committed_is_not_there(store: Store, path: Path) -> None:
    store.put_device(a_device())
    assert state_in(path).devices == ()


KILLED = """
import os, sys
from pathlib import Path
from narrowboat_bridge.server.store import Store
store = Store(Path(sys.argv[1]), bytes([1]) * 32, 4)
for number in range(3):
    store.put_report("gw-1", number, 1, b"report")
    store.put_event_sequence(number + 1)
    store.commit(1)
store.put_report("gw-1", 3, 1, b"report")
store.put_event_sequence(4)
os.kill(os.getpid(), 9)
"""


def test_a_kill_between_write_and_commit_leaves_the_last_whole_batch(path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert ended.returncode == -9
    with closing(open_store(path)) as opened:
        assert opened.load().event_sequence == 3
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM reports").fetchone() == (3,)


def test_a_batch_that_cannot_be_written_whole_is_not_written_at_all(store: Store, path: Path) -> None:
    store.put_event_sequence(5)
    store.put_campaign(CAMPAIGN)
    with pytest.raises(MediumError):
        store.commit(NOW)
    with closing(open_store(path)) as opened:
        assert opened.load().event_sequence == 0


def test_the_history_of_a_device_is_a_ring(store: Store, path: Path) -> None:
    for number in range(10):
        store.put_report("gw-1", number, NOW + number, b"report")
    store.put_report("gw-2", 0, NOW, b"report")
    store.commit(NOW)
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT number FROM reports WHERE device = 'gw-1' ORDER BY number").fetchall()
    assert rows == [(6,), (7,), (8,), (9,)]


def test_a_forgotten_campaign_goes_with_its_attempts_and_may_come_back_in_one_batch(store: Store, path: Path) -> None:
    store.put_release(release(1))
    store.put_campaign(CAMPAIGN)
    store.put_attempt(ATTEMPT)
    store.commit(NOW)
    store.put_attempt(replace(ATTEMPT, device="gw-2"))
    store.forget_campaign("c1")
    again = replace(CAMPAIGN, serial=9, devices=None)
    store.put_campaign(again)
    store.commit(NOW)
    state = state_in(path)
    assert state.campaigns == (again,)
    assert state.attempts == ()


def test_replays_are_kept_until_they_expire(store: Store, path: Path) -> None:
    old = Replay("anna", nonce(1), digest(1), NOW, b"reply")
    new = Replay("anna", nonce(2), digest(2), NOW + 60, b"reply")
    store.put_replay(old)
    store.commit(NOW)
    store.put_replay(new)
    store.commit(NOW + 1)
    with closing(open_store(path)) as opened:
        assert opened.load().replays == (new,)


@pytest.mark.parametrize("statement", ["UPDATE audit SET content = x'00'", "DELETE FROM audit"])
def test_the_audit_log_refuses_changes(store: Store, path: Path, statement: str) -> None:
    from narrowboat_bridge.audit import AuditChain

    store.put_audit_entry(AuditChain(FLEET_ID).append(NOW, "command", "anna", {}))
    store.commit(NOW)
    with closing(sqlite3.connect(path)) as database, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        database.execute(statement)


def test_the_store_of_another_fleet_is_not_opened(store: Store, path: Path) -> None:
    with pytest.raises(UsageError, match="fleet"):
        open_store(path, digest(7))


def test_the_store_of_another_version_is_not_opened(store: Store, path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE meta SET value = x'00000099' WHERE key = 'schema_version'")
        database.commit()
    with pytest.raises(UsageError, match="version"):
        open_store(path)


def test_a_row_that_no_bridge_wrote_is_named_as_the_medium_s_fault(store: Store, path: Path) -> None:
    store.put_device(a_device())
    store.commit(NOW)
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE hellos SET content = x'ff'")
        database.commit()
    with pytest.raises(MediumError) as caught:
        state_in(path)
    assert caught.value.reason is Reason.STATE_UNREADABLE


def test_a_commit_survives_a_power_cut_by_the_settings_that_make_it_so(store: Store) -> None:
    pragma = store._connection.exec_driver_sql  # noqa: SLF001  # settings of a connection show on that connection only
    assert pragma("PRAGMA journal_mode").scalar() == "wal"
    assert pragma("PRAGMA synchronous").scalar() == 2


# The same through a whole bridge.


def test_a_bridge_goes_on_where_a_killed_one_stopped(tmp_path: Path) -> None:
    fleet = FleetKit.create()
    anna, device = fleet.operator("anna"), fleet.device("gw-1")
    made = fleet.make_release(b"image" * 1000)
    with running_bridge(tmp_path, fleet, anna) as bridge:
        bridge.take("nb/d/gw-1/hello", device.hello())
        bridge.push(anna, made)
        start = CampaignStart(campaign="c1", release=made.digest, devices=("gw-1",))
        bridge.take("nb/o/anna/command", anna.command(start, request_id=bytes(16)))
        bridge.workshop.loop.turn()
        (sent,) = bridge.assignments()
        sequence = bridge.events()[-1].sequence
    with running_bridge(tmp_path, fleet, anna) as bridge:
        bridge.fetch("gw-1", made.payload_digest, (0, 100))
        assert len(bridge.wire.blocks) == 1, "a known assignment is served at once"
        bridge.take("nb/d/gw-1/hello", device.hello(pair=(1, 2)))
        assert bridge.assignments() == [sent]
        assert bridge.events()[0].sequence == sequence + 1
        state = bridge.ask(anna, UploadBegin(digest=made.file_digest, size=len(made.file)))
        assert state.reason is None


def test_nothing_is_said_before_its_rows_can_be_read_by_others(tmp_path: Path) -> None:
    fleet = FleetKit.create()
    device = fleet.device("gw-1")
    with running_bridge(tmp_path, fleet) as bridge:
        bridge.put("nb/d/gw-1/hello", device.hello())
        for n in range(2, 6):
            bridge.put("nb/d/gw-1/report", device.report(digest(1), State.FAILED, attempt=0, pair=(1, n)))
        seen: list[tuple[str, int, int]] = []

        class Watching(list[tuple[str, bytes]]):
            def append(self, message: tuple[str, bytes]) -> None:
                with closing(sqlite3.connect(bridge.config.store_path)) as database:
                    (reports,) = database.execute("SELECT count(*) FROM reports").fetchone()
                    (devices,) = database.execute("SELECT count(*) FROM devices").fetchone()
                seen.append((message[0], reports, devices))
                super().append(message)

        bridge.wire.messages = Watching()
        bridge.workshop.loop.turn()
    acked = [rows for topic, *rows in seen if topic.endswith("/ack")]
    assert acked == [[4, 1]] * 5


def test_a_bridge_that_cannot_commit_says_nothing_and_ends(tmp_path: Path) -> None:
    fleet = FleetKit.create()
    with running_bridge(tmp_path, fleet) as bridge:
        with closing(sqlite3.connect(bridge.config.store_path)) as database:
            database.execute("DROP TABLE hellos")
            database.commit()
        with pytest.raises(MediumError):
            bridge.take("nb/d/gw-1/hello", fleet.device("gw-1").hello())
        assert bridge.wire.messages == []


def test_a_second_bridge_does_not_open_the_same_folder(tmp_path: Path) -> None:
    fleet = FleetKit.create()
    with (
        running_bridge(tmp_path, fleet),
        pytest.raises(UsageError, match="no other bridge"),
        running_bridge(tmp_path, fleet),
    ):
        pass


def test_the_history_that_a_device_fills_is_bounded(tmp_path: Path) -> None:
    fleet = FleetKit.create()
    device = fleet.device("gw-1")
    with running_bridge(tmp_path, fleet, limits=LimitsConfig(history_rows_per_device=3)) as bridge:
        bridge.put("nb/d/gw-1/hello", device.hello())
        for n in range(2, 12):
            bridge.put("nb/d/gw-1/report", device.report(digest(1), State.FAILED, attempt=0, pair=(1, n)))
        bridge.workshop.loop.turn()
        with closing(sqlite3.connect(bridge.config.store_path)) as database:
            assert database.execute("SELECT count(*) FROM reports").fetchone() == (3,)

"""The audit log: any change to what was written shows."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from narrowboat_bridge.audit import AuditChain, AuditEntry, verify_chain
from narrowboat_bridge.core.actions import Record
from narrowboat_bridge.core.changes import STEPS_RECORDED_MAX
from narrowboat_bridge.server.store import Store
from narrowboat_protocol.cbor import decode, encode
from narrowboat_protocol.documents import (
    AuditList,
    AuditPage,
    CampaignAbort,
    CampaignList,
    CampaignStart,
    OperatorRole,
    Scope,
)
from narrowboat_protocol.errors import MediumError, Reason
from narrowboat_protocol.states import State
from tests.bridge.kit import running_bridge
from tests.bridge.world import World, only
from tests.support.fleet import NOW, FleetKit

FLEET_ID = bytes(32)


def a_log(length: int = 5) -> list[AuditEntry]:
    chain = AuditChain(FLEET_ID)
    return [chain.append(NOW + number, "command", "anna", {"number": number}) for number in range(length)]


def test_an_entry_is_hashed_with_the_hash_before_it_and_the_first_with_the_fleet() -> None:
    first, second = a_log(2)
    assert first.content == encode({1: 1, 2: NOW, 3: "command", 4: "anna", 5: {"number": 0}})
    assert first.hash == hashlib.sha256(FLEET_ID + first.content).digest()
    assert second.hash == hashlib.sha256(first.hash + second.content).digest()


def test_a_log_that_was_left_alone_verifies() -> None:
    assert verify_chain(FLEET_ID, a_log()) == (5, a_log()[-1].hash)
    assert verify_chain(FLEET_ID, []) == (0, FLEET_ID)


def rehashed(entry: AuditEntry, before: bytes) -> AuditEntry:
    return replace(entry, hash=hashlib.sha256(before + entry.content).digest())


LOG = a_log()
ALTERED: dict[str, tuple[list[AuditEntry], int]] = {
    "a changed fact": ([*LOG[:2], replace(LOG[2], content=LOG[2].content[:-1] + b"\x09"), *LOG[3:]], 3),
    "a changed fact with its hash made to fit": (
        [*LOG[:2], rehashed(replace(LOG[2], content=LOG[2].content[:-1] + b"\x09"), LOG[1].hash), *LOG[3:]],
        4,
    ),
    "an entry removed": ([*LOG[:2], *LOG[3:]], 3),
    "the first entry removed": (LOG[1:], 1),
    "two entries swapped": ([LOG[1], LOG[0], *LOG[2:]], 1),
    "a row renumbered": ([LOG[0], replace(LOG[2], sequence=2)], 2),
    "an entry twice": ([LOG[0], LOG[0]], 2),
    "bytes that are no entry": ([AuditEntry(1, b"\xff", hashlib.sha256(FLEET_ID + b"\xff").digest())], 1),
}


@pytest.mark.parametrize("case", ALTERED)
def test_an_alteration_is_found_where_it_was_made(case: str) -> None:
    entries, place = ALTERED[case]
    with pytest.raises(MediumError, match=f"entry {place} "):
        verify_chain(FLEET_ID, entries)


def test_the_log_of_another_fleet_does_not_verify() -> None:
    with pytest.raises(MediumError):
        verify_chain(bytes([1]) * 32, a_log())


def test_the_chain_goes_on_after_a_restart() -> None:
    log = a_log(3)
    chain = AuditChain(FLEET_ID, log[-1])
    assert verify_chain(FLEET_ID, [*log, chain.append(NOW, "command", "bert", {})]).sequence == 4


def test_what_was_commanded_refused_and_changed_is_in_the_log_of_a_bridge(tmp_path: Path) -> None:
    fleet = FleetKit.create()
    anna, viewer = fleet.operator("anna"), fleet.operator("eve", OperatorRole.VIEWER)
    device, release = fleet.device("gw-1"), fleet.make_release(b"image" * 100)
    with running_bridge(tmp_path, fleet, anna, viewer) as bridge:
        bridge.take("nb/d/gw-1/hello", device.hello())
        bridge.push(anna, release)
        start = CampaignStart(campaign="c1", release=release.digest, devices=("gw-1",))
        bridge.take("nb/o/eve/command", viewer.command(start, request_id=bytes(16)))
        bridge.take("nb/o/anna/command", anna.command(start, request_id=bytes(16)))
        failed = device.report(release.digest, State.FAILED, attempt=1, pair=(1, 2))
        bridge.take("nb/d/gw-1/report", failed)
        abort = CampaignAbort(campaign="c1")
        bridge.take("nb/o/anna/command", anna.command(abort, request_id=bytes([1]) * 16))
        path = bridge.config.store_path
    with closing(Store(path, fleet.fleet_id, 200)) as store:
        entries = store.audit_entries_after(0, 100)
    assert verify_chain(fleet.fleet_id, entries).sequence == len(entries)
    told = [(entry[3], entry[4], entry[5]) for entry in map(content_of, entries)]
    assert [(what, who) for what, who, _ in told] == [
        ("device admitted", "gw-1"),
        ("command", "anna"),
        ("command", "anna"),
        ("release added", "anna"),
        ("command refused", "eve"),
        ("command", "anna"),
        ("campaign started", "anna"),
        ("attempt", "gw-1"),
        ("campaign ended", "c1"),
        ("command", "anna"),
    ]
    assert told[4][2] == {"verb": "campaign_start", "reason": "not_permitted"}
    assert told[5][2] == {"verb": "campaign_start", "subject": "c1"}
    assert told[7][2] == {"campaign": "c1", "state": "failed"}


def test_what_nobody_vouches_for_and_what_only_looks_leaves_no_entry(tmp_path: Path) -> None:
    """The log cannot be pruned, so nobody who merely reaches the command topic may make it grow."""
    fleet = FleetKit.create()
    anna, viewer, stranger = fleet.operator("anna"), fleet.operator("eve", OperatorRole.VIEWER), fleet.operator("anna")
    abort = CampaignAbort(campaign="c1")
    forged = stranger.command(abort, request_id=bytes(16))
    old = anna.command(abort, request_id=bytes(16), issued_at=NOW - 900, expires_at=NOW - 600)
    refused = viewer.command(abort, request_id=bytes(16))
    look = anna.command(CampaignList(), request_id=bytes([1]) * 16)
    with running_bridge(tmp_path, fleet, anna, viewer) as bridge:
        for _ in range(5):
            for name, command in (
                ("anna", forged),
                ("mallory", forged),
                ("anna", old),
                ("eve", refused),
                ("anna", look),
            ):
                bridge.take(f"nb/o/{name}/command", command)
        path = bridge.config.store_path
    with closing(Store(path, fleet.fleet_id, 200)) as store:
        told = [(entry[3], entry[4], entry[5]) for entry in map(content_of, store.audit_entries_after(0, 100))]
    assert told == [("command refused", "eve", {"verb": "campaign_abort", "reason": "not_permitted"})]
    assert bridge.metrics.value("refused.command.unknown_key") == 5
    assert bridge.metrics.value("refused.command.unknown_operator") == 5
    assert bridge.metrics.value("refused.command.expired") == 5


def test_an_admin_of_the_whole_fleet_reads_the_log_page_by_page_and_reading_adds_nothing(tmp_path: Path) -> None:
    fleet = FleetKit.create()
    anna, ben = fleet.operator("anna"), fleet.operator("ben", scope=Scope(name_prefix="gw-"))
    read: list[AuditEntry] = []
    with running_bridge(tmp_path, fleet, anna, ben) as bridge:
        for number in range(5):
            bridge.take(
                "nb/o/anna/command", anna.command(CampaignAbort(campaign="c1"), request_id=bytes([number]) * 16)
            )
        more = True
        while more:
            look = AuditList(after=len(read), limit=2)
            bridge.take("nb/o/anna/command", anna.command(look, request_id=bytes([50 + len(read)]) * 16))
            page = AuditPage.from_cbor(bridge.replies()[-1].result)
            read += [AuditEntry(each.sequence, each.content, each.hash) for each in page.entries]
            more = page.more
        bridge.take("nb/o/ben/command", ben.command(AuditList(), request_id=bytes(16)))
        assert bridge.replies("ben")[-1].reason is Reason.NOT_PERMITTED
    assert verify_chain(fleet.fleet_id, read).sequence == 5
    with closing(Store(bridge.config.store_path, fleet.fleet_id, 200)) as store:
        assert store.audit_entries_after(0, 100) == read


def content_of(entry: AuditEntry) -> dict[int, object]:
    content = decode(entry.content, max_bytes=10_000)
    assert isinstance(content, dict)
    return content


def test_a_gateway_that_goes_back_and_forth_for_ever_does_not_fill_the_log() -> None:
    """Its reports are truly its own, ten a second may come, and nobody can prune the log."""
    world = World()
    world.hello()
    world.start()
    entries = []
    for n in range(2, 1000):
        state = State.DOWNLOADING if n % 2 else State.VERIFYING
        entries += only(Record, world.report(state, pair=(1, n)))
    assert len(entries) == STEPS_RECORDED_MAX
    assert only(Record, world.report(State.FAILED, pair=(1, 1000))), "its end is recorded all the same"

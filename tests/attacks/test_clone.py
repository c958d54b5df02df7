"""A card that was copied: two gateways with one key, one data folder and one name, at a real broker.

Whichever of them speaks first is believed, since nothing tells it from the other. What the second one says gives both
away, and from then on neither is given anything, until an operator has looked.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from threading import Event as Flag

import pytest

from narrowboat_bridge.broker_home import Listener
from narrowboat_bridge.core.records import RECENT_PAIRS
from narrowboat_device.assembly import open_record
from narrowboat_device.core.actions import Record
from narrowboat_device.core.memory import TrustRecord, read_record
from narrowboat_device.identity import ensure_certificate
from narrowboat_device.provision import provision
from narrowboat_protocol.limits import DEFAULT_LIMITS, MIB
from narrowboat_protocol.topics import Channel
from tests.broker.lab import DISK, Lab, Pushed
from tests.support.agent_thread import AgentThread
from tests.support.images import small_image
from tests.support.processes import wait_for
from tests.support.rogue import PATIENCE_S, Rogue


class Pair:
    """A gateway that was known and switched off, and the copy of its card. Both are off."""

    def __init__(self, lab: Lab, rogue: Rogue, name: str, extra_toml: str = "") -> None:
        self.lab, self.rogue, self.name = lab, rogue, name
        made = lab.make_gateway(name, extra_toml=extra_toml)
        self.own = AgentThread(made.config)
        with self.own:
            wait_for(lambda: self.has_been_answered, PATIENCE_S, f"an Ack for {name}")
        folder = made.folder.with_name(f"{name}-copy")
        shutil.copytree(made.folder, folder)
        self.copy = AgentThread(folder / made.config.name)

    def let_speak(self, card: AgentThread) -> None:
        """Switch one of them on until the bridge has heard its hello."""
        before = self.rogue.count(self.name, Channel.HELLO)
        with card:
            wait_for(lambda: self.rogue.count(self.name, Channel.HELLO) > before, PATIENCE_S, f"{self.name} to speak")
            assert self.lab.device(self.name) is not None, "what came before the question is done"

    @property
    def has_been_answered(self) -> bool:
        with open_record(DISK, self.own.config, Record.TRUST, DEFAULT_LIMITS) as record:
            stored = read_record(TrustRecord, record.load())
        return stored is not None and stored.challenge is not None

    def is_alarmed(self) -> bool:
        return any((what, who) == ("alarm", self.name) for what, who, _ in self.lab.audit())

    @property
    def is_assigned_something(self) -> bool:
        with closing(sqlite3.connect(self.lab.fleet.path / "bridge" / "data" / "bridge.sqlite")) as store:
            (count,) = store.execute("SELECT count(*) FROM assignments WHERE device = ?", [self.name]).fetchone()
        return bool(count)

    def give_away(self, pushed: Pushed) -> None:
        """Both speak, in turn. Then a campaign is started, which reaches neither."""
        self.let_speak(self.copy)
        assert not self.is_alarmed(), "nothing tells it from the other yet"
        self.let_speak(self.own)
        assert self.is_alarmed()
        self.lab.start(pushed, self.name, self.name)
        for card in (self.own, self.copy, self.own):
            self.let_speak(card)
        assert not self.is_assigned_something

    def resolve(self, decision: str) -> None:
        outcome = self.lab.type("device", "resolve", self.name, decision)
        assert outcome.status == 0, outcome.err


@pytest.fixture
def rogue(lab: Lab) -> Iterator[Rogue]:
    with lab.rogue() as rogue:
        yield rogue


@pytest.fixture(scope="module")
def pushed(lab: Lab) -> Pushed:
    return lab.push(small_image(80, MIB), "8.0.0")


def test_a_cloned_card_is_found_out_and_given_nothing_until_an_operator_keeps_the_gateway(
    lab: Lab, rogue: Rogue, pushed: Pushed
) -> None:
    pair = Pair(lab, rogue, "gw-copied")
    pair.give_away(pushed)
    pair.resolve("--keep")
    with pair.own:
        assert lab.wait_for_end("gw-copied", "gw-copied")["state"] == "succeeded"


def test_a_cloned_card_is_worth_nothing_once_its_key_is_revoked_and_the_gateway_has_another(
    lab: Lab, rogue: Rogue, pushed: Pushed
) -> None:
    claim = lab.credentials(Listener.ENROL, "second-card")
    section = f'port = {lab.fleet.ports.enrol}\ncertificate = "{claim.certificate}"\nkey = "{claim.key}"\n'
    pair = Pair(lab, rogue, "gw-rekeyed", f"\n[enrolment]\n{section}")
    pair.give_away(pushed)
    pair.resolve("--revoke")
    assert lab.type("claim", "create", "second-card", "--count", 1, "--admit").status == 0
    broker = pair.own.config.broker
    broker.key.unlink()
    broker.certificate.unlink()
    provision(DISK, pair.own.config, DEFAULT_LIMITS)
    assert ensure_certificate(DISK, pair.own.config, DEFAULT_LIMITS, Flag()) == pair.own.config
    with pair.own:
        assert lab.wait_for_end("gw-rekeyed", "gw-rekeyed")["state"] == "succeeded"


def test_an_old_copy_gives_itself_away_however_far_the_gateway_has_come_since(lab: Lab, rogue: Rogue) -> None:
    pair = Pair(lab, rogue, "gw-old-copy")
    for _ in range(RECENT_PAIRS + 1):
        pair.let_speak(pair.own)
    assert not pair.is_alarmed()
    with pair.copy:
        wait_for(pair.is_alarmed, PATIENCE_S, "the alarm")

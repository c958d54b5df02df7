"""The operator's commands against a real broker and bridge, over links that break: what happens, and what exit status
says so.
"""

from __future__ import annotations

import json
import random
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from narrowboat_bridge.cli.audit import PAGE_ENTRIES
from narrowboat_bridge.cli.client import OperatorClient
from narrowboat_protocol.documents import CampaignAbort, CampaignSummary
from narrowboat_protocol.errors import PeerError
from tests.bridge.cli_kit import Outcome, run, write_release_toml
from tests.support.live_fleet import LiveFleet
from tests.support.processes import Children, wait_for
from tests.support.relay import LinkShape, RelayThread

IMAGE_BYTES = 10_000_000
LONGEST_SILENCE_S = 9
"""A deadline is kept although the bridge is asked again only after ten seconds without an event."""
QUICK_CUTS = LinkShape(rate_bits_per_s=60e6, round_trip_s=0.02, cut_every_s=0.7)


@dataclass(frozen=True, slots=True)
class Desk:
    """A running fleet, and what its operator types."""

    fleet: LiveFleet
    folder: Path

    def type(self, *arguments: object, port: int | None = None, operator: str = "operator") -> Outcome:
        """Run a command as `operator`, by way of another port if there is one."""
        return run(*arguments, "--config", self.configuration(operator, port))

    def configuration(self, operator: str, port: int | None = None, **changes: str) -> Path:
        folder = self.fleet.path / "operators" / operator
        text = (folder / "operator.toml").read_text()
        if port is not None:
            text = text.replace(f"port = {self.fleet.ports.staff}", f"port = {port}")
        for setting, value in changes.items():
            text = re.sub(rf"^{setting} = .*$", f'{setting} = "{value}"', text, flags=re.MULTILINE)
        path = folder / f"changed-{len(list(folder.iterdir()))}.toml"
        path.write_text(text)
        return path

    def release(self, version: str, *keys: int) -> Path:
        """A release of noise, which does not compress, signed with these of the fleet's three keys."""
        folder = self.folder / version
        folder.mkdir()
        (folder / "image.ext4").write_bytes(random.Random(version).randbytes(IMAGE_BYTES))
        out = folder / "release.nbr"
        toml = write_release_toml(folder, "image.ext4", version=version, codec="stored", level=None)
        assert run("release", "build", toml, "-o", out).status == 0
        for key in keys:
            assert run("release", "sign", out, "--key", self.fleet.path / "keys" / f"release-{key}.pem").status == 0
        return out


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    with Children(folder / "logs") as children:
        fleet = LiveFleet(folder, children)
        fleet.init("--operator", "operator", "--release-keys", "3", "--release-threshold", "2")
        fleet.narrowboat("pki", "issue", "operator", "viewer", "--role", "viewer", "--fleet", str(fleet.path))
        fleet.start_broker()
        fleet.start_bridge()
        fleet.wait_until_served()
        yield Desk(fleet, folder)


@pytest.fixture(scope="module")
def pushed(desk: Desk) -> Path:
    """A release that the bridge has."""
    path = desk.release("1.0.0", 1, 2)
    assert desk.type("release", "push", path, "--wait").status == 0
    return path


def test_a_release_arrives_whole_over_a_link_that_keeps_breaking(desk: Desk) -> None:
    path = desk.release("2.0.0", 1, 3)
    with RelayThread(desk.fleet.ports.staff, QUICK_CUTS) as relay:
        outcome = desk.type("release", "push", path, "--wait", "--json", port=relay.port)
        assert relay.counts.connections > 1
    assert outcome.status == 0, outcome.err
    assert json.loads(outcome.out)["details"]["image_size"] == IMAGE_BYTES


def test_pushing_what_is_there_sends_nothing(desk: Desk, pushed: Path) -> None:
    with RelayThread(desk.fleet.ports.staff) as relay:
        outcome = desk.type("release", "push", pushed, "--wait", "--json", port=relay.port)
        assert relay.counts.up_bytes < 20_000
    assert outcome.status == 0
    assert json.loads(outcome.out)["accepted"] is True


def test_an_interrupted_push_goes_on_where_it_stopped(desk: Desk) -> None:
    path = desk.release("3.0.0", 2, 3)
    with RelayThread(desk.fleet.ports.staff, LinkShape(rate_bits_per_s=80e6)) as relay:

        def darken_on_the_way() -> None:
            wait_for(lambda: relay.counts.up_bytes > 7_000_000, 30, "seven tenths of the file")
            relay.darken()

        saboteur = threading.Thread(target=darken_on_the_way)
        saboteur.start()
        interrupted = desk.type("release", "push", path, "--wait", "--timeout", 2, port=relay.port)
        saboteur.join()
        sent_bytes = relay.counts.up_bytes
        relay.mend()
        resumed = desk.type("release", "push", path, "--wait", port=relay.port)
        assert relay.counts.up_bytes - sent_bytes < 7_000_000
    assert (interrupted.status, resumed.status) == (3, 0)


def test_a_push_and_a_watch_outlive_the_bridge(tmp_path: Path) -> None:
    """It is killed and started again in the middle of each. A child ends with the thread that started it, so what is
    typed runs in a thread.
    """
    with Children(tmp_path / "logs") as children, ThreadPoolExecutor(1) as typist:
        fleet = LiveFleet(tmp_path, children)
        fleet.init()
        fleet.start_broker()
        desk, bridges = Desk(fleet, tmp_path), [fleet.start_bridge()]
        path = desk.release("7.0.0", 1)

        def start_again() -> None:
            bridges[-1].kill()
            children.forget(bridges[-1])
            bridges.append(fleet.start_bridge())

        with RelayThread(fleet.ports.staff, LinkShape(rate_bits_per_s=80e6)) as relay:
            pushing = typist.submit(desk.type, "release", "push", path, "--wait", port=relay.port)
            wait_for(lambda: relay.counts.up_bytes > 5_000_000, 30, "half of the file")
            start_again()
            assert pushing.result().status == 0, pushing.result().err
        watching = typist.submit(desk.type, "campaign", "start", path, "--name", "watched", "--wait")
        wait_for(lambda: "watched" in fleet.narrowboat("campaign", "list"), 30, "the campaign to be there")
        start_again()
        fleet.narrowboat("campaign", "abort", "watched")
        assert watching.result().status == 4, watching.result().err


def test_a_push_without_wait_still_ends_in_a_release(desk: Desk) -> None:
    path = desk.release("4.0.0", 1, 2)
    assert desk.type("release", "push", path).status == 0
    start = ("campaign", "start", path, "--name", "without-wait")
    wait_for(lambda: desk.type(*start).status == 0, 30, "the bridge to know the release")


def test_a_release_that_too_few_signed_is_not_even_sent(desk: Desk) -> None:
    path = desk.release("5.0.0", 1)
    with RelayThread(desk.fleet.ports.staff) as relay:
        outcome = desk.type("release", "push", path, "--wait", port=relay.port)
        assert relay.counts.connections == 0
    assert outcome.status == 1
    assert "signatures of 2" in outcome.error_line


def test_a_release_that_rotted_is_not_even_sent(desk: Desk) -> None:
    path = desk.release("8.0.0", 1, 2)
    with path.open("r+b") as file:
        file.seek(IMAGE_BYTES // 2)
        file.write(bytes(9))
    with RelayThread(desk.fleet.ports.staff) as relay:
        outcome = desk.type("release", "push", path, "--wait", port=relay.port)
        assert relay.counts.connections == 0
    assert outcome.status == 1
    assert "does not have the hash" in outcome.error_line


def test_a_viewer_looks_and_does_not_steer(desk: Desk, pushed: Path) -> None:
    assert desk.type("campaign", "list", operator="viewer").status == 0
    for command in (("campaign", "start", pushed), ("release", "push", desk.release("6.0.0", 1, 2))):
        outcome = desk.type(*command, operator="viewer")
        assert outcome.status == 1
        assert "expected the role admin or operator" in outcome.error_line


def test_the_log_is_read_over_the_broker_and_a_bridge_whose_log_was_altered_is_found_out(
    desk: Desk, pushed: Path
) -> None:
    with OperatorClient(desk.configuration("operator"), None, 10) as client:
        for number in range(PAGE_ENTRIES + 1):
            with pytest.raises(PeerError, match="unknown_campaign"):
                client.call(CampaignAbort(campaign=f"none-{number}"), CampaignSummary)
    told = desk.type("audit", "export", "--from-bridge")
    assert told.status == 0, told.err
    kept = run("audit", "export", "--fleet", desk.fleet.path)
    assert told.out == kept.out
    assert len(told.out.splitlines()) > PAGE_ENTRIES
    head = json.loads(run("audit", "verify", "--fleet", desk.fleet.path, "--json").out)["head"]
    assert json.loads(desk.type("audit", "verify", "--from-bridge", "--head", head, "--json").out)["head"] == head
    refused = desk.type("audit", "export", "--from-bridge", operator="viewer")
    assert (refused.status, refused.out) == (1, "")
    assert "not_permitted" in refused.error_line
    altered = (
        ("UPDATE audit SET content = CAST(replace(content, 'none-2', 'none-x') AS BLOB)", "was altered"),
        ("UPDATE audit SET content = 'no bytes at all'", "state_unreadable"),
        ("UPDATE audit SET content = zeroblob(20000)", "state_unreadable"),
    )
    for update, said in altered:
        with closing(sqlite3.connect(desk.fleet.path / "bridge" / "data" / "bridge.sqlite")) as store:
            store.execute("DROP TRIGGER IF EXISTS audit_refuses_UPDATE")
            store.execute(update)
            store.commit()
        found_out = desk.type("audit", "verify", "--from-bridge")
        assert found_out.status not in (0, 3)
        assert said in found_out.error_line


def test_repeating_a_start_changes_nothing_and_another_start_is_a_conflict(desk: Desk, pushed: Path) -> None:
    first = desk.type("campaign", "start", pushed, "--name", "repeated", "--json")
    again = desk.type("campaign", "start", pushed, "--name", "repeated", "--json")
    other = desk.type("campaign", "start", pushed, "--name", "repeated", "--byte-budget", "50M")
    assert (first.status, again.status, other.status) == (0, 0, 1)
    assert json.loads(first.out) == json.loads(again.out)


def test_a_release_goes_by_its_digest_too_and_gets_the_same_campaign(desk: Desk, pushed: Path) -> None:
    digest = json.loads(run("release", "inspect", pushed, "--json").out)["release"]
    by_digest, by_file = (desk.type("campaign", "start", release, "--json") for release in (digest, pushed))
    assert json.loads(by_digest.out)["release"] == digest
    assert json.loads(by_digest.out) == json.loads(by_file.out)


def test_a_start_of_a_campaign_that_has_ended_is_no_start(desk: Desk, pushed: Path) -> None:
    assert desk.type("campaign", "start", pushed, "--name", "over").status == 0
    assert desk.type("campaign", "abort", "over").status == 0
    for more in ((), ("--wait",)):
        again = desk.type("campaign", "start", pushed, "--name", "over", *more)
        assert again.status == 4
        assert "campaign over has ended before, aborted, and starts no more; choose another --name" in again.error_line


def test_waiting_has_a_status_for_a_deadline_and_one_for_a_campaign_that_failed(desk: Desk, pushed: Path) -> None:
    begin_s = time.monotonic()
    waiting = desk.type("campaign", "start", pushed, "--name", "waited", "--wait", "--deadline", 1)
    assert time.monotonic() - begin_s < LONGEST_SILENCE_S
    aborted = desk.type("campaign", "abort", "waited", "--json")
    watched = desk.type("campaign", "watch", "waited", "--json")
    assert (waiting.status, aborted.status, watched.status) == (3, 0, 4)
    assert json.loads(aborted.out)["ended"] == json.loads(watched.out.splitlines()[-1])["ended"] == "aborted"
    assert "waited" in {campaign["name"] for campaign in json.loads(desk.type("campaign", "list", "--json").out)}


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("device", "show", "nobody"), "expected a device that has said hello"),
        (("campaign", "show", "nothing"), "expected a campaign of this bridge"),
        (("campaign", "start", "00" * 32), "expected a release that was pushed"),
    ],
)
def test_what_the_bridge_does_not_know_is_refused_in_its_words(desk: Desk, command: tuple[str, ...], told: str) -> None:
    outcome = desk.type(*command)
    assert outcome.status == 1
    assert told in outcome.error_line


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "a budget beyond all bounds": (("--byte-budget", "2000G"), "byte_budget: "),
    "too many windows": (("--reboot-window", "01:00-02:00") * 9, "reboot_windows: "),
    "too many devices": (tuple(f"--device=gw-{number}" for number in range(1001)), "devices: "),
    "names that fill more than a message": (
        tuple(f"--device={number:064d}" for number in range(1000)), "name fewer devices",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_start_that_no_document_can_hold_is_a_mistake_of_the_caller(desk: Desk, pushed: Path, case: str) -> None:
    options, told = WRONG[case]
    outcome = desk.type("campaign", "start", pushed, *options)
    assert outcome.status == 2
    assert told in outcome.error_line


def test_no_broker_is_no_answer(desk: Desk) -> None:
    with RelayThread(desk.fleet.ports.staff) as relay:
        relay.darken()
        outcome = desk.type("device", "list", "--timeout", 1, port=relay.port)
    assert outcome.status == 3
    assert "expected a broker at 127.0.0.1" in outcome.error_line


def test_a_bridge_that_does_not_run_is_no_answer(tmp_path: Path) -> None:
    with Children(tmp_path / "logs") as children:
        fleet = LiveFleet(tmp_path, children)
        fleet.init("--operator", "operator")
        fleet.start_broker()
        outcome = Desk(fleet, tmp_path).type("device", "list", "--timeout", 2)
    assert outcome.status == 3
    assert "see whether `narrowboat bridge run` runs" in outcome.error_line


def test_a_broker_that_another_authority_vouches_for_is_not_talked_to(desk: Desk) -> None:
    path = desk.configuration("operator", ca=str(desk.fleet.path / "pki" / "device-ca.pem"))
    outcome = run("device", "list", "--config", path)
    assert outcome.status == 1
    assert "is not believed" in outcome.error_line


def test_a_signing_key_that_is_not_the_operators_commands_nothing(desk: Desk) -> None:
    path = desk.configuration("operator", signing_key=str(desk.fleet.path / "keys" / "release-1.pem"))
    outcome = run("device", "list", "--config", path)
    assert outcome.status == 1
    assert "the bridge: unknown_key: " in outcome.error_line


def test_a_name_that_is_not_the_certificates_is_told_at_once(desk: Desk) -> None:
    begin_s = time.monotonic()
    outcome = run("device", "list", "--config", desk.configuration("operator", name="viewer"), "--timeout", 60)
    assert time.monotonic() - begin_s < 30
    assert outcome.status == 1
    assert "refused viewer: Not authorized" in outcome.error_line


def test_an_operator_is_found_by_the_environment_and_in_the_current_folder(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = desk.fleet.path / "operators" / "operator"
    monkeypatch.chdir(tmp_path)
    assert run("device", "list").status == 2
    monkeypatch.setenv("NARROWBOAT_OPERATOR", str(folder))
    assert run("device", "list").status == 0
    monkeypatch.delenv("NARROWBOAT_OPERATOR")
    monkeypatch.chdir(folder)
    assert run("device", "list").status == 0

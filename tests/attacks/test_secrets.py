"""No secret leaves a process: not in a log at the most verbose level, an error, a message, a file or a crash.

One fleet does everything that touches secrets: an encrypted signing key, enrolment by a claim secret, a whole update.
Its processes say all that they can, then die the worst death. An eavesdropper who owns the broker keeps each message.
Then everything that left the processes is searched for every secret, in each form in which it could have slipped out.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from narrowboat_bridge.broker_home import Listener
from narrowboat_device.config import load_config
from narrowboat_device.status import status_path
from narrowboat_protocol.documents import claim_key
from narrowboat_protocol.keys import Algorithm, PrivateKey
from narrowboat_protocol.limits import KIB, MIB
from tests.bridge.cli_kit import Outcome, run
from tests.broker.lab import BASE_SEQUENCE, Lab, running_lab
from tests.support.broker import Credentials
from tests.support.crash import OVER
from tests.support.images import small_image
from tests.support.live_fleet import Gateway
from tests.support.markers import forms_of, forms_of_key, key_files, leaks
from tests.support.mqtt_client import SUCCESS, MqttClient
from tests.support.processes import Child, wait_for
from tests.support.rogue import PATIENCE_S

GATEWAY = "gw-discreet"
CLAIM_SECRET = b"claim secret 5f1e9b7a with + and /"
PASSPHRASE = b"passphrase c07d4412 with \xc3\xa4"
SECRETS_BY_NAME = {"claim.secret", "passphrase"}
"""The other files that are meant to hold secrets."""


@dataclass
class Run:
    """A fleet that has something to hide, and what was seen of it."""

    lab: Lab
    outputs: list[Outcome] = field(default_factory=list)
    messages: list[tuple[str, bytes]] = field(default_factory=list)

    def type(self, *arguments: object) -> Outcome:
        """What the operator types, kept."""
        outcome = run(*arguments)
        self.outputs.append(outcome)
        return outcome

    def ask(self, *arguments: object) -> Any:
        outcome = self.type(*arguments, "--json", "--config", self.lab.fleet.path / "operators" / "operator")
        assert outcome.status == 0, outcome.err
        return json.loads(outcome.out)

    def crashing(self, name: str, *command: object) -> Child:
        return self.lab.children.start(name, [sys.executable, "-m", "tests.support.crash", *map(str, command)])

    def searched(self) -> dict[str, bytes]:
        """Everything that left the processes, by name, but the files that are meant to hold secrets."""
        folder = self.lab.folder
        kept = {path for path in folder.rglob("*") if path.name in SECRETS_BY_NAME} | set(key_files(folder))
        files = {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path not in kept and path.suffix != ".img"
        }
        said = {f"output {n}": f"{each.out}{each.err}".encode() for n, each in enumerate(self.outputs)}
        heard = {f"message {n} on {topic}": data for n, (topic, data) in enumerate(self.messages)}
        return files | said | heard

    def markers(self) -> dict[str, dict[str, bytes]]:
        """Every secret of the fleet, by name."""
        folder = self.lab.folder
        keys = {
            str(path.relative_to(folder)): forms_of_key(
                path.read_bytes(), PASSPHRASE if b"ENCRYPTED" in path.read_bytes() else None
            )
            for path in key_files(folder)
        }
        made = claim_key(CLAIM_SECRET, self.lab.kit.fleet_id).to_pem()
        return keys | {
            "claim secret": forms_of(CLAIM_SECRET),
            "key of the claim secret": forms_of_key(made),
            "passphrase": forms_of(PASSPHRASE),
        }


@pytest.fixture
def everything(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Run]:
    with caplog.at_level(logging.DEBUG), running_lab(tmp_path) as lab:
        make_talkative(lab)
        seen = Run(lab)
        credentials = lab.credentials(Listener.BRIDGE, "eavesdropper")
        with MqttClient(credentials.tls(), lab.fleet.ports.bridge) as tap:
            assert tap.connect() == SUCCESS
            tap.subscribe("nb/#")
            sign_with_a_passphrase(seen)
            gateway = enrol(seen)
            update(seen, gateway)
            crash(seen, gateway)
            look_around(seen, gateway)
            seen.messages += tap.messages()
        seen.outputs.append(Outcome(0, caplog.text, ""))
        yield seen


def make_talkative(lab: Lab) -> None:
    """The broker belongs to the eavesdropper, and logs all; the bridge says all that it can."""
    home = lab.fleet.path / "broker"
    with (home / "mosquitto.conf").open("a") as conf:
        conf.write("\nlog_type all\n")
    acl = home / "acl" / "bridge.acl"
    acl.write_text(acl.read_text() + "pattern read nb/#\n")
    lab.fleet.bridge_options = ("--verbose",)
    lab.restart_broker(Child.stop)
    lab.restart_bridge(Child.stop)
    lab.wait_until_served()


def sign_with_a_passphrase(seen: Run) -> None:
    folder, lab = seen.lab.folder, seen.lab
    right, wrong = folder / "passphrase", folder / "wrong.txt"
    right.write_bytes(PASSPHRASE)
    wrong.write_text("another one")
    made = seen.type("keys", "create", "locked", "--out", folder, "--passphrase-file", right, "--json")
    assert made.status == 0, made.err
    (key,) = [path for path in key_files(folder) if b"ENCRYPTED" in path.read_bytes()]
    for file in (right, wrong):
        seen.type("release", "sign", lab.base.file, "-o", folder / "x.nbr", "--key", key, "--passphrase-file", file)


def enrol(seen: Run) -> Gateway:
    """A gateway becomes somebody by a claim secret."""
    lab, secret = seen.lab, seen.lab.folder / "claim.secret"
    secret.write_bytes(CLAIM_SECRET)
    claim: Credentials = lab.credentials(Listener.ENROL, "discreet-claim")
    seen.ask("claim", "create", "discreet-claim", "--count", 1, "--secret-file", secret)
    section = (
        f'\n[enrolment]\nport = {lab.fleet.ports.enrol}\ncertificate = "{claim.certificate}"\nkey = "{claim.key}"\n'
        f'secret = "{secret}"\n'
    )
    gateway = lab.make_gateway(GATEWAY, extra_toml=section)
    load_config(gateway.config).broker.certificate.unlink()
    return gateway


def update(seen: Run, gateway: Gateway) -> None:
    lab = seen.lab
    lab.fleet.device_options = ("--log-level", "debug")
    lab.fleet.switch_on(gateway)
    pushed = lab.push(small_image(41, MIB), "4.1.0", sequence=BASE_SEQUENCE + 1)
    lab.start(pushed, "discreet", GATEWAY)
    assert lab.wait_for_end("discreet", GATEWAY)["state"] == "succeeded"
    assert gateway.machine is not None
    gateway.machine.stop()
    lab.children.forget(gateway.machine)


def crash(seen: Run, gateway: Gateway) -> None:
    """Bridge and agent die of an exception that nobody expects, and of an abort."""
    lab = seen.lab
    lab.bridge.stop()
    lab.children.forget(lab.bridge)
    commands = {
        "bridge-crash": ("narrowboat", "bridge", "run", "--config", lab.fleet.path / "bridge/bridge.toml", "--verbose"),
        "agent-crash": ("narrowboat-device", "--log-level", "debug", "run", "--config", gateway.config),
    }
    for last in (signal.SIGUSR1, signal.SIGABRT):
        status_path(gateway.folder / "data").unlink()
        dying = [seen.crashing(name, *command) for name, command in commands.items()]
        wait_for(lambda: seen.lab.device(GATEWAY) is not None, PATIENCE_S, "the bridge to answer")
        wait_for(lambda: bool(gateway.status.get("links_opened")), PATIENCE_S, "the agent to connect")
        for child in dying:
            os.kill(child.pid, last)
            wait_for(lambda child=child: not child.running, PATIENCE_S, f"{child.name} to die")  # type: ignore[misc]
            lab.children.forget(child)
    for name in commands:
        text = (lab.folder / "logs" / f"{name}.log").read_text(errors="replace")
        assert OVER in text
        assert "Fatal Python error: Aborted" in text
    lab.bridge = lab.fleet.start_bridge()
    lab.wait_until_served()


def look_around(seen: Run, gateway: Gateway) -> None:
    """What people print and send to others."""
    fleet = seen.lab.fleet.path
    for words in (
        ("device", "list"), ("device", "show", GATEWAY), ("device", "keys"), ("claim", "list"),
        ("campaign", "show", "discreet"),
    ):  # fmt: skip
        seen.ask(*words)
    for arguments in (("audit", "export", "--fleet", fleet), ("audit", "verify", "--json", "--fleet", fleet)):
        assert seen.type(*arguments).status == 0
    seen.outputs.append(Outcome(0, json.dumps(gateway.status), ""))


def test_no_secret_leaves_a_process_in_enrolment_update_or_crash(everything: Run) -> None:
    searched, markers = everything.searched(), everything.markers()
    assert len(markers) >= 15
    topics = {topic.rpartition("/")[2] for topic, _ in everything.messages}
    assert topics >= {"hello", "report", "get", "data", "assign", "ack", "command", "reply", "upload", "event"}
    assert any(topic.startswith("nb/e/") for topic, _ in everything.messages)
    for expected in (r"logs/broker\.log", r"logs/bridge\.log", r"logs/agent-crash\.log", r"bridge\.sqlite", r"outbox"):
        assert any(re.search(expected, name) for name in searched), f"nothing was seen of {expected}"
    assert list(leaks(markers, searched)) == []


def test_no_file_that_holds_a_key_can_be_read_by_others(lab: Lab) -> None:
    made = key_files(lab.fleet.path)
    assert made
    assert [str(path) for path in made if path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize("form", forms_of(bytes(range(200, 232))))
def test_the_search_finds_a_secret_in_every_form(form: str) -> None:
    """What finds nothing must be able to find."""
    secret = bytes(range(200, 232))
    text = b"a line of log " + forms_of(secret)[form] + b"\n"
    assert f"key in log, {form}" in list(leaks({"key": forms_of(secret)}, {"log": text, "other": b"nothing"}))


def test_the_search_finds_a_line_of_a_key_file() -> None:
    for algorithm in Algorithm:
        pem = PrivateKey.generate(algorithm).to_pem()
        assert list(leaks({"key": forms_of_key(pem)}, {"log": b"x" * KIB + pem}))

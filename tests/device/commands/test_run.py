"""`narrowboat-device run` and `status`, and what is told before the agent starts."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from narrowboat_device.assembly import lock_folder
from narrowboat_device.cli import main
from narrowboat_device.log import log_to_stderr
from tests.device.commands.kit import put
from tests.device.kit import SLOT_BYTES, GatewayFolder
from tests.support.fleet import MadeRelease

PATIENCE_S = 60.0


def test_the_agent_runs_tells_its_status_and_stops_when_told(
    gateway: GatewayFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "narrowboat_device", *gateway.arguments("run")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as agent:
        assert agent.stderr is not None
        lines = []
        while "started in slot a" not in (line := agent.stderr.readline()):
            lines.append(line)
            assert line, f"the agent ended: {lines}"
        assert main(gateway.arguments("install", "any.nbr")) == 2, "one agent on a data folder"
        agent.send_signal(signal.SIGTERM)
        agent.stderr.read()
        assert agent.wait(PATIENCE_S) == 0
    capsys.readouterr()
    assert main(gateway.arguments("status", "--json")) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["device"], status["slot"], status["state"]) == ("gw-1", "a", None)
    assert main(gateway.arguments("status")) == 0
    told = capsys.readouterr().out
    assert "gateway:      gw-1, slot a runs\n" in told
    assert f"trusts:       root 1 of fleet {gateway.fleet.fleet_id.hex()[:16]}" in told


def test_a_second_agent_on_a_data_folder_is_refused(gateway: GatewayFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with lock_folder(gateway.data):
        assert main(gateway.arguments("run")) == 2
    assert "another narrowboat-device" in capsys.readouterr().err


def large_certificate(gateway: GatewayFolder) -> bytes:
    """The gateway's certificate with more names than a hello has room for, PEM."""
    old = x509.load_pem_x509_certificate((gateway.folder / "certificate.pem").read_bytes())
    names = x509.SubjectAlternativeName([x509.DNSName(f"name-{number}.example") for number in range(300)])
    builder = x509.CertificateBuilder(
        old.issuer, old.subject, old.public_key(), old.serial_number, old.not_valid_before_utc, old.not_valid_after_utc
    )
    large = builder.add_extension(names, critical=False).sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return large.public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("key", "[broker] key"),
        ("certificate", "[broker] certificate"),
        ("server-ca", "[broker] server_ca"),
        ("root", "[storage] root"),
        ("slot-b", "[[slots]]"),
        ("boot-state.booted", "narrowboat-device machine"),
        ("another key", "for the key in [broker] key"),
        ("another name", "expected one for gw-2"),
        ("a certificate too large to send", "[broker] certificate: expected one of at most 4096 bytes"),
        ("a slot too large to tell", "slot b: expected less than"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_told_before_the_agent_starts(
    gateway: GatewayFolder, fault: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "key": "key.pem",
        "certificate": "certificate.pem",
        "server-ca": "server-ca.pem",
        "root": "root.cbor",
        "slot-b": "slot-b.img",
    }
    if fault == "another name":
        gateway.config_path.write_text(gateway.config_path.read_text().replace("gw-1", "gw-2"))
    elif fault == "another key":
        (gateway.folder / "key.pem").unlink()
        main(gateway.arguments("provision"))
    elif fault == "a certificate too large to send":
        (gateway.folder / "certificate.pem").write_bytes(large_certificate(gateway))
    elif fault == "a slot too large to tell":
        os.truncate(gateway.folder / "slot-b.img", 1 << 40)
    else:
        (gateway.folder / files.get(fault, fault)).unlink()
    assert main(gateway.arguments("run")) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_the_slot_that_runs_is_not_overwritten_under_another_name(
    gateway: GatewayFolder, release: MadeRelease, link: Callable[[Path, Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    (gateway.folder / "slot-b.img").unlink()
    link(gateway.folder / "slot-b.img", gateway.folder / "slot-a.img")
    assert main(gateway.arguments("install", put(gateway, release.file))) == 2
    assert "two names of one" in capsys.readouterr().err
    assert (gateway.folder / "slot-a.img").read_bytes() == bytes(SLOT_BYTES)


def test_the_status_of_a_gateway_that_never_ran_says_so(
    gateway: GatewayFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(gateway.arguments("status")) == 2
    assert "ever run" in capsys.readouterr().err


def test_a_wrong_configuration_ends_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--config", str(tmp_path / "absent")]) == 2
    assert "absent" in capsys.readouterr().err


def test_a_log_line_stays_one_line_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("info")
    logging.getLogger("narrowboat_device.link").warning("first\nlevel=error from=forged %s", "\x1b[2J")
    logging.getLogger("narrowboat_device.link").debug("not at this level")
    assert capsys.readouterr().err == ('level=warning from=link text="first\\nlevel=error from=forged \\u001b[2J"\n')

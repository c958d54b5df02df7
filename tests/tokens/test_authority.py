"""A device authority whose key is in a token issues what every TLS stack accepts, and takes it back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from narrowboat_bridge.cli.fleet_folder import FleetFolder
from narrowboat_bridge.core.actions import IssueCertificate
from narrowboat_bridge.pki import issue_crl, read_crl, verify_device_certificate
from narrowboat_bridge.server.issuer import Issuer
from narrowboat_protocol.keys import Algorithm, PrivateKey
from tests.bridge.cli_kit import run
from tests.support.softhsm import SoftToken
from tests.support.tools import require_tool

NOW_S = 1_800_000_000


def openssl(*arguments: object) -> str:
    command = [require_tool("openssl"), *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.fixture
def fleet(token: SoftToken, tmp_path: Path) -> Path:
    token.add("device-ca", Algorithm.ESP256)
    made = run("init", tmp_path / "fleet", "--device-ca-key", token.uri("device-ca"))
    assert made.status == 0, made.err
    return tmp_path / "fleet"


def test_openssl_accepts_a_device_that_an_authority_in_a_token_made(fleet: Path, token: SoftToken) -> None:
    assert run("pki", "issue", "device", "gw-1", "--fleet", fleet).status == 0
    authority, certificate = fleet / "pki" / "device-ca.pem", fleet / "devices" / "gw-1" / "certificate.pem"
    assert "OK" in openssl("verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", authority, certificate)
    revoked = fleet / "broker" / "tls" / "device-crl.pem"
    assert "verify OK" in openssl("crl", "-in", revoked, "-CAfile", authority, "-noout")
    files = [fleet / "pki" / "device-ca-key.pem", fleet / "bridge" / "device-ca-key.pem"]
    assert [file.read_text() for file in files] == [token.uri("device-ca") + "\n"] * 2
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600] * 2


def test_a_bridge_issues_and_revokes_with_an_authority_in_a_token(fleet: Path) -> None:
    authority = FleetFolder.open(fleet).authority("device", None)
    key = PrivateKey.generate(Algorithm.ESP256).public
    issued = Issuer(authority, []).issue(IssueCertificate("gw-2", key, NOW_S))
    assert verify_device_certificate(issued.content, [authority.certificate], NOW_S) == ("gw-2", key)
    crl = issue_crl(authority, 7, [5, 6], NOW_S)
    assert read_crl(crl, authority.certificate) == (7, frozenset({5, 6}))
    assert x509.load_der_x509_certificate(issued.content).public_bytes(Encoding.DER) == issued.content


def test_an_authority_is_not_made_of_a_key_that_no_gateway_could_check(token: SoftToken, tmp_path: Path) -> None:
    token.add("ed25519")
    outcome = run("init", tmp_path / "fleet", "--device-ca-key", token.uri("ed25519"))
    assert outcome.status == 2
    assert "expected a P-256 key" in outcome.error_line
    assert list(tmp_path.iterdir()) == []

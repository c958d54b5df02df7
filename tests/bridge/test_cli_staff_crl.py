"""Operators who are revoked connect no more: what `operator revoke` writes for the broker."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cryptography import x509

from narrowboat_bridge.cli import staff_crl
from narrowboat_bridge.cli.fleet_folder import FleetFolder
from narrowboat_bridge.pki import read_crl
from tests.bridge.cli_kit import run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "fleet"
    for command in (("init", path, "--operator", "alice", "--host", "broker.test"), issue(path, "bob")):
        assert run(*command).status == 0
    return path


def issue(path: Path, name: str) -> tuple[object, ...]:
    return "pki", "issue", "operator", name, "--fleet", path


def revoke(path: Path, name: str) -> tuple[object, ...]:
    return "operator", "revoke", name, "--fleet", path


def serial(path: Path, name: str) -> int:
    return x509.load_pem_x509_certificate((path / "operators" / name / "certificate.pem").read_bytes()).serial_number


def listed(path: Path, crl: str = "broker/tls/staff-crl.pem") -> tuple[int, set[int]]:
    authority = x509.load_pem_x509_certificate((path / "pki" / "staff-ca.pem").read_bytes())
    number, serials = read_crl((path / crl).read_bytes(), authority)
    return number, set(serials)


def test_every_certificate_that_an_operator_ever_had_is_revoked_and_nobody_elses(path: Path) -> None:
    first = serial(path, "bob")
    assert run(*issue(path, "bob")).status == 0
    told = run(*revoke(path, "bob"))
    assert told.status == 0
    assert "SIGHUP" in told.out
    assert listed(path) == listed(path, "pki/staff-crl.pem") == (2, {first, serial(path, "bob")})


@pytest.mark.parametrize("lost", ["broker/tls/staff-crl.pem", "pki/staff-crl.pem"])
def test_a_list_that_was_put_back_to_an_older_copy_brings_nobody_back(path: Path, tmp_path: Path, lost: str) -> None:
    assert run(*issue(path, "carol")).status == 0
    shutil.copyfile(path / lost, tmp_path / "older")
    assert run(*revoke(path, "bob")).status == 0
    shutil.copyfile(tmp_path / "older", path / lost)
    assert run(*revoke(path, "carol")).status == 0
    assert listed(path) == listed(path, "pki/staff-crl.pem") == (3, {serial(path, "bob"), serial(path, "carol")})


def test_a_revocation_that_was_cut_before_the_broker_heard_of_it_is_finished_by_being_repeated(path: Path) -> None:
    key = path / "pki" / "staff-ca-key.pem"
    key.rename(path / "elsewhere")
    assert run(*revoke(path, "bob")).status != 0
    (path / "elsewhere").rename(key)
    assert listed(path) == (1, set())
    assert run(*revoke(path, "bob")).status == 0
    assert listed(path) == (2, {serial(path, "bob")})


def test_the_keys_of_a_revoked_operator_are_not_certified_again(path: Path) -> None:
    assert run(*revoke(path, "bob")).status == 0
    refused = run(*issue(path, "bob"))
    assert refused.status != 0
    assert "move it away" in refused.error_line
    (path / "operators" / "bob").rename(path / "away")
    assert run(*issue(path, "bob")).status == 0
    assert not staff_crl.is_revoked(FleetFolder.open(path), path / "operators" / "bob" / "certificate.pem")

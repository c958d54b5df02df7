"""What a start reads of a certificate, it reads once; and a note of another certificate or key counts for nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from threading import Event as Flag

import pytest

from narrowboat_bridge.pki import Authority, issue_client, key_to_pem, new_key
from narrowboat_device.config import Config, EnrolmentConfig
from narrowboat_device.disk import SystemDisk
from narrowboat_device.identity import ensure_certificate
from narrowboat_protocol.limits import DEFAULT_LIMITS
from tests.support.broker import ISSUED_AT
from tests.support.paths import REPOSITORY

_YEARS = 40 * 365


@pytest.fixture
def config(tmp_path: Path) -> Config:
    from narrowboat_device.config import load_config

    (tmp_path / "data").mkdir()
    text = """
[gateway]
name = "wished"
vendor = "example.com"
class = "a"
[broker]
host = "broker.test"
server_ca = "ca.pem"
certificate = "certificate.pem"
key = "key.pem"
[storage]
data_dir = "data"
root = "root.signed"
[boot]
state_file = "boot"
[[slots]]
name = "a"
path = "a"
[[slots]]
name = "b"
path = "b"
[enrolment]
certificate = "claim.pem"
"""
    (tmp_path / "device.toml").write_text(text)
    return load_config(tmp_path / "device.toml")


def certify(config: Config, name: str) -> None:
    key = new_key()
    authority = Authority.create("device", ISSUED_AT, _YEARS)
    config.broker.key.write_bytes(key_to_pem(key))
    config.broker.certificate.write_bytes(issue_client(authority, name, key.public_key(), ISSUED_AT, _YEARS))


def name_of(config: Config) -> str:
    enrolled = ensure_certificate(SystemDisk(), config, DEFAULT_LIMITS, Flag())
    assert enrolled is not None
    return enrolled.gateway.name


def test_a_gateway_is_who_its_certificate_says(config: Config) -> None:
    certify(config, "gw-1")
    assert name_of(config) == name_of(config) == "gw-1"


@pytest.mark.parametrize("damage", [b"", b"\xff", b"\x84"], ids=["empty", "no CBOR", "cut short"])
def test_a_note_of_another_certificate_and_a_damaged_one_count_for_nothing(config: Config, damage: bytes) -> None:
    certify(config, "gw-1")
    assert name_of(config) == "gw-1"
    certify(config, "gw-2")
    assert name_of(config) == "gw-2"
    (config.storage.data_dir / "certificate.note").write_bytes(damage)
    assert name_of(config) == "gw-2"


def test_a_start_with_a_certificate_that_was_read_before_imports_nothing_to_ask_with(config: Config) -> None:
    certify(config, "gw-1")
    name_of(config)
    code = (
        "import sys; from pathlib import Path; from threading import Event;"
        "from narrowboat_device.config import load_config; from narrowboat_device.disk import SystemDisk;"
        "from narrowboat_device.identity import ensure_certificate;"
        "from narrowboat_protocol.limits import DEFAULT_LIMITS;"
        "ensure_certificate(SystemDisk(), load_config(Path(sys.argv[1])), DEFAULT_LIMITS, Event());"
        "print([name for name in sys.modules if 'enrol' in name or name == 'cryptography.x509'])"
    )
    toml = config.broker.certificate.with_name("device.toml")
    told = subprocess.run(
        [sys.executable, "-c", code, str(toml)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "[]"


def test_a_gateway_without_the_section_is_left_alone(config: Config) -> None:
    assert name_of(config.model_copy(update={"enrolment": None})) == "wished"
    assert config.enrolment == EnrolmentConfig(certificate=config.broker.certificate.with_name("claim.pem"))

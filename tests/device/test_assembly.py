"""A gateway whose state was lost starts with what is left, and says what it lost."""

from __future__ import annotations

import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from narrowboat_device.assembly import open_gateway, read_signer, warn_of_missing
from narrowboat_device.boot.state import BootState, read_state, write_state
from narrowboat_device.certificate import Certificate, note_path, read_certificate
from narrowboat_device.core.judge import committed_slot
from narrowboat_device.core.memory import Attempt
from narrowboat_protocol.errors import UsageError
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.payload import Codec
from narrowboat_protocol.states import State
from tests.device.kit import DISK, GatewayFolder, make_gateway
from tests.support.fleet import COMPONENT, FleetKit


@pytest.fixture
def gateway(tmp_path: Path) -> GatewayFolder:
    return make_gateway(tmp_path, FleetKit.create())


@pytest.mark.parametrize("record", ["journal", "trust", "outbox"])
def test_a_record_that_is_gone_is_made_anew_and_said_to_be_lost(
    gateway: GatewayFolder, record: str, caplog: pytest.LogCaptureFixture
) -> None:
    (gateway.data / f"{record}.record").unlink()
    with open_gateway(DISK, gateway.config, DEFAULT_LIMITS, with_link=False) as opened:
        assert opened.started.records[next(key for key in opened.started.records if key == record)] == b""
    assert f"record {record}: expected one" in caplog.text


@pytest.mark.parametrize(
    ("available", "told"),
    [(set(Codec), ""), ({Codec.STORED, Codec.LZMA}, "cannot decode zstd, and a release in it will fail here")],
)
def test_a_codec_that_is_missing_is_told_at_the_start(
    available: set[Codec], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_missing(available)
    assert told in caplog.text
    assert bool(caplog.text) == bool(told)


@pytest.mark.parametrize("content", [None, bytes(8192), b"\xff" * 8192])
def test_a_boot_state_that_is_lost_is_written_for_the_slot_that_runs(
    gateway: GatewayFolder, content: bytes | None
) -> None:
    state_file = gateway.config.boot.state_file
    write_state(DISK, state_file, BootState("b", None, 0, frozenset("ab")))
    assert gateway.power_on() == "b"
    state_file.unlink()
    if content is not None:
        state_file.write_bytes(content)
    with open_gateway(DISK, gateway.config, DEFAULT_LIMITS, with_link=False) as opened:
        assert opened.started.boot.running == "b"
    assert read_state(DISK, state_file) == BootState("b", None, 0, frozenset("b"))


def test_a_boot_state_of_another_machine_is_not_believed(gateway: GatewayFolder) -> None:
    write_state(DISK, gateway.config.boot.state_file, BootState("left", None, 0, frozenset({"left", "right"})))
    assert gateway.power_on() == "a"


@pytest.mark.parametrize(
    ("state", "slot", "committed"),
    [
        (State.DOWNLOADING, "a", "b"),
        (State.INSTALLED, "b", "a"),
        (State.REBOOTING, "b", "a"),
        (State.ON_TRIAL, "b", "a"),
        (State.SUCCEEDED, "b", "b"),
        (None, "b", "b"),
    ],
)
def test_a_slot_on_trial_is_not_committed_by_what_boot_control_forgot(
    state: State | None, slot: str, committed: str
) -> None:
    attempt = None
    if state is not None:
        attempt = Attempt(
            attempt=1, component=COMPONENT, release=bytes(32), envelope=b"", state=state, slot=slot, payloads=()
        )
    assert committed_slot(attempt, "b", ("a", "b")) == committed


@pytest.mark.parametrize(
    ("part", "damaged"),
    [(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x42"), (b"\x0c\x04gw-1", b"\x08\x04gw-1")],
    ids=["version", "subject"],
)
def test_a_certificate_that_is_damaged_inside_is_a_fault_of_the_configuration(
    gateway: GatewayFolder, part: bytes, damaged: bytes
) -> None:
    path = gateway.config.broker.certificate
    der = x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)
    assert part in der
    path.write_text(ssl.DER_cert_to_PEM_cert(der.replace(part, damaged)))
    with (
        pytest.raises(UsageError, match=r"\[broker\] certificate"),
        open_gateway(DISK, gateway.config, DEFAULT_LIMITS, with_link=False),
    ):
        pass


def test_a_root_that_is_damaged_is_a_fault_of_the_configuration(gateway: GatewayFolder) -> None:
    root = gateway.config.storage.root
    root.write_bytes(root.read_bytes()[:-1])
    with (
        pytest.raises(UsageError, match=r"\[storage\] root"),
        open_gateway(DISK, gateway.config, DEFAULT_LIMITS, with_link=False),
    ):
        pass


_OPENS = """
import sys
from pathlib import Path
from narrowboat_device.assembly import open_gateway
from narrowboat_device.config import load_config
from narrowboat_device.disk import SystemDisk
from narrowboat_protocol.limits import DEFAULT_LIMITS
with open_gateway(SystemDisk(), load_config(Path(sys.argv[1])), DEFAULT_LIMITS, with_link=False):
    print("cryptography.x509" in sys.modules)
"""


def test_no_start_pays_the_memory_for_reading_a_certificate(gateway: GatewayFolder) -> None:
    command = [sys.executable, "-c", _OPENS, str(gateway.config_path)]
    for _ in range(2):
        assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "False\n"


def _read(gateway: GatewayFolder) -> Certificate:
    config = gateway.config
    key = read_signer(DISK, config).public
    return read_certificate(DISK, config.broker.certificate, note_path(gateway.data), key)


@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_note_about_the_certificate_is_not_believed(gateway: GatewayFolder, cut: bool) -> None:
    certificate, note = _read(gateway), note_path(gateway.data)
    content = note.read_bytes()
    for position in range(0, len(content), 61):
        rest = b"" if cut else bytes([content[position] ^ 1]) + content[position + 1 :]
        note.write_bytes(content[:position] + rest)
        assert _read(gateway) == certificate


def test_a_note_that_cannot_be_written_stops_no_gateway(
    gateway: GatewayFolder, caplog: pytest.LogCaptureFixture
) -> None:
    note_path(gateway.data).mkdir()
    assert _read(gateway).der
    assert "is read at each start" in caplog.text


def test_a_note_does_not_let_another_certificate_in(gateway: GatewayFolder) -> None:
    certificate, path = _read(gateway), gateway.config.broker.certificate
    stranger = gateway.fleet.device("gw-1")
    path.write_text(ssl.DER_cert_to_PEM_cert(stranger.certificate))
    with pytest.raises(UsageError, match="expected one for the key in"):
        _read(gateway)
    path.write_text(ssl.DER_cert_to_PEM_cert(gateway.fleet.device_ca.issue("gw-1", _public_key(certificate))))
    assert _read(gateway).der != certificate.der


def _public_key(certificate: Certificate) -> ec.EllipticCurvePublicKey:
    key = x509.load_der_x509_certificate(certificate.der).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key

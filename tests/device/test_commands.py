"""The commands of a gateway, as its integrator types them, on a gateway in a folder."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from narrowboat_device.assembly import lock_folder, open_record
from narrowboat_device.boot.state import BootState, read_state, write_state
from narrowboat_device.cli import main
from narrowboat_device.core.actions import Record
from narrowboat_device.core.memory import TrustRecord
from narrowboat_device.disk import SystemDisk
from narrowboat_device.log import log_to_stderr
from narrowboat_device.provision import make_key, provision
from narrowboat_protocol.errors import MediumError, Reason, UsageError
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.release_file import HEADER_BYTES
from tests.device.kit import SLOT_BYTES, GatewayFolder, file_size_limit, flip_bit, make_gateway
from tests.support.fleet import FleetKit, MadeRelease

DISK = SystemDisk()

PATIENCE_S = 60.0
IMAGE = random.Random(1).randbytes(300_000) + bytes(400_000)


@pytest.fixture(scope="module")
def fleet() -> FleetKit:
    return FleetKit.create(release_threshold=2, release_keys=3)


@pytest.fixture(scope="module")
def release(fleet: FleetKit) -> MadeRelease:
    return fleet.make_release(IMAGE, version="2.0.0", sequence=5)


@pytest.fixture
def gateway(tmp_path: Path, fleet: FleetKit) -> GatewayFolder:
    return make_gateway(tmp_path, fleet)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Take back what the command line did to the log."""
    yield
    logging.getLogger("narrowboat_device").handlers.clear()


def put(gateway: GatewayFolder, data: bytes) -> str:
    path = gateway.folder / "release.nbr"
    path.write_bytes(data)
    return str(path)


def boot_state(gateway: GatewayFolder) -> BootState | None:
    return read_state(DISK, gateway.config.boot.state_file)


def slot_b(gateway: GatewayFolder) -> bytes:
    return (gateway.folder / "slot-b.img").read_bytes()


# Provisioning.


def test_provisioning_again_changes_nothing(gateway: GatewayFolder) -> None:
    def content() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in gateway.folder.rglob("*") if path.is_file()}

    before = content()
    assert main(gateway.arguments("provision", "--primary", "b")) == 0
    assert content() == before


def test_a_key_that_was_written_in_part_is_not_taken_for_the_gateways(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    with file_size_limit(100), pytest.raises(MediumError):
        make_key(DISK, path)
    assert make_key(DISK, path)
    PrivateKey.from_pem(path.read_bytes())


def test_of_two_provisionings_at_once_one_makes_the_key(tmp_path: Path, fleet: FleetKit) -> None:
    """Else one of them prints a request for a key that the other has replaced, and the gateway never gets in."""

    class OtherRunDisk(SystemDisk):
        """A machine where somebody else provisions at the moment at which the key is about to be made."""

        def __init__(self) -> None:
            self.refusals: list[Reason] = []

        def open(self, path: Path, flags: int, mode: int = 0o600, /) -> int:
            if path.name.startswith(".key.pem"):
                with pytest.raises(UsageError) as caught:
                    provision(DISK, config, DEFAULT_LIMITS)
                self.refusals.append(caught.value.reason)
            return super().open(path, flags, mode)

    config = make_gateway(tmp_path, fleet).config
    key = config.broker.key
    key.unlink()
    disk = OtherRunDisk()
    assert provision(disk, config, DEFAULT_LIMITS) == [f"key {key}"]
    assert disk.refusals == [Reason.BUSY]


def test_what_is_there_is_provisioned_again_beside_an_agent_at_work(gateway: GatewayFolder) -> None:
    with lock_folder(gateway.data):
        assert provision(DISK, gateway.config, DEFAULT_LIMITS) == []


def test_the_private_key_is_for_its_owner_only_and_never_leaves(
    gateway: GatewayFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    request_path = gateway.folder / "request.pem"
    assert main(gateway.arguments("provision", "--csr-out", str(request_path))) == 0
    key = (gateway.folder / "key.pem").read_text()
    assert (gateway.folder / "key.pem").stat().st_mode & 0o777 == 0o600
    request = x509.load_pem_x509_csr(request_path.read_bytes())
    assert request.is_signature_valid
    assert [name.value for name in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["gw-1"]
    output = capsys.readouterr()
    assert not any(line in output.out + output.err for line in key.splitlines())


def test_the_release_of_the_first_slot_is_recorded_if_it_is_believed(
    gateway: GatewayFolder, fleet: FleetKit, release: MadeRelease
) -> None:
    stranger = FleetKit.create().make_release(IMAGE)
    assert main(gateway.arguments("provision", "--release", put(gateway, stranger.file))) == 1
    assert not (gateway.data / "slot-a.suit").exists()
    assert main(gateway.arguments("provision", "--release", put(gateway, release.file))) == 0
    assert (gateway.data / "slot-a.suit").read_bytes() == release.envelope


def run_from_slot_b(gateway: GatewayFolder, release: MadeRelease) -> None:
    """Let an update to slot b succeed, as far as the next command can tell."""
    assert main(gateway.arguments("install", put(gateway, release.file))) == 0
    write_state(DISK, gateway.config.boot.state_file, BootState("b", None, 0, frozenset("ab")))
    gateway.power_on()


def test_a_factory_script_that_runs_again_after_an_update_does_not_name_the_old_release(
    gateway: GatewayFolder, fleet: FleetKit, release: MadeRelease, capsys: pytest.CaptureFixture[str]
) -> None:
    first = fleet.make_release(bytes(1000), version="1.0.0", sequence=5)
    assert main(gateway.arguments("provision", "--release", put(gateway, first.file))) == 0
    run_from_slot_b(gateway, release)
    assert main(gateway.arguments("provision", "--release", put(gateway, first.file))) == 2
    assert "installed since" in capsys.readouterr().err
    assert main(gateway.arguments("verify-slot", "b")) == 0
    assert main(gateway.arguments("provision", "--release", put(gateway, release.file))) == 0, (
        "that one may be repeated"
    )


def test_a_slot_that_was_written_anew_by_hand_is_recorded_once_it_is_proved(
    gateway: GatewayFolder, fleet: FleetKit, release: MadeRelease
) -> None:
    run_from_slot_b(gateway, release)
    by_hand = fleet.make_release(b"by hand", version="1.0.0", sequence=5)
    (gateway.folder / "slot-b.img").write_bytes(b"by hand".ljust(SLOT_BYTES, b"\0"))
    assert main(gateway.arguments("provision", "--release", put(gateway, by_hand.file))) == 0
    assert main(gateway.arguments("verify-slot", "b")) == 0


def test_a_release_that_a_newer_root_retired_is_not_recorded(
    gateway: GatewayFolder, fleet: FleetKit, release: MadeRelease
) -> None:
    with open_record(DISK, gateway.config, Record.TRUST, DEFAULT_LIMITS) as record:
        record.save(TrustRecord(root=fleet.next_root(epoch=1), fleet_id=fleet.fleet_id).encode())
    assert main(gateway.arguments("provision", "--release", put(gateway, release.file))) == 1
    assert not (gateway.data / "slot-a.suit").exists()


@pytest.mark.parametrize("command", ["provision", "verify-slot"])
def test_a_root_of_another_fleet_vouches_for_nothing(
    gateway: GatewayFolder, fleet: FleetKit, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The data folder of another gateway, as a copied disk has it: the agent does not believe that one either."""
    stranger = FleetKit.create()
    foreign = stranger.make_release(IMAGE, sequence=5)
    with open_record(DISK, gateway.config, Record.TRUST, DEFAULT_LIMITS) as record:
        record.save(TrustRecord(root=stranger.root_data, fleet_id=stranger.fleet_id).encode())
    if command == "provision":
        arguments = gateway.arguments("provision", "--release", put(gateway, foreign.file))
    else:
        (gateway.data / "slot-a.suit").write_bytes(foreign.envelope)
        arguments = gateway.arguments("verify-slot", "a")
    assert main(arguments) == 1
    assert "unknown_key" in capsys.readouterr().err


def test_a_request_goes_to_a_path_that_is_no_text(gateway: GatewayFolder, capsys: pytest.CaptureFixture[str]) -> None:
    path = gateway.folder / os.fsdecode(b"request-\xff.pem")
    assert main(gateway.arguments("provision", "--csr-out", str(path))) == 0
    assert x509.load_pem_x509_csr(path.read_bytes()).is_signature_valid
    assert "request-\\udcff.pem" in capsys.readouterr().out


def test_no_release_is_recorded_behind_the_back_of_an_agent(gateway: GatewayFolder, release: MadeRelease) -> None:
    with lock_folder(gateway.data):
        assert main(gateway.arguments("provision", "--release", put(gateway, release.file))) == 2
    assert not (gateway.data / "slot-a.suit").exists()


@pytest.mark.parametrize("name", ["c", ""])
def test_an_unknown_primary_slot_is_refused(tmp_path: Path, fleet: FleetKit, name: str) -> None:
    gateway = make_gateway(tmp_path, fleet)
    (gateway.folder / "boot-state").unlink()
    assert main(gateway.arguments("provision", "--primary", name or "A")) == 2


# Installing from a file.


def test_a_release_file_is_installed_proved_and_armed(
    gateway: GatewayFolder, release: MadeRelease, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(gateway.arguments("install", put(gateway, release.file))) == 0
    assert slot_b(gateway)[: len(IMAGE)] == IMAGE
    assert boot_state(gateway) == BootState("a", "b", 3, frozenset("ab"))
    assert main(gateway.arguments("verify-slot", "b")) == 0
    assert "version 2.0.0" in capsys.readouterr().out


def test_installing_a_file_leaves_the_reboot_to_whoever_typed_it(
    gateway: GatewayFolder, release: MadeRelease, capsys: pytest.CaptureFixture[str]
) -> None:
    text = gateway.config_path.read_text()
    rebooted = gateway.folder / "rebooted"
    gateway.config_path.write_text(text.replace("[boot]", f'[boot]\nreboot_command = ["touch", "{rebooted}"]'))
    assert main(gateway.arguments("install", put(gateway, release.file))) == 0
    assert "ready: the next boot tries it" in capsys.readouterr().out
    assert not rebooted.exists()


def test_a_second_release_is_not_called_ready_while_the_first_waits_for_its_boot(
    gateway: GatewayFolder, fleet: FleetKit, release: MadeRelease, capsys: pytest.CaptureFixture[str]
) -> None:
    second = fleet.make_release(bytes(1000), version="3.0.0", sequence=5)
    assert main(gateway.arguments("install", put(gateway, release.file))) == 0
    assert main(gateway.arguments("install", put(gateway, second.file))) == 1
    assert "reboot first" in capsys.readouterr().out
    assert slot_b(gateway)[: len(IMAGE)] == IMAGE
    assert main(gateway.arguments("install", put(gateway, release.file))) == 0, "again, for the impatient"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sequence": 0}, "below_floor"),
        ({"classes": ("gateway-b",)}, "wrong_class"),
        ({"component": "bootloader"}, "not_permitted"),
        ({"epoch": 1}, "wrong_epoch"),
    ],
)
def test_a_release_that_may_not_be_installed_touches_nothing(
    tmp_path: Path, changes: dict[str, object], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = FleetKit.create(minimum_sequence=1)
    gateway = make_gateway(tmp_path, fleet)
    made = fleet.make_release(IMAGE, **changes)  # type: ignore[arg-type]  # each row gives one argument by name
    assert main(gateway.arguments("install", put(gateway, made.file))) == 1
    output = capsys.readouterr()
    assert reason in output.out + output.err
    assert slot_b(gateway) == bytes(SLOT_BYTES)
    assert boot_state(gateway) == BootState("a", None, 0, frozenset("a"))


def test_too_few_signatures_install_nothing(gateway: GatewayFolder, fleet: FleetKit) -> None:
    made = fleet.make_release(IMAGE, signers=fleet.release_signers[:1])
    assert main(gateway.arguments("install", put(gateway, made.file))) == 1
    assert slot_b(gateway) == bytes(SLOT_BYTES)


def test_an_image_above_the_slot_is_refused_before_the_first_byte(
    gateway: GatewayFolder, fleet: FleetKit, capsys: pytest.CaptureFixture[str]
) -> None:
    made = fleet.make_release(bytes(SLOT_BYTES + 1))
    assert main(gateway.arguments("install", put(gateway, made.file))) == 1
    assert "image_too_large" in capsys.readouterr().out
    assert boot_state(gateway) == BootState("a", None, 0, frozenset("a"))


@pytest.mark.parametrize("part", ["head", "layer", "frames"])
def test_a_damaged_payload_never_boots(gateway: GatewayFolder, release: MadeRelease, part: str) -> None:
    path = Path(put(gateway, release.file))
    flip_bit(
        path, HEADER_BYTES + {"head": 50, "layer": release.head.layer_offset, "frames": len(release.payload) - 1}[part]
    )
    assert main(gateway.arguments("install", str(path))) == 1
    state = boot_state(gateway)
    assert state is not None
    assert (state.trial, state.primary) == (None, "a")
    assert not (gateway.data / "slot-b.suit").exists()


@pytest.mark.parametrize("data", [b"", b"NBRELS1\n", b"PK\x03\x04" + bytes(100)])
def test_what_is_no_release_file_is_refused_by_name(
    gateway: GatewayFolder, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(gateway.arguments("install", put(gateway, data))) == 1
    assert "release file" in capsys.readouterr().err


def test_a_release_file_whose_name_is_no_text_is_refused_by_name(
    gateway: GatewayFolder, release: MadeRelease, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(put(gateway, release.file)).rename(gateway.folder / os.fsdecode(b"release-\xff.nbr"))
    assert main(gateway.arguments("install", str(path))) == 2
    assert "expected a path in UTF-8" in capsys.readouterr().err


def test_local_installation_can_be_switched_off(tmp_path: Path, fleet: FleetKit, release: MadeRelease) -> None:
    gateway = make_gateway(tmp_path, fleet, "[install]\nallow_local = false\n")
    assert main(gateway.arguments("install", put(gateway, release.file))) == 2
    assert slot_b(gateway) == bytes(SLOT_BYTES)


# Proving a slot.


def test_one_flipped_bit_in_a_slot_is_found(
    gateway: GatewayFolder, release: MadeRelease, capsys: pytest.CaptureFixture[str]
) -> None:
    main(gateway.arguments("install", put(gateway, release.file)))
    flip_bit(gateway.folder / "slot-b.img", 123_456)
    assert main(gateway.arguments("verify-slot", "b")) == 1
    assert "does not hold" in capsys.readouterr().out


def test_an_envelope_that_is_not_believed_proves_nothing(gateway: GatewayFolder) -> None:
    stranger = FleetKit.create().make_release(IMAGE)
    (gateway.folder / "slot-b.img").write_bytes(IMAGE.ljust(SLOT_BYTES, b"\0"))
    (gateway.data / "slot-b.suit").write_bytes(stranger.envelope)
    assert main(gateway.arguments("verify-slot", "b")) == 1


@pytest.mark.parametrize(("slot", "status"), [("b", 1), ("c", 2)])
def test_a_slot_without_an_envelope_and_no_slot_are_told_apart(gateway: GatewayFolder, slot: str, status: int) -> None:
    assert main(gateway.arguments("verify-slot", slot)) == status


# Running.


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

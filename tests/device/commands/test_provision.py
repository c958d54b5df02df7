"""`narrowboat-device provision`: a key once, room for what must survive, the release that a slot was made from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from narrowboat_device.assembly import lock_folder, open_record
from narrowboat_device.boot.state import BootState, write_state
from narrowboat_device.cli import main
from narrowboat_device.core.actions import Record
from narrowboat_device.core.memory import TrustRecord
from narrowboat_device.disk import SystemDisk
from narrowboat_device.provision import make_key, provision
from narrowboat_protocol.errors import MediumError, Reason, UsageError
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.limits import DEFAULT_LIMITS
from tests.device.commands.kit import IMAGE, put
from tests.device.kit import DISK, SLOT_BYTES, GatewayFolder, file_size_limit, make_gateway
from tests.support.fleet import FleetKit, MadeRelease


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

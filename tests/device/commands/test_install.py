"""`narrowboat-device install` and `verify-slot`: the same proofs without any server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from narrowboat_device.boot.state import BootState
from narrowboat_device.cli import main
from narrowboat_protocol.release_file import HEADER_BYTES
from tests.device.commands.kit import IMAGE, boot_state, put, slot_b
from tests.device.kit import SLOT_BYTES, GatewayFolder, flip_bit, make_gateway
from tests.support.fleet import FleetKit, MadeRelease


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

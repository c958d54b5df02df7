"""A damaged file costs what was in it, and never the gateway."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from narrowboat_device.boot.state import read_state
from narrowboat_device.cli import main
from tests.device.kit import DISK

from .corruption import STATE, WRITTEN, Ward, make_victim
from .station import DONE, Station, live
from .verdict import violations, wrong_end

VARIANTS = 700
SEED = 1


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Take back what the command line did to the log."""
    yield
    logging.getLogger("narrowboat_device").handlers.clear()


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Ward:
    return Ward(tmp_path_factory.mktemp("ward"))


def test_no_damage_to_one_file_keeps_the_agent_from_starting_or_goes_unsaid(ward: Ward) -> None:
    """A sample of the bytes and lengths; `python -m tests.faults.corruption` tries each."""
    everything = ward.variants()
    whole = [variant for variant in everything if not variant.damage.startswith(("byte", "cut"))]
    parts = [variant for variant in everything if variant.damage.startswith(("byte", "cut"))]
    chosen = [*whole, *random.Random(SEED).sample(parts, VARIANTS)]
    assert {variant.file for variant in chosen} == {*STATE, *WRITTEN}
    assert {str(variant): wrong for variant in chosen if (wrong := ward.suffer(variant))} == {}


@pytest.fixture
def victim(tmp_path: Path) -> Station:
    """A gateway that was switched off in the middle of a download."""
    return make_victim(tmp_path)


LOST = {
    "journal": ["data/journal.record"],
    "trust": ["data/trust.record"],
    "outbox": ["data/outbox.record"],
    "envelopes": ["data/slot-a.suit", "data/slot-b.suit"],
    "boot state": ["boot-state"],
    "the data partition": ["data"],
    "everything that is written": ["data", "boot-state", "boot-state.booted"],
}


@pytest.mark.parametrize("how", ["gone", "garbage"])
@pytest.mark.parametrize("what", LOST)
def test_a_gateway_that_lost_its_state_is_updated_all_the_same(victim: Station, what: str, how: str) -> None:
    for path in _files(victim.folder / name for name in LOST[what]):
        if how == "gone":
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(random.Random(what).randbytes(5000))
    assert live(victim) == DONE
    assert violations(victim) == []
    assert wrong_end(victim) == []


def _files(paths: Iterable[Path]) -> list[Path]:
    return [file for path in paths for file in (path.iterdir() if path.is_dir() else [path])]


def test_a_boot_state_that_is_lost_while_the_system_runs_comes_to_name_the_slot_that_runs(tmp_path: Path) -> None:
    """Else the loader would take the first slot for the good one, and that may be half written."""
    station = make_victim(tmp_path)
    assert live(station) == DONE
    config = station.config
    config.boot.state_file.unlink()
    assert main(["install", "--config", str(tmp_path / "device.toml"), str(station.release_file)]) == 0
    state = read_state(DISK, config.boot.state_file)
    assert state is not None
    assert (state.primary, state.trial, set(state.bootable)) == ("b", None, {"b"})


def test_a_data_folder_that_is_not_there_is_made_by_provisioning_and_keeps_the_key(
    victim: Station, capsys: pytest.CaptureFixture[str]
) -> None:
    """The agent does not make it: the partition may only not be mounted yet."""
    shutil.rmtree(victim.folder / "data")
    key = (victim.folder / "key.pem").read_bytes()
    arguments = ["--config", str(victim.folder / "device.toml")]
    assert main(["run", *arguments]) == 2
    assert "narrowboat-device provision" in capsys.readouterr().err
    assert main(["provision", *arguments]) == 0
    assert (victim.folder / "key.pem").read_bytes() == key
    assert live(victim) == DONE

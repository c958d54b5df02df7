"""The configuration of a gateway: safe when it says little, and clear about everything that is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from narrowboat_device.config import Config, load_config
from narrowboat_protocol.errors import Reason, UsageError
from tests.device.kit import CONFIG

TWO_KEYS = '[identity]\nkey = "pkcs11:object=k?module-path=/m.so"\ncertificate = "identity.pem"\n'


def load(folder: Path, text: str) -> Config:
    path = folder / "device.toml"
    path.write_text(text)
    return load_config(path)


def complaint(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        load(folder, text)
    assert caught.value.reason is Reason.BAD_CONFIG
    return str(caught.value)


def test_a_short_file_gives_a_gateway_that_is_safe_unattended(tmp_path: Path) -> None:
    config = load(tmp_path, CONFIG)
    assert config.gateway.component == "rootfs"
    assert config.broker.port == 8883
    assert config.boot.adapter == "file"
    assert config.boot.tries == 3
    assert config.boot.reboot_command is None
    assert config.health.command is None
    assert (config.health.deadline_s, config.health.retry_s) == (300.0, 10.0)
    assert (config.hooks.download, config.hooks.reboot) == (None, None)
    assert (config.hooks.timeout_s, config.hooks.retry_s) == (60.0, 300.0)
    assert config.install.allow_local
    assert config.limits.memory_mib == 16


def test_relative_paths_count_from_the_folder_of_the_file(tmp_path: Path) -> None:
    config = load(tmp_path, CONFIG.replace('"server-ca.pem"', '"/etc/ssl/ca.pem"'))
    assert config.storage.data_dir == tmp_path / "data"
    assert config.boot.booted_path == tmp_path / "boot-state.booted"
    assert config.slots[1].path == tmp_path / "slot-b.img"
    assert config.broker.server_ca == Path("/etc/ssl/ca.pem")


@pytest.mark.parametrize(
    ("old", "new", "place", "what"),
    [
        ('host = "broker.example"', "", "[broker] host: missing", "the broker's host"),
        ('name = "gw-1"', 'name = "GW 1"', "[gateway] name: expected", "a-z, 0-9 and '-'"),
        ("[boot]", "[boot]\ntries = 11", "[boot] tries: expected", "got 11"),
        ("[boot]", f"{TWO_KEYS}[boot]", "the file: expected", "an [enrolment] section beside [identity] certificate"),
        ("[boot]", '[boot]\ntries = "3"', "[boot] tries: expected", "got '3'"),
        ("[boot]", "[boot]\ntries = true", "[boot] tries: expected", "got True"),
        ("[boot]", '[boot]\nadapter = "grub"', "[boot] adapter: expected", "got 'grub'"),
        ("[boot]", '[boot]\nreboot_command = "reboot"', "[boot] reboot_command: expected", "a list"),
        ("[boot]", "[boot]\nreboot_command = []", "[boot] reboot_command: expected", "a list"),
        ("[boot]", "[boot]\ntrys = 3", "[boot] trys: unknown", "spelling"),
        ("[boot]", "[health]\ndeadline_s = 0\n[boot]", "[health] deadline_s: expected", "got 0"),
        ("[boot]", "[health]\ndeadline_s = inf\n[boot]", "[health] deadline_s: expected", "got inf"),
        ('name = "b"', 'name = "a"', "the file: expected two slots", "different names"),
        ('path = "slot-b.img"', 'path = "slot-a.img"', "the file: expected two slots", "and paths"),
        ('path = "slot-b.img"', "", "[[slots]] 2: path: missing", "block device"),
        ("[[slots]]", '[[slots]]\nname = "c"\npath = "c"\n[[slots]]', "[[slots]]", "exactly two"),
        ('"root.cbor"', '"~nobody-here/root"', "[storage] root: expected a user", "write the whole path"),
        ('"root.cbor"', '"root\\u0000"', "[storage] root: expected a path", "null character"),
        ("[gateway]", "a." * 5000 + "a = 1\n[gateway]", "expected at most 256 dots", "break the line"),
        ('"broker.example"', '"broker..example"', "[broker] host", "each part of it 1 to 63 characters"),
        ("broker.example", "b" * 64 + ".example", "[broker] host", "each part of it 1 to 63 characters"),
        ("[gateway]", "[gatway]", "[gateway]: missing", "[gatway]: unknown"),
    ],
)
def test_a_wrong_file_says_where_and_what(tmp_path: Path, old: str, new: str, place: str, what: str) -> None:
    text = complaint(tmp_path, CONFIG.replace(old, new, 1))
    assert place in text
    assert what in text


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    text = CONFIG.replace('host = "broker.example"', "port = 70000").replace('class = "gateway-a"', "")
    told = complaint(tmp_path, text)
    assert "3 faults" in told
    assert [place in told for place in ("[gateway] class", "[broker] host", "[broker] port")] == [True] * 3


def test_text_that_is_no_toml_says_in_which_line(tmp_path: Path) -> None:
    assert "line 2" in complaint(tmp_path, "[gateway]\nname gw-1\n")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent\.toml.*--config"):
        load_config(tmp_path / "absent.toml")


def test_a_thousand_faults_do_not_fill_the_screen(tmp_path: Path) -> None:
    many = "\n".join(f"key{number} = 1" for number in range(1000))
    assert len(complaint(tmp_path, f"{CONFIG}\n[hooks]\n{many}").splitlines()) < 30

"""A bridge's configuration: what is wrong is said with its place before anything is opened, and no secret is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from narrowboat_bridge.server.assembly import open_workshop
from narrowboat_bridge.server.config import LimitsConfig, load_config, load_key
from narrowboat_bridge.server.crew import Crew
from narrowboat_bridge.server.link import tls_context
from narrowboat_bridge.server.metrics import Metrics
from narrowboat_protocol.errors import UsageError
from narrowboat_protocol.keys import Algorithm, PrivateKey
from tests.bridge.kit import Wire, make_config, running_bridge
from tests.support.fleet import FleetKit

GOOD = """
name = "bridge-1"
fleet_id = "{fleet_id}"
data = "data"
[broker]
host = "broker.example.com"
ca = "server-ca.pem"
certificate = "tls-cert.pem"
key = "/etc/tls-key.pem"
[trust]
roots = "root"
operators = "operators.signed"
device_ca = "device-ca.pem"
[keys]
director = "director.pem"
bridge = "bridge.pem"
device_ca = "device-ca-key.pem"
""".replace("{fleet_id}", "ab" * 32)


def write(folder: Path, text: str) -> Path:
    path = folder / "bridge.toml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_file_and_limits_have_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config.trust.roots == tmp_path / "root"
    assert config.broker.key == Path("/etc/tls-key.pem")
    assert config.store_path == tmp_path / "data" / "bridge.sqlite"
    assert (config.broker.port, config.limits) == (8886, LimitsConfig())


WRONG = {
    "no file": (None, "readable file"),
    "no TOML": ("name = ", "TOML"),
    "a name that is none": (GOOD.replace('"bridge-1"', '"Bridge 1"'), "name"),
    "a port out of range": (GOOD.replace("[trust]", "port = 70000\n[trust]"), "broker.port"),
    "an unknown word": (GOOD + "\ncolour = 'red'\n", "keys.colour"),
    "a missing section": (GOOD[: GOOD.index("[keys]")], "keys"),
    "a short fleet id": (GOOD.replace("ab" * 32, "ab"), "fleet_id"),
    "the home of nobody": (GOOD.replace('"root"', '"~nobody-here/root"'), "trust.roots"),
    "a path with a null character": (GOOD.replace('"root"', '"root\\u0000"'), "trust.roots"),
    "a name of thousands of parts": ("a." * 5000 + "a = 1", "dots in line 1"),
    "a limit below its bound": (GOOD + "[limits]\nuploads_max = 0\n", "limits.uploads_max"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_with_the_place_of_the_fault(tmp_path: Path, case: str) -> None:
    text, place = WRONG[case]
    path = tmp_path / "bridge.toml" if text is None else write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load_config(path)
    assert place in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_value_that_stands_in_the_wrong_place_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_config(write(tmp_path, GOOD.replace('name = "bridge-1"', 'name = "Secret Of Mine"')))
    assert "Secret" not in str(caught.value)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "director.pem"
    path.write_bytes(PrivateKey.generate(Algorithm.ED25519).to_pem())
    path.chmod(0o640)
    with pytest.raises(UsageError, match="chmod 600"):
        load_key(path)
    path.chmod(0o600)
    load_key(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("director.pem", PrivateKey.generate(Algorithm.ED25519).to_pem()),
        ("bridge.pem", PrivateKey.generate(Algorithm.ED25519).to_pem()),
        ("root/1.root", FleetKit.create().root_data),
        ("operators.signed", b"nothing"),
        ("device-ca.pem", b"nothing"),
        ("device-ca.pem", b""),
        ("device-ca.pem", PrivateKey.generate(Algorithm.ESP256).to_pem()),
    ],
)
def test_a_bridge_that_nobody_would_believe_does_not_start(tmp_path: Path, name: str, content: bytes) -> None:
    fleet = FleetKit.create()
    with running_bridge(tmp_path, fleet):
        pass
    config = make_config(tmp_path, fleet, limits=LimitsConfig())
    (tmp_path / name).write_bytes(content)
    with (
        pytest.raises(UsageError, match=name.partition(".")[0]),
        open_workshop(config, Wire(), Wire(), Metrics(), Crew()),
    ):
        pass


def test_tls_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    with pytest.raises(UsageError, match=r"\[broker\] ca, certificate, key"):
        tls_context(config.broker)

"""`narrowboat init`: a fleet that works as it stands."""

from __future__ import annotations

import json
import shlex
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from narrowboat_bridge.cli.fleet_folder import FleetFolder
from narrowboat_bridge.cli.operator_toml import OperatorToml
from narrowboat_bridge.server.config import load_config as load_bridge_config
from narrowboat_bridge.server.config import load_key as load_bridge_key
from narrowboat_device.config import load_config as load_device_config
from narrowboat_protocol.documents import OperatorRole, RoleName
from narrowboat_protocol.keys import PrivateKey
from tests.bridge.cli_kit import make_image, run
from tests.bridge.fleet_folder.kit import AUTHORITIES, Made

README = Path(__file__).parents[3] / "README.md"


def test_the_root_verifies_and_names_the_keys_that_lie_there(fleet: Made) -> None:
    root = fleet.trust.root
    places = {
        RoleName.ROOT: "keys/root-1.pem",
        RoleName.RELEASE: "keys/release-1.pem",
        RoleName.ADMIN: "keys/admin-1.pem",
        RoleName.DIRECTOR: "bridge/director.pem",
        RoleName.BRIDGE: "bridge/bridge.pem",
    }
    for role, place in places.items():
        key = PrivateKey.from_pem((fleet.path / place).read_bytes())
        assert (root.role(role).threshold, set(root.role_keys(role))) == (1, {key.public.kid})
    assert fleet.certificate("pki", "server-ca.pem").public_bytes(serialization.Encoding.DER) in root.broker_anchors
    assert [(address.host, address.port) for address in root.broker_addresses] == [
        ("broker.test", 8883),
        ("192.0.2.7", 8883),
    ]


def test_every_private_key_is_its_owners_alone(fleet: Made) -> None:
    run("pki", "issue", "device", "gw-1", "--fleet", fleet.path)
    private = [path for path in fleet.path.rglob("*.pem") if b"PRIVATE KEY" in path.read_bytes()]
    assert len(private) == 17
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}


def test_a_role_key_lies_in_one_place_only_and_the_bridge_has_the_authority_for_devices_alone(fleet: Made) -> None:
    files = {path: path.read_bytes() for path in fleet.path.rglob("*.pem") if b"PRIVATE KEY" in path.read_bytes()}
    copies = [path.relative_to(fleet.path) for path, key in files.items() if list(files.values()).count(key) > 1]
    assert sorted(map(str, copies)) == ["bridge/device-ca-key.pem", "pki/device-ca-key.pem"]
    authorities = [path.name for path in (fleet.path / "bridge").glob("*-ca-key.pem")]
    assert authorities == ["device-ca-key.pem"]


def test_bridge_device_and_operator_accept_what_was_made_for_them(fleet: Made) -> None:
    run("pki", "issue", "device", "gw-1", "--fleet", fleet.path)
    bridge = load_bridge_config(fleet.path / "bridge" / "bridge.toml")
    device = load_device_config(fleet.path / "devices" / "gw-1" / "device.toml")
    operator = OperatorToml.load(fleet.path / "operators" / "alice" / "operator.toml")
    assert bridge.fleet_id == operator.fleet_id == fleet.trust.fleet_id.hex()
    assert bridge.broker.host == device.broker.host == operator.host == "broker.test"
    assert (bridge.broker.port, device.broker.port, operator.port) == (8886, 8883, 9885)
    load_bridge_key(bridge.keys.director)
    load_bridge_key(bridge.keys.bridge)
    for ca, certificate, key in (
        (bridge.broker.ca, bridge.broker.certificate, bridge.broker.key),
        (device.broker.server_ca, device.broker.certificate, device.broker.key),
        (operator.ca, operator.certificate, operator.key),
    ):
        context = ssl.create_default_context(cafile=str(ca))
        context.load_cert_chain(certificate, key)
    for root in (bridge.trust.roots / "1.root", device.storage.root, operator.root):
        assert root.read_bytes() == fleet.trust.root_data
    assert bridge.trust.device_ca.read_bytes() == (fleet.path / "pki" / "device-ca.pem").read_bytes()


def test_the_first_operator_is_signed_for_by_the_admin(fleet: Made) -> None:
    key = PrivateKey.from_pem((fleet.path / "operators" / "alice" / "signing-key.pem").read_bytes())
    for place in ("root", "bridge"):
        alice = fleet.operators(place).find("alice")
        assert alice is not None
        assert (alice.role, alice.public_key.kid) == (OperatorRole.ADMIN, key.public.kid)


def test_the_broker_trusts_one_authority_on_each_listener_and_has_its_ports(fleet: Made) -> None:
    home = fleet.path / "broker"
    for party in ("device", "enrol", "staff", "bridge"):
        assert (home / "tls" / f"{party}-ca.pem").read_bytes() == (fleet.path / "pki" / f"{party}-ca.pem").read_bytes()
        assert (home / "acl" / f"{party}.acl").exists()
    conf = (home / "mosquitto.conf").read_text()
    assert "\nlistener 9885\n" in conf
    assert "\nlistener 8885\n" not in conf
    assert fleet.issued_by("server", "broker", "tls", "server-cert.pem")
    names = fleet.certificate("broker", "tls", "server-cert.pem").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["broker.test"]
    assert [str(address) for address in names.value.get_values_for_type(x509.IPAddress)] == ["192.0.2.7"]


@pytest.mark.parametrize(
    ("party", "name", "place"),
    [
        ("device", "gw-1", "devices/gw-1/certificate.pem"),
        ("operator", "bob", "operators/bob/certificate.pem"),
        ("bridge", "bridge-2", "bridges/bridge-2/tls-cert.pem"),
        ("birth", "batch-7", "births/batch-7/certificate.pem"),
    ],
)
def test_a_certificate_opens_the_listener_of_its_party_and_no_other(
    fleet: Made, party: str, name: str, place: str
) -> None:
    assert run("pki", "issue", party, name, "--fleet", fleet.path).status == 0
    issuer = {"operator": "staff", "birth": "enrol"}.get(party, party)
    assert [each for each in AUTHORITIES if fleet.issued_by(each, place)] == [issuer]
    (common_name,) = fleet.certificate(place).subject
    assert common_name.value == name


def test_a_fleet_is_not_made_over_another(fleet: Made) -> None:
    before = {path: path.read_bytes() for path in fleet.path.rglob("*") if path.is_file()}
    outcome = run("init", fleet.path)
    assert outcome.status == 2
    assert "expected a new or empty folder" in outcome.error_line
    assert {path: path.read_bytes() for path in fleet.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("--release-threshold", 2),
        ("--release-keys", 17),
        ("--host", "not a host"),
        ("--operator", "Alice"),
        ("--root-years", 0),
        ("--root-years", 101),
        [word for number in range(9) for word in ("--host", f"host-{number}")],
        [word for number in range(33) for word in ("--component", f"part-{number}")],
        ("--class", 'gateway"'),
        ("--component", "UP"),
        ("--vendor", 'quote"'),
        ("--device-port", 70_000),
        ("--device-port", 8884),
    ],
)
def test_a_fleet_that_cannot_be_made_leaves_nothing(tmp_path: Path, arguments: tuple[object, ...]) -> None:
    assert run("init", tmp_path / "fleet", *arguments).status == 2
    assert not list(tmp_path.iterdir())


def test_a_fleet_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    """The folder's own path is just short enough for the system; those of the files in it are not."""
    parent = tmp_path
    while len(str(parent)) < 3800:
        parent /= "x" * 200
    parent /= "y" * (4050 - len(str(parent)) - 1)
    parent.mkdir(parents=True)
    outcome = run("init", parent / "f")
    assert outcome.status == 1
    assert "File name too long" in outcome.error_line
    assert not list(parent.iterdir())


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "fleet").mkdir()
    assert run("init", tmp_path / "fleet").status == 0


def test_a_link_to_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert run("init", tmp_path / "link").status == 0
    assert FleetFolder.open(tmp_path / "real").toml.bridge == "bridge-1"


def test_the_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run("init", ".")
    assert outcome.status == 2
    assert "expected another folder than the current one" in outcome.error_line
    assert list(tmp_path.iterdir()) == []


def test_a_moved_fleet_still_works(fleet: Made, tmp_path: Path) -> None:
    moved = fleet.path.rename(tmp_path / "elsewhere")
    assert run("pki", "issue", "device", "gw-1", "--fleet", moved).status == 0
    assert load_bridge_config(moved / "bridge" / "bridge.toml").keys.director == moved / "bridge" / "director.pem"


def test_a_passphrase_locks_what_signs_seldom_and_not_what_runs(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("correct horse")
    given = ("--passphrase-file", tmp_path / "words")
    assert run("init", tmp_path / "fleet", *given).status == 0
    locked = [path.name for path in (tmp_path / "fleet").rglob("*.pem") if b"ENCRYPTED" in path.read_bytes()]
    assert sorted(locked) == sorted(
        ["root-1.pem", "release-1.pem", "admin-1.pem", *(f"{party}-ca-key.pem" for party in AUTHORITIES)]
    )
    without = run("pki", "issue", "operator", "bob", "--fleet", tmp_path / "fleet")
    assert without.status == 2
    assert "--passphrase-file" in without.error_line
    assert run("pki", "issue", "operator", "bob", "--fleet", tmp_path / "fleet", *given).status == 0


def test_two_of_three_is_what_the_root_demands_and_what_is_printed(tmp_path: Path) -> None:
    outcome = run("init", tmp_path / "fleet", "--release-keys", 3, "--release-threshold", 2)
    role = Made(tmp_path / "fleet").trust.root.role(RoleName.RELEASE)
    assert (role.threshold, len(role.kids)) == (2, 3)
    assert "2 of 3 release keys must sign" in outcome.out
    assert outcome.out.count("narrowboat release sign") == 2


def test_one_key_is_called_what_it_is(tmp_path: Path) -> None:
    assert "whoever has it decides what your devices run" in run("init", tmp_path / "fleet").out


def test_the_printed_offline_commands_work_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = run("init", "a fleet", "--release-keys", 2, "--release-threshold", 2).out
    (tmp_path / "a fleet" / "rootfs.ext4").write_bytes(make_image(100_000))
    commands = [shlex.split(line)[1:] for line in printed.splitlines() if line.startswith("  narrowboat ")]
    offline = [command for command in commands if command[:2] not in (["bridge", "run"], ["release", "push"])]
    assert [command[0] for command in offline] == ["pki", "release", "release", "release", "release", "campaign"]
    for command in offline[:-1]:
        outcome = run(*command)
        assert outcome.status == 0, outcome.err


def test_machines_learn_where_the_fleet_is(tmp_path: Path) -> None:
    made = json.loads(run("init", tmp_path / "fleet", "--operator", "alice", "--json").out)
    assert made == {
        "folder": str(tmp_path / "fleet"),
        "fleet_id": FleetFolder.open(tmp_path / "fleet").toml.fleet_id,
        "operator": "alice",
    }


def test_the_root_is_shown_with_its_thresholds(fleet: Made) -> None:
    shown = json.loads(run("root", "inspect", fleet.path / "root" / "1.root", "--json").out)
    assert shown["fleet_id"] == fleet.trust.fleet_id.hex()
    assert shown["roles"]["release"]["threshold"] == 1
    assert shown["components"] == {"rootfs": {"epoch": 0, "minimum_sequence": 0}}


def test_the_readme_names_what_its_commands_make_whoever_types_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that needs no broker is run as it stands there."""
    text = README.read_text()
    lines = text[text.index("narrowboat init fleet") :].partition("```")[0].splitlines()
    monkeypatch.setenv("USER", "alice")
    monkeypatch.chdir(tmp_path)
    online = ("narrowboat bridge", "narrowboat release push", "narrowboat campaign")
    for line in lines:
        if line.startswith("cp "):
            Path("fleet/rootfs.ext4").write_bytes(make_image(5000))
        elif line.startswith("narrowboat ") and not line.startswith(online):
            outcome = run(*shlex.split(line, comments=True)[1:])
            assert outcome.status == 0, outcome.err
    (operator,) = (line.partition("$PWD/")[2] for line in lines if line.startswith("export NARROWBOAT_OPERATOR="))
    OperatorToml.load(tmp_path / operator / "operator.toml")

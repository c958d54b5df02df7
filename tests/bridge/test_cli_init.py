"""`narrowboat init` and `pki issue`: a fleet that works as it stands, and identities that fit into it."""

from __future__ import annotations

import json
import shlex
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from narrowboat_bridge.cli.fleet_folder import FleetFolder
from narrowboat_bridge.cli.operator_toml import OperatorToml
from narrowboat_bridge.cli.pki import save_operators
from narrowboat_bridge.server.config import load_config as load_bridge_config
from narrowboat_bridge.server.config import load_key as load_bridge_key
from narrowboat_device.config import load_config as load_device_config
from narrowboat_protocol.documents import OperatorRole, Operators, RoleName, Scope
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.suit import class_id, vendor_id
from narrowboat_protocol.trust import Trust
from tests.bridge.cli_kit import make_image, run

README = Path(__file__).parents[2] / "README.md"
AUTHORITIES = ("device", "enrol", "staff", "bridge", "server")


@dataclass(frozen=True, slots=True)
class Made:
    """A fleet that `init` made."""

    path: Path

    @property
    def trust(self) -> Trust:
        return Trust((self.path / "root" / "1.root").read_bytes())

    def operators(self, place: str = "root") -> Operators:
        data = (self.path / place / "operators.signed").read_bytes()
        return self.trust.open_by_role(Operators, data, RoleName.ADMIN)

    def certificate(self, *parts: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.path.joinpath(*parts).read_bytes())

    def issued_by(self, party: str, *parts: str) -> bool:
        try:
            self.certificate(*parts).verify_directly_issued_by(self.certificate("pki", f"{party}-ca.pem"))
        except ValueError:
            return False
        return True


@pytest.fixture
def fleet(tmp_path: Path) -> Made:
    path = tmp_path / "fleet"
    outcome = run(
        "init", path, "--operator", "alice", "--host", "broker.test", "--host", "192.0.2.7", "--staff-port", 9885
    )
    assert outcome.status == 0, outcome.err
    return Made(path)


def _signing_request(folder: Path, key: ec.EllipticCurvePrivateKey, subject: str = "somebody else") -> Path:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    path = folder / "request.pem"
    path.write_bytes(request.public_bytes(serialization.Encoding.PEM))
    return path


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
    assert len(private) == 16
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


def test_issuing_again_renews_and_keeps_the_key(fleet: Made) -> None:
    places = {"device": "devices/gw-1", "operator": "operators/alice", "birth": "births/gw-1", "bridge": "bridge"}
    for party, folder in places.items():
        name = {"operator": "alice", "bridge": "bridge-1"}.get(party, "gw-1")
        certificate = "tls-cert.pem" if party == "bridge" else "certificate.pem"
        run("pki", "issue", party, name, "--fleet", fleet.path)
        before = fleet.certificate(folder, certificate)
        assert run("pki", "issue", party, name, "--fleet", fleet.path).status == 0
        after = fleet.certificate(folder, certificate)
        assert after.public_key() == before.public_key()
        assert after.serial_number != before.serial_number


def test_an_edited_configuration_survives_renewal(fleet: Made) -> None:
    run("pki", "issue", "device", "gw-1", "--fleet", fleet.path)
    toml = fleet.path / "devices" / "gw-1" / "device.toml"
    toml.write_text(toml.read_text() + "# edited\n")
    run("pki", "issue", "device", "gw-1", "--fleet", fleet.path)
    assert toml.read_text().endswith("# edited\n")


def test_a_signing_request_gives_a_key_and_not_a_name(fleet: Made, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    outcome = run("pki", "issue", "device", "gw-9", "--fleet", fleet.path, "--csr", _signing_request(tmp_path, key))
    certificate = fleet.certificate("devices", "gw-9", "certificate.pem")
    assert outcome.status == 0
    assert certificate.subject.rfc4514_string() == "CN=gw-9"
    assert certificate.public_key() == key.public_key()
    assert not list((fleet.path / "devices" / "gw-9").glob("*key*"))


def test_a_name_that_belongs_to_a_key_is_not_given_to_another(fleet: Made, tmp_path: Path) -> None:
    run("pki", "issue", "device", "gw-1", "--fleet", fleet.path)
    before = fleet.certificate("devices", "gw-1", "certificate.pem")
    request = _signing_request(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    outcome = run("pki", "issue", "device", "gw-1", "--fleet", fleet.path, "--csr", request)
    assert outcome.status == 2
    assert "choose another name" in outcome.error_line
    assert fleet.certificate("devices", "gw-1", "certificate.pem") == before


def test_a_request_that_its_own_key_did_not_sign_is_refused(fleet: Made, tmp_path: Path) -> None:
    request = _signing_request(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    parsed = x509.load_pem_x509_csr(request.read_bytes())
    forged = bytearray(parsed.public_bytes(serialization.Encoding.DER))
    forged[forged.index(b"somebody else")] ^= 1
    pem = ssl.DER_cert_to_PEM_cert(bytes(forged)).replace("CERTIFICATE", "CERTIFICATE REQUEST")
    request.write_text(pem)
    outcome = run("pki", "issue", "device", "gw-1", "--fleet", fleet.path, "--csr", request)
    assert outcome.status == 1
    assert not (fleet.path / "devices" / "gw-1").exists()


def test_a_new_operator_joins_the_others_under_a_higher_version(fleet: Made) -> None:
    assert run("pki", "issue", "operator", "bob", "--role", "viewer", "--fleet", fleet.path).status == 0
    for place in ("root", "bridge"):
        document = fleet.operators(place)
        roles = {operator.name: operator.role for operator in document.operators}
        assert (document.version, roles) == (2, {"alice": OperatorRole.ADMIN, "bob": OperatorRole.VIEWER})
    run("pki", "issue", "operator", "bob", "--role", "viewer", "--fleet", fleet.path)
    assert fleet.operators().version == 2
    run("pki", "issue", "operator", "bob", "--role", "operator", "--fleet", fleet.path)
    bob = fleet.operators().find("bob")
    assert bob is not None
    assert (fleet.operators().version, bob.role) == (3, OperatorRole.OPERATOR)


def test_renewing_an_operator_leaves_its_role_as_it_is(fleet: Made) -> None:
    issue = ("pki", "issue", "operator", "eve", "--fleet", fleet.path)
    assert run(*issue, "--role", "viewer").status == 0
    assert run(*issue).status == 0
    assert fleet.operators().find("eve") == fleet.operators("bridge").find("eve")
    eve = fleet.operators().find("eve")
    assert eve is not None
    assert eve.role is OperatorRole.VIEWER
    assert run(*issue, "--role", "operator").status == 0
    eve = fleet.operators().find("eve")
    assert eve is not None
    assert eve.role is OperatorRole.OPERATOR


def test_the_policy_of_approvals_outlives_every_other_change_of_the_document(fleet: Made) -> None:
    policy = ("operator", "policy", "--fleet", fleet.path)
    assert run(*policy, "--approval-over", "10").status == 0
    assert run("pki", "issue", "operator", "bob", "--role", "approver", "--fleet", fleet.path).status == 0
    assert run("operator", "revoke", "bob", "--fleet", fleet.path).status == 0
    for place in ("root", "bridge"):
        document = fleet.operators(place)
        assert (document.version, document.approval_over) == (4, 10)
    assert "more than 10 devices" in run("operator", "list", "--fleet", fleet.path).out
    assert run(*policy, "--no-approval").status == 0
    assert fleet.operators().approval_over is None
    assert run(*policy, "--approval-over", "-1").status == 2


def test_an_operator_is_added_where_the_bridge_is_elsewhere_and_reaches_it_when_it_is_back(fleet: Made) -> None:
    away = fleet.path.with_name("bridge-machine")
    (fleet.path / "bridge").rename(away)
    issue = ("pki", "issue", "operator", "bert", "--fleet", fleet.path)
    added = run(*issue)
    assert added.status == 0, added.err
    assert "operators.signed" in added.out
    assert "copy" in added.out
    away.rename(fleet.path / "bridge")
    assert fleet.operators("bridge").find("bert") is None
    assert run(*issue).status == 0
    assert fleet.operators("bridge").find("bert") is not None


def test_an_operator_is_not_added_without_the_admin_key(fleet: Made) -> None:
    (fleet.path / "keys" / "admin-1.pem").unlink()
    outcome = run("pki", "issue", "operator", "bob", "--fleet", fleet.path)
    assert outcome.status == 2
    assert "admin-1.pem" in outcome.error_line
    assert fleet.operators().version == 1


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


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_damaged_certificate_is_named(fleet: Made, content: bytes) -> None:
    issue = ("pki", "issue", "device", "gw-1", "--fleet", fleet.path)
    assert run(*issue).status == 0
    certificate = fleet.path / "devices" / "gw-1" / "certificate.pem"
    certificate.write_bytes(content)
    outcome = run(*issue)
    assert outcome.status == 2
    assert str(certificate) in outcome.error_line
    certificate.unlink()
    assert run(*issue).status == 0


def test_more_operators_than_the_document_holds_are_a_mistake_of_the_caller(fleet: Made) -> None:
    trust, admins = FleetFolder.open(fleet.path), FleetFolder.open(fleet.path).admin_keys(None)
    (alice,) = fleet.operators().operators
    many = [alice.model_copy(update={"name": f"operator-{number}"}) for number in range(256)]
    save_operators(trust, 2, many, admins, approval_over=None)
    outcome = run("pki", "issue", "operator", "one-more", "--fleet", fleet.path)
    assert outcome.status == 2
    assert "operators: " in outcome.error_line


def test_a_moved_fleet_still_works(fleet: Made, tmp_path: Path) -> None:
    moved = fleet.path.rename(tmp_path / "elsewhere")
    assert run("pki", "issue", "device", "gw-1", "--fleet", moved).status == 0
    assert load_bridge_config(moved / "bridge" / "bridge.toml").keys.director.parent == moved / "bridge"


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


def test_an_operator_gets_a_scope_and_keeps_it_until_it_gets_another(fleet: Made) -> None:
    issue = ("pki", "issue", "operator", "eve", "--fleet", fleet.path)
    typed = ("--scope", "prefix=berlin-", "--scope", "device=berlin-2", "--scope", "device=berlin-1")
    assert run(*issue, *typed, "--scope", "class=gateway-a", "--scope", "component=rootfs").status == 0
    assert run(*issue).status == 0
    eve = fleet.operators("bridge").find("eve")
    assert eve is not None
    hardware = class_id(vendor_id("example.com"), "gateway-a")
    assert eve.scope == Scope(
        name_prefix="berlin-", devices=("berlin-1", "berlin-2"), class_ids=(hardware.bytes,), component="rootfs"
    )
    listed = run("operator", "list", "--fleet", fleet.path).out
    assert f"prefix=berlin- device=berlin-1 device=berlin-2 class={hardware} component=rootfs" in listed
    assert run(*issue, "--scope", "all").status == 0
    eve = fleet.operators("bridge").find("eve")
    assert eve is not None
    assert eve.scope is None


@pytest.mark.parametrize(
    "scopes", [["town=berlin"], ["berlin-"], ["prefix="], ["prefix=a", "prefix=b"], ["all", "device=a"]]
)
def test_a_scope_that_means_nothing_is_refused_before_anything_is_made(fleet: Made, scopes: list[str]) -> None:
    typed = [word for scope in scopes for word in ("--scope", scope)]
    assert run("pki", "issue", "operator", "eve", "--fleet", fleet.path, *typed).status == 2
    assert fleet.operators().version == 1
    assert not (fleet.path / "operators" / "eve").exists()


def test_a_revoked_operator_is_no_longer_heard_and_the_last_one_stays(fleet: Made) -> None:
    run("pki", "issue", "operator", "bob", "--fleet", fleet.path)
    assert run("operator", "revoke", "bob", "--fleet", fleet.path).status == 0
    for place in ("root", "bridge"):
        document = fleet.operators(place)
        assert (document.version, [operator.name for operator in document.operators]) == (3, ["alice"])
    for name, complaint in (("bob", "expected an operator of this fleet"), ("alice", "the only operator")):
        outcome = run("operator", "revoke", name, "--fleet", fleet.path)
        assert outcome.status != 0
        assert complaint in outcome.error_line
    assert fleet.operators().version == 3

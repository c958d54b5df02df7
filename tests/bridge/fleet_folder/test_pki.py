"""`narrowboat pki`: identities that fit into a fleet, and the operators document that goes with them."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from narrowboat_bridge.cli.fleet_folder import FleetFolder
from narrowboat_bridge.cli.pki import save_operators
from narrowboat_protocol.documents import OperatorRole, Scope
from narrowboat_protocol.suit import class_id, vendor_id
from tests.bridge.cli_kit import run
from tests.bridge.fleet_folder.kit import Made


def _signing_request(folder: Path, key: ec.EllipticCurvePrivateKey, subject: str = "somebody else") -> Path:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    path = folder / "request.pem"
    path.write_bytes(request.public_bytes(serialization.Encoding.PEM))
    return path


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

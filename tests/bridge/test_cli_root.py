"""`narrowboat root`: drafts, signatures of several machines and of signers elsewhere, and what each change means."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from narrowboat_bridge.cli.exits import ExitCode
from narrowboat_bridge.cli.root_draft import Draft
from narrowboat_protocol.keys import Algorithm, PrivateKey, public_key_from_pem
from narrowboat_protocol.trust import Trust
from tests.bridge.cli_kit import make_image, run, run_python


def key(folder: Path, name: str, *options: str) -> Path:
    """The public half of a new key; the private one lies beside it."""
    assert run("keys", "create", name, "--out", folder, *options).status == 0
    return folder / f"{name}.pub.pem"


def kid(public: Path) -> str:
    return public_key_from_pem(public.read_bytes()).kid.hex()


def private(public: Path) -> Path:
    return public.with_name(public.name.replace(".pub.pem", ".pem"))


def made(*arguments: object) -> dict[str, object]:
    outcome = run("root", *arguments, "--json")
    assert outcome.status == 0, outcome.err
    shown: dict[str, object] = json.loads(outcome.out)
    return shown


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    assert run("init", tmp_path / "fleet").status == 0
    return tmp_path / "fleet"


def fleet_id(fleet: Path) -> str:
    return Trust((fleet / "root" / "1.root").read_bytes()).fleet_id.hex()


def test_a_first_root_is_made_of_public_keys_and_signed_on_two_machines(tmp_path: Path) -> None:
    roots = [key(tmp_path, f"root-{number}") for number in (1, 2, 3)]
    others = {role: key(tmp_path, role) for role in ("release", "director", "bridge", "admin")}
    draft, copy = tmp_path / "1.draft", tmp_path / "copy.draft"
    arguments: list[object] = [part for path in roots for part in ("--root-key", path)]
    arguments += [part for role, path in others.items() for part in (f"--{role}-key", path)]
    made("create", "-o", draft, *arguments, "--root-threshold", 2, "--component", "rootfs")
    copy.write_bytes(draft.read_bytes())
    assert len(made("sign", draft, "--key", private(roots[0]))["missing"]) == 1  # type: ignore[arg-type]
    made("sign", copy, "--key", private(roots[2]))
    shown = made("sign", draft, "--add", copy)
    assert shown["signed_by"] == sorted(map(kid, (roots[0], roots[2])))
    assert shown["missing"] == "nothing: publish it"


@pytest.mark.parametrize("algorithm", ["ed25519", "esp256"])
@pytest.mark.parametrize("form", ["raw", "der"])
def test_openssl_signs_a_root_and_a_release_that_only_their_bytes_reach(
    fleet: Path, tmp_path: Path, algorithm: str, form: str
) -> None:
    """An owner whose keys never come near this program rotates the only root key and the only release key to it."""
    name, release = key(tmp_path, "outside", "--algorithm", algorithm), key(tmp_path, "rel", "--algorithm", algorithm)
    draft = tmp_path / "2.draft"
    first = fleet / "root" / "1.root"
    made("rotate", first, kid(fleet / "keys" / "root-1.pub.pem")[:12], name, "-o", draft)
    made("rotate", draft, kid(fleet / "keys" / "release-1.pub.pem")[:12], release, "-o", draft)
    made("sign", draft, "--key", fleet / "keys" / "root-1.pem")
    tbs, signature = tmp_path / "tbs", tmp_path / "signature"
    made("sign", draft, "--public", name, "--tbs-out", tbs)
    sign_elsewhere(private(name), tbs, signature, form)
    made("sign", draft, "--public", name, "--signature-in", signature)
    made("publish", draft, "--fleet", fleet)
    image, file = fleet / "rootfs.ext4", tmp_path / "r.nbr"
    image.write_bytes(make_image(70_000))
    assert run("release", "build", fleet / "release.toml", "-o", file).status == 0
    assert run("release", "sign", file, "--public", release, "--tbs-out", tbs).status == 0
    assert run("release", "sign", file, "--public", release, "--signature-in", signature).status != 0
    sign_elsewhere(private(release), tbs, signature, form)
    assert run("release", "sign", file, "--public", release, "--signature-in", signature).status == 0
    newest = fleet / "root" / "2.root"
    assert run("release", "verify", file, "--root", newest, "--fleet-id", fleet_id(fleet)).status == 0


def sign_elsewhere(private_key: Path, tbs: Path, signature: Path, form: str) -> None:
    """What openssl makes of the bytes: for ECDSA, DER."""
    signer = PrivateKey.from_pem(private_key.read_bytes())
    if signer.public.algorithm is Algorithm.ESP256 and form == "der":
        command: list[str | Path] = ["openssl", "dgst", "-sha256", "-sign", private_key, "-out", signature, tbs]
    elif signer.public.algorithm is Algorithm.ED25519:
        command = ["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", private_key, "-in", tbs, "-out", signature]
    else:
        signature.write_bytes(signer.sign(tbs.read_bytes()))
        return
    subprocess.run(command, check=True, capture_output=True)


def test_a_signature_over_something_else_is_not_taken(fleet: Path, tmp_path: Path) -> None:
    public, draft = fleet / "keys" / "root-1.pub.pem", tmp_path / "2.draft"
    made("set", fleet / "root" / "1.root", "--epoch", "rootfs=1", "-o", draft)
    made("sign", draft, "--public", public, "--tbs-out", tmp_path / "tbs")
    sign_elsewhere(private(public), tmp_path / "tbs", tmp_path / "signature", "raw")
    made("set", draft, "--epoch", "rootfs=2", "-o", draft)
    outcome = run("root", "sign", draft, "--public", public, "--signature-in", tmp_path / "signature")
    assert outcome.status != ExitCode.OK
    assert "over this draft" in outcome.error_line


def test_a_change_voids_what_was_signed_before_it(fleet: Path, tmp_path: Path) -> None:
    draft = tmp_path / "2.draft"
    made("set", fleet / "root" / "1.root", "--epoch", "rootfs=1", "-o", draft)
    assert made("sign", draft, "--key", fleet / "keys" / "root-1.pem")["missing"] == "nothing: publish it"
    shown = made("set", draft, "--minimum-sequence", "rootfs=7", "-o", draft)
    assert (shown["signed_by"], shown["version"]) == ([], 2)
    outcome = run("root", "publish", draft, "--fleet", fleet)
    assert "expected more signatures" in outcome.error_line


MEANINGS = [
    (("set", "--epoch", "rootfs=1"), "closes the way back"),
    (("set", "--minimum-sequence", "rootfs=5"), "below sequence 5 are refused"),
    (("set", "--root-url", "http://roots.example.com/f"), "no broker can reach"),
    (("set", "--broker-address", "new.example.com:8883"), "other addresses"),
    (("set", "--epoch", "modem=0"), "component modem: added"),
    (("set", "--release-component", "rootfs"), "other components or classes"),
    (("add-key", "release", "NEW"), "key"),
    (("add-key", "root", "NEW", "--threshold", "2"), "2 of 2 must sign, not 1"),
    (("rotate", "director-key", "NEW"), "devices begin a new count"),
    (("rotate", "admin-key", "NEW"), "sign operators.signed anew"),
]


@pytest.mark.parametrize(("change", "meaning"), MEANINGS)
def test_each_change_says_what_it_means(fleet: Path, tmp_path: Path, change: tuple[str, ...], meaning: str) -> None:
    words: dict[str, object] = {"NEW": key(tmp_path, "new")}
    words |= {"director-key": kid(fleet / "keys" / "director.pub.pem")}
    words |= {"admin-key": kid(fleet / "keys" / "admin-1.pub.pem")}
    verb, *rest = (words.get(word, word) for word in change)
    shown = made(verb, fleet / "root" / "1.root", *rest, "-o", tmp_path / "2.draft")
    assert meaning in " ".join(shown["meaning"])  # type: ignore[arg-type]


REFUSED = [
    (("revoke", "release-key"), "expected 1 keys of the role release to be left"),
    (("revoke", "f" * 64), "fits 0"),
    (("set", "--threshold", "root=2"), "this would not be a root"),
    (("set", "--root-url", "ftp://x"), "this would not be a root"),
    (("add-key", "admin", "OLD"), "which has one"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_would_lock_the_owner_out_is_refused(
    fleet: Path, tmp_path: Path, change: tuple[str, ...], message: str
) -> None:
    words: dict[str, object] = {"OLD": fleet / "keys" / "bridge.pub.pem"}
    words |= {"release-key": kid(fleet / "keys" / "release-1.pub.pem")}
    verb, *rest = (words.get(word, word) for word in change)
    outcome = run("root", verb, fleet / "root" / "1.root", *rest, "-o", tmp_path / "2.draft")
    assert message in outcome.error_line
    assert not (tmp_path / "2.draft").exists()


def test_a_draft_that_does_not_follow_on_the_fleet_is_not_published(fleet: Path, tmp_path: Path) -> None:
    draft, root_key = tmp_path / "2.draft", fleet / "keys" / "root-1.pem"
    made("set", fleet / "root" / "1.root", "--epoch", "rootfs=1", "-o", draft)
    made("sign", draft, "--key", root_key)
    made("publish", draft, "--fleet", fleet)
    assert run("root", "publish", draft, "--fleet", fleet).status != 0
    assert run("init", tmp_path / "other").status == 0
    assert run("root", "publish", draft, "--fleet", tmp_path / "other").status != 0
    assert (fleet / "bridge" / "root" / "2.root").read_bytes() == (fleet / "root" / "2.root").read_bytes()


def test_a_stranger_cannot_sign_and_an_altered_signature_is_noticed(fleet: Path, tmp_path: Path) -> None:
    draft = tmp_path / "2.draft"
    made("set", fleet / "root" / "1.root", "--epoch", "rootfs=1", "-o", draft)
    stranger = run("root", "sign", draft, "--key", private(key(tmp_path, "stranger")))
    assert "expected a root key" in stranger.error_line
    made("sign", draft, "--key", fleet / "keys" / "root-1.pem")
    data = draft.read_bytes()
    draft.write_bytes(data.replace(data[data.index(b"\xf6\x58\x40") + 3 :][:8], bytes(8), 1))
    assert "does not verify" in run("root", "inspect", draft).error_line


_CUT = """
import os, sys
calls_left = int(sys.argv.pop(1))
def cut_before(call):
    def cut(*arguments, **options):
        global calls_left
        calls_left -= 1
        if not calls_left:
            os._exit(99)
        return call(*arguments, **options)
    return cut
os.fsync, os.replace, os.rename = map(cut_before, (os.fsync, os.replace, os.rename))
from narrowboat_bridge.cli import main
sys.exit(main(sys.argv[1:]))
"""
_CUT_STATUS = 99


def publishable(fleet: Path, draft: Path, epoch: int) -> bytes:
    """A signed draft of version 2, and the root that it becomes."""
    made("set", fleet / "root" / "1.root", "--epoch", f"rootfs={epoch}", "-o", draft)
    made("sign", draft, "--key", fleet / "keys" / "root-1.pem")
    return Draft.load(draft).signed_root()


def test_publishing_may_be_repeated_wherever_it_was_cut(fleet: Path, tmp_path: Path) -> None:
    """The process ends without a word before each call that makes something durable."""
    draft, whole = tmp_path / "2.draft", tmp_path / "whole"
    root = publishable(fleet, draft, epoch=1)
    places = ("bridge/root/2.root", "operators/operator/root.signed", "root/2.root")
    shutil.copytree(fleet, whole)
    publish = ("root", "publish", draft, "--fleet", fleet)
    cuts = 0
    while run_python(_CUT, cuts + 1, *publish).returncode == _CUT_STATUS:
        cuts += 1
        left = [(fleet / place).read_bytes() for place in places if (fleet / place).exists()]
        assert all(data in (root, (whole / "root" / "1.root").read_bytes()) for data in left), "nothing is half there"
        done = run(*publish)
        assert done.status == 0 or "has already" in done.err, done.err
        assert [(fleet / place).read_bytes() for place in places] == [root] * len(places)
        shutil.rmtree(fleet)
        shutil.copytree(whole, fleet)
    assert cuts == 3 * len(places)


def test_another_root_of_a_version_that_was_half_published_is_refused(fleet: Path, tmp_path: Path) -> None:
    first, second = (publishable(fleet, tmp_path / f"{epoch}.draft", epoch) for epoch in (1, 2))
    (fleet / "bridge" / "root" / "2.root").write_bytes(first)
    refused = run("root", "publish", tmp_path / "2.draft", "--fleet", fleet)
    assert (refused.status != 0, "publish that one" in refused.error_line) == (True, True)
    assert second not in [file.read_bytes() for file in fleet.rglob("*.root")]
    assert run("root", "publish", tmp_path / "1.draft", "--fleet", fleet).status == 0

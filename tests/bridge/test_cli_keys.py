"""`narrowboat keys create`: keys that only their owner can read and nothing overwrites."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from narrowboat_protocol.errors import UsageError
from narrowboat_protocol.keys import Algorithm, PrivateKey, public_key_from_pem
from tests.bridge.cli_kit import run

PASSPHRASE = "a passphrase of several words"


def test_only_the_owner_can_read_a_private_key(tmp_path: Path) -> None:
    assert run("keys", "create", "release-1", "--out", tmp_path / "keys").status == 0
    assert stat.S_IMODE((tmp_path / "keys" / "release-1.pem").stat().st_mode) == 0o600


@pytest.mark.parametrize("there", ["release-1.pem", "release-1.pub.pem"])
def test_a_key_never_takes_the_place_of_another(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_bytes(b"precious")
    outcome = run("keys", "create", "release-1", "--out", tmp_path)
    assert outcome.status == 2
    assert there in outcome.error_line
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_bytes() == b"precious"


@pytest.mark.parametrize(("word", "algorithm"), [("ed25519", Algorithm.ED25519), ("esp256", Algorithm.ESP256)])
def test_the_two_halves_belong_together_and_the_thumbprint_is_theirs(
    tmp_path: Path, word: str, algorithm: Algorithm
) -> None:
    outcome = run("keys", "create", "k", "--out", tmp_path, "--algorithm", word, "--json")
    private = PrivateKey.from_pem((tmp_path / "k.pem").read_bytes())
    public = public_key_from_pem((tmp_path / "k.pub.pem").read_bytes())
    assert private.public.kid == public.kid
    assert private.public.algorithm is algorithm
    assert json.loads(outcome.out)["thumbprint"] == public.kid.hex()


@pytest.mark.parametrize("source", ["file", "environment"])
def test_a_key_with_a_passphrase_opens_with_it_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    (tmp_path / "words").write_text(PASSPHRASE + "\nnot this line\n")
    monkeypatch.setenv("KEY_WORDS", PASSPHRASE)
    given = ("--passphrase-file", tmp_path / "words") if source == "file" else ("--passphrase-env", "KEY_WORDS")
    outcome = run("keys", "create", "k", "--out", tmp_path, *given)
    pem = (tmp_path / "k.pem").read_bytes()
    assert outcome.status == 0
    assert PASSPHRASE not in outcome.out + outcome.err
    PrivateKey.from_pem(pem, PASSPHRASE.encode())
    with pytest.raises(UsageError):
        PrivateKey.from_pem(pem, None)


def test_an_empty_passphrase_does_not_make_an_open_key(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("\n")
    outcome = run("keys", "create", "k", "--out", tmp_path, "--passphrase-file", tmp_path / "words")
    assert outcome.status == 2
    assert not (tmp_path / "k.pem").exists()


@pytest.mark.parametrize("name", ["../k", "K", "", "a/b"])
def test_a_name_that_is_a_path_is_refused(tmp_path: Path, name: str) -> None:
    assert run("keys", "create", name, "--out", tmp_path).status == 2
    assert not list(tmp_path.iterdir())

"""What a release engineer and the owner of a root sign with a key in a token counts like any other signature; and what
goes wrong with a token is said, costs no PIN, and shows none.
"""

from __future__ import annotations

import _ssl
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, cast

import pytest
from pkcs11 import Token, TokenFlag
from pkcs11.exceptions import PinExpired, PinIncorrect, PinLenRange, PinLocked, PKCS11Error

from narrowboat_protocol.errors import SigningError, UsageError
from narrowboat_protocol.keys import Algorithm, PrivateKey, public_key_from_pem
from narrowboat_protocol.token_uri import parse_token_uri
from narrowboat_tokens import Pin, open_token_key, pin_of
from narrowboat_tokens.session import log_in
from tests.bridge.cli_kit import make_image, run, run_python, write_release_toml
from tests.support.fleet import FleetKit
from tests.support.softhsm import SoftToken

ALGORITHMS = list(Algorithm)
NOT_IN_THE_SOURCE = bytes.fromhex("70696e2036316162").decode()
"""Tracebacks show lines of it."""


def opened(uri: str) -> PrivateKey:
    parsed = parse_token_uri(uri)
    return open_token_key(parsed, lambda: pin_of(parsed, None))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_release_that_a_token_signed_is_what_a_gateway_accepts(
    token: SoftToken, tmp_path: Path, algorithm: Algorithm
) -> None:
    fleet = FleetKit.create(algorithm=algorithm)
    key = token.add("release-1", key=fleet.release_signers[0])
    (tmp_path / "root.signed").write_bytes(fleet.root_data)
    (tmp_path / "image.ext4").write_bytes(make_image(300_000))
    file = tmp_path / "out.nbr"
    assert run("release", "build", write_release_toml(tmp_path, "image.ext4"), "-o", file).status == 0
    signed = run("release", "sign", file, "--key", token.uri("release-1"))
    assert signed.status == 0, signed.err
    verified = run("release", "verify", file, "--root", tmp_path / "root.signed", "--json")
    assert verified.status == 0, verified.err
    assert json.loads(verified.out)["signed_by"] == [key.public.kid.hex()]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_root_is_made_of_a_key_that_never_left_its_token(
    token: SoftToken, tmp_path: Path, algorithm: Algorithm
) -> None:
    token.add("root-9", algorithm)
    assert run("init", tmp_path / "fleet").status == 0
    uri, public = token.uri("root-9"), tmp_path / "root-9.pub.pem"
    exported = run("keys", "export", uri, "-o", public, "--json")
    assert exported.status == 0, exported.err
    assert json.loads(exported.out)["thumbprint"] == public_key_from_pem(public.read_bytes()).kid.hex()
    draft, root = tmp_path / "2.draft", tmp_path / "fleet" / "root" / "1.root"
    (old,) = json.loads(run("root", "inspect", root, "--json").out)["roles"]["root"]["keys"]
    assert run("root", "rotate", root, old, public, "-o", draft).status == 0
    for key in (tmp_path / "fleet" / "keys" / "root-1.pem", uri):
        assert run("root", "sign", draft, "--key", key).status == 0
    published = run("root", "publish", draft, "--fleet", tmp_path / "fleet")
    assert published.status == 0, published.err


def test_a_key_file_may_hold_the_uri_of_a_key_in_a_token(token: SoftToken, tmp_path: Path) -> None:
    key = token.add("k")
    (tmp_path / "k.pem").write_text(token.uri("k") + "\n")
    assert run("keys", "export", tmp_path / "k.pem", "-o", tmp_path / "out.pem").status == 0
    assert public_key_from_pem((tmp_path / "out.pem").read_bytes()) == key.public


def test_a_key_is_found_by_any_attribute_and_two_in_one_token_need_one_login(token: SoftToken) -> None:
    one, two = token.add("one"), token.add("two", Algorithm.ESP256)
    by_id = token.uri("one").replace("object=one", "id=%01")
    keys = [opened(by_id), opened(token.uri("two"))]
    assert [key.public for key in keys] == [one.public, two.public]
    for key in keys:
        assert key.public.verify(key.sign(b"message"), b"message")


def test_the_pin_is_found_by_the_environment_or_typed(
    token: SoftToken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token.add("k")
    uri = parse_token_uri(token.uri_without_pin("k"))
    monkeypatch.setenv("NARROWBOAT_PIN_FILE", str(token.pin_file))
    assert pin_of(uri, None) == Pin(token.pin, is_typed=False)
    monkeypatch.delenv("NARROWBOAT_PIN_FILE")
    assert pin_of(uri, lambda what: f"typed for {what}").text == f"typed for pkcs11:token={token.label};object=k"
    for ask in (None, lambda _what: ""):
        with pytest.raises(UsageError, match="expected a PIN, got none"):
            pin_of(uri, ask)


def wrong_pin(token: SoftToken, folder: Path) -> str:
    file = folder / "wrong.pin"
    file.touch(0o600)
    file.write_text("wrong 77aa")
    return token.uri("k", pin_file=file)


def readable_pin(token: SoftToken, folder: Path) -> str:
    token.pin_file.chmod(0o640)
    return token.uri("k")


def empty_pin(token: SoftToken, folder: Path) -> str:
    token.pin_file.write_text("\nnot this line")
    return token.uri("k")


def no_pin_file(token: SoftToken, folder: Path) -> str:
    return token.uri("k", pin_file=folder / "missing")


def no_module(token: SoftToken, folder: Path) -> str:
    return token.uri("k", module=folder / "missing.so")


def no_such_module(token: SoftToken, folder: Path) -> str:
    (folder / "text.so").write_text("no module")
    return token.uri("k", module=folder / "text.so")


def another_library(token: SoftToken, folder: Path) -> str:
    return token.uri("k", module=Path(_ssl.__file__))


def no_token(token: SoftToken, folder: Path) -> str:
    return token.uri("k").replace(token.label, "elsewhere")


def pulled_out(token: SoftToken, folder: Path) -> str:
    token.pull_out()
    return token.uri("k")


def no_key(token: SoftToken, folder: Path) -> str:
    return token.uri("another")


def two_keys(token: SoftToken, folder: Path) -> str:
    token.add("k")
    return token.uri("k")


TROUBLES: list[tuple[Callable[[SoftToken, Path], str], str]] = [
    (wrong_pin, "the PIN of this token, got another"),
    (readable_pin, "only its owner may read, got mode 640"),
    (empty_pin, "expected a PIN in the first line"),
    (no_pin_file, "expected a file with a PIN"),
    (no_module, "expected a PKCS#11 module at"),
    (no_such_module, "expected a PKCS#11 module at"),
    (another_library, "expected a PKCS#11 module at"),
    (no_token, "expected one token that fits, got 0"),
    (pulled_out, "expected one token that fits, got 0"),
    (no_key, "expected one private key that fits, got 0"),
    (two_keys, "expected one private key that fits, got 2"),
]


@pytest.mark.parametrize(("spoil", "complaint"), TROUBLES, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_wrong_with_a_token_is_said_and_no_pin_with_it(
    token: SoftToken, tmp_path: Path, spoil: Callable[[SoftToken, Path], str], complaint: str
) -> None:
    token.add("k")
    outcome = run("keys", "export", spoil(token, tmp_path), "-o", tmp_path / "out.pem")
    assert outcome.status == 2
    assert complaint in outcome.error_line
    assert not (tmp_path / "out.pem").exists()
    assert not [word for word in (token.pin, "wrong 77aa") if word in outcome.out + outcome.err]


def test_a_wrong_pin_in_a_file_is_tried_once_however_often_a_service_starts(token: SoftToken, tmp_path: Path) -> None:
    """Else the first restarts lock the token, and every other service that uses it stands still too."""
    token.add("k")
    with pytest.raises(UsageError, match="got another"):
        opened(wrong_pin(token, tmp_path))
    for uri in (wrong_pin(token, tmp_path), token.uri("k")):
        with pytest.raises(UsageError, match="the PIN in the file is not tried"):
            opened(uri)
    parsed = parse_token_uri(token.uri("k"))
    typed = open_token_key(parsed, lambda: Pin(token.pin, is_typed=True))
    del typed
    opened(token.uri("k"))


class Lockable:
    """The token of an HSM that counts: SoftHSM never locks a PIN. It answers each login with an error."""

    def __init__(self, flags: TokenFlag, answer: type[PKCS11Error]) -> None:
        self.flags = TokenFlag.LOGIN_REQUIRED | TokenFlag.TOKEN_INITIALIZED | flags
        self.answer = answer
        self.tries = 0

    def open(self, *, user_pin: object = None) -> NoReturn:
        self.tries += 1
        raise self.answer


@pytest.mark.parametrize(
    ("flags", "answer", "is_typed", "complaint", "tries"),
    [
        (TokenFlag.USER_PIN_LOCKED, PinLocked, False, "unlock it", 0),
        (TokenFlag.USER_PIN_LOCKED, PinLocked, True, "unlock it", 0),
        (TokenFlag(0), PinLocked, False, "unlock it", 1),
        (TokenFlag(0), PinIncorrect, False, "correct it before the next try", 1),
        (TokenFlag(0), PinLenRange, False, "correct it before the next try", 1),
        (TokenFlag(0), PinExpired, False, "set a new one", 1),
        (TokenFlag.USER_PIN_COUNT_LOW, PinIncorrect, False, "is not tried", 0),
        (TokenFlag.USER_PIN_FINAL_TRY, PinIncorrect, False, "is not tried", 0),
        (TokenFlag.USER_PIN_COUNT_LOW, PinIncorrect, True, "correct it before the next try", 1),
    ],
)
def test_no_token_is_locked_by_a_pin_that_nobody_typed(
    flags: TokenFlag, answer: type[PKCS11Error], is_typed: bool, complaint: str, tries: int
) -> None:
    token = Lockable(flags, answer)
    uri = parse_token_uri("pkcs11:object=k?module-path=/m.so")
    with pytest.raises(UsageError, match=complaint) as caught:
        log_in(uri, cast(Token, token), lambda: Pin(NOT_IN_THE_SOURCE, is_typed=is_typed))
    assert token.tries == tries
    assert NOT_IN_THE_SOURCE not in "".join(traceback.format_exception(caught.value))


def test_a_pin_in_the_uri_is_refused_and_not_repeated(token: SoftToken, tmp_path: Path) -> None:
    uri = f"{token.uri_without_pin('k')}&pin-value={token.pin}"
    (tmp_path / "k.pem").write_text(uri)
    for key in (uri, tmp_path / "k.pem"):
        outcome = run("keys", "export", key, "-o", tmp_path / "out.pem")
        assert outcome.status == 2
        assert "pin-value" in outcome.err
        assert token.pin not in outcome.out + outcome.err


def test_a_public_key_that_is_not_the_private_ones_is_found_before_a_document_is_out(token: SoftToken) -> None:
    token.add_with_another_public_key("k")
    with pytest.raises(SigningError, match="that its public key verifies, got another"):
        opened(token.uri("k")).sign(b"message")


def test_a_token_that_is_pulled_out_ends_in_an_error_and_not_in_a_signature(token: SoftToken, tmp_path: Path) -> None:
    token.add("k")
    key = opened(token.uri("k"))
    key.sign(b"before")
    token.pull_out()
    with pytest.raises(SigningError, match="see that the token is there"):
        key.sign(b"after")


def test_a_key_in_a_token_cannot_be_written_to_a_file(token: SoftToken) -> None:
    token.add("k")
    with pytest.raises(UsageError, match="which keeps it"):
        opened(token.uri("k")).to_pem()


def test_without_the_extra_a_key_in_a_token_is_an_error_that_names_it(token: SoftToken, tmp_path: Path) -> None:
    code = """
import sys
sys.modules["pkcs11"] = None
from narrowboat_bridge.cli import main
sys.exit(main(sys.argv[1:]))
"""
    done = run_python(code, "keys", "export", token.uri("k"), "-o", tmp_path / "out.pem")
    assert done.returncode == 2
    assert "install narrowboat-bridge[pkcs11]" in done.stderr

"""Tokens of SoftHSM, which is an HSM in all but hardware: the same PKCS#11 that others speak, in files.

A process loads the module once, and it looks for tokens then. So there is one home for all tests of a run, each test
gets a token of its own there, and the module is started anew for it, which ends the sessions of earlier tests. Keys are
made here and imported by a process of their own: a login of ours would open the token for the code under test. That way
each key is known, and can be looked for where it must not be.

SoftHSM locks no PIN, however often a wrong one is tried. It does mark a token that refused one.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from narrowboat_protocol.keys import Algorithm, PrivateKey
from tests.support.tools import require_tool

_FOLDERS = ("/usr/lib/softhsm", "/usr/lib64/pkcs11", "/usr/lib", "/usr/lib64", "/usr/local/lib/softhsm")
_OFFICER_PIN = "officer 91c2"


def module_path() -> Path:
    """Where the distribution puts the module."""
    require_tool("softhsm2-util")
    return next(path for folder in _FOLDERS if (path := Path(folder) / "libsofthsm2.so").exists())


@dataclass(frozen=True, slots=True)
class SoftToken:
    """One token, and the file with its PIN."""

    label: str
    pin: str
    pin_file: Path
    folder: Path
    """Where SoftHSM keeps it."""
    keys: dict[str, PrivateKey] = field(default_factory=dict)

    def add(self, name: str, algorithm: Algorithm = Algorithm.ED25519, key: PrivateKey | None = None) -> PrivateKey:
        """Put a key into the token."""
        key = key or PrivateKey.generate(algorithm)
        number = f"{len(self.keys) + 1:02x}"
        self._import(key, name, number, ())
        self.keys[name] = key
        return key

    def add_with_another_public_key(self, name: str) -> None:
        """A private key, and beside it the public half of another."""
        self._import(PrivateKey.generate(Algorithm.ESP256), f"not-{name}", "77", ())
        self._import(PrivateKey.generate(Algorithm.ESP256), name, "77", ("--no-public-key",))

    def uri(self, name: str, *, pin_file: Path | None = None, module: Path | None = None) -> str:
        query = f"module-path={module or module_path()}"
        where = f"&pin-source={pin_file or self.pin_file}"
        return f"pkcs11:token={quote(self.label)};object={name};type=private?{query}{where}"

    def uri_without_pin(self, name: str) -> str:
        return self.uri(name).partition("&")[0]

    def pull_out(self) -> None:
        self.folder.rename(self._away)

    def plug_in(self) -> None:
        self._away.rename(self.folder)

    @property
    def _away(self) -> Path:
        return self.pin_file.with_suffix(".away")

    def _import(self, key: PrivateKey, name: str, number: str, options: tuple[str, ...]) -> None:
        file = self.pin_file.with_suffix(".import")
        file.write_bytes(key.in_cryptography.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        what = ("--import", file, "--token", self.label, "--pin", self.pin, "--label", name, "--id", number)
        _softhsm(*what, "--force", *options)
        file.unlink()


class SoftHsm:
    """A home of tokens."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._numbers = itertools.count(1)

    def token(self, pin: str = "pin 4d7a and 1b") -> SoftToken:
        label = f"token-{next(self._numbers)}"
        before = set((self.home / "tokens").iterdir())
        _softhsm("--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", _OFFICER_PIN)
        pin_file = self.home / f"{label}.pin"
        pin_file.touch(0o600)
        pin_file.write_text(pin + "\n")
        _start_anew()
        (folder,) = set((self.home / "tokens").iterdir()) - before
        return SoftToken(label, pin, pin_file, folder)


@contextmanager
def soft_hsm(home: Path) -> Iterator[SoftHsm]:
    """A home of tokens, for this process and those that it starts."""
    (home / "tokens").mkdir()
    conf = home / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {home / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n")
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(conf)
    try:
        yield SoftHsm(home)
    finally:
        del os.environ["SOFTHSM2_CONF"]
        if before is not None:
            os.environ["SOFTHSM2_CONF"] = before


def _start_anew() -> None:
    import pkcs11  # here, since environments without it import this module too

    pkcs11.lib(str(module_path())).reinitialize()


def _softhsm(*arguments: object) -> None:
    command = [require_tool("softhsm2-util"), *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

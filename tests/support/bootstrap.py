"""Set-up for a fresh clone, which every target of the Makefile runs first.

    python -m tests.support.bootstrap [--cbor6 | --lowest] [PROGRAM ...]

It brings about two things, and does nothing where they already hold.

The environment: a virtual environment beside the Makefile with the project and its development tools. A stamp in
it holds a digest of whatever decides its content (the pyproject files, the interpreter, the folder), so an
unchanged tree costs one hash. An environment that was copied or moved from another folder would import the other
folder's code, so it is made anew.

The programs named on the command line: missing ones come from the system's package manager if we are root or sudo
asks for no password; otherwise set-up stops and names the one command to run. Debian starts and enables the
services of what it installs. Nobody who tries a demo asked for that, so the installation runs under a policy that
starts nothing, and disables what it added; a service that was there before is left alone.

Only the standard library is used, and of the harness only `tools`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .tools import find_tool

ROOT = Path(__file__).resolve().parents[2]
PROJECTS = tuple(ROOT / member / "pyproject.toml" for member in ("", "protocol", "device", "broker_bridge"))
PACKAGE_OF = {
    "fusermount3": "fuse3",
    "ip": "iproute2",
    "mke2fs": "e2fsprogs",
    "nsenter": "util-linux",
    "softhsm2-util": "softhsm2",
}
"""As Debian calls them."""
# Linters run nothing of ours, the oldest cwt wants a newer cryptography than we do, and tuf is asked elsewhere.
NOT_IN_LOWEST = frozenset({"cwt", "import-linter", "mypy", "ruff", "securesystemslib[crypto]", "tuf"})
SERVICES = ("mosquitto", "nginx")
_BY_HAND = "install by hand and run again"


class SetupError(Exception):
    """Set-up cannot go on; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment and what pip puts into it."""

    folder: Path
    requirements: tuple[str, ...]
    only_python: tuple[int, int] | None = None

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def stamp(self) -> Path:
        return self.folder / "narrowboat-setup.sha256"

    def digest(self) -> str:
        projects = [project.read_text() for project in PROJECTS]
        parts = [str(self.folder), sys.version, *self.requirements, *projects]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


DEVELOPMENT = Environment(ROOT / ".venv", ("-e", ".[dev]"))
# cwt is not in it: it holds cbor2 below 6, and this environment shows that the protocol works with 6.
CBOR6 = Environment(
    ROOT / ".venv-cbor6",
    (
        *("-e", "./protocol[zstd]", "-e", "./device", "-e", "./broker_bridge"),
        *("cbor2>=6", "hypothesis>=6.100", "pycddl>=0.6.4", "pytest>=8.3"),
    ),
)


def lowest_requirements() -> tuple[str, ...]:
    """What it takes to run the project and its tests, each in the lowest version that it says it works with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (*project["dependencies"], *project["optional-dependencies"]["dev"])
    return tuple(line.replace(">=", "==", 1) for line in lines if line.partition(">=")[0] not in NOT_IN_LOWEST)


# Packages of that age come ready for Pythons of their time, and have to be compiled for newer ones.
LOWEST = Environment(ROOT / ".venv-lowest", ("-e", ".", *lowest_requirements()), only_python=(3, 11))


@dataclass(frozen=True, slots=True)
class PackageManager:
    """How one family of systems installs packages. `script` is for us, `command` for a person to type."""

    command: str
    script: str
    names: Mapping[str, str] = field(default_factory=dict)
    """Of packages that have another name than in Debian."""


_APT_SCRIPT = """
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\\nexit 101\\n' >$policy
    chmod 755 $policy
fi
apt-get -qq update || true
apt-get -qq install -y --no-install-recommends {packages} >/dev/null
for service in {services}; do
    if command -v systemctl >/dev/null; then systemctl --quiet disable $service || true; fi
done
"""

# In order of search. Only Debian starts and enables what it installs.
PACKAGE_MANAGERS = {
    "apt-get": PackageManager("apt-get install --no-install-recommends {packages}", _APT_SCRIPT),
    "dnf": PackageManager("dnf install {packages}", "dnf install -y --quiet {packages}", {"softhsm2": "softhsm"}),
    "apk": PackageManager("apk add {packages}", "apk add --quiet {packages}", {"softhsm2": "softhsm"}),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.bootstrap")
    kinds = parser.add_mutually_exclusive_group()
    for kind, environment, text in [
        ("--cbor6", CBOR6, "the environment with cbor2 6, not the usual one"),
        ("--lowest", LOWEST, "the environment with the lowest versions that are declared"),
    ]:
        kinds.add_argument(kind, dest="environment", action="store_const", const=environment, help=text)
    parser.set_defaults(environment=DEVELOPMENT)
    parser.add_argument("programs", nargs="*", help="system programs that the caller needs")
    arguments = parser.parse_args()
    try:
        provide_programs(arguments.programs)
        provide_environment(arguments.environment)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    return 0


def provide_programs(programs: list[str]) -> None:
    """Install the packages of those `programs` that are missing."""
    missing = [program for program in programs if find_tool(program) is None]
    packages = [PACKAGE_OF.get(program, program) for program in missing]
    # Debian splits `venv` off its Python. A copy of Python from elsewhere is whole.
    if importlib.util.find_spec("ensurepip") is None:
        packages.append(f"python{sys.version_info.major}.{sys.version_info.minor}-venv")
    if packages:
        install_packages(packages)
    absent = [program for program in missing if find_tool(program) is None]
    if absent:
        raise SetupError(f"{', '.join(absent)} still missing; {_BY_HAND}")


def install_packages(packages: list[str]) -> None:
    manager = next((manager for tool, manager in PACKAGE_MANAGERS.items() if find_tool(tool)), None)
    names = shlex.join(packages if manager is None else [manager.names.get(name, name) for name in packages])
    if manager is None:
        raise SetupError(f"{names} missing, and no {', '.join(PACKAGE_MANAGERS)} here; {_BY_HAND}")
    prefix = become_root()
    if prefix is None:
        command = manager.command.format(packages=names)
        raise SetupError(f"{names} missing; run this, then try again:\n\n    sudo {command}\n")
    print(f"setup: installing {names}", flush=True)
    services = [package for package in packages if package in SERVICES]
    script = manager.script.format(packages=names, services=" ".join(services))
    if subprocess.run([*prefix, "sh", "-e", "-c", script], check=False, stdin=subprocess.DEVNULL).returncode:
        raise SetupError(f"installing {names} failed, see above; {_BY_HAND}")


def become_root() -> list[str] | None:
    """What to put before a command that needs root, or None if that would need a password."""
    if os.geteuid() == 0:
        return []
    if find_tool("sudo") is None:
        return None
    asks_nothing = subprocess.run(["sudo", "-n", "true"], check=False, capture_output=True).returncode == 0
    return ["sudo", "-n"] if asks_nothing else None


def provide_environment(environment: Environment) -> None:
    """Make `environment` hold what the pyproject files say, unless its stamp says that it does."""
    digest = environment.digest()
    if environment.stamp.exists() and environment.stamp.read_text() == digest:
        return
    if environment.only_python not in (None, sys.version_info[:2]):
        wanted = ".".join(map(str, environment.only_python))
        raise SetupError(f"expected CPython {wanted}, got another; install it and run make PYTHON=python{wanted}")
    print(f"setup: filling {environment.folder.name} (a minute the first time)", flush=True)
    if not is_usable(environment):
        run([sys.executable, "-m", "venv", "--clear", str(environment.folder)])
    environment.stamp.unlink(missing_ok=True)
    pip = [str(environment.python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run([*pip, *environment.requirements])
    environment.stamp.write_text(digest)


def is_usable(environment: Environment) -> bool:
    """Whether the environment is one of this folder and of this version of Python."""
    pip = environment.folder / "bin" / "pip"
    if not environment.python.exists() or not pip.exists():
        return False
    # A copied environment still names its old folder in the first line of every script.
    if str(environment.folder) not in pip.read_text().split("\n", 1)[0]:
        return False
    ask = [str(environment.python), "-c", "import sys; print(sys.version)"]
    return subprocess.run(ask, check=False, capture_output=True, text=True).stdout.strip() == sys.version


def run(command: list[str]) -> None:
    if subprocess.run(command, check=False, cwd=ROOT).returncode:
        raise SetupError(f"this failed, see above: {shlex.join(command)}")


if __name__ == "__main__":
    raise SystemExit(main())

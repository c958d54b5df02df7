"""What an embedder, an integrator and a CI runner get when they install one of the distributions.

The root project repeats what the members say, since an editable root pulls in none of a member's requirements and
scripts; the first part keeps the copies equal. The second part looks at imports, and at what import contracts
cannot see: builtins that do I/O and clocks that hide in datetime. The last part installs each member into an empty
environment.
"""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import narrowboat_bridge
import narrowboat_device
import narrowboat_protocol
from tests.support.bootstrap import ROOT

MEMBERS = {
    "protocol": narrowboat_protocol,
    "device": narrowboat_device,
    "broker_bridge": narrowboat_bridge,
}
PURE = ("protocol/narrowboat_protocol", "device/narrowboat_device/core", "broker_bridge/narrowboat_bridge/core")


def project(folder: str) -> dict[str, Any]:
    """The [project] table of the root (".") or of a member."""
    table: dict[str, Any] = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    return table


def requirements(table: dict[str, Any]) -> list[Requirement]:
    extras = chain.from_iterable(table.get("optional-dependencies", {}).values())
    return [Requirement(line) for line in chain(table["dependencies"], extras)]


def test_a_developer_gets_every_third_party_requirement_of_the_members_and_no_other() -> None:
    of_members = chain.from_iterable(requirements(project(member)) for member in MEMBERS)
    third_party = {str(each) for each in of_members if not each.name.startswith("narrowboat-")}
    assert {str(Requirement(line)) for line in project(".")["dependencies"]} == third_party


def test_a_developer_gets_every_command_of_the_members() -> None:
    scripts = chain.from_iterable(project(member).get("scripts", {}).items() for member in MEMBERS)
    assert project(".")["scripts"] == dict(scripts)


@pytest.mark.parametrize("member", MEMBERS)
def test_members_of_different_versions_cannot_be_installed_together(member: str) -> None:
    assert MEMBERS[member].__version__ == narrowboat_protocol.__version__
    pins = [each.specifier for each in requirements(project(member)) if each.name.startswith("narrowboat-")]
    assert {str(pin) for pin in pins} == (set() if member == "protocol" else {f"=={narrowboat_protocol.__version__}"})


@pytest.mark.parametrize("member", MEMBERS)
def test_every_distribution_carries_the_licence_and_python_floor_of_the_project(member: str) -> None:
    for field in ("license", "license-files", "requires-python"):
        assert project(member)[field] == project(".")[field]
    assert (ROOT / member / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_the_development_project_is_never_uploaded_by_mistake() -> None:
    assert "Private :: Do Not Upload" in project(".")["classifiers"]


def test_an_embedder_of_the_protocol_loads_no_network_or_database_library() -> None:
    script = """
import importlib, json, pkgutil, sys
import narrowboat_protocol
for module in pkgutil.walk_packages(narrowboat_protocol.__path__, "narrowboat_protocol."):
    importlib.import_module(module.name)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    loaded = json.loads(output([sys.executable, "-c", script]))
    assert "narrowboat_protocol" in loaded
    unwanted = {"paho", "tenacity", "sqlalchemy", "narrowboat_device", "narrowboat_bridge"}
    assert not unwanted.intersection(loaded)


@pytest.mark.parametrize("member", MEMBERS)
def test_every_module_can_be_imported_with_what_is_declared(member: str) -> None:
    package = MEMBERS[member]
    modules = [found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    for name in modules:
        if not name.endswith(".__main__"):
            importlib.import_module(name)
    assert len(modules) >= 3


IMPURE_NAMES = {"open", "print", "input", "exec", "eval", "breakpoint", "__import__"}
IMPURE_ATTRIBUTES = {"now", "utcnow", "today", "uuid1", "uuid4", "open"}


def impure_uses(source: str) -> Iterator[str]:
    """Uses of builtins that reach the outside, and calls of attributes that read a clock or draw at random."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name, ctx=ast.Load(), lineno=line) if name in IMPURE_NAMES:
                yield f"line {line}: {name}"
            case ast.Call(func=ast.Attribute(attr=name), lineno=line) if name in IMPURE_ATTRIBUTES:
                yield f"line {line}: .{name}()"


@pytest.mark.parametrize(
    "source", ["datetime.now(UTC)", "date.today()", "open('x')", "use = print", "io.open(x)", "uuid.uuid4()"]
)
def test_the_purity_check_sees_what_import_contracts_cannot(source: str) -> None:
    assert list(impure_uses(source))


@pytest.mark.parametrize("folder", PURE)
def test_a_core_reads_no_clock_and_opens_nothing_so_that_a_seed_replays_it(folder: str) -> None:
    modules = sorted((ROOT / folder).rglob("*.py"))
    assert modules
    found = {str(module.relative_to(ROOT)): list(impure_uses(module.read_text())) for module in modules}
    assert {module: uses for module, uses in found.items() if uses} == {}


def output(command: list[str], cwd: Path | None = None) -> str:
    """What `command` prints; one that fails prints its complaint into pytest's report."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=cwd).stdout


class Installed:
    """An environment that holds nothing but what was asked for; not even pip, which works on it from outside."""

    def __init__(self, folder: Path, *members: str) -> None:
        self.python = str(folder / "bin" / "python")
        output([sys.executable, "-m", "venv", "--without-pip", str(folder)])
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", self.python, "install"]
        output([*pip, "--quiet", *(str(ROOT / member) for member in members)])
        (self.packages,) = folder.glob("lib/python*/site-packages")

    def distributions(self) -> set[str]:
        found = metadata.distributions(path=[str(self.packages)])
        return {re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower() for each in found}

    def ours(self) -> set[str]:
        """What lies in site-packages under our name, or under a name that only we could have put there."""
        names = {path.name for path in self.packages.iterdir() if path.suffix != ".dist-info"}
        return {name for name in names if "narrowboat" in name or name in {"tests", "protocol", "docs"}}


SERVER = {"paho-mqtt", "sqlalchemy", "tenacity"}
TOKENS = {"python-pkcs11"}
OF_PROTOCOL = {"narrowboat_protocol", "narrowboat_tokens"}
"""The second one needs the extra `pkcs11`."""


@pytest.mark.packaging
@pytest.mark.parametrize(
    ("members", "packages", "wanted", "unwanted", "commands"),
    [
        pytest.param(
            ["protocol"],
            OF_PROTOCOL,
            {"cbor2", "cryptography", "pydantic"},
            SERVER | TOKENS | {"backports-zstd"},
            [],
            id="an embedder gets the protocol and its own requirements",
        ),
        pytest.param(
            ["protocol", "device"],
            OF_PROTOCOL | {"narrowboat_device"},
            {"paho-mqtt", "tenacity"},
            {"sqlalchemy", "narrowboat-bridge"} | TOKENS,
            ["narrowboat-device --version"],
            id="a gateway gets no server",
        ),
        pytest.param(
            ["protocol", "broker_bridge"],
            OF_PROTOCOL | {"narrowboat_bridge"},
            {"backports-zstd"} if sys.version_info < (3, 14) else set(),
            SERVER | TOKENS | {"narrowboat-device"},
            ["narrowboat keys create --out . ci", "narrowboat release build --help", "narrowboat root inspect --help"],
            id="a CI runner that signs releases gets no server",
        ),
    ],
)
def test_each_member_installs_with_its_own_requirements_only(
    tmp_path: Path,
    members: list[str],
    packages: set[str],
    wanted: set[str],
    unwanted: set[str],
    commands: list[str],
) -> None:
    installed = Installed(tmp_path / "environment", *members)
    assert installed.ours() == packages
    assert wanted <= installed.distributions()
    assert not unwanted & installed.distributions()
    for package in packages:
        assert (installed.packages / package / "py.typed").exists()
    for package in packages - {"narrowboat_tokens"}:
        assert list(installed.packages.glob(f"{package}-*.dist-info/licenses/LICENSE"))
        output([installed.python, "-c", f"import {package}"])
    for command in commands:
        program, *arguments = command.split()
        assert output([str(Path(installed.python).parent / program), *arguments], cwd=tmp_path)

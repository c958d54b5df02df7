"""docs/security.md promises a test for each attack: it is there."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.support.paths import REPOSITORY

ROW = re.compile(r"^\| (?P<attack>[^|]+) \|[^|]*\|[^|]*\| `(?P<test>test_\S+\.py::[^`]+)` \|$", re.MULTILINE)


def collected() -> set[str]:
    """Every test below this folder, as pytest names it."""
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests/attacks"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return {line.removeprefix("tests/attacks/") for line in listed.splitlines() if "::" in line}


def attacks_section() -> str:
    """What stands under the heading of the attacks: a row elsewhere is not part of the table."""
    return (REPOSITORY / "docs" / "security.md").read_text().partition("\n## The attacks\n")[2].partition("\n## ")[0]


def test_every_attack_of_the_table_is_carried_out_by_a_test_of_its_own() -> None:
    rows = [(row["attack"], row["test"]) for row in ROW.finditer(attacks_section())]
    promised = [test for _, test in rows]
    assert len(rows) >= 28
    assert len(set(promised)) == len(promised)
    assert set(promised) <= collected()

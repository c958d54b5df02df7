"""A power cut costs only what nobody was told is there."""

from __future__ import annotations

import subprocess
import sys

from tests.support.paths import REPOSITORY

GATEWAYS = 12


def test_a_gateway_whose_power_goes_again_and_again_comes_to_the_new_release() -> None:
    """A sample; the module run by itself lives through more."""
    command = [sys.executable, "-m", "tests.faults.amnesia", "--seeds", f"0:{GATEWAYS}"]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "0 third states" in ran.stdout

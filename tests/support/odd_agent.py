"""The agent as a process on a machine that is odd: on a wrong day, or one on which every random rest is a short one.

The day is libfaketime's doing, so it is the day of OpenSSL, too. Monotonic time is left alone, by which alone anything
waits; but libfaketime takes the end of a `time.sleep`, which is monotonic, for a time of that day. What waits for a
child process sleeps, so sleeping is waiting here.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .tools import require_tool

_ODD = """
import random, sys, threading, time
time.sleep = lambda seconds: threading.Event().wait(seconds)
if sys.argv.pop(1) == "hasty":
    random.uniform = lambda low, high: low
from narrowboat_device.cli import main
sys.exit(main())
"""


def odd_agent(config: Path, *, day: str | None = None, hasty: bool = False) -> list[str]:
    """The command of an agent. Its clock starts at midnight of `day`. A hasty one waits the least that it would,
    wherever chance decides.
    """
    clock = [] if day is None else ["env", *clock_settings(day)]
    agent = [sys.executable, "-c", _ODD, "hasty" if hasty else "patient", "--log-level", "info", "run"]
    return [*clock, *agent, "--config", str(config)]


def clock_settings(day: str) -> list[str]:
    """What `faketime` sets for the command that it runs. It stays in front of that, and signals would end it alone."""
    command = [require_tool("faketime"), "--exclude-monotonic", "-f", f"@{day} 00:00:00", "env"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    wanted = ("LD_PRELOAD=", "FAKETIME=", "FAKETIME_DONT_FAKE_MONOTONIC=")
    return [line for line in told.stdout.splitlines() if line.startswith(wanted)]

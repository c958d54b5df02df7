"""The simulated machine: boots, restarts, reboots and falls back as hardware would, and leaves nothing running."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from narrowboat_device.boot.state import BootState, read_state, write_state
from narrowboat_device.disk import SystemDisk
from tests.device.kit import GatewayFolder, hung_up, make_gateway
from tests.support.fleet import FleetKit

PATIENCE_S = 60.0
# The machine adopts orphans and kills them, so it gets a process of its own.
DRIVER = """
import itertools, json, sys
from pathlib import Path
from narrowboat_device.config import load_config
from narrowboat_device.disk import SystemDisk
from narrowboat_device.machine import SimulatedMachine, Supervision
config, script, supervision, tick_s = sys.argv[1:]
SimulatedMachine(
    SystemDisk(),
    load_config(Path(config)),
    ["/bin/sh", script],
    100,
    Supervision(**json.loads(supervision)),
    itertools.count(0.0, float(tick_s)).__next__,
).run()
"""
DISK = SystemDisk()
SWITCH_OFF = "kill -TERM $PPID; exit 0"


@dataclass(frozen=True, slots=True)
class Lab:
    """A gateway whose agent is a shell script that runs in the gateway's folder."""

    gateway: GatewayFolder

    def start(self, agent: str, *, tick_s: float = 0.0, failed_starts_max: int = 3) -> subprocess.Popen[bytes]:
        script = self.gateway.folder / "agent.sh"
        script.write_text(f"cd {self.gateway.folder}\ncat boot-state.booted >>boots; echo >>boots\n{agent}\n")
        supervision = json.dumps({"restart_s": 0.0, "failed_starts_max": failed_starts_max})
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(self.gateway.config_path), str(script), supervision, str(tick_s)]
        )

    def run(self, agent: str, *, tick_s: float = 0.0, failed_starts_max: int = 3) -> None:
        machine = self.start(agent, tick_s=tick_s, failed_starts_max=failed_starts_max)
        try:
            assert machine.wait(PATIENCE_S) == 0
        finally:
            machine.kill()
            machine.wait()

    @property
    def boots(self) -> list[dict[str, str]]:
        """What the loader had booted at each start of the agent."""
        return [json.loads(line) for line in (self.gateway.folder / "boots").read_text().splitlines()]

    def pipe(self) -> tuple[str, int]:
        """A pipe in the folder, for a process of the machine to hold open, and our end of it."""
        os.mkfifo(self.gateway.folder / "held")
        return "held", os.open(self.gateway.folder / "held", os.O_RDONLY | os.O_NONBLOCK)


@pytest.fixture(scope="module")
def fleet() -> FleetKit:
    return FleetKit.create()


@pytest.fixture
def lab(tmp_path: Path, fleet: FleetKit) -> Lab:
    return Lab(make_gateway(tmp_path, fleet))


def on_start(*answers: str) -> str:
    """An agent that does one thing at each of its starts."""
    cases = "".join(f"{number}) {answer};;\n" for number, answer in enumerate(answers, 1))
    return f"case $(wc -l <boots) in\n{cases}esac"


def test_a_reboot_begins_a_new_boot_and_any_other_end_does_not(lab: Lab) -> None:
    lab.run(on_start("exit 1", "exit 100", "exit 0", SWITCH_OFF))
    ids = [boot["boot_id"] for boot in lab.boots]
    assert ids[0] == ids[1] != ids[2] == ids[3]


def test_an_agent_that_cannot_run_on_trial_uses_up_its_tries_and_the_old_slot_returns(lab: Lab) -> None:
    write_state(DISK, lab.gateway.config.boot.state_file, BootState("a", "b", 3, frozenset("ab")))
    lab.run(f"grep -q '\"a\"' boot-state.booted && {{ {SWITCH_OFF}; }}; exit 1", failed_starts_max=2)
    assert [boot["slot"] for boot in lab.boots] == ["b"] * 6 + ["a"]
    assert read_state(DISK, lab.gateway.config.boot.state_file) == BootState("a", None, 0, frozenset("a"))


def test_an_agent_that_ends_now_and_then_is_not_the_watchdogs_business(lab: Lab) -> None:
    lab.run(on_start(*["exit 1"] * 8, SWITCH_OFF), tick_s=100.0)
    assert len({boot["boot_id"] for boot in lab.boots}) == 1


def test_what_an_agent_leaves_behind_is_gone_before_its_next_start(lab: Lab) -> None:
    look = "kill -0 $(cat left) 2>/dev/null && echo alive >alive"
    lab.run(on_start("setsid sleep 600 & echo $! >left; exit 1", f"{look}; {SWITCH_OFF}"))
    assert (lab.gateway.folder / "left").exists()
    assert not (lab.gateway.folder / "alive").exists()


def test_switching_off_lets_the_agent_end_by_itself(lab: Lab) -> None:
    lab.run("trap 'echo ended >>log; exit 0' TERM; kill -TERM $PPID; sleep 600 & wait")
    assert (lab.gateway.folder / "log").read_text() == "ended\n"
    assert len(lab.boots) == 1


def test_an_agent_does_not_outlive_a_machine_that_is_killed(lab: Lab) -> None:
    name, reader = lab.pipe()
    machine = lab.start(f"exec 3>{name}; echo begun >&3; exec sleep 600")
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    assert poll.poll(PATIENCE_S * 1000)
    machine.send_signal(signal.SIGKILL)
    machine.wait(PATIENCE_S)
    os.read(reader, 100)
    assert hung_up(reader)

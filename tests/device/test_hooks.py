"""Hooks: the integrator's programs answer by their exit status, in time, and cannot harm the agent."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from threading import Thread

import pytest

from narrowboat_device.config import load_config
from narrowboat_device.core.actions import Hook
from narrowboat_device.core.events import HookFinished, HookOutcome
from narrowboat_device.hooks import OUTPUT_BYTES_MAX, HookCommand, HookRunner, hook_commands
from tests.device.kit import CONFIG, hung_up

LONG_S, SHORT_S = 60.0, 0.3


def runner(script: str, timeout_s: float = LONG_S) -> HookRunner:
    return HookRunner(
        {Hook.DOWNLOAD: HookCommand(("/bin/sh", "-c", script), timeout_s)}, "a", Path("/data/status.json")
    )


def run(script: str, timeout_s: float = LONG_S) -> HookFinished:
    return runner(script, timeout_s).run(Hook.DOWNLOAD, 1)


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ("exit 0", HookOutcome.GO_ON),
        ("exit 21", HookOutcome.NOT_NOW),
        ("exit 1", HookOutcome.FAILED),
        ("exit 22", HookOutcome.FAILED),
        ("exit 255", HookOutcome.FAILED),
        ("kill -KILL $$", HookOutcome.FAILED),
    ],
)
def test_the_exit_status_is_the_answer(script: str, outcome: HookOutcome) -> None:
    assert run(script) == HookFinished(Hook.DOWNLOAD, 1, outcome, "")


def test_a_hook_that_is_not_configured_lets_the_update_go_on() -> None:
    assert runner("exit 1").run(Hook.HEALTH, 2) == HookFinished(Hook.HEALTH, 2, HookOutcome.GO_ON, "")


def test_a_program_that_is_not_there_has_failed(tmp_path: Path) -> None:
    missing = HookCommand((str(tmp_path / "absent"),), LONG_S)
    finished = HookRunner({Hook.REBOOT: missing}, "a", tmp_path).run(Hook.REBOOT, 1)
    assert finished.outcome is HookOutcome.FAILED
    assert "absent" in finished.output


def test_a_hook_finds_the_facts_in_its_environment_and_no_input() -> None:
    finished = run('cat; echo "$NARROWBOAT_HOOK $NARROWBOAT_SLOT $NARROWBOAT_STATUS"')
    assert finished.output == "download a /data/status.json"


def test_the_end_of_what_a_hook_prints_is_kept_and_no_more() -> None:
    finished = run(f"yes x | head -c {64 * OUTPUT_BYTES_MAX}; echo; echo the end")
    assert finished.outcome is HookOutcome.GO_ON
    assert len(finished.output) <= OUTPUT_BYTES_MAX
    assert finished.output.endswith("x\n\nthe end")


def test_what_a_hook_prints_cannot_steer_a_terminal() -> None:
    finished = run(r"printf 'a\033[31mb\r\007\000\302\233c\377\nerror' >&2")
    assert finished.output == "a[31mbc\ufffd\nerror"


def test_a_hook_that_takes_too_long_has_failed_and_its_children_are_gone(tmp_path: Path) -> None:
    fifo = tmp_path / "held-open-by-the-hook"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    finished = run(f"exec 3>{fifo}; echo begun; sleep 600 & wait", SHORT_S)
    assert finished.outcome is HookOutcome.FAILED
    assert finished.output == f"begun\nexpected an answer within {SHORT_S:g} s, got none"
    assert hung_up(reader)


def test_what_a_hook_leaves_behind_ends_with_it_and_is_not_waited_for(tmp_path: Path) -> None:
    fifo = tmp_path / "held-open-by-what-is-left"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    assert run(f"exec 3>{fifo}; sleep 600 & echo begun >&3; exit 21").outcome is HookOutcome.NOT_NOW
    assert os.read(reader, 100) == b"begun\n"
    assert hung_up(reader)


class Asleep(subprocess.Popen[bytes]):
    """A process in uninterruptible sleep: no signal ends it, so nobody who waits for it hears of an end."""

    def __del__(self) -> None:
        super().wait()  # the real one was killed; nobody else can collect it

    def wait(self, timeout: float | None = None) -> int:
        assert timeout is not None, "expected a bound on a wait that has no end"
        raise subprocess.TimeoutExpired(self.args, timeout)


def test_a_hook_that_even_the_kernel_cannot_end_has_failed_and_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subprocess, "Popen", Asleep)
    hooks = runner("sleep 600")
    assert hooks.run(Hook.DOWNLOAD, 0).outcome is HookOutcome.FAILED
    hooks.close()


def test_an_agent_that_ends_takes_its_hook_with_it(tmp_path: Path) -> None:
    fifo = tmp_path / "held-open-by-the-hook"
    os.mkfifo(fifo)
    hooks = runner(f"echo begun >{fifo}; exec 3>{fifo}; sleep 600")
    results: list[HookFinished] = []
    thread = Thread(target=lambda: results.append(hooks.run(Hook.DOWNLOAD, 1)))
    thread.start()
    with fifo.open() as reader:
        assert reader.readline() == "begun\n"
    hooks.close()
    thread.join(LONG_S)
    assert [finished.outcome for finished in results] == [HookOutcome.FAILED]
    assert hooks.run(Hook.DOWNLOAD, 1).outcome is HookOutcome.FAILED


def test_the_configuration_names_the_hooks(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"
    path.write_text(CONFIG)
    assert hook_commands(load_config(path)) == {}
    path.write_text(
        CONFIG
        + '[hooks]\ndownload = ["/bin/d"]\nreboot = ["/bin/r", "now"]\ntimeout_s = 5\n'
        + '[health]\ncommand = ["/bin/h"]\ndeadline_s = 3\n'
    )
    assert hook_commands(load_config(path)) == {
        Hook.DOWNLOAD: HookCommand(("/bin/d",), 5.0),
        Hook.REBOOT: HookCommand(("/bin/r", "now"), 5.0),
        Hook.HEALTH: HookCommand(("/bin/h",), 3.0),
    }

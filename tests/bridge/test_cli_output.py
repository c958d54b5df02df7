"""What is printed: bars on terminals, lines in logs, JSON for machines, and exit statuses that scripts can trust."""

from __future__ import annotations

import io
import json
import re
from contextlib import suppress
from pathlib import Path

import pytest

from narrowboat_bridge.cli import COMMANDS
from narrowboat_bridge.cli.exits import ExitCode, NoAnswerError
from narrowboat_bridge.cli.output import (
    JsonValue,
    LiveBlock,
    Progress,
    bar,
    human_bytes,
    iso_time,
    percent,
    print_json,
    print_json_line,
    print_result,
    printable,
    table_lines,
)
from narrowboat_protocol.errors import PeerError, Reason, TrustError, UsageError
from tests.bridge.cli_kit import run, run_python


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "6")


def _work(stream: io.StringIO, updates: int, each_s: float) -> None:
    clock = Clock()
    with Progress("pushing", stream, clock) as progress:
        for done in range(1, updates + 1):
            clock.now_s += each_s
            progress.update(done, updates)


def test_a_log_gets_few_lines_and_no_control_characters() -> None:
    log = io.StringIO()
    _work(log, updates=100_000, each_s=0.001)
    lines = log.getvalue().splitlines()
    assert 1 < len(lines) <= 12
    assert all(line.isprintable() for line in lines)
    assert "100%" in lines[-1]


def test_a_terminal_gets_one_line_that_is_redrawn_and_fits() -> None:
    terminal = Terminal()
    _work(terminal, updates=1000, each_s=0.01)
    drawn = terminal.getvalue().split("\r\x1b[K")[1:]
    assert 50 < len(drawn) < 150
    assert all(len(line.rstrip("\n")) < 80 for line in drawn)
    assert terminal.getvalue().count("\n") == 1
    assert drawn[-1].endswith("\n")
    assert "100%" in drawn[-1]


def test_a_terminal_that_cannot_redraw_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    _work(terminal, updates=10, each_s=1.0)
    assert "\x1b" not in terminal.getvalue()


def test_work_that_fails_leaves_the_cursor_at_the_start_of_a_line() -> None:
    terminal = Terminal()
    with suppress(TrustError), Progress("verifying", terminal, Clock()) as progress:
        progress.update(1, 2)
        raise TrustError(Reason.BAD_SIGNATURE, "no")
    assert terminal.getvalue().endswith("\n")


def test_resumed_work_does_not_count_what_was_there_as_speed() -> None:
    clock, log = Clock(), io.StringIO()
    with Progress("pushing", log, clock) as progress:
        progress.update(900 << 20, 1000 << 20)
        clock.now_s += 10
        progress.update(910 << 20, 1000 << 20)
    assert ", 1.0 MiB/s" in log.getvalue()


@pytest.mark.parametrize(
    ("done", "total", "drawn", "part"),
    [(0, 0, "[----]", "  0%"), (1, 4, "[#---]", " 25%"), (999, 1000, "[###-]", " 99%"), (9, 4, "[####]", "100%")],
)
def test_a_bar_is_full_only_when_all_is_done(done: int, total: int, drawn: str, part: str) -> None:
    assert (bar(done, total, 4), percent(done, total)) == (drawn, part)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (64 << 20, "64.0 MiB"), (5 << 29, "2.50 GiB")]
)
def test_sizes_are_readable(count: int, text: str) -> None:
    assert human_bytes(count) == text


def test_a_time_that_no_calendar_has_is_still_printed() -> None:
    assert iso_time(0) == "1970-01-01T00:00:00Z"
    assert iso_time((1 << 40) - 1) == f"{(1 << 40) - 1} s"


def test_json_steers_no_terminal_and_keeps_every_character(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "gw\x1b[2J\r\n\x9b1A\u202e"
    for show in (print_json, print_json_line):
        show({"name": hostile})
        out = capsys.readouterr().out
        assert out.replace("\n", "").isprintable()
        assert json.loads(out) == {"name": hostile}


def test_text_of_a_device_cannot_steer_the_terminal() -> None:
    hostile = "gw\x1b[2J\r\n\x9b1A\u202e"
    assert printable(hostile).isprintable()
    assert all(line.isprintable() for line in table_lines(["DEVICE", "REASON"], [["gw-1", hostile]]))
    terminal = Terminal()
    LiveBlock(terminal).show(table_lines(["REASON"], [[hostile]]))
    assert "\x1b[2J" not in terminal.getvalue()


def test_columns_line_up() -> None:
    lines = table_lines(["A", "LONG HEADING", "C"], [["1", "2", "3"], ["wide cell", "", "3"]])
    assert lines == ["A          LONG HEADING  C", "1          2             3", "wide cell                3"]


def test_a_live_block_goes_back_over_what_it_drew_and_stays_on_the_screen() -> None:
    terminal = Terminal()
    block = LiveBlock(terminal)
    block.show(["one", "two"])
    block.show([f"device {number}" for number in range(100)])
    block.show(["done"])
    assert "\x1b[2F" in terminal.getvalue()
    assert "... and 96 more" in terminal.getvalue()
    assert "\x1b[5F\x1b[Jdone\n" in terminal.getvalue()


def test_a_result_is_the_same_for_people_and_machines(capsys: pytest.CaptureFixture[str]) -> None:
    value: dict[str, JsonValue] = {
        "name": "gw-1",
        "keys": ["a", "b"],
        "nested": {"count": 3, "absent": None, "held": True},
    }
    print_result(value, as_json=True)
    assert json.loads(capsys.readouterr().out) == value
    print_result(value, as_json=False)
    text = re.sub(r" +", " ", capsys.readouterr().out)
    assert text == "name: gw-1\nkeys: a, b\nnested:\n count: 3\n absent: -\n held: yes\n"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PeerError(Reason.CONFLICT, "no"), ExitCode.REFUSED),
        (TrustError(Reason.BAD_SIGNATURE, "no"), ExitCode.REFUSED),
        (UsageError(Reason.BAD_USE, "no"), ExitCode.USAGE),
        (NoAnswerError("no"), ExitCode.NO_ANSWER),
        (FileNotFoundError(2, "no"), ExitCode.REFUSED),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (ModuleNotFoundError("no", name="paho.mqtt"), ExitCode.USAGE),
    ],
)
def test_each_kind_of_failure_has_its_status_and_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException, status: ExitCode
) -> None:
    from narrowboat_bridge.cli import root

    def fail(_arguments: object) -> int:
        raise error

    monkeypatch.setattr(root, "_inspect", fail)
    outcome = run("root", "inspect", tmp_path)
    assert outcome.status == status
    assert isinstance(error, KeyboardInterrupt) or outcome.error_line


def test_a_mistake_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from narrowboat_bridge.cli import root

    def fail(_arguments: object) -> int:
        raise ModuleNotFoundError("no", name="narrowboat_bridge.mistake")

    monkeypatch.setattr(root, "_inspect", fail)
    with pytest.raises(ModuleNotFoundError):
        run("root", "inspect", tmp_path)


@pytest.mark.parametrize("arguments", [(), ("nothing",), ("release",), ("release", "build"), ("keys", "create")])
def test_a_wrong_command_line_is_status_2(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).status == ExitCode.USAGE


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    assert run(command, "--help").status == 0
    assert command in run("--help").out


def test_help_says_what_the_statuses_mean() -> None:
    text = run("--help").out
    for code in (ExitCode.OK, ExitCode.REFUSED, ExitCode.USAGE, ExitCode.NO_ANSWER, ExitCode.CAMPAIGN_FAILED):
        assert re.search(rf"^ +{code.value}  \w", text, re.MULTILINE)


def test_a_reader_that_stops_reading_is_no_traceback(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "reader, writer = os.pipe()\n"
        "os.dup2(writer, 1)\n"
        "os.close(reader)\n"
        "from narrowboat_bridge.cli import main\n"
        "sys.exit(main(['keys', 'create', 'k', '--out', sys.argv[1]]))"
    )
    done = run_python(code, tmp_path)
    assert done.returncode == ExitCode.REFUSED
    assert done.stderr == ""

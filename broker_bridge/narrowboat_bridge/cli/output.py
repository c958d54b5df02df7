"""What people and machines see: results, tables, progress.

Results go to standard output, as text that lines up or as one JSON value. Progress goes to standard error: a
bar that is redrawn in place on a terminal, and otherwise plain lines, few enough that the log of a build
stays readable. Drawing is throttled by the clock, so it may be told about every block.

Much of the text comes from devices, signed but not by us, so whatever would steer a terminal is replaced
before it is printed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, TextIO

JsonValue = None | bool | int | float | str | Sequence["JsonValue"] | Mapping[str, "JsonValue"]

_BAR_CELLS_MAX = 40
_REDRAW_INTERVAL_S = 0.1
_LINE_INTERVAL_S = 10.0
_CLEAR_LINE = "\r\x1b[K"


def print_result(value: Mapping[str, JsonValue], *, as_json: bool) -> None:
    """One result: as JSON, or as `name: value` lines, nested values indented."""
    if as_json:
        print_json(value)
    else:
        for line in _field_lines(value, ""):
            print(line)


def print_json(value: JsonValue) -> None:
    """In ASCII: text of a device may hold what steers a terminal."""
    print(json.dumps(value, indent=2), flush=True)


def print_json_line(value: JsonValue) -> None:
    """One JSON value on one line, for a stream of them."""
    print(json.dumps(value), flush=True)


def table_lines(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell."""
    cells = [[printable(cell) for cell in row] for row in [headings, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def printable(text: str) -> str:
    """The text without anything that would steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def human_bytes(count: int) -> str:
    """`1.4 MiB`; three significant digits are enough to decide by."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def iso_time(seconds: int) -> str:
    """A moment in UTC as ISO 8601; far ones that the calendar does not reach as the number."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s"


def bar(done: int, total: int, cells: int) -> str:
    """`[####----]`; full only when all is done."""
    filled = min(cells * done // total, cells) if total else 0
    return f"[{'#' * filled}{'-' * (cells - filled)}]"


def percent(done: int, total: int) -> str:
    return f"{min(100 * done // total, 100) if total else 0:3d}%"


def is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class Progress:
    """The progress of one piece of work, in bytes; a context manager, so that errors get a line of their own."""

    def __init__(self, label: str, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._label = label
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._live = is_terminal(self._stream)
        self._interval_s = _REDRAW_INTERVAL_S if self._live else _LINE_INTERVAL_S
        self._started_at = self._drawn_at = clock()
        self._first: int | None = None
        self._last = (0, 0)
        self._shown: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._first is not None and self._shown != self._last:
            self._draw()
        if self._live and self._shown is not None:
            self._write("\n")

    def update(self, done: int, total: int) -> None:
        """Say how far the work is. What was done when it was first told does not count for the speed."""
        if self._first is None:
            self._first = done
        self._last = (done, total)
        if self._clock() - self._drawn_at >= self._interval_s:
            self._draw()

    def _draw(self) -> None:
        self._drawn_at, self._shown = self._clock(), self._last
        done, total = self._last
        elapsed_s = self._drawn_at - self._started_at
        moved = done - (self._first or 0)
        speed = f", {human_bytes(int(moved / elapsed_s))}/s" if moved and elapsed_s > 0 else ""
        text = f"{percent(done, total)} {human_bytes(done)} of {human_bytes(total)}{speed}"
        if not self._live:
            self._write(f"{self._label}: {text.strip()}\n")
            return
        columns = shutil.get_terminal_size().columns
        cells = min(_BAR_CELLS_MAX, columns - len(self._label) - len(text) - 6)
        drawn = f"{self._label} {bar(done, total, cells)} {text}" if cells > 0 else f"{self._label} {text}"
        self._write(_CLEAR_LINE + drawn[: columns - 1])

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class LiveBlock:
    """Lines at the bottom of a terminal that are replaced as a whole."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._height = 0

    def show(self, lines: Sequence[str]) -> None:
        """Draw `lines` over those drawn before. What does not fit on the terminal is counted and left out."""
        columns, rows = shutil.get_terminal_size()
        room = max(rows - 1, 1)
        if len(lines) > room:
            lines = [*lines[: room - 1], f"... and {len(lines) - room + 1} more"]
        back = f"\x1b[{self._height}F" if self._height else ""
        self._stream.write(back + "\x1b[J" + "".join(f"{line[:columns]}\n" for line in lines))
        self._stream.flush()
        self._height = len(lines)


def _field_lines(value: Mapping[str, JsonValue], indent: str) -> Iterable[str]:
    width = max((len(name) for name in value), default=0) + 1
    for name, item in value.items():
        heading = f"{indent}{printable(name).replace('_', ' ')}:"
        if isinstance(item, Mapping):
            yield heading
            yield from _field_lines(item, f"{indent}  ")
        elif isinstance(item, Sequence) and not isinstance(item, str):
            yield f"{heading.ljust(len(indent) + width)} {', '.join(map(_field_text, item)) or '-'}"
        else:
            yield f"{heading.ljust(len(indent) + width)} {_field_text(item)}"


def _field_text(value: JsonValue) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case str():
            return printable(value)
        case _:
            return str(value)

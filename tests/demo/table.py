"""The live table of the demo: one line for each gateway, drawn anew in place on a terminal, plain lines elsewhere.
Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_BAR_MIN, _BAR_MAX = 10, 40
_KIB, _MIB = 1024, 1024 * 1024
_FILLED, _EMPTY = "#", "."


@dataclass(frozen=True, slots=True)
class Row:
    """One gateway as it stands."""

    name: str
    version: str
    state: str
    done_bytes: int
    total_bytes: int
    wire_bytes: int
    reconnects: int
    note: str = ""

    @property
    def share(self) -> float:
        return self.done_bytes / self.total_bytes if self.total_bytes else 0.0


def render(rows: Sequence[Row], width: int) -> list[str]:
    """The table, no line wider than `width`."""
    fixed = f"{'gateway':<9}{'runs':<8}{'state':<16}"
    tail = f"{'wire':>9}{'reconnects':>12}  "
    bar = max(_BAR_MIN, min(_BAR_MAX, width - len(fixed) - len(tail) - 30))
    lines = [f"{fixed}{'progress':<{bar + 7}}{tail}note"]
    for row in rows:
        filled = round(row.share * bar)
        progress = f"{_FILLED * filled}{_EMPTY * (bar - filled)} {row.share:>4.0%}"
        lines.append(
            f"{row.name:<9}{row.version:<8}{row.state:<16}{progress:<{bar + 7}}"
            f"{size_text(row.wire_bytes):>9}{row.reconnects:>12}  {row.note}"
        )
    return [line[:width].rstrip() for line in lines]


def plain(row: Row) -> str:
    """One gateway in one line, for logs."""
    return (
        f"{row.name}: {row.state} {row.share:.0%}, runs {row.version}, {size_text(row.wire_bytes)} on the wire, "
        f"{row.reconnects} reconnects{', ' + row.note if row.note else ''}"
    )


def size_text(size_bytes: int) -> str:
    return f"{size_bytes / _MIB:.1f} MiB" if size_bytes >= _MIB else f"{size_bytes / _KIB:.0f} KiB"

"""The table of the demo: a viewer must be able to trust its numbers, at any width of the terminal."""

from __future__ import annotations

import pytest

from tests.demo.table import Row, plain, render, size_text

MIB = 1024 * 1024
ROWS = [
    Row("gw-1", "2.0.0", "succeeded", 64 * MIB, 64 * MIB, 18 * MIB, 4),
    Row("gw-2", "1.0.0", "downloading", 16 * MIB, 64 * MIB, 5 * MIB, 2, "lost power, went on"),
    Row("gw-3", "1.0.0", "rollback_failed", 0, 0, 0, 12, "health check fails"),
]


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = render(ROWS, width)
    assert len(lines) == len(ROWS) + 1
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", [80, 120])
def test_the_columns_stand_under_their_titles(width: int) -> None:
    title, *lines = render(ROWS, width)
    for line, row in zip(lines, ROWS, strict=True):
        assert line[title.index("state") :].startswith(row.state)
        assert line[title.index("progress") :].startswith(("#", "."))


@pytest.mark.parametrize(("done", "share"), [(0, 0.0), (16, 0.25), (32, 0.5), (64, 1.0)])
def test_the_bar_is_as_full_as_the_slot(done: int, share: float) -> None:
    line = render([Row("gw-1", "1-0-0", "downloading", done * MIB, 64 * MIB, 0, 0)], 120)[1]
    filled, empty = line.count("#"), line.count(".")
    assert filled == round(share * (filled + empty))
    assert f"{share:.0%}" in line


def test_a_gateway_that_knows_no_total_yet_has_done_nothing() -> None:
    assert Row("gw-1", "1.0.0", "offered", 5, 0, 0, 0).share == 0.0


def test_a_plain_line_says_all_that_the_table_says() -> None:
    assert plain(ROWS[1]) == (
        "gw-2: downloading 25%, runs 1.0.0, 5.0 MiB on the wire, 2 reconnects, lost power, went on"
    )


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0 KiB"), (MIB - 1024, "1023 KiB"), (MIB, "1.0 MiB"), (18 * MIB, "18.0 MiB")]
)
def test_sizes_are_told_in_the_unit_that_fits(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text

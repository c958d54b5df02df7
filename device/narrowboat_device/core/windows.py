"""Windows of the day: whether one is open, and how long until the next opens. Pure arithmetic on seconds UTC."""

from __future__ import annotations

from collections.abc import Sequence

DAY_S = 86_400


def next_opening_s(windows: Sequence[tuple[int, int]], wall_s: int) -> int:
    """Seconds until a window is open: 0 if one is open now or none is set.

    A window is [from, to) in seconds after midnight UTC; one whose end is not after its beginning runs into the next
    day.
    """
    second = wall_s % DAY_S
    waits: list[int] = []
    for opens, closes in windows:
        inside = opens <= second < closes if opens < closes else second >= opens or second < closes
        waits.append(0 if inside else (opens - second) % DAY_S)
    return min(waits, default=0)

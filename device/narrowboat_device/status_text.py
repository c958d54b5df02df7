"""The status file in words, for whoever stands before a gateway: where it is, why it waits, what it trusts, how fresh
what it knows is, and whether its clock can be right.

A field that the file does not have is left out: an agent that has just started, or that stands aside, says less. Times
are those of this machine, but for what a director or an authority signed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from narrowboat_protocol.limits import MIB

_HOLDS = {
    "window": "no reboot window is open",
    "hook": "a hook of the integrator said not now, or has not answered",
    "byte_budget": "the bytes that the assignment allows are spent; a new one with more goes on from here",
    "no_source": "no source of the payload answers as it should",
}
_HOUR_S, _DAY_S = 3600, 86_400

Status = Mapping[str, object]


def status_lines(status: Status, now_s: int) -> list[str]:
    """One line for each thing to know. `now_s` is what the clock says."""
    parts = {
        "gateway": f"{_word(status, 'device')}, slot {_word(status, 'slot')} runs",
        "state": _state(status),
        "waits": _hold(status, now_s),
        "reason": _reason(status),
        "trusts": _trusts(status, now_s),
        "certificate": _certificate(status, now_s),
        "order": _order(status, now_s),
        "floor": _floor(status),
        "clock": _clock(status, now_s),
        "link": f"{_word(status, 'links_opened')} connections since the start",
        "written": _when(status, "updated_at", now_s),
    }
    return [f"{name + ':':<14}{text}" for name, text in parts.items() if text]


def _state(status: Status) -> str:
    if status.get("state") is None:
        return "no update is known"
    text = f"{status['state']}, release {_word(status, 'release')[:16]}"
    done, total, wire = (_number(status, name) or 0 for name in ("done_bytes", "total_bytes", "wire_bytes"))
    return f"{text}, {done / MIB:.1f} of {total / MIB:.1f} MiB, {wire / MIB:.1f} MiB received"


def _hold(status: Status, now_s: int) -> str:
    hold = status.get("hold")
    if hold is None:
        return ""
    since, again = _when(status, "hold_since", now_s), _when(status, "hold_next_check", now_s)
    return f"{hold}: {_HOLDS.get(str(hold), 'of a newer agent')}; since {since}, looks again {again}"


def _reason(status: Status) -> str:
    reason, detail = status.get("reason"), status.get("detail")
    return "" if reason is None else f"{reason}: {detail}" if detail is not None else str(reason)


def _trusts(status: Status, now_s: int) -> str:
    if "root_version" not in status:
        return ""
    fleet = _word(status, "fleet_id")[:16]
    return f"root {status['root_version']} of fleet {fleet}, to be renewed by {_when(status, 'root_expires_at', now_s)}"


def _certificate(status: Status, now_s: int) -> str:
    return f"ends {_when(status, 'certificate_ends_at', now_s)}" if "certificate_ends_at" in status else ""


def _order(status: Status, now_s: int) -> str:
    """What was accepted last, and what the next one has to answer."""
    if "assignment_counter" not in status:
        return ""
    counter = status["assignment_counter"]
    taken = f"number {counter}" if counter else "none was accepted yet"
    if status.get("assignment_issued_at") is not None:
        taken += f", signed {_when(status, 'assignment_issued_at', now_s)}"
    return f"{taken}; the next one answers the nonce of {_when(status, 'nonce_made_at', now_s)}, or the one before it"


def _floor(status: Status) -> str:
    if "floor_sequence" not in status:
        return ""
    return f"releases below sequence {status['floor_sequence']} of epoch {status['floor_epoch']} are refused"


def _clock(status: Status, now_s: int) -> str:
    """Whether it can be right, by what is known."""
    floor_s, latest_s = _number(status, "time_floor"), _number(status, "time_latest")
    if floor_s is None or latest_s is None:
        return ""
    if now_s < floor_s:
        return f"says {_date(now_s)}, but it is {_date(floor_s)} at least; TLS goes by that"
    if now_s > latest_s:
        return f"says {_date(now_s)}, after the root or the certificate has ended; TLS goes by {_date(floor_s)}"
    return f"can be right, since it is between {_date(floor_s)} and {_date(latest_s)}"


def _when(status: Status, name: str, now_s: int) -> str:
    time_s = _number(status, name)
    if time_s is None:
        return "an unknown time"
    away_s = abs(time_s - now_s)
    span = f"{away_s // _DAY_S} days" if away_s >= 2 * _DAY_S else f"{away_s / _HOUR_S:.1f} h"
    return f"{_date(time_s)} (in {span})" if time_s > now_s else f"{_date(time_s)} ({span} ago)"


def _date(time_s: int) -> str:
    try:
        return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, OSError, ValueError):
        return f"{time_s} s since 1970"


def _number(status: Status, name: str) -> int | None:
    value = status.get(name)
    return value if isinstance(value, int) else None


def _word(status: Status, name: str) -> str:
    return str(status.get(name, "-"))

"""Who this gateway is at a start: a certificate that is there, or one that is asked for now.

Without an [enrolment] section the first certificate is made by hand. With one, the agent does not start before it has a
certificate that is not over. One that is due is renewed while the agent runs, at the enrolment listener or, without the
section, over the link that is open anyway; then the agent is started anew on it.

A gateway with a key in a token and another one for TLS has two certificates, and this is done for both.

What the clock says is not the truth. One that says a time after the newest root's expiry keeps no agent from starting;
by it every certificate is due, and the fleet gives the same one again: that starts nothing. By one that stood still
none is ever due, though it was over long ago. The broker knows: it refuses such a certificate and says why, and then
another one is asked for, whatever the clock says. What is needed to ask is imported only then.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from threading import Event as Flag
from threading import Thread
from typing import Protocol

from narrowboat_protocol.errors import NarrowboatError, SigningError, UsageError
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.topics import is_name

from .assembly import read_connection_key, read_signer
from .certificate import Certificate, note_path, read_certificate
from .config import Config
from .disk import Disk

_LOOK_S_MAX = 6 * 3600.0
_LOOK_S_FIRST = 600.0
_GLANCE_S = 5.0
_RENEWAL_ATTEMPTS = 3
_log = logging.getLogger(__name__)


class Line(Protocol):
    """The link of the agent that runs."""

    @property
    def expired(self) -> Flag:
        """Set when the broker says that our certificate is over."""
        ...

    def ask(self, kid: bytes, request: bytes, /) -> bytes | None:
        """As `enrol.Exchange`."""
        ...


def ensure_certificate(
    disk: Disk, config: Config, limits: Limits, stop: Flag, wall_s: Callable[[], float] = time.time
) -> Config | None:
    """The configuration under the name that the fleet gave; asks for a certificate first if there is none. None if it
    was stopped.
    """
    if config.enrolment is None:
        return config
    name = None
    for connects_only in _keys(config):
        held = _held(disk, config, connects_only=connects_only)
        over = held is None or _is_over(held, disk, config, limits, wall_s())
        if held is None or over or name not in (None, held.name):
            _log.info("no certificate, or one that is over; asking the fleet for one")
            if not _ask(disk, config, limits, stop, connects_only=connects_only):
                return None
            held = _held(disk, config, connects_only=connects_only)
        assert held is not None
        name = name or held.name
    assert name is not None
    return config.named(name)


def start_renewal(
    disk: Disk,
    config: Config,
    limits: Limits,
    link: Line,
    stop: Flag,
    renewed: Callable[[], None],
    wall_s: Callable[[], float] = time.time,
) -> Thread:
    """Watch the certificate from a thread of its own, and call `renewed` once there is another one."""

    def renew() -> None:
        looks = 0
        while not stop.is_set():
            due_s = 0.0
            try:
                held = _all_held(disk, config)
                dues_s = [0.0 if link.expired.is_set() else _due_s(each, wall_s()) for each in held]
                due_s = min(dues_s)
                link.expired.clear()
                due = [key for key, each_s in zip(_keys(config), dues_s, strict=True) if each_s <= 0]
                asked = [_ask(disk, config, limits, stop, _RENEWAL_ATTEMPTS, link, connects_only=key) for key in due]
                if any(asked) and _all_held(disk, config) != held:
                    renewed()
                    return
            except (NarrowboatError, SigningError) as error:
                _log.warning("the certificate is not renewed yet: %s", error)
            looks = looks + 1 if due_s <= 0 else 0
            rest_s = min(_LOOK_S_MAX, due_s if due_s > 0 else _LOOK_S_FIRST * 2 ** min(looks, 8))
            _rest(stop, link.expired if due_s > 0 else Flag(), random.uniform(0.5, 1.0) * rest_s)  # noqa: S311

    thread = Thread(target=renew, name="renewal", daemon=True)
    thread.start()
    return thread


def _is_over(held: Certificate, disk: Disk, config: Config, limits: Limits, wall_s: float) -> bool:
    """Whether the clock says so, and can be right."""
    if wall_s <= held.ends_s:
        return False
    from .known import read_known

    return wall_s <= read_known(disk, config, limits).time.latest_s


def _rest(stop: Flag, woken: Flag, rest_s: float) -> None:
    """Wait, until it is to stop or is woken."""
    while rest_s > 0 and not woken.is_set() and not stop.wait(min(rest_s, _GLANCE_S)):
        rest_s -= _GLANCE_S


def _keys(config: Config) -> tuple[bool, ...]:
    """For each key of this gateway, whether it only connects. Who it is comes first, as it vouches for the other."""
    return (False, True) if config.has_connection_key else (False,)


def _all_held(disk: Disk, config: Config) -> list[Certificate | None]:
    return [_held(disk, config, connects_only=connects_only) for connects_only in _keys(config)]


def _due_s(held: Certificate | None, now_s: float) -> float:
    return 0.0 if held is None else held.renewal_at_s - now_s


def _ask(
    disk: Disk,
    config: Config,
    limits: Limits,
    stop: Flag,
    attempts_max: int | None = None,
    link: Line | None = None,
    *,
    connects_only: bool = False,
) -> bool:
    """At the enrolment listener, if the configuration names one, else over the link."""
    from .enrol import Surroundings, enrol

    around = Surroundings(os.urandom, random.uniform, lambda seconds: not stop.wait(seconds))
    if config.enrolment is None:
        return link is not None and enrol(disk, config, limits, link, around, attempts_max, connects_only=connects_only)
    from .enrol_link import EnrolmentLink

    exchange = EnrolmentLink(disk, config, limits, stop)
    return enrol(disk, config, limits, exchange, around, attempts_max, connects_only=connects_only)


def _held(disk: Disk, config: Config, *, connects_only: bool) -> Certificate | None:
    """None if there is no certificate of a device that can be read and is for this key of the gateway."""
    path, note = config.identity_certificate, note_path(config.storage.data_dir)
    if connects_only:
        path, note = config.broker.certificate, note.with_name("connection.note")
    if not disk.exists(path):
        return None
    key = (read_connection_key if connects_only else read_signer)(disk, config).public
    try:
        held = read_certificate(disk, path, note, key)
    except UsageError as error:
        _log.warning("%s", error)
        return None
    return held if is_name(held.name) else None

"""Who this gateway is at a start: a certificate that is there, or one that is asked for now.

Without an [enrolment] section the first certificate is made by hand. With one, the agent does not start before it has a
certificate that is not over. One that is due is renewed while the agent runs, at the enrolment listener or, without the
section, over the link that is open anyway; then the agent is started anew on it. By a clock that is wrong every
certificate is due, and the fleet gives the same one again: that starts nothing. What is needed to ask is imported only
then.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from threading import Event as Flag
from threading import Thread
from typing import TYPE_CHECKING

from narrowboat_protocol.errors import NarrowboatError, UsageError
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.topics import is_name

from .assembly import read_signer
from .certificate import Certificate, note_path, read_certificate
from .config import Config
from .disk import Disk

if TYPE_CHECKING:
    from .enrol import Exchange

_LOOK_S_MAX = 6 * 3600.0
_RENEWAL_ATTEMPTS = 3
_log = logging.getLogger(__name__)


def ensure_certificate(disk: Disk, config: Config, limits: Limits, stop: Flag) -> Config | None:
    """The configuration under the name that the fleet gave; asks for a certificate first if there is none. None if it
    was stopped.
    """
    if config.enrolment is None:
        return config
    held = _held(disk, config)
    if held is None or time.time() > held.ends_s:
        _log.info("no certificate, or one that is over; asking the fleet for one")
        if not _ask(disk, config, limits, stop, attempts_max=None):
            return None
        held = _held(disk, config)
    assert held is not None
    return config.named(held.name)


def start_renewal(
    disk: Disk,
    config: Config,
    limits: Limits,
    link: Exchange,
    stop: Flag,
    renewed: Callable[[], None],
    wall_s: Callable[[], float] = time.time,
) -> Thread:
    """Watch the certificate from a thread of its own, and call `renewed` once there is another one."""

    def renew() -> None:
        while not stop.is_set():
            due_s = 0.0
            try:
                held = _held(disk, config)
                due_s = 0.0 if held is None else held.renewal_at_s - wall_s()
                asked = due_s <= 0 and _ask(disk, config, limits, stop, _RENEWAL_ATTEMPTS, link)
                if asked and _held(disk, config) != held:
                    renewed()
                    return
            except NarrowboatError as error:
                _log.warning("the certificate is not renewed yet: %s", error)
            stop.wait(random.uniform(0.5, 1.0) * (_LOOK_S_MAX if due_s <= 0 else min(due_s, _LOOK_S_MAX)))  # noqa: S311

    thread = Thread(target=renew, name="renewal", daemon=True)
    thread.start()
    return thread


def _ask(
    disk: Disk, config: Config, limits: Limits, stop: Flag, attempts_max: int | None, link: Exchange | None = None
) -> bool:
    """At the enrolment listener, if the configuration names one, else over the link."""
    from .enrol import Surroundings, enrol

    around = Surroundings(os.urandom, random.uniform, lambda seconds: not stop.wait(seconds))
    if config.enrolment is None:
        return link is not None and enrol(disk, config, limits, link, around, attempts_max)
    from .enrol_link import EnrolmentLink

    return enrol(disk, config, limits, EnrolmentLink(disk, config, limits, stop), around, attempts_max)


def _held(disk: Disk, config: Config) -> Certificate | None:
    """None if there is no certificate of a device that can be read and is for this gateway's key."""
    path = config.broker.certificate
    if not disk.exists(path):
        return None
    key = read_signer(disk, config).public
    try:
        held = read_certificate(disk, path, note_path(config.storage.data_dir), key)
    except UsageError as error:
        _log.warning("%s", error)
        return None
    return held if is_name(held.name) else None

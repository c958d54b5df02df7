"""Who this gateway is at a start: a certificate that is there, or one that is asked for now.

Without an [enrolment] section the certificate is made by hand and nothing here does anything. With one, the agent does
not start before it has a certificate that is not over; one that is due is renewed while the agent runs, after which the
agent is started anew on it. What is needed to ask is imported only then.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from threading import Event as Flag
from threading import Thread

from narrowboat_protocol.errors import NarrowboatError, UsageError
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.topics import is_name

from .assembly import read_signer
from .certificate import Certificate, note_path, read_certificate
from .config import Config
from .disk import Disk

_LOOK_S_MAX = 6 * 3600.0
_RENEWAL_ATTEMPTS = 3
_log = logging.getLogger(__name__)


def be_somebody(disk: Disk, config: Config, limits: Limits, stop: Flag) -> Config | None:
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


def start_renewal(disk: Disk, config: Config, limits: Limits, stop: Flag, renewed: Callable[[], None]) -> None:
    """Watch the certificate from a thread of its own, and call `renewed` once there is a new one."""
    if config.enrolment is None:
        return
    Thread(target=_renew, args=(disk, config, limits, stop, renewed), name="renewal", daemon=True).start()


def _renew(disk: Disk, config: Config, limits: Limits, stop: Flag, renewed: Callable[[], None]) -> None:
    while not stop.is_set():
        try:
            held = _held(disk, config)
            due_s = 0.0 if held is None else held.renewal_at_s - time.time()
            if due_s <= 0 and _ask(disk, config, limits, stop, attempts_max=_RENEWAL_ATTEMPTS):
                renewed()
                return
        except NarrowboatError as error:
            _log.warning("the certificate is not renewed yet: %s", error)
            due_s = 0.0
        stop.wait(random.uniform(0.5, 1.0) * (_LOOK_S_MAX if due_s <= 0 else min(due_s, _LOOK_S_MAX)))  # noqa: S311


def _ask(disk: Disk, config: Config, limits: Limits, stop: Flag, attempts_max: int | None) -> bool:
    from .enrol import Surroundings, enrol
    from .enrol_link import EnrolmentLink

    link = EnrolmentLink(disk, config, limits, stop)
    around = Surroundings(os.urandom, random.uniform, lambda seconds: not stop.wait(seconds))
    return enrol(disk, config, limits, link, around, attempts_max)


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

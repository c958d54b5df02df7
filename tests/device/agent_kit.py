"""What the tests of the agent core share: a gateway brought to a state, and what its records say."""

from __future__ import annotations

import hashlib
import random

from narrowboat_device.core import actions as ac
from narrowboat_device.core import events as ev
from narrowboat_device.core.memory import Attempt, Journal, Outbox, TrustRecord
from narrowboat_protocol.states import TABLE, State
from tests.support.fleet import MadeRelease
from tests.support.gateway import Gateway

IMAGE = bytes(random.Random(1).choices(range(8), k=45_001))


OTHER_IMAGE = bytes(random.Random(2).choices(range(8), k=39_000))


def brought_to(gateway: Gateway, state: State, release: MadeRelease) -> Gateway:
    """Assign the release and stop the gateway in `state`, as something that it waits for."""
    not_now = [ev.HookOutcome.NOT_NOW]
    match state:
        case State.OFFERED:
            gateway.hooks[ac.Hook.DOWNLOAD] = not_now
        case State.DOWNLOADING:
            gateway.tamper = lambda offset, data: data if offset < release.head.frames_offset + 9000 else None
        case State.VERIFYING:
            gateway.reading_back = False
        case State.INSTALLED:
            gateway.hooks[ac.Hook.REBOOT] = not_now
        case State.ON_TRIAL:
            gateway.hooks[ac.Hook.HEALTH] = not_now
    gateway.assign(release)
    if state is State.REBOOTING:
        gateway.linger()
    if state is State.ON_TRIAL:
        gateway.power_cycle()
        gateway.connect()
    assert gateway.state is state
    return gateway


def let_go(gateway: Gateway) -> None:
    """Take away what `brought_to` put in the way, and let every wait run out."""
    gateway.hooks.clear()
    gateway.tamper = lambda _, data: data
    gateway.read_back()
    for _ in range(4):
        gateway.pass_time(60)


ABORTABLE = [state for state in State if TABLE[state].abortable]


ACTIVE = [state for state in State if not state.terminal]


def offer_file(gateway: Gateway, release: MadeRelease, path: str = "/r.nbr") -> None:
    """Install from a file."""
    head = release.payload[: release.head_size]
    gateway.payloads[sha256(head)] = release.payload
    offer = ev.LocalReleaseOffered(path, release.envelope, len(release.payload), head, release.encryption or b"")
    gateway.give(offer)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def journal(gateway: Gateway) -> Journal:
    return Journal.decode(gateway.records[ac.Record.JOURNAL] or Journal().encode())


def attempt(gateway: Gateway) -> Attempt:
    found = journal(gateway).attempt
    assert found is not None
    return found


def trust(gateway: Gateway) -> TrustRecord:
    return TrustRecord.decode(gateway.records[ac.Record.TRUST] or b"")


def letters(gateway: Gateway) -> int:
    return len(Outbox.decode(gateway.records[ac.Record.OUTBOX] or Outbox().encode()).letters)

"""A gateway of the walks, brought to where something may go wrong."""

from __future__ import annotations

from narrowboat_device.core import actions as ac
from narrowboat_device.core import events as ev
from narrowboat_protocol.states import State
from tests.support.fleet import MadeRelease
from tests.support.gateway import Gateway

NOT_NOW = [ev.HookOutcome.NOT_NOW]


def stall_in_frames(gateway: Gateway, release: MadeRelease) -> None:
    """Bring a download so far that one frame is there and no more comes."""
    end = release.head.frame(1).offset
    gateway.tamper = lambda offset, data: data if offset < end else None
    gateway.assign(release)
    assert gateway.state is State.DOWNLOADING


def go_on_trial(gateway: Gateway, release: MadeRelease) -> None:
    gateway.hooks[ac.Hook.HEALTH] = NOT_NOW
    gateway.assign(release)
    gateway.power_cycle()
    gateway.connect()
    assert gateway.state is State.ON_TRIAL

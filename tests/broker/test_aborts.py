"""An abort, and an assignment of another release, in every state that a broker can find a gateway in.

Up to `installed` either ends the attempt, and the gateway is as it was; from `rebooting` on both wait for its end.
Hooks that say "not now", a byte budget, a medium that does not answer and a machine that stays dark hold the gateways
in their states. tests/device/test_agent.py covers every state again without a broker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import pytest

from narrowboat_device.disk import Disk, SystemDisk
from narrowboat_protocol.limits import KIB, MIB
from narrowboat_protocol.payload import Codec
from narrowboat_protocol.states import State
from tests.support.agent_thread import AgentThread
from tests.support.images import small_image
from tests.support.processes import wait_for
from tests.support.relay import LinkShape, RelayThread
from tests.support.rogue import PATIENCE_S, Rogue

from .lab import DISK, Lab, Pushed, noise

IMAGE_BYTES = 2 * MIB
BUDGET_BYTES = MIB
SLACK_BYTES = 128 * KIB
"""For handshakes, headers and documents."""
SLOW = LinkShape(rate_bits_per_s=16e6)
"""Bytes are counted four times a second, so that a budget of half the image stops the download well before its end."""


@dataclass(frozen=True, slots=True)
class Held:
    """A gateway that stays in a state until it is released."""

    gateway: AgentThread
    relay: RelayThread
    release: Callable[[], None]


class SilentDisk(SystemDisk):
    """A medium that takes writes, and lets whoever reads a slot wait until it is released."""

    def __init__(self) -> None:
        self.released = Event()

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int, /) -> int:  # type: ignore[override]
        self.released.wait(PATIENCE_S)
        return super().preadv(fd, buffers, offset)


@pytest.fixture(scope="module")
def first(lab: Lab) -> Pushed:
    return lab.push(noise(80, IMAGE_BYTES), "8.0.0", codec=Codec.STORED)


@pytest.fixture(scope="module")
def second(lab: Lab) -> Pushed:
    return lab.push(small_image(81, IMAGE_BYTES), "8.1.0")


@pytest.fixture
def ears(lab: Lab) -> Iterator[Rogue]:
    """Hears every report."""
    with lab.rogue() as rogue:
        yield rogue


@contextmanager
def held_in(lab: Lab, state: State, name: str, pushed: Pushed) -> Iterator[Held]:
    """Start a campaign `name` for a gateway of that name, which comes no further than `state`."""
    gate = lab.folder / f"{name}.open"
    silent = SilentDisk()
    disk: Disk = silent if state is State.VERIFYING else DISK
    budget = ("--byte-budget", BUDGET_BYTES) if state is State.DOWNLOADING else ()
    with (
        RelayThread(lab.fleet.ports.device, SLOW) as relay,
        lab.gateway(name, relay, extra_toml=_hooks(lab, state, name, gate), disk=disk) as gateway,
    ):
        gateway.stay_down = state is State.REBOOTING
        lab.start(pushed, name, name, *budget)
        if state is State.REBOOTING:
            wait_for(lambda: gateway.is_down, PATIENCE_S, "the machine to go down for its reboot")
        wait_for(lambda: lab.attempt(name, name)["state"] == state.value, PATIENCE_S, f"{name} to be {state}")
        if state not in (State.REBOOTING, State.VERIFYING):
            wait_for(lambda: lab.attempt(name, name)["hold"] is not None, PATIENCE_S, f"{name} to wait in {state}")
        yield Held(gateway, relay, silent.released.set if state is State.VERIFYING else gate.touch)


def _hooks(lab: Lab, state: State, name: str, gate: Path) -> str:
    """Hooks that say "not now" until the gate is open: before the download, before the reboot, or on trial."""
    script = lab.folder / f"{name}.sh"
    script.write_text(f"#!/bin/sh\ntest -e '{gate}' || exit 21\n")
    script.chmod(0o755)
    hooks = {State.OFFERED: "download", State.INSTALLED: "reboot"}
    if state in hooks:
        return f'\n[hooks]\n{hooks[state]} = ["{script}"]\nretry_s = 0.1\n'
    if state in (State.REBOOTING, State.ON_TRIAL):
        return f'\n[health]\ncommand = ["{script}"]\nretry_s = 0.1\n'
    return ""


def assert_as_it_was(gateway: AgentThread) -> None:
    boot = gateway.boot
    assert (boot.primary, boot.trial, sorted(boot.bootable)) == ("a", None, ["a"])
    assert not gateway.holds_envelope("b")


BEFORE_THE_POINT = [State.OFFERED, State.DOWNLOADING, State.VERIFYING, State.INSTALLED]
BEYOND_IT = [State.REBOOTING, State.ON_TRIAL]


@pytest.mark.parametrize("state", BEFORE_THE_POINT)
def test_an_abort_ends_the_attempt_and_leaves_the_gateway_as_it_was(lab: Lab, first: Pushed, state: State) -> None:
    name = f"abort-{state.value}"
    with held_in(lab, state, name, first) as held:
        lab.abort(name)
        attempt = lab.wait_for_end(name, name)
        assert (attempt["state"], attempt["reason"]) == ("aborted", "withdrawn")
        held.release()
        assert_as_it_was(held.gateway)
    assert lab.type("campaign", "watch", name).status == 4


def test_an_abort_reaches_a_gateway_that_was_away_in_mid_download_before_its_next_byte(lab: Lab, first: Pushed) -> None:
    with RelayThread(lab.fleet.ports.device) as relay, lab.gateway("abort-dark", relay) as gateway:
        relay.stall_at(BUDGET_BYTES)
        lab.start(first, "abort-dark", "abort-dark")
        wait_for(lambda: relay.counts.down_bytes >= BUDGET_BYTES, PATIENCE_S, "the middle of the download")
        relay.darken()
        lab.abort("abort-dark")
        assert lab.attempt("abort-dark", "abort-dark")["state"] == "downloading", "only the gateway can say it"
        relay.stall_at(None)
        relay.mend()
        attempt = lab.wait_for_end("abort-dark", "abort-dark")
        assert (attempt["state"], attempt["reason"]) == ("aborted", "withdrawn")
        assert_as_it_was(gateway)


@pytest.mark.parametrize("state", BEYOND_IT)
def test_an_abort_beyond_the_point_of_no_return_waits_for_the_end_and_undoes_nothing(
    lab: Lab, first: Pushed, ears: Rogue, state: State
) -> None:
    name = f"late-abort-{state.value.replace('_', '-')}"
    with held_in(lab, state, name, first) as held:
        lab.abort(name)
        if state is State.REBOOTING:
            held.gateway.switch_on()
        wait_until_parked(ears, name)
        held.release()
        assert lab.wait_for_end(name, name)["state"] == "succeeded"
        assert held.gateway.boot.primary == "b"
        assert held.gateway.slot("b")[:IMAGE_BYTES] == first.made.image


@pytest.mark.parametrize("state", BEFORE_THE_POINT)
def test_another_release_replaces_the_one_at_work(lab: Lab, first: Pushed, second: Pushed, state: State) -> None:
    name = f"replace-{state.value}"
    with held_in(lab, state, name, first) as held:
        lab.start(second, f"{name}-2", name)
        attempt = lab.wait_for_end(name, name)
        assert (attempt["state"], attempt["reason"]) == ("aborted", "superseded")
        held.release()
        assert lab.wait_for_end(f"{name}-2", name)["state"] == "succeeded"
        assert held.gateway.boot.primary == "b"
        assert held.gateway.slot("b")[:IMAGE_BYTES] == second.made.image


def test_the_same_release_in_another_campaign_costs_no_byte_twice(lab: Lab, first: Pushed) -> None:
    with held_in(lab, State.DOWNLOADING, "again", first) as held:
        lab.start(first, "again-2", "again")
        assert lab.wait_for_end("again-2", "again")["state"] == "succeeded"
        left = lab.attempt("again", "again")
        assert (left["state"], left["hold"], left["reason"]) == ("downloading", None, "superseded")
        assert lab.type("campaign", "watch", "again").status == 4
        assert held.relay.counts.down_bytes < IMAGE_BYTES + SLACK_BYTES
        assert held.gateway.slot("b")[:IMAGE_BYTES] == first.made.image


@pytest.mark.parametrize("state", BEYOND_IT)
def test_another_release_beyond_the_point_of_no_return_follows_the_first(
    lab: Lab, first: Pushed, second: Pushed, ears: Rogue, state: State
) -> None:
    name = f"follow-{state.value.replace('_', '-')}"
    with held_in(lab, state, name, first) as held:
        lab.start(second, f"{name}-2", name)
        if state is State.REBOOTING:
            held.gateway.switch_on()
        wait_until_parked(ears, name)
        held.release()
        assert lab.wait_for_end(name, name)["state"] == "succeeded"
        assert lab.wait_for_end(f"{name}-2", name)["state"] == "succeeded"
        assert held.gateway.boot.primary == "a"
        assert held.gateway.slot("a")[:IMAGE_BYTES] == second.made.image
        assert held.gateway.slot("b")[:IMAGE_BYTES] == first.made.image


def test_an_abort_of_what_is_done_is_refused_at_the_desk(lab: Lab, second: Pushed) -> None:
    with lab.gateway("abort-done"):
        lab.start(second, "abort-done", "abort-done")
        assert lab.wait_for_end("abort-done", "abort-done")["state"] == "succeeded"
    aborted = lab.type("campaign", "abort", "abort-done")
    assert aborted.status == 1
    assert "nothing left to abort" in aborted.error_line


def wait_until_parked(ears: Rogue, device: str) -> None:
    """The gateway has answered that the newest assignment came too late."""
    wait_for(lambda: any(report.parked for report in ears.reports(device)), PATIENCE_S, f"{device} to say too late")

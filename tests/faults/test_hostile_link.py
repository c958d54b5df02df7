"""Whatever a network does to the connection, the update comes through once it lets it, and the agent neither hammers it
nor grows meanwhile.

The agent, the broker and the bridge are real; between agent and broker stands a relay that misbehaves.
"""

from __future__ import annotations

import random
import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from narrowboat_protocol.limits import KIB, MIB
from narrowboat_protocol.payload import Codec
from narrowboat_protocol.states import State
from tests.broker.lab import BASE_SEQUENCE, Lab, Pushed, noise
from tests.support.agent_thread import AgentThread
from tests.support.live_fleet import NARROWBOAT_DEVICE
from tests.support.processes import wait_for
from tests.support.relay import LinkShape, RelayThread
from tests.support.rogue import PATIENCE_S

IMAGE_BYTES = 200 * KIB
PHASES_UP_BYTES = (0, 1, 400, 1000, 1600, 2200, 2600, 2900, 3200)
"""What the agent has sent when it is cut off: nothing but a SYN, a part of a ClientHello, its certificate, CONNECT,
SUBSCRIBE, the hello, the first request.
"""
RESETS = 2
AGENT_BYTES_MAX = 96 * MIB
KEEPALIVE_S = 5


@pytest.fixture(scope="module")
def pushed(lab: Lab) -> Pushed:
    return lab.push(noise(70, IMAGE_BYTES), "7.0.0", codec=Codec.STORED)


@pytest.fixture(scope="module")
def tiny(lab: Lab) -> Pushed:
    return lab.push(noise(71, 8 * KIB), "7.1.0", codec=Codec.STORED)


def test_a_connection_that_is_reset_in_any_phase_is_made_again_and_the_update_comes_through(
    lab: Lab, pushed: Pushed
) -> None:
    """Every gateway is cut off in another phase, twice in a row, before its link holds."""
    with ExitStack() as stack:
        relays = {}
        for up_bytes in PHASES_UP_BYTES:
            name = f"gw-reset-{up_bytes}"
            relays[name] = stack.enter_context(RelayThread(lab.fleet.ports.device))
            relays[name].reset_early(RESETS, up_bytes)
            stack.enter_context(lab.gateway(name, relays[name]))
        for name in relays:
            lab.start(pushed, f"for-{name}", name)
        for name, relay in relays.items():
            assert lab.wait_for_end(f"for-{name}", name)["state"] == "succeeded"
            # One more connection for the trial boot.
            assert RESETS + 1 <= relay.counts.connections <= RESETS + 3, name


def test_a_link_that_carries_one_byte_at_a_time_brings_the_update(lab: Lab, tiny: Pushed) -> None:
    with (
        RelayThread(lab.fleet.ports.device, LinkShape(piece_bytes=1)) as relay,
        lab.gateway("gw-dribble", relay) as gateway,
    ):
        lab.start(tiny, "dribble", "gw-dribble")
        assert lab.wait_for_end("dribble", "gw-dribble")["state"] == "succeeded"
        assert gateway.slot("b")[: 8 * KIB] == tiny.made.image
        assert relay.counts.connections <= 3


def test_a_link_that_is_cut_every_second_brings_the_update_in_bounded_memory(lab: Lab, pushed: Pushed) -> None:
    """As a process of its own, whose memory the kernel counts."""
    shape = LinkShape(rate_bits_per_s=1e6, round_trip_s=0.05, cut_every_s=1.0)
    with RelayThread(lab.fleet.ports.device, shape) as relay:
        gateway = lab.make_gateway("gw-every-second", relay)
        machine = lab.children.start(gateway.name, [NARROWBOAT_DEVICE, "machine", "--config", str(gateway.config)])
        lab.start(pushed, "every-second", gateway.name)
        assert lab.wait_for_end("every-second", gateway.name)["state"] == "succeeded"
        assert relay.counts.connections > 1
        assert peak_memory_bytes(agent_of(machine.pid)) < AGENT_BYTES_MAX
        machine.stop()
    assert gateway.slot_sha256("b", IMAGE_BYTES) == pushed.made.image_sha256.hex()


def test_a_connection_that_died_without_a_word_is_noticed_and_made_again(lab: Lab, pushed: Pushed) -> None:
    """Nothing comes through, nothing is refused: only the keepalive tells."""
    with RelayThread(lab.fleet.ports.device) as relay:
        relay.stall_at(60 * KIB)
        made = lab.make_gateway("gw-half-open", relay)
        text = made.config.read_text().replace("[broker]\n", f"[broker]\nkeepalive_s = {KEEPALIVE_S}\n", 1)
        made.config.write_text(text)
        with AgentThread(made.config) as gateway:
            lab.start(pushed, "half-open", "gw-half-open")
            wait_for(lambda: relay.counts.down_bytes >= 60 * KIB, PATIENCE_S, "the middle of the download")
            relay.abandon()
            relay.stall_at(None)
            assert lab.wait_for_end("half-open", "gw-half-open")["state"] == "succeeded"
            assert gateway.slot("b")[:IMAGE_BYTES] == pushed.made.image
        assert relay.counts.connections <= 4


def test_a_broker_that_is_away_or_mute_is_not_hammered(lab: Lab, pushed: Pushed) -> None:
    """One relay resets whatever is tried, one accepts and says nothing; then both mend."""
    with (
        RelayThread(lab.fleet.ports.device) as dark,
        RelayThread(lab.fleet.ports.device) as mute,
    ):
        dark.darken()
        mute.stall_at(0)
        with lab.gateway("gw-dark", dark), lab.gateway("gw-mute", mute):
            wait_for(lambda: dark.counts.connections >= 4, PATIENCE_S, "some attempts in vain")
            assert dark.counts.connections < 12
            assert mute.counts.connections == 1
            dark.mend()
            mute.stall_at(None)
            for name in ("gw-dark", "gw-mute"):
                lab.start(pushed, f"for-{name}", name)
            for name in ("gw-dark", "gw-mute"):
                assert lab.wait_for_end(f"for-{name}", name)["state"] == "succeeded"


def test_answers_that_come_out_of_order_and_twice_are_put_in_their_places(lab: Lab) -> None:
    made = lab.kit.make_release(noise(72, MIB), version="7.2.0", sequence=BASE_SEQUENCE, codec=Codec.STORED)
    chance = random.Random(1)
    with lab.gateway("gw-order") as gateway, lab.rogue() as rogue:
        rogue.serve(
            "gw-order",
            made.payload,
            made.payload_digest,
            arrange=lambda spans: chance.sample(spans * 2, 2 * len(spans)),
        )
        rogue.assign(lab.kit.director, "gw-order", made.target(), counter=1000, envelopes=(made.envelope,))
        assert rogue.wait_for_end("gw-order", 1000).state is State.SUCCEEDED
        assert gateway.slot("b")[:MIB] == made.image


def agent_of(machine: int) -> int:
    """The process of the agent in a simulated machine."""
    children = Path(f"/proc/{machine}/task/{machine}/children").read_text().split()
    return int(children[0])


def peak_memory_bytes(process: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1]) * KIB

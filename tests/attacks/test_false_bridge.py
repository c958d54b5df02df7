"""What a gateway believes of whoever owns the broker and speaks for the bridge: nothing that is not fresh, meant for
it, and signed by the key whose word it is.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

import pytest

from narrowboat_protocol.cose import fleet_id_of
from narrowboat_protocol.documents import sign_model
from narrowboat_protocol.documents.fields import SIZE_END
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.keys import Algorithm, PrivateKey
from narrowboat_protocol.limits import MIB
from narrowboat_protocol.payload import Codec
from narrowboat_protocol.states import State
from narrowboat_protocol.topics import ROOT_TOPIC, Channel, device_topic
from tests.broker.lab import BASE_SEQUENCE, Lab
from tests.support.fleet import FleetKit
from tests.support.images import small_image
from tests.support.processes import Child, wait_for
from tests.support.relay import RelayThread
from tests.support.rogue import PATIENCE_S, Rogue

from .siege import Siege, besieged, besieged_of

STRANGER = PrivateKey.generate(Algorithm.ED25519)
IN_2090_S = 3_786_912_000

Make = Callable[[Siege], bytes]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda siege: siege.order(STRANGER), Reason.UNKNOWN_KEY),
        (lambda siege: siege.order(siege.kit.bridge), Reason.UNKNOWN_KEY),
        (lambda siege: siege.order(siege.kit.release_signers[0]), Reason.UNKNOWN_KEY),
        (lambda siege: siege.order(device="gw-other"), Reason.WRONG_DEVICE),
        (lambda siege: siege.order(expires_at=1), Reason.EXPIRED),
        (lambda siege: siege.order(nonce=secrets.token_bytes(16)), Reason.STALE),
        (lambda siege: siege.order(root_version=2), Reason.STALE),
        (lambda siege: siege.order(fleet_id=staging(siege.kit).fleet_id), Reason.BAD_SIGNATURE),
    ],
    ids=[
        "forged by a stranger",
        "stolen bridge key",
        "stolen release key",
        "wrong device",
        "expired",
        "replay",
        "of another root",
        "staging document in production",
    ],
)
def test_an_order_that_is_not_the_directors_for_this_gateway_now_is_ignored(
    lab: Lab, make: Make, reason: Reason
) -> None:
    with besieged(lab, f"gw-order-{secrets.token_hex(4)}") as siege:
        assert siege.refuses(make(siege)) is reason
        siege.start_anew()
        assert siege.rogue.hellos(siege.gateway.name)[-1].assignment_counter == 0
        assert siege.gateway.state is None


def staging(kit: FleetKit) -> FleetKit:
    """A second fleet of the same owner, who took the same keys for it."""
    root = kit.root.model_copy(update={"expires_at": kit.root.expires_at + 1})
    fleet_id = fleet_id_of(root.encode())
    return replace(kit, fleet_id=fleet_id, root_data=sign_model(root, fleet_id, kit.root_signers))


def test_freeze_ends_with_the_next_hello_that_gets_through(lab: Lab) -> None:
    """Old orders are held back and handed out later: none counts after a newer one, nor after a start."""
    with besieged(lab, "gw-frozen") as siege:
        first, held, newest = siege.order(), siege.order(), siege.order()
        siege.hands_over(newest)
        assert siege.refuses(first) is Reason.STALE
        assert siege.refuses(held) is Reason.STALE
        late = siege.order()
        siege.start_anew()
        assert siege.rogue.hellos("gw-frozen")[-1].assignment_counter == 3
        assert siege.refuses(late) is Reason.STALE


def test_clock_lock_out_a_director_that_signs_the_year_2090_locks_nobody_out(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """The lie lifts the time floor above the true time, by which the gateway then judges the broker's certificate. The
    next honest order takes it back.
    """
    made = lab.kit.make_release(small_image(90, MIB), version="9.0.0", sequence=BASE_SEQUENCE, codec=Codec.ZSTD)
    with besieged(lab, "gw-2090") as siege:
        siege.hands_over(siege.order(issued_at=IN_2090_S, expires_at=IN_2090_S + 60))
        siege.start_anew()
        assert siege.rogue.hellos("gw-2090")[-1].assignment_counter == 1, "it was taken"
        assert siege.serve(made, made.payload).state is State.SUCCEEDED
        assert [record.message for record in caplog.records if "the clock says" in record.message]
        caplog.clear()
        siege.start_anew()
        assert not [record.message for record in caplog.records if "the clock says" in record.message]


def test_a_forged_ack_makes_no_gateway_forget_what_it_has_to_report(lab: Lab) -> None:
    name = "gw-herald"
    lab.bridge.stop()
    with RelayThread(lab.fleet.ports.device) as relay, besieged(lab, name, relay=relay) as siege:
        rogue, gateway, kit = siege.rogue, siege.gateway, siege.kit
        end = siege.offer(kit.make_release(small_image(72, 1000), sequence=BASE_SEQUENCE - 1))
        forged = [
            (siege.ack(end.pair, STRANGER), Reason.UNKNOWN_KEY),
            (siege.ack(end.pair, kit.director), Reason.UNKNOWN_KEY),
            (siege.ack(end.pair, device="gw-calm"), Reason.WRONG_DEVICE),
        ]
        for data, reason in forged:
            assert siege.refuses(data, Channel.ACK) is reason
        rogue.say(device_topic(name, Channel.ACK), siege.ack((0, 1)))
        relay.cut()
        wait_for(lambda: ends(rogue, name) > 1, PATIENCE_S, "the end, said again on the new connection")
        assert len(gateway.outbox) == 1
        lab.restart_bridge(Child.stop)
        lab.wait_until_served()
        relay.cut()
        wait_for(lambda: not gateway.outbox, PATIENCE_S, "the true Ack")
        said = ends(rogue, name)
        siege.start_anew()
        made = kit.make_release(small_image(73, MIB), version="7.3.0", sequence=BASE_SEQUENCE, codec=Codec.ZSTD)
        assert siege.serve(made, made.payload).state is State.SUCCEEDED
        assert ends(rogue, name) == said


def ends(rogue: Rogue, device: str) -> int:
    """How often the end of attempt 1 was said."""
    return sum(report.attempt == 1 and report.state.terminal for report in rogue.reports(device))


def test_fast_forward_by_a_stolen_director_key_ends_with_the_root_that_replaces_it(lab: Lab) -> None:
    """The thief counts as far as counters go. A new director's counter begins anew."""
    kit, successor, last = FleetKit.create(), PrivateKey.generate(Algorithm.ED25519), SIZE_END - 1
    with besieged_of(lab, kit, "gw-forward") as siege:
        siege.hands_over(siege.order(counter=last))
        siege.start_anew()
        assert siege.rogue.hellos("gw-forward")[-1].assignment_counter == last
        assert siege.refuses(siege.order()) is Reason.STALE
        siege.rogue.say(ROOT_TOPIC, kit.next_root(director=successor))
        wait_for(lambda: siege.rogue.hellos("gw-forward")[-1].root_version == 2, PATIENCE_S, "the new root to be taken")
        assert siege.refuses(siege.order(root_version=2)) is Reason.UNKNOWN_KEY
        siege.hands_over(siege.order(successor, root_version=2, counter=1))
        siege.start_anew()
        assert siege.rogue.hellos("gw-forward")[-1].assignment_counter == 1

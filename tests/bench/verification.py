"""What believing a document costs a gateway: CPU time from the bytes as they came to the document, signatures verified.

A figure is the median of many runs in this process, in CPU time, which other work on this machine does not stretch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from narrowboat_protocol.documents import Ack, sign_model
from narrowboat_protocol.keys import Algorithm
from narrowboat_protocol.trust import NO_FLOOR, Freshness, Trust
from tests.support.fleet import COMPONENT, HARDWARE, FleetKit
from tests.support.images import small_image

_DEVICE = "gw-1"
_RUNS = 200
_NONCE = bytes(16)
_RELEASE_KEYS, _RELEASE_THRESHOLD = 3, 2


def milliseconds_per_document(algorithm: Algorithm) -> dict[str, float]:
    """CPU ms for each kind of document that a gateway verifies. A release is signed by two keys, a root by the keys of
    two versions.
    """
    kit = FleetKit.create(release_keys=_RELEASE_KEYS, release_threshold=_RELEASE_THRESHOLD, algorithm=algorithm)
    made = kit.make_release(small_image(1, 100_000))
    assignment, next_root = kit.assignment(_DEVICE, made), kit.next_root()
    said = Ack(device=_DEVICE, pair=(1, 1), challenge=_NONCE, statement=bytes(32))
    ack = sign_model(said, kit.fleet_id, [kit.bridge])
    fresh = Freshness(nonces=(_NONCE,), counter=0, accepted=None, certain_s=0)

    def judge() -> None:
        trust.judge_release(trust.open_release(made.envelope), COMPONENT, HARDWARE, NO_FLOOR)

    trust = kit.trust()
    return {
        "root": _cpu_ms(lambda: Trust(kit.root_data, kit.fleet_id).update_root(next_root)),
        "release": _cpu_ms(judge),
        "assignment": _cpu_ms(lambda: trust.open_assignment(assignment, _DEVICE, fresh)),
        "ack": _cpu_ms(lambda: trust.open_ack(ack, _DEVICE)),
    }


def _cpu_ms(verify: Callable[[], object]) -> float:
    verify()
    taken: list[float] = []
    for _ in range(_RUNS):
        began_s = time.process_time()
        verify()
        taken.append(time.process_time() - began_s)
    return median(taken) * 1000

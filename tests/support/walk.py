"""Walks: seeded sequences of everything that can happen to a gateway, and the clearing up after them.

A walk draws events for a `Storm`: assignments, blocks, Acks, time, failures, hooks that say anything, power cuts also
between two actions of one list, rot. The storm checks each step. Then the weather clears: links hold, sources are
honest, hooks agree. Within a bounded number of steps the gateway must come to rest with every end heard by the bridge;
what then still works, waits or stays silent is a livelock, a deadlock or a lost report.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import replace

from narrowboat_device.core import actions as ac
from narrowboat_device.core import events as ev
from narrowboat_device.core.memory import Journal, Outbox
from narrowboat_protocol.errors import Reason
from tests.support.fleet import FleetKit, MadeRelease
from tests.support.gateway import SMALL
from tests.support.storm import Storm

LIMITS = replace(SMALL, sync_bytes=8192)
_LIMITS_OF_A_WALK = (LIMITS, replace(LIMITS, decoded_bytes_per_turn=8192))
_STEPS = 160
_CLEARING_ROUNDS = 120
_EVENTS_A_ROUND = 2000

_FAILING = (
    ac.WriteChunks,
    ac.SyncSlot,
    ac.HashSlot,
    ac.ReadBackSlot,
    ac.Save,
    ac.SaveEnvelope,
    ac.MarkUnbootable,
    ac.ArmTrial,
    ac.CommitSlot,
    ac.RestoreBoot,
    ac.RunHook,
    ac.Reboot,
)


class World:
    """A fleet, and releases of every kind that it may assign."""

    def __init__(self) -> None:
        self.fleet = FleetKit.create(limits=LIMITS)
        noise = random.Random(7)
        dense = bytes(noise.choices(range(8), k=21_001))
        sparse = bytes(noise.choices(range(2), weights=(99, 1), k=23_500))
        self.one = self.fleet.make_release(dense, version="2", sequence=5)
        self.other = self.fleet.make_release(sparse, version="3", sequence=5)
        self.newest = self.fleet.make_release(dense[::-1], version="4", sequence=6)
        self.oldest = self.fleet.make_release(sparse[::-1], version="1", sequence=1)
        self.foreign = FleetKit.create(limits=LIMITS).make_release(dense, sequence=9)

    @property
    def releases(self) -> list[MadeRelease]:
        return [self.one, self.other, self.newest, self.oldest, self.foreign]


class Walk:
    """One walk of one gateway."""

    def __init__(self, world: World, seed: int) -> None:
        self.rng = random.Random(seed)
        self.world = world
        self.storm = Storm(world.fleet, world.releases, self.rng, self.rng.choice(_LIMITS_OF_A_WALK))
        self.mood = self.rng.random()
        self.events: list[tuple[int, Callable[[], object]]] = [
            (40, self.storm.work),
            (60, lambda: self.storm.receive(loss=0.2 * self.mood, twice=0.1)),
            (10, self.storm.be_assigned),
            (8, lambda: self.storm.pass_time(self.rng.choice((0, 1, 5, 11)))),
            (4, lambda: self.storm.pass_time(self.rng.choice((31, 100, 4000, 90_000)))),
            (3, self.storm.disconnect),
            (12, self.storm.connect),
            (4, self._assign),
            (2, self._fail_something),
            (3, self._set_fuse),
            (2, self.storm.cut_power),
            (1, self.storm.power_on),
            (2, self.storm.rot),
            (2, self._change_hooks),
            (1, self._change_source),
            (1, self._send_root),
            (1, self._install_file),
            (2, self._send_rubbish),
            (2, lambda: self.storm.give(ev.WireBytesCounted(self.rng.randrange(1 << 20)))),
        ]

    def go(self) -> None:
        weights, events = zip(*self.events, strict=True)
        for event in self.rng.choices(events, weights, k=_STEPS):
            event()
            if self.storm.dark or (self.storm.rebooting and self.rng.random() < 0.7):
                self.storm.cut_power()
        self.clear_up()

    def clear_up(self) -> None:
        """The weather clears. The gateway must come to rest with everything said, heard and done."""
        storm = self.storm
        storm.hooks.clear()
        storm.fail_next.clear()
        storm.fuse, storm.evil = None, 0.0
        if storm.bridge.wanted is not None and "byte_budget" in storm.bridge.changes:
            storm.bridge.want(*storm.bridge.wanted)
        for _ in range(_CLEARING_ROUNDS):
            if storm.rebooting or storm.dark:
                storm.cut_power()
            if not storm.link_up:
                storm.connect()
            for _ in range(_EVENTS_A_ROUND):
                if not storm.work() and not storm.receive():
                    break
            else:
                raise AssertionError("expected the gateway to come to rest; it works for ever")
            if self._is_settled():
                return
            storm.be_assigned()
            deadline = storm.agent.deadline or 0.0
            storm.pass_time(max(1.0, deadline - storm.now.monotonic_s))
        raise AssertionError(f"expected an end that the bridge has heard, stays {storm.state}")

    def _is_settled(self) -> bool:
        storm, bridge = self.storm, self.storm.bridge
        journal = Journal.decode(storm.records[ac.Record.JOURNAL] or Journal().encode())
        outbox = Outbox.decode(storm.records[ac.Record.OUTBOX] or Outbox().encode())
        busy = journal.attempt is not None and journal.attempt.active
        if busy or journal.parked or outbox.letters or storm.inbound or storm.rebooting:
            return False
        if bridge.wanted is None:
            return True
        if not bridge.delivery or bridge.accepted != bridge.counter:
            return False
        return not bridge.wanted or bridge.ended(bridge.counter)

    def _assign(self) -> None:
        world = self.world
        release = self.rng.choice((world.one, world.other, world.newest, world.oldest, world.foreign, None, world.one))
        if release is None:
            self.storm.bridge.want()
            return
        changes: dict[str, object] = {}
        match self.rng.randrange(6):
            case 0:
                changes["byte_budget"] = 20_000
            case 1:
                changes["reboot_windows"] = ((self.rng.randrange(86_400), self.rng.randrange(86_400)),)
            case 2:
                wrong = world.newest.reference
                lying = release.target().model_copy(update={"payloads": (wrong, release.reference)})
                self.storm.payloads[world.newest.payload_digest] = world.newest.payload
                changes["targets"] = (lying,)
        self.storm.bridge.want(release, **changes)

    def _fail_something(self) -> None:
        self.storm.fail_next[self.rng.choice(_FAILING)] = Reason.MEDIUM_FAILED

    def _set_fuse(self) -> None:
        self.storm.fuse = self.rng.randrange(12)

    def _change_hooks(self) -> None:
        answers = list(ev.HookOutcome)
        self.storm.hooks = {hook: self.rng.sample(answers, self.rng.randint(1, 3)) for hook in ac.Hook}
        for hook in self.rng.sample(list(ac.Hook), 2):
            del self.storm.hooks[hook]

    def _change_source(self) -> None:
        self.storm.evil = self.rng.choice((0.0, 0.0, 0.02, 0.3))

    def _send_root(self) -> None:
        if self.rng.random() < 0.5:
            self.storm.give(ev.RootArrived(self.world.fleet.next_root(minimum_sequence=6)))

    def _install_file(self) -> None:
        release = self.rng.choice(self.world.releases)
        head = release.payload[: release.head_size]
        self.storm.payloads[_sha256(head)] = release.payload
        self.storm.give(ev.LocalReleaseOffered("/r.nbr", release.envelope, len(release.payload), head))

    def _send_rubbish(self) -> None:
        arrival = self.rng.choice((ev.RootArrived, ev.DeliveryArrived, ev.AckArrived, ev.BlockArrived))
        self.storm.give(arrival(self.rng.randbytes(self.rng.randrange(_CLEARING_ROUNDS))))


def walk(world: World, seed: int) -> None:
    """Go and come to rest; an error says which seed brings it back."""
    try:
        Walk(world, seed).go()
    except Exception as error:
        error.add_note(f"replay by walk(world, {seed})")
        raise


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()

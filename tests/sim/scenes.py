"""What a gateway is put through, one scene at a time: where it begins, what the server wants, and how it must end.

Limits are small, so that a whole update takes some hundred operations of the disk: chunks of 4 KiB, three subtrees of
which the last is short, and so is its last chunk, five sync batches, frames of two chunks, records of a few pages.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from narrowboat_device.core.actions import Hook
from narrowboat_device.core.events import HookOutcome
from narrowboat_protocol.documents import Report
from narrowboat_protocol.keys import Algorithm, PrivateKey
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.states import State
from narrowboat_protocol.suit import AgreementKey, ContentKey
from tests.sim.disk import SimDisk
from tests.sim.factory import make_disk
from tests.sim.gateway import SimGateway
from tests.sim.honest_server import HonestServer, Knowledge
from tests.sim.invariants import DeviceInvariants
from tests.sim.machine import Behaviour
from tests.sim.medium import Outcome
from tests.sim.remembered import Remembered
from tests.sim.world import World
from tests.support.fleet import NOW, DeviceKit, FleetKit, MadeRelease

LIMITS = Limits(
    log2_chunk_size=12,
    subtree_chunks=4,
    full_frame_image_bytes_max=8192,
    block_bytes_max=4096,
    block_bytes_slow=4096,
    sync_bytes=8192,
    journal_bytes=3500,
    trust_bytes=3500,
    outbox_bytes=3500,
)
IMAGE_BYTES = 10 * 4096 + 1234
_PATIENCE_S = 6 * 3600.0
_DAY_S = 86_400
_WINDOW_S = 600


class Stage:
    """A fleet with one gateway, and the releases that scenes play with."""

    def __init__(self) -> None:
        self.fleet = FleetKit.create(limits=LIMITS)
        kit = self.fleet.device("gw-1")
        # Ed25519 signs the same bytes the same way, so that equal runs leave equal disks.
        signer = PrivateKey.generate(Algorithm.ED25519)
        key = AgreementKey.generate()
        self.device = DeviceKit(kit.name, signer, kit.certificate, kit.fleet_id, key)
        self.factory = self.fleet.make_release(_image(1), version="1", sequence=1)
        self.newer = self.fleet.make_release(_image(2), version="2", sequence=2)
        self.newest = self.fleet.make_release(_image(3), version="3", sequence=3)
        content_key = ContentKey(bytes(range(16)), b"\xff" * 16)
        self.encrypted = self.fleet.make_release(
            _image(4), version="4", sequence=4, content_key=content_key, sealed_to=[key.public]
        )
        trust = self.fleet.trust()
        self.sequences = {r.digest: trust.open_release(r.envelope).sequence for r in self.releases}

    @property
    def releases(self) -> tuple[MadeRelease, ...]:
        return self.factory, self.newer, self.newest, self.encrypted

    @cached_property
    def images(self) -> dict[bytes, bytes | None]:
        return {release.image: release.digest for release in self.releases}


def _image(seed: int) -> bytes:
    """A quarter of it compresses."""
    chooser = random.Random(seed)
    quarter = IMAGE_BYTES // 4
    return bytes(chooser.choices(range(12), k=quarter)) + chooser.randbytes(IMAGE_BYTES - quarter)


@dataclass(slots=True)
class Begun:
    """Where a play begins: all that lives longer than a boot."""

    disk: SimDisk
    knowledge: Knowledge
    remembered: Remembered

    def fork(self) -> Begun:
        return Begun(self.disk.fork(), self.knowledge.fork(), self.remembered.fork())

    @property
    def key(self) -> object:
        """Equal for states from which equal plays follow, once the power was cut."""
        return self.disk.key, self.knowledge.key, self.remembered.key


class Play:
    """One gateway and its server in one world, from a state until both have come to rest."""

    def __init__(
        self, stage: Stage, state: Begun, seed: int, direct: Callable[[Play], None], *, honest_medium: bool = True
    ) -> None:
        """`direct` says what the server and the rest of the machine do."""
        self.world = World(seed)
        self.stage = stage
        self.disk = state.disk
        self.disk.rng = self.world.rng
        self.server = HonestServer(self.world, stage.fleet, stage.releases, state.knowledge)
        self.gateway = SimGateway(
            self.world,
            stage.fleet,
            "gw-1",
            LIMITS,
            self.server,
            device=stage.device,
            disk=state.disk,
            images=stage.images,
            behaviour=Behaviour(job_s=(0.002, 0.03)),
        )
        self.server.gateway = self.gateway
        self.invariants = DeviceInvariants(
            self.gateway, stage.releases, stage.sequences, state.remembered, honest_medium=honest_medium
        )
        self.gateway.observer = self.invariants
        direct(self)

    def state(self) -> Begun:
        """All that would outlive a power cut at this moment."""
        return Begun(self.disk, self.server.knowledge, self.invariants.remembered).fork()

    def go(self) -> None:
        """Play until nothing is left to do. Raises `AssertionError` if that takes too long."""
        self.gateway.power_on()
        while not self.is_at_rest:
            if not self.world.step() or self.world.now_s > _PATIENCE_S:
                state = self.gateway.agent.state if self.gateway.agent is not None else None
                raise AssertionError(f"expected the gateway to come to rest, it stays {state}")

    @property
    def is_at_rest(self) -> bool:
        gateway = self.gateway
        if not self.server.is_settled or gateway.storage is None or gateway.agent is None:
            return False
        attempt = self.invariants.attempt
        return not self.invariants.letters and (attempt is None or not attempt.active)

    @property
    def runs(self) -> bytes | bool | None:
        """The release that runs."""
        return self.gateway.release_in(self.gateway.running or "")


@dataclass(frozen=True, slots=True)
class Scene:
    """`direct` says what the server and the rest of the machine do; `ends`: the states and running releases that it may
    end with.
    """

    name: str
    start: Callable[[Stage], Begun]
    direct: Callable[[Play], None]
    ends: Callable[[Stage], set[tuple[State | None, bytes]]]
    is_long: bool = False
    """Cut only where time does not matter."""

    def play(self, stage: Stage, state: Begun, seed: int, watch: Callable[[str, Play], None] | None = None) -> Play:
        """Play from a state to the end, and check the end."""
        play = Play(stage, state, seed, self.direct)
        if watch is not None:
            play.disk.watch = lambda what: watch(what, play)
        play.go()
        play.disk.watch = lambda _what: None
        self._check_end(play)
        return play

    def _check_end(self, play: Play) -> None:
        play.invariants.check()
        known = play.server.knowledge
        end = known.ends.get(known.counter)
        found = end.state if end is not None else None, play.runs
        assert found in self.ends(play.stage), f"expected another end than {found}"
        boot = play.gateway.storage.boot.status() if play.gateway.storage is not None else None
        assert boot is not None
        assert (boot.primary, boot.trial) == (boot.running, None), "expected what runs to be committed, and no trial"


def from_factory(stage: Stage) -> Begun:
    """Provisioned, never switched on."""
    return Begun(make_disk(World(7), stage.fleet, LIMITS, stage.factory), Knowledge(), Remembered())


def after_update(stage: Stage) -> Begun:
    """Slot b runs the newer release and is committed; slot a still boots."""
    play = UPDATE.play(stage, from_factory(stage), seed=99)
    state = play.state()
    state.disk.cut(Outcome.KEPT)
    return state


def after_newer_agent(stage: Stage) -> Begun:
    """Slot b runs the newer release, whose agent wrote records in its own format."""
    play = NEWER_AGENT.play(stage, from_factory(stage), seed=99)
    state = play.state()
    state.disk.cut(Outcome.KEPT)
    return state


def _want_newer(play: Play) -> None:
    if play.server.knowledge.wanted is None:
        play.server.want(play.stage.newer)


def _want_newest(play: Play) -> None:
    if play.server.knowledge.wanted != (play.stage.newest,):
        play.server.want(play.stage.newest)


def _want_in_window(play: Play) -> None:
    """The update is ready before the window opens."""
    play.gateway.behaviour.wall_off_s = lambda: 0.0
    if play.server.knowledge.wanted is None:
        opens = (NOW + _WINDOW_S) % _DAY_S
        play.server.want(play.stage.newer, reboot_windows=((opens, opens - 2 * _WINDOW_S),))


def _want_within_budget(play: Play) -> None:
    """The budget ends in the middle of the download, and somebody raises it."""
    if play.server.knowledge.wanted is None:
        play.server.want(play.stage.newer, byte_budget=IMAGE_BYTES // 2)
    if play.server.knowledge.terms:
        play.world.at(play.world.now_s + 300.0, lambda: play.server.want(play.stage.newer))


def _bring_newer_agent(play: Play) -> None:
    play.gateway.behaviour.newer_agents = frozenset({play.stage.newer.digest})
    _want_newer(play)


def _bring_older_agent(play: Play) -> None:
    """The release after the one with the newer agent has the older agent again."""
    play.gateway.behaviour.newer_agents = frozenset({play.stage.newer.digest})
    _want_newest(play)


def _fail_health(play: Play) -> None:
    _want_newer(play)

    def answer(hook: Hook) -> HookOutcome:
        return HookOutcome.FAILED if hook is Hook.HEALTH else HookOutcome.GO_ON

    play.gateway.behaviour.hook = answer


def _panic(play: Play) -> None:
    _want_newer(play)
    play.gateway.behaviour.crashing.add(play.stage.newer.digest)


def _withdraw(play: Play) -> None:
    """Take back what was assigned, some time after its download began; the reboot waits for that."""
    _want_newer(play)

    def heard(report: Report) -> None:
        if report.state is not State.OFFERED and play.server.knowledge.wanted:
            play.world.at(play.world.now_s + play.world.rng.uniform(0.1, 2.0), play.server.want)

    def answer(hook: Hook) -> HookOutcome:
        return HookOutcome.NOT_NOW if hook is Hook.REBOOT else HookOutcome.GO_ON

    play.server.on_report = heard
    play.gateway.behaviour.hook = answer


def _rot(play: Play) -> None:
    _want_newer(play)
    _let_a_bit_rot(play)


def _rot_encrypted(play: Play) -> None:
    """It takes hashes and frames of an encrypted payload to mend."""
    if play.server.knowledge.wanted is None:
        play.server.want(play.stage.encrypted)
    _let_a_bit_rot(play)


def _let_a_bit_rot(play: Play) -> None:
    """A bit of what is written rots before it is proved."""

    def look() -> None:
        attempt = play.invariants.attempt
        if attempt is not None and attempt.state is State.DOWNLOADING and attempt.next_chunk > 1:
            play.disk.rot(play.gateway.config.slots[1].path, 4096 + 77)
        elif attempt is None or attempt.state in (State.OFFERED, State.DOWNLOADING):
            play.world.at(play.world.now_s + 0.02, look)

    look()


def _write_and_read_short(play: Play) -> None:
    _want_newer(play)
    play.disk.faults.short = 0.3


def _want_nothing(play: Play) -> None:
    if play.server.knowledge.wanted is None:
        play.server.want()


def _never_acknowledge(play: Play) -> None:
    """A server that assigns one release after the other, while nothing is downloaded, and answers late: the ends of
    what was replaced pile up until it does.
    """
    _want_newer(play)
    play.server.acks = False
    play.gateway.behaviour.hook = lambda _hook: HookOutcome.NOT_NOW
    for number in range(12):
        release = play.stage.newest if number % 2 else play.stage.newer
        play.world.at(60.0 + 5.0 * number, lambda release=release: play.server.want(release))  # type: ignore[misc]

    def relent() -> None:
        play.server.acks = True
        play.server.want()

    play.world.at(150.0, relent)


UPDATE = Scene("update", from_factory, _want_newer, lambda s: {(State.SUCCEEDED, s.newer.digest)})
NEWER_AGENT = Scene("newer agent", from_factory, _bring_newer_agent, lambda s: {(State.SUCCEEDED, s.newer.digest)})
SCENES = (
    UPDATE,
    NEWER_AGENT,
    Scene("older agent", after_newer_agent, _bring_older_agent, lambda s: {(State.ROLLED_BACK, s.newer.digest)}),
    Scene("second update", after_update, _want_newest, lambda s: {(State.SUCCEEDED, s.newest.digest)}),
    Scene("rollback", from_factory, _fail_health, lambda s: {(State.ROLLED_BACK, s.factory.digest)}),
    Scene("panic", from_factory, _panic, lambda s: {(State.ROLLED_BACK, s.factory.digest)}),
    Scene("abort", from_factory, _withdraw, lambda s: {(None, s.factory.digest)}),
    Scene("rot", from_factory, _rot, lambda s: {(State.SUCCEEDED, s.newer.digest)}),
    Scene("encrypted", from_factory, _rot_encrypted, lambda s: {(State.SUCCEEDED, s.encrypted.digest)}),
    Scene("short", from_factory, _write_and_read_short, lambda s: {(State.SUCCEEDED, s.newer.digest)}),
    Scene("deaf", from_factory, _never_acknowledge, lambda s: {(None, s.factory.digest)}, is_long=True),
    Scene("window", from_factory, _want_in_window, lambda s: {(State.SUCCEEDED, s.newer.digest)}),
    Scene("budget", from_factory, _want_within_budget, lambda s: {(State.SUCCEEDED, s.newer.digest)}),
    Scene("start", from_factory, _want_nothing, lambda s: {(None, s.factory.digest)}),
)

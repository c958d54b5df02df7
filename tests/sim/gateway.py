"""A whole simulated gateway: loader, agent core, shell dispatch, records, slots, envelopes and boot control are the
real ones, over a simulated disk, clocks, workers and a network that somebody else plays.

Fault model.

    power     goes at any call of the disk, between two events, or while the machine boots. `power_cut` takes what the
              disk's fault model says; the machine comes back when `power_on` is called, or by itself after a fuse.
    boot      the loader is the real one. A slot whose bytes are no known image panics before any agent runs, and the
              machine is reset; so does one whose release is marked as `crashing`, and any boot now and then. A person
              may have the other slot boot, though the one that runs was committed.
    process   the agent may be killed and started anew in the same boot: the page cache lives, jobs and link do not. An
              agent that cannot start is started again, and after a few times the watchdog resets the machine.
    reboot    is orderly (everything is synced), or the machine hangs on the way down and the watchdog cuts it.
    jobs      syncs, hashing, read-back and hooks take a random time, one at a time in each lane. A sync covers what was
              written when it began, no more; its end is an event.
    agents    a release may bring an agent of the next version (`newer_agent`), so two of them alternate over one
              journal as a trial boot does, and the older one may find records that it cannot read.
    clocks    see `clock`.

An agent error that is none of the project's own types is a finding and ends the world.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cache

from cryptography import x509

from narrowboat_device.assembly import Storage, make_inbox, open_storage, read_root, settings_of
from narrowboat_device.boot.loader import power_on
from narrowboat_device.boot.state import read_state, write_state
from narrowboat_device.certificate import Certificate
from narrowboat_device.core import Agent
from narrowboat_device.core.actions import BelieveTime, Hook, UseBroker
from narrowboat_device.core.events import Event, HookFinished, LocalReleaseOffered
from narrowboat_device.loop import Ending, Shell
from narrowboat_device.release_file import ReleaseFile
from narrowboat_device.workers import Jobs
from narrowboat_protocol.errors import NarrowboatError
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.topics import Channel
from tests.sim.clock import Clock
from tests.sim.disk import PowerCut, SimDisk
from tests.sim.factory import HOME, make_config
from tests.sim.lanes import Lanes
from tests.sim.machine import Behaviour, LinkPort, Observer
from tests.sim.medium import Outcome
from tests.sim.newer_agent import NewerAgent
from tests.sim.world import Handle, World
from tests.support.fleet import DeviceKit, FleetKit

_TICK_S = 1e-6
_FAILED_STARTS_MAX = 5
_RELEASE_FILE = HOME / "release.nbr"


class SimGateway:
    """One gateway. Off until `power_on`."""

    def __init__(
        self,
        world: World,
        fleet: FleetKit,
        name: str,
        limits: Limits,
        link: LinkPort,
        *,
        device: DeviceKit | None = None,
        disk: SimDisk,
        images: Mapping[bytes, bytes | None],
        behaviour: Behaviour | None = None,
    ) -> None:
        """`images`: every image that can boot, and the digest of its release if it is one."""
        self.world = world
        self.fleet = fleet
        self.name = name
        self.limits = limits
        self.device = device or fleet.device(name)
        self.config = make_config(name)
        self.disk = disk
        self.images = images
        self.behaviour = behaviour or Behaviour()
        self.observer = Observer()
        self.clock = Clock(world, self.behaviour.drift)
        self.running: str | None = None
        """The slot that was booted; None while the power is off."""
        self.agent: Agent | None = None
        self.storage: Storage | None = None
        self.shell: Shell | None = None
        self.lanes: Lanes | None = None
        self._slot_paths = {item.name: item.path for item in self.config.slots}
        self._found: dict[str, tuple[tuple[int, int], bytes | bool | None]] = {}
        self._link = link
        self._inbox = make_inbox(limits)
        self._files = ExitStack()
        self._timer: Handle | None = None
        self._timer_s: float | None = None
        self._next_start: Handle | None = None
        self._failed_starts = 0

    # What happens to it.

    def power_on(self) -> None:
        """The loader runs, then the kernel of the slot that it chose, then the agent."""
        if self.running is not None:
            return
        boot = self.config.boot
        try:
            slot = power_on(
                self.disk, boot.state_file, boot.booted_path, self.config.slot_names, self.world.rng.randbytes
            )
        except PowerCut:
            self.fuse_blew()
            return
        except NarrowboatError:
            self._later(self.behaviour.off_s, self.power_on)
            return
        self.clock.boot()
        self.running = slot
        self._failed_starts = 0
        self.world.note(self.name, "boots", slot)
        self.clock.set_wall(self.behaviour.wall_off_s())
        self.observer.booted(slot)
        release = self.release_in(slot)
        panics = release is False or release in self.behaviour.crashing or self.behaviour.panics()
        self._later(self.behaviour.boot_s, self._reset if panics else self._start_agent)

    def power_cut(self, outcome: Outcome = Outcome.MIXED) -> None:
        """The power goes, now. It stays off until `power_on`."""
        self._end_agent()
        self.running = None
        self.disk.cut(outcome)
        if self._next_start is not None:
            self._next_start.cancel()
        self.world.note(self.name, "power cut", outcome.name)

    def restart_agent(self) -> None:
        """The process is killed and the service manager starts it anew."""
        if self.shell is None:
            return
        self._end_agent()
        self.disk.close_all()
        self._later(self.behaviour.off_s, self._start_agent)

    def switch_slot(self) -> None:
        """A person has the other slot boot, if it can and no update is on."""
        if self.agent is None or not (self.agent.state is None or self.agent.state.terminal):
            return
        path = self.config.boot.state_file
        other = next(name for name in self.config.slot_names if name != self.running)
        try:
            state = read_state(self.disk, path)
            if state is None or state.trial is not None or other not in state.bootable:
                return
            self.world.note(self.name, "switched", other)
            write_state(self.disk, path, replace(state, primary=other))
        except PowerCut:
            self.fuse_blew()
            return
        except NarrowboatError:
            return
        self._reboot()

    def install(self, content: bytes, patience_s: float) -> None:
        """A person stops the agent and installs a release file, as `install` does: by the same agent, without a link.
        It ends in a reboot, or when it takes longer than their patience; then the service is started again.
        """
        if self.shell is None:
            return
        self.world.note(self.name, "installs a file", len(content))
        self._end_agent()
        self.disk.close_all()
        self.disk.make_file(_RELEASE_FILE, content)
        self._later(self.behaviour.off_s, lambda: self._start_install(patience_s))

    def _start_install(self, patience_s: float) -> None:
        self._start_agent(with_link=False)
        shell = self.shell
        if shell is None:
            return
        self.world.after(patience_s, lambda: self.restart_agent() if self.shell is shell else None)
        try:
            with ReleaseFile(self.disk, _RELEASE_FILE, self.limits) as file:
                offer = LocalReleaseOffered(str(file.path), file.envelope, file.payload_length, file.head)
        except NarrowboatError:
            return
        self._turn(shell, offer)

    def hear(self, event: Event) -> None:
        """Something came from the network."""
        if self.shell is not None:
            self._turn(self.shell, event)

    # What it is.

    @property
    def is_up(self) -> bool:
        return self.shell is not None

    def release_in(self, slot: str) -> bytes | bool | None:
        """The release whose image a slot holds, by its bytes on the medium; None for another known image, False for
        anything else.
        """
        path = self._slot_paths[slot]
        version = self.disk.version(path)
        if slot not in self._found or self._found[slot][0] != version:
            content = self.disk.durable(path) or b""
            found = next((release for image, release in self.images.items() if content.startswith(image)), False)
            self._found[slot] = version, found
        return self._found[slot][1]

    # The machine.

    def _later(self, span_s: tuple[float, float], act: Callable[[], None]) -> None:
        self._next_start = self.world.at(self.world.now_s + self.world.rng.uniform(*span_s), act)

    def fuse_blew(self) -> None:
        self.power_cut()
        self._later(self.behaviour.off_s, self.power_on)

    def _reset(self) -> None:
        """The watchdog, or a panic: like a cut, but that nothing of the page cache is torn."""
        self.power_cut(Outcome.DROPPED)
        self._later(self.behaviour.off_s, self.power_on)

    def _reboot(self) -> None:
        self.power_cut(Outcome.MIXED if self.behaviour.hangs_at_reboot() else Outcome.KEPT)
        self._later(self.behaviour.off_s, self.power_on)

    def _start_agent(self, *, with_link: bool = True) -> None:
        files = ExitStack()
        try:
            storage = files.enter_context(open_storage(self.disk, self.config, self.limits))
            root = read_root(self.disk, self.config, self.limits)
        except PowerCut:
            self.fuse_blew()
            return
        except NarrowboatError as error:
            self._agent_ended(error)
            return
        self._files, self.storage = files, storage
        self._inbox = make_inbox(self.limits)
        certificate, key = _certificate(self.device.certificate), self.device.agreement_key
        settings = settings_of(self.config, certificate, root, storage.slots, key)
        release = self.release_in(storage.started.boot.running)
        is_newer = release in self.behaviour.newer_agents
        settings = replace(settings, agent_version="0.2.0" if is_newer else "0.1.0")
        self.agent = Agent(settings, self.device.key, self.world.rng.randbytes, self.limits)
        core = NewerAgent(self.agent) if is_newer else self.agent
        jobs = Jobs(self.disk, storage.slots, self, self._inbox)
        self.lanes = Lanes(self, self.world, self.disk, jobs, self.behaviour.job_s)
        self.shell = Shell(core, storage.machine(self.lanes, self, _do_nothing), self._inbox, self.clock)
        self._turn(self.shell, storage.started)
        if with_link and self.shell is not None:
            self._link.up()

    def _end_agent(self) -> None:
        was_up, self.shell, self.agent, self.storage = self.shell is not None, None, None, None
        self._files.pop_all()
        if self.lanes is not None:
            self.lanes.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._timer_s = None
        if was_up:
            self._link.down()

    def _agent_ended(self, error: NarrowboatError) -> None:
        """The agent gave up. Again, until the watchdog has seen enough."""
        self.world.note(self.name, "agent ended", error.reason)
        self.observer.gave_up(error)
        self._end_agent()
        self.disk.close_all()
        self._failed_starts += 1
        again = self._reset if self._failed_starts >= _FAILED_STARTS_MAX else self._start_agent
        self._later(self.behaviour.off_s, again)

    # Events.

    def take_turn(self, event: Event | None) -> None:
        """Have the shell handle an event of the machine's own."""
        if self.shell is not None:
            self._turn(self.shell, event)

    def _turn(self, shell: Shell, event: Event | None) -> None:
        try:
            ending = self._handle(shell, event)
            while ending is None and len(self._inbox):
                ending = self._handle(shell, self._inbox.get(0.0))
        except PowerCut:
            self.fuse_blew()
            return
        except NarrowboatError as error:
            self._agent_ended(error)
            return
        if ending is Ending.REBOOT:
            self.observer.reboots()
            self._reboot()
        elif self.shell is shell:
            self._set_timer(shell)

    def _handle(self, shell: Shell, event: Event | None) -> Ending | None:
        self.observer.hears(event)
        ending = shell.turn(event)
        self.world.note(self.name, type(event).__name__)
        self.observer.handled(event)
        return ending

    def _set_timer(self, shell: Shell) -> None:
        deadline_s = shell.deadline
        if deadline_s == self._timer_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s, self._timer = deadline_s, None
        if deadline_s is not None:
            self._timer = self.world.at(self.clock.world_time(deadline_s) + _TICK_S, self._time_out)

    def _time_out(self) -> None:
        self._timer = self._timer_s = None
        self.take_turn(None)

    # What the shell asks of the machine.

    def publish(self, channel: Channel, payload: bytes, qos: int) -> None:
        self.observer.published(channel, payload)
        self._link.publish(channel, payload, qos)

    def use_broker(self, broker: UseBroker) -> None:
        """The simulated network has one broker, and no TLS."""

    def believe_time(self, known: BelieveTime) -> None:
        """Nor certificates that end."""

    def run(self, hook: Hook, token: int, /) -> HookFinished:
        outcome = self.behaviour.hook(hook)
        self.observer.asked(hook, outcome)
        return HookFinished(hook, token, outcome, "output of the hook")


def _do_nothing() -> None:
    """The machine reboots when the shell has ended."""


@cache
def _certificate(der: bytes) -> Certificate:
    read = x509.load_der_x509_certificate(der)
    begins, ends = read.not_valid_before_utc, read.not_valid_after_utc
    return Certificate("", der, int(begins.timestamp()), int(ends.timestamp()))

"""The root that this gateway trusts, and the walk to newer ones.

A root comes alone, on the topic that all read, or in a chain of those that were missed. Either way the gateway goes
from version N to N+1 and no further at once: it believes one step, has it made durable, and only then looks at the next
(TUF 1.0.34, section 5.3.8). The rest of a chain waits for that as a deadline that has come already; a step that is not
believed, or not stored, ends the walk. When a chain is through, and when a root shows that there are more, a hello with
the version reached is planned, and a bridge answers it with what follows. So a gateway catches up with any number of
years, and never holds more than one chain.

A director that a new root brings counts anew, and what the one before said of the time binds nobody.
"""

from __future__ import annotations

from contextlib import suppress

from narrowboat_protocol.documents import RoleName, Root, RootChain
from narrowboat_protocol.errors import NarrowboatError, Reason
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.trust import Trust

from .actions import Action, BelieveTime, Log, Record, Save, UseBroker
from .events import Now
from .memory import Memory, TrustRecord
from .settings import Settings
from .voice import Voice


class Roots:
    """What is trusted, and what has still to be looked at. `trust` is never older than what is stored."""

    def __init__(self, settings: Settings, trust: Trust, memory: Memory, voice: Voice, limits: Limits) -> None:
        self.trust = trust
        self._first = trust.root
        self._settings = settings
        self._memory = memory
        self._voice = voice
        self._limits = limits
        self._ahead: tuple[bytes, ...] = ()
        self._due_s: float | None = None

    @property
    def deadline_s(self) -> float | None:
        """When to look at the next root of a chain, in monotonic seconds."""
        return self._due_s

    def take_up(self, provisioned: TrustRecord) -> list[Action]:
        """Believe under the stored root, if it is of the fleet that this gateway was provisioned for."""
        self.trust, believed = newest_trust(self.trust, self._memory.trust, self._limits)
        self._voice.root_version = self.trust.root.version
        if believed is not None:
            return []
        self._memory.trust = provisioned
        return [Log("trust: expected a root of this fleet, found another; going on from the first one", warning=True)]

    def broker(self) -> UseBroker:
        """Whom to connect to under the root that is trusted now."""
        return broker_of(self.trust.root, self._first)

    def time_floor(self, issued_at: int) -> int:
        """What an assignment says of the time, as far as it can be true. The newest one counts, so a director whose
        clock was wrong for a while does no lasting harm.
        """
        return time_of(self._settings, self.trust.root, issued_at).floor_s

    def arrived(self, data: bytes, now: Now, *, retained: bool) -> list[Action]:
        """A root came alone. One that a bridge publishes now, and that is known, says that it has just started."""
        try:
            step = self._step(data)
        except NarrowboatError as error:
            if error.reason is Reason.STALE:
                self._voice.plan_hello(now)
            raise
        if step:
            return [*step, *self._voice.say_hello(now)]
        if not retained:
            self._voice.plan_hello(now)
        return []

    def chain_arrived(self, data: bytes, now: Now) -> list[Action]:
        """Look at the first root of a chain now, and at the others one by one. The newest chain replaces the rest of
        one before.
        """
        self._ahead = RootChain.decode(data).roots
        return self.time_reached(now)

    def time_reached(self, now: Now) -> list[Action]:
        """Take the next step of a chain, past what is known. Raises, and ends the walk, if it is not believed."""
        ahead, self._ahead, self._due_s = self._ahead, (), None
        for number, data in enumerate(ahead, 1):
            step = self._step(data)
            if step:
                self._ahead = ahead[number:]
                self._due_s = now.monotonic_s if self._ahead else None
                if not self._ahead:
                    self._voice.plan_hello(now)
                return step
        return []

    def failed(self, action: Action) -> None:
        """What was believed could not be stored: it is tried again, and the rest of the chain has to come again."""
        if isinstance(action, Save) and action.record is Record.TRUST:
            self._ahead, self._due_s = (), None

    def _step(self, data: bytes) -> list[Action]:
        """Go one version on. Nothing, if this one is not newer."""
        step = take_step(self.trust, self._memory, self._settings.built_at_s, data)
        self._voice.root_version = self.trust.root.version
        return step


def take_step(trust: Trust, memory: Memory, built_at_s: int, data: bytes) -> list[Action]:
    """Believe the next root, and make that durable. Nothing, if it is not newer; `PeerError`, if it is not believed."""
    director = trust.root.role(RoleName.DIRECTOR)
    if not trust.update_root(data):
        return []
    changes: dict[str, object] = {"root": data}
    if trust.root.role(RoleName.DIRECTOR).kids != director.kids:
        changes |= {"assignment": None, "assignment_counter": 0, "time_floor": built_at_s}
    return [memory.save_trust(**changes), Log(f"root version {trust.root.version} accepted")]


def broker_of(root: Root, first: Root) -> UseBroker:
    """What a root says of the broker that the first one did not. The configuration of a gateway belongs to the first:
    it may well name another way to the same broker, and stays in force until the owner says something new.
    """
    addresses = root.broker_addresses if root.broker_addresses != first.broker_addresses else ()
    return UseBroker(
        root_version=root.version,
        anchors=root.broker_anchors if root.broker_anchors != first.broker_anchors else (),
        addresses=tuple((address.host, address.port) for address in addresses),
        root_urls=root.root_urls,
    )


def time_of(settings: Settings, root: Root, time_floor: int) -> BelieveTime:
    """What is known of the time, given what the newest assignment said of it."""
    latest = min(root.expires_at, settings.certificate_ends_s)
    return BelieveTime(max(settings.built_at_s, min(time_floor, latest)), latest)


def newest_trust(first: Trust, stored: TrustRecord | None, limits: Limits) -> tuple[Trust, TrustRecord | None]:
    """Trust in the root that was stored, and its record. If that is of another fleet, damaged or missing: in the first
    root, and no record.
    """
    with suppress(NarrowboatError):
        if stored is not None and stored.fleet_id == first.fleet_id:
            return Trust(stored.root, stored.fleet_id, limits), stored
    return first, None

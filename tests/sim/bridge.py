"""The bridge: the real campaign core in the real loop, with the real intake, operators' desk, director, herald,
performer and payload server. Only the store's medium, the links and the clocks are the world's.

Fault model. The process dies in a turn: before its commit, between the commit and the first word, or between two words;
its service manager starts it again after a while. Its machine loses power: then its connections stay half-open, and the
broker goes on giving them their share. Its database is put back to an older copy, and the process started on it. Its
clock is wrong by hours, and is set right by a step. Messages wait up to a fifth of a second for their batch. New roots
are put into its folder while it runs or not; one that runs is told, and reads them at its next turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path as FolderPath
from typing import Protocol

from narrowboat_bridge.audit import AuditChain
from narrowboat_bridge.core.admission import NEVER_S
from narrowboat_bridge.core.campaigns import Campaigns, Settings
from narrowboat_bridge.core.events import Now, ReleaseAdded, Restored
from narrowboat_bridge.server import schema
from narrowboat_bridge.server.crew import Crew
from narrowboat_bridge.server.director import Director
from narrowboat_bridge.server.enrolment import EnrolmentIntake
from narrowboat_bridge.server.herald import Herald
from narrowboat_bridge.server.inbox import Inbox, LinkOpened, MessageArrived
from narrowboat_bridge.server.intake import Intake, IntakeLimits
from narrowboat_bridge.server.issuer import Issuer
from narrowboat_bridge.server.loop import Loop, Parts
from narrowboat_bridge.server.metrics import Metrics
from narrowboat_bridge.server.operators import OperatorDesk
from narrowboat_bridge.server.payloads import PayloadLimits, PayloadServer, payloads_of
from narrowboat_bridge.server.performer import Office, Performer
from narrowboat_bridge.server.revocation import RevocationList
from narrowboat_bridge.server.root_shelf import RootShelf
from narrowboat_bridge.server.store import Loaded, Store
from narrowboat_bridge.server.upload_worker import AddBlock, UploadOutcome
from narrowboat_protocol.topics import Channel, bridge_subscriptions, parse_topic
from narrowboat_protocol.trust import Trust
from tests.support.fleet import NOW

from .bridge_disk import Batch, BridgeDisk
from .broker import Broker, Message
from .clients import BridgeClient
from .network import Path, nothing
from .site import Site
from .uploads import SimUploadWorker, UploadFolder
from .weather import Weather
from .world import Handle, World

CAMPAIGNS_MAX = 6
REPLAYS_MAX = 200
INBOX_MAX = 1000
INBOX_BYTES_MAX = 1 << 20
_DOCUMENT_BYTES = 1000
_BATCH_S = 0.2
_TICK_S = 0.001
"""So much after a deadline it has passed, whatever floats make of sums."""
_DATA_CHANNELS = (Channel.GET, Channel.GET_ANY)


class BridgeDiedError(Exception):
    """The process is gone. Nothing of the bridge catches it."""


class BridgeWatch(Protocol):
    """Who sees what the bridge makes durable."""

    def started(self, state: Restored) -> None:
        """The process began, on what is durable."""
        ...

    def committed(self, batch: Batch) -> None: ...

    def restored(self) -> None:
        """The database is an older one."""
        ...

    def uploaded(self, got: bytes, expected: bytes) -> None:
        """The bridge says of a file that it has so much of it."""
        ...


@dataclass(frozen=True, slots=True)
class _Process:
    """One run of the bridge: everything that dies with it."""

    campaigns: Campaigns
    loop: Loop
    inbox: Inbox
    payloads: PayloadServer
    uploads: SimUploadWorker
    control: BridgeClient
    data: BridgeClient
    metrics: Metrics


class SimBridge:
    """One bridge, in one process at a time."""

    def __init__(
        self, world: World, site: Site, broker: Broker, weather: Weather, disk: BridgeDisk, watch: BridgeWatch
    ) -> None:
        self._world = world
        self._site = site
        self._broker = broker
        self._weather = weather
        self._disk = disk
        self._watch = watch
        self._rng = world.fork("bridge")
        self._paths = tuple(Path(world, weather, f"bridge-{part}") for part in ("control", "data"))
        self._runs = 0
        self._waiting = 0
        self._turn: Handle | None = None
        self._fuse: str = ""
        self._words = 0
        self._process: _Process | None = None
        self._starting: Handle | None = None
        self._roots = 1
        self._uploads = UploadFolder(world, site, watch)
        self.clock_off_s = 0

    @property
    def paths(self) -> tuple[Path, ...]:
        return self._paths

    @property
    def is_up(self) -> bool:
        return self._process is not None

    @property
    def hears(self) -> bool:
        """Both links stand and carry."""
        process = self._process
        return process is not None and process.control.hears and process.data.hears

    @property
    def has_plans(self) -> bool:
        """The core wants to look at a device again."""
        return self._process is not None and self._process.campaigns.deadline is not None

    def clocks(self) -> Now:
        return Now(1000.0 + self._world.now_s, NOW + int(self._world.now_s) + self.clock_off_s)

    # What happens to it.

    def start(self) -> None:
        """Start the process on what is durable."""
        self._starting = None
        if self._process is not None:
            return
        self._runs += 1
        self._world.note("bridge starts", self._runs)
        self._process = self._assemble(self._disk.open(self._site.fleet.fleet_id, self))
        self._process.control.start()
        self._process.data.start()
        self._wake(0.0)

    def die(self, *, silently: bool = False, start_after_s: float = 5.0) -> None:
        """The process ends where it stands, and is started again. `silently`: its machine lost its power."""
        process, self._process = self._process, None
        if process is None:
            return
        self._world.note("bridge dies", silently)
        for client in (process.control, process.data):
            client.stop(silently=silently)
        process.uploads.die()
        if silently:
            self._uploads.lose_power(self._rng)
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self._waiting = 0
        self._starting = self._world.after(start_after_s, self.start)

    def restore(self) -> None:
        """Put an older copy of the database back, and start on it."""
        if self._disk.copies == 0:
            return
        self.die()
        index = self._rng.randrange(self._disk.copies)
        self._world.note("database restored", index, self._disk.copies)
        self._disk.restore(index)
        self._watch.restored()

    def copy(self) -> None:
        """Somebody makes a backup."""
        self._disk.copy()

    def end(self) -> None:
        """The world ends."""
        self._uploads.remove()

    @property
    def root(self) -> bytes:
        """The newest one in its folder."""
        return self._site.roots[self._roots - 1]

    def add_root(self) -> None:
        """The owner puts the next root into the folder."""
        if self._roots < len(self._site.roots):
            self._roots += 1
            self._world.note("new root", self._roots)
        if self._process is not None:
            self._process.loop.reload()

    def _read_root(self, version: int) -> bytes | None:
        return self._site.roots[version - 1] if version <= self._roots else None

    # What the store tells, in the middle of a turn.

    def committing(self) -> None:
        if self._fuse == "before":
            raise BridgeDiedError

    def committed(self, batch: Batch) -> None:
        self._watch.committed(batch)
        for row in batch.get(schema.releases, ()) if self._weather.uploads else ():
            if row["digest"] == self._site.releases[-1].digest:
                self._uploads.took_in(self._site.releases[-1])
        if self._fuse == "after":
            raise BridgeDiedError

    # What the process asks of its links.

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> None:
        assert self._process is not None
        if self._fuse == "saying":
            self._words -= 1
            if self._words < 0:
                raise BridgeDiedError
        self._process.control.publish(Message(topic, payload, qos, _DOCUMENT_BYTES), retain=retain)

    def publish_data(self, topic: str, payload: bytes) -> bool:
        assert self._process is not None
        if not self._process.data.is_connected:
            return False
        if self._weather.strikes(self._weather.forgery, self._rng):
            payload = _altered(payload, self._rng.randrange(len(payload)))
        self._process.data.publish(Message(topic, payload, 0, len(payload)))
        return True

    # One turn.

    def _wake(self, wait_s: float) -> None:
        due_s = self._world.now_s + wait_s
        if self._turn is not None:
            if self._turn.act is not None and self._turn.due_s <= due_s:
                return
            self._turn.cancel()
        self._turn = self._world.at(due_s, self._run_turn)

    def _run_turn(self) -> None:
        process, self._turn = self._process, None
        assert process is not None
        deadline_s = process.campaigns.deadline
        if self._waiting == 0 and (deadline_s is None or deadline_s > self.clocks().monotonic_s):
            self._plan(deadline_s)
            return
        self._fuse = ""
        if self._weather.strikes(self._weather.bridge_kills, self._rng):
            self._fuse, self._words = self._rng.choice(("before", "after", "saying")), self._rng.randrange(4)
        self._waiting = 0
        try:
            process.loop.turn()
        except BridgeDiedError:
            self.die(start_after_s=self._rng.uniform(1.0, 30.0))
            return
        self._plan(process.campaigns.deadline)

    def _plan(self, deadline_s: float | None) -> None:
        if deadline_s is not None:
            self._wake(max(0.0, deadline_s - self.clocks().monotonic_s) + _TICK_S)

    def _take_document(self, message: Message) -> None:
        assert self._process is not None
        topic = parse_topic(message.topic)
        if topic.channel is Channel.UPLOAD:
            self._process.uploads.offer(AddBlock(topic.name, message.payload))
            return
        self._process.inbox.offer(MessageArrived(topic, message.payload))
        self._waiting += 1
        self._wake(self._rng.random() * _BATCH_S)

    def _take_request(self, message: Message) -> None:
        assert self._process is not None
        self._process.payloads.serve(parse_topic(message.topic), message.payload)

    def _take_outcome(self, outcome: UploadOutcome) -> None:
        assert self._process is not None
        self._process.inbox.put(outcome)
        self._waiting += 1
        self._wake(0.0)

    def _opened(self) -> None:
        assert self._process is not None
        self._process.inbox.put(LinkOpened())
        self._waiting += 1
        self._wake(0.0)

    # Putting it together, as `server.assembly` does.

    def _assemble(self, store: Store) -> _Process:
        site, metrics = self._site, Metrics()
        fleet = site.fleet
        roots = RootShelf(self._read_root, fleet.fleet_id)
        trust = roots.trust
        loaded = store.load()
        self._watch.started(loaded.state)
        campaigns = Campaigns(Settings(trust.root.version, campaigns_max=CAMPAIGNS_MAX))
        campaigns.handle(loaded.state, self.clocks())
        payloads = PayloadServer(
            site.files,
            self,
            PayloadLimits(4000.0, 1e9, INBOX_MAX, INBOX_MAX),
            lambda: self.clocks().monotonic_s,
            metrics,
        )
        payloads.allow_all({item.device: payloads_of(item) for item in loaded.state.assignments})
        desk = OperatorDesk(trust, site.operators_document, loaded.operators_taken, loaded.replays, REPLAYS_MAX)
        performer = Performer(
            store,
            _office(site, trust, loaded, lambda: self.clocks().wall_s),
            AuditChain(trust.fleet_id, loaded.newest_audit_entry),
            desk,
            payloads,
            self,
            roots,
        )
        inbox = Inbox(INBOX_MAX, INBOX_BYTES_MAX, metrics)
        intake = Intake(
            trust.fleet_id,
            site.verify_certificate,
            campaigns,
            IntakeLimits(devices_max=16, messages_per_s=10.0),
            metrics,
            self._rng.randbytes,
        )
        if not loaded.state.releases:
            self._add_releases(campaigns, performer)
        uploads = self._uploads.open(lambda: self.clocks().wall_s, self._take_outcome)
        loop = Loop(
            Parts(
                campaigns=campaigns,
                intake=intake,
                enrolments=EnrolmentIntake(trust.fleet_id, 200.0, NEVER_S, metrics),
                desk=desk,
                performer=performer,
                uploads=uploads,
                publisher=self,
                metrics=metrics,
                roots=roots,
                read_operators=lambda: site.operators_document,
                crew=Crew(),
            ),
            inbox,
            operator_messages_per_s=50.0,
            clocks=self.clocks,
        )
        control, data = self._make_clients()
        return _Process(campaigns, loop, inbox, payloads, uploads, control, data, metrics)

    def _add_releases(self, campaigns: Campaigns, performer: Performer) -> None:
        there = self._site.known_releases[:-1] if self._weather.uploads else self._site.known_releases
        for number, release in enumerate(there):
            event = ReleaseAdded(release, "anna", number.to_bytes(16, "big"))
            performer.perform(campaigns.handle(event, self.clocks()), self.clocks())

    def _make_clients(self) -> tuple[BridgeClient, BridgeClient]:
        """The control and the data link, each under a client id that nobody had before."""
        filters = bridge_subscriptions()
        requests = [text for text in filters if text.rpartition("/")[2] in _DATA_CHANNELS]
        documents = [text for text in filters if text not in requests]

        def client(path: Path, texts: list[str], qos: int, take: Callable[[Message], None]) -> BridgeClient:
            subscriptions = tuple((text, qos) for text in texts)
            opened = self._opened if take == self._take_document else nothing
            name = f"auto:{path.name}-{self._runs}"
            return BridgeClient(self._world, self._broker, path, name, subscriptions, take, opened)

        control, data = self._paths
        return client(control, documents, 1, self._take_document), client(data, requests, 0, self._take_request)


def _office(site: Site, trust: Trust, loaded: Loaded, wall_s: Callable[[], int]) -> Office:
    """Every gateway has its certificate from the beginning. A list of what is revoked stays in memory."""
    authority = site.fleet.device_ca.authority
    path = FolderPath(site.folder.name) / "device-crl.pem"
    return Office(
        Director(site.fleet.director, trust, loaded.assignments),
        Herald(site.fleet.bridge, trust, loaded.event_sequence),
        Issuer(authority, loaded.certificates),
        RevocationList(path, authority, None, wall_s),
    )


def _altered(payload: bytes, place: int) -> bytes:
    return payload[:place] + bytes([payload[place] ^ 0x10]) + payload[place + 1 :]

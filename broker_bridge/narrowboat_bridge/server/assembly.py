"""From a configuration to a bridge that is ready to run: everything opened, checked against each other, and
closed again.

What can be known to be wrong is found here, before the bridge says anything: keys that the root does not
name, an operators document that nobody signed, a store of another fleet, a second bridge on the same data
folder.

The threads are few: one for each of the two links, one for payloads, one for uploads, and one for the list of
what is revoked where gateways enrol. The loop has the caller's thread.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from narrowboat_protocol.documents import Admission
from narrowboat_protocol.errors import PeerError, Reason, TrustError, UsageError
from narrowboat_protocol.keys import PublicKey
from narrowboat_protocol.suit import AgreementKey, recipients_of
from narrowboat_protocol.topics import Channel, Topic, bridge_subscriptions, parse_topic
from narrowboat_protocol.trust import Trust

from ..audit import AuditChain
from ..core.campaigns import Campaigns, Settings
from ..core.events import Now, Restored
from ..pki import Authority, read_authorities, verify_device_certificate
from .config import Config, load_agreement_key, load_key, read_file
from .crew import Crew
from .director import Director
from .enrolment import EnrolmentIntake
from .herald import Herald
from .inbox import Inbox, LinkOpened, MessageArrived
from .intake import Intake, IntakeLimits
from .issuer import Issuer, serial_of
from .link import Link, LinkSettings, tls_context
from .loop import Loop, Parts, read_clocks
from .metrics import Metrics
from .operators import OperatorDesk
from .payloads import BlockSink, PayloadFolder, PayloadLimits, PayloadServer, payloads_of
from .performer import AT_LEAST_ONCE, AT_MOST_ONCE, Office, Performer, Publisher
from .revocation import RevocationList
from .root_shelf import RootShelf, roots_in
from .store import Loaded, Store
from .upload_worker import AddBlock, UploadWorker
from .uploads import UploadLimits, Uploads

_log = logging.getLogger(__name__)

_DATA_CHANNELS = (Channel.GET, Channel.GET_ANY)


@contextmanager
def open_bridge(config: Config) -> Iterator[Loop]:
    """Open everything and start the threads; stop and close it all at the end. The loop is the caller's to run."""
    with ExitStack() as stack:
        metrics, crew = Metrics(), Crew()
        control, data = _make_links(config, metrics, crew)
        workshop = stack.enter_context(open_workshop(config, control, data, metrics, crew))
        router = Router(workshop, metrics)
        for link, take in ((control, router.take_document), (data, router.take_request)):
            opened = partial(workshop.inbox.put, LinkOpened()) if link is control else _nothing
            link.start(take, opened)
            stack.callback(link.stop)
        yield workshop.loop


@dataclass(frozen=True, slots=True)
class Workshop:
    """A bridge with everything open but its connections."""

    loop: Loop
    inbox: Inbox
    uploads: UploadWorker
    payloads: PayloadServer


@contextmanager
def open_workshop(
    config: Config,
    publisher: Publisher,
    sink: BlockSink,
    metrics: Metrics,
    crew: Crew,
    clocks: Callable[[], Now] = read_clocks,
) -> Iterator[Workshop]:
    """Everything of a bridge that needs no broker: what it says goes to `publisher`, and payload data to `sink`."""
    with ExitStack() as stack:
        config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        stack.enter_context(_only_bridge_on(config.data))
        roots = _load_roots(config)
        trust = roots.trust
        store = Store(config.store_path, trust.fleet_id, config.limits.history_rows_per_device)
        stack.callback(store.close)
        loaded = store.load()
        inbox = Inbox(config.limits.messages_queued_max, config.limits.messages_queued_bytes_max, metrics)
        payloads = _make_payload_server(config, loaded, sink, metrics, clocks)
        agreement_key = load_agreement_key(config.keys.agreement)
        uploads = UploadWorker(_make_uploads(config, trust, agreement_key, clocks), inbox.put, metrics)
        _name_missing_payloads(config, loaded, uploads)
        _name_unopened_payloads(loaded, agreement_key)
        authority = _load_authority(config)
        ends_s = int(authority.certificate.not_valid_after_utc.timestamp())
        campaigns = Campaigns(Settings(trust.root.version, authority_ends_s=ends_s))
        campaigns.handle(loaded.state, clocks())
        desk = _make_desk(config, trust, loaded)
        office = _make_office(config, trust, loaded, authority, agreement_key, clocks)
        performer = _make_performer(roots, store, loaded, desk, payloads, publisher, office)
        if desk.taken != loaded.operators_taken:
            performer.note_operators(desk.taken)
        parts = Parts(
            campaigns=campaigns,
            intake=_make_intake(config, trust, campaigns, office, metrics),
            enrolments=EnrolmentIntake(trust.fleet_id, config.limits.enrolments_per_s, ends_s, metrics),
            desk=desk,
            performer=performer,
            uploads=uploads,
            publisher=publisher,
            metrics=metrics,
            roots=roots,
            read_operators=partial(read_file, config.trust.operators),
            crew=crew,
        )
        for worker in (payloads, uploads, office.revocations):
            worker.start(crew)
            stack.callback(worker.stop)
        loop = Loop(parts, inbox, config.limits.operator_messages_per_s, clocks)
        yield Workshop(loop, inbox, uploads, payloads)


class Router:
    """Hands each message to the thread that it is for. Called in the links' threads."""

    def __init__(self, workshop: Workshop, metrics: Metrics) -> None:
        self._workshop = workshop
        self._metrics = metrics

    def take_document(self, topic_text: str, data: bytes) -> None:
        topic = self._parse(topic_text)
        if topic is None:
            return
        if topic.channel is Channel.UPLOAD:
            self._workshop.uploads.offer(AddBlock(topic.name, data))
        else:
            self._workshop.inbox.offer(MessageArrived(topic, data))

    def take_request(self, topic_text: str, data: bytes) -> None:
        topic = self._parse(topic_text)
        if topic is not None and self._workshop.inbox.admits_fetch():
            self._workshop.payloads.offer(topic, data)

    def _parse(self, text: str) -> Topic | None:
        try:
            return parse_topic(text)
        except PeerError as error:
            self._metrics.refuse("topic", error)
            return None


def _load_roots(config: Config) -> RootShelf:
    folder = config.trust.roots
    try:
        return RootShelf(roots_in(folder), bytes.fromhex(config.fleet_id))
    except PeerError as error:
        raise UsageError(
            Reason.BAD_CONFIG, f"{folder / '1.root'}: expected the signed root of this fleet: {error}"
        ) from None
    except OSError as error:
        raise UsageError(Reason.BAD_CONFIG, f"{folder}: expected readable roots: {error.strerror}") from None
    except UsageError as error:
        raise UsageError(error.reason, f"{folder}: {error}") from None


def _make_links(config: Config, metrics: Metrics, crew: Crew) -> tuple[Link, Link]:
    """The control and the data connection."""
    tls, limits = tls_context(config.broker), config.limits
    filters = bridge_subscriptions()
    requests = [text for text in filters if text.rpartition("/")[2] in _DATA_CHANNELS]
    documents = [text for text in filters if text not in requests]
    control, data = (
        LinkSettings(name, [(text, qos) for text in texts], limits.publishes_queued_max, limits.outstanding_bytes_max)
        for name, texts, qos in (
            (config.name, documents, AT_LEAST_ONCE),
            (f"{config.name}-data", requests, AT_MOST_ONCE),
        )
    )
    return Link(config.broker, tls, control, metrics, crew), Link(config.broker, tls, data, metrics, crew)


def _make_payload_server(
    config: Config, loaded: Loaded, sink: BlockSink, metrics: Metrics, clocks: Callable[[], Now]
) -> PayloadServer:
    """It knows at once what every device may fetch: a restart interrupts no download for longer than the reconnect."""
    limits = config.limits
    server = PayloadServer(
        PayloadFolder(config.payloads_folder),
        sink,
        PayloadLimits(
            limits.device_requests_per_s,
            limits.device_bytes_per_s,
            limits.requests_queued_max,
            limits.device_requests_queued_max,
        ),
        lambda: clocks().monotonic_s,
        metrics,
    )
    server.allow_all({item.device: payloads_of(item) for item in loaded.state.assignments})
    return server


def _make_uploads(
    config: Config, trust: Trust, agreement_key: AgreementKey | None, clocks: Callable[[], Now]
) -> Uploads:
    limits = UploadLimits(config.limits.uploads_max, config.limits.upload_bytes_max)
    return Uploads(
        config.uploads_folder,
        config.payloads_folder,
        trust,
        limits,
        lambda: clocks().wall_s,
        agreement_key=agreement_key,
    )


def _name_missing_payloads(config: Config, loaded: Loaded, uploads: UploadWorker) -> None:
    """A store that was put back without its payloads serves what is there; the rest can be pushed again."""
    for release in loaded.state.releases:
        if not uploads.has(release.payload):
            _log.warning(
                "release %s %s: expected its payload in %s, got none; push its release file again",
                release.version,
                release.digest.hex(),
                config.payloads_folder,
            )


def _name_unopened_payloads(loaded: Loaded, agreement_key: AgreementKey | None) -> None:
    """A bridge whose agreement key is gone, or is another one, serves such payloads to nobody."""
    for release in loaded.state.releases:
        info = release.payload.encryption
        if info is not None and (agreement_key is None or agreement_key.public.kid not in recipients_of(info)):
            _log.warning(
                "release %s %s: expected its key to be sealed to [keys] agreement, got it sealed to others; put back"
                " the key of then, or build another release",
                release.version,
                release.digest.hex(),
            )


def _load_authority(config: Config) -> Authority:
    path = config.trust.device_ca
    try:
        return Authority.of(read_file(path), load_key(config.keys.device_ca))
    except UsageError as error:
        raise UsageError(error.reason, f"{path}, {config.keys.device_ca}: {error}") from None


def _make_office(
    config: Config,
    trust: Trust,
    loaded: Loaded,
    authority: Authority,
    agreement_key: AgreementKey | None,
    clocks: Callable[[], Now],
) -> Office:
    wall_s = partial(_wall_s, clocks)
    revocations = RevocationList(config.crl_path, authority, config.enrolment.crl_command, wall_s)
    issuer = Issuer(authority, loaded.certificates)
    revocations.make_up_for(revoked_serials(loaded.state, issuer))
    return Office(
        Director(load_key(config.keys.director), trust, loaded.assignments, agreement_key),
        Herald(load_key(config.keys.bridge), trust, loaded.event_sequence),
        issuer,
        revocations,
    )


def revoked_serials(state: Restored, issuer: Issuer) -> frozenset[int]:
    """Of all certificates of revoked keys: those that were issued, and those that devices showed. They go by the key,
    since another key may have the name by now.
    """
    revoked = (each for each in state.registrations if each.admission is Admission.REVOKED)
    kids = frozenset(kid for each in revoked for kid in each.kids)
    shown = (device.hello.certificate for device in state.devices if device.key.kid in kids)
    return issuer.serials_of(kids, None) | {serial_of(certificate) for certificate in shown}


def _wall_s(clocks: Callable[[], Now]) -> int:
    return clocks().wall_s


def _make_intake(config: Config, trust: Trust, campaigns: Campaigns, office: Office, metrics: Metrics) -> Intake:
    try:
        authorities = read_authorities(read_file(config.trust.device_ca))
    except UsageError as error:
        raise UsageError(error.reason, f"{config.trust.device_ca}: {error}") from None

    def verify_certificate(certificate: bytes, now_s: int) -> tuple[str, PublicKey]:
        name, key = verify_device_certificate(certificate, authorities, now_s)
        if office.revocations.has(certificate):
            raise TrustError(Reason.NOT_PERMITTED, "expected a certificate that counts, got one that was revoked")
        return name, key

    limits = IntakeLimits(config.limits.devices_max, config.limits.device_messages_per_s)
    return Intake(trust.fleet_id, verify_certificate, campaigns, limits, metrics)


def _make_performer(  # it is the one that touches everything
    roots: RootShelf,
    store: Store,
    loaded: Loaded,
    desk: OperatorDesk,
    payloads: PayloadServer,
    publisher: Publisher,
    office: Office,
) -> Performer:
    trust = roots.trust
    return Performer(
        store,
        office,
        AuditChain(trust.fleet_id, loaded.newest_audit_entry),
        desk,
        payloads,
        publisher,
        roots,
    )


def _make_desk(config: Config, trust: Trust, loaded: Loaded) -> OperatorDesk:
    path = config.trust.operators
    try:
        return OperatorDesk(trust, read_file(path), loaded.operators_taken, loaded.replays, config.limits.replays_max)
    except PeerError as error:
        raise UsageError(
            Reason.BAD_CONFIG,
            f"{path}: expected the newest operators document that this fleet's admin keys signed: {error}",
        ) from None


@contextmanager
def _only_bridge_on(folder: Path) -> Iterator[None]:
    """Hold a lock that the kernel drops with the process, however it ends."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                Reason.BAD_CONFIG, f"{folder}: expected no other bridge on this folder, found one; stop it first"
            ) from None
        yield


def _nothing() -> None:
    pass

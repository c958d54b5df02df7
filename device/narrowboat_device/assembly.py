"""From a configuration to a gateway that is ready to run: everything opened, checked against each other, and closed
again.

What can be known to be wrong is found here, before the agent starts: a key that is not the certificate's, a
certificate of another name (the broker would let it in and then starve it), a slot that is not there, a data folder
that is missing, another agent on the same one. Whatever is found is a `UsageError` that says what to do. A record that
is gone from its folder is made anew, with a warning: a gateway that lost its data partition goes on.
"""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from narrowboat_protocol.documents.fields import SIZE_END
from narrowboat_protocol.errors import MediumError, PeerError, Reason, UsageError
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.limits import KIB, MIB, Limits
from narrowboat_protocol.payload import Codec, available_codecs
from narrowboat_protocol.suit import AgreementKey, class_id, vendor_id
from narrowboat_protocol.trust import Hardware, Trust

from . import BUILT_AT_S, __version__
from .boot import BootControl
from .boot.file import FileBootControl
from .certificate import Certificate, note_path, read_certificate
from .config import Config
from .core import Agent
from .core.actions import Record
from .core.events import BootStatus, Started
from .core.judge import committed_slot
from .core.memory import Journal, TrustRecord, read_record
from .core.roots import broker_of, newest_trust, time_of
from .core.settings import Settings, SlotSettings
from .disk import Disk
from .envelopes import EnvelopeFolder
from .files import read_bounded
from .hooks import HookRunner, hook_commands
from .inbox import Inbox
from .link import Link
from .loop import Machine, NoLink, Publisher, Worker, monotonic_s, wall_s
from .records import RecordFile, record_bytes_max, record_path
from .rendezvous import Endpoint, Papers, Rendezvous
from .slots import SlotFile
from .status import StatusFile, status_path
from .tls_time import TlsTime
from .workers import Jobs, Workers

_log = logging.getLogger(__name__)

_PEM_BYTES_MAX = 64 * KIB
_REBOOT_COMMAND_TIMEOUT_S = 60.0
# A whole window may wait, each block with its header, beside the answers to requests that were late and made twice.
_INBOX_WINDOWS = 2


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway with everything open."""

    agent: Agent
    machine: Machine
    inbox: Inbox
    started: Started
    """The agent's first event."""
    link: Link | NoLink


@dataclass(frozen=True, slots=True)
class Storage:
    """What a gateway keeps on its disks, open."""

    slots: Mapping[str, SlotFile]
    records: Mapping[Record, RecordFile]
    envelopes: EnvelopeFolder
    boot: BootControl
    status: StatusFile
    started: Started

    def machine(self, workers: Worker, link: Publisher, reboot: Callable[[], None]) -> Machine:
        return Machine(self.slots, self.records, self.envelopes, self.boot, workers, link, self.status, reboot)


@contextmanager
def open_gateway(disk: Disk, config: Config, limits: Limits, *, with_link: bool) -> Iterator[Gateway]:
    """Open everything that the agent needs. The link, if there is to be one, connects at once; without it, somebody is
    there who asked for what is done, and the reboot is left to them.
    """
    with ExitStack() as stack:
        stack.enter_context(lock_folder(config.storage.data_dir))
        signer = read_signer(disk, config)
        note = note_path(config.storage.data_dir)
        certificate = read_certificate(disk, config.identity_certificate, note, signer.public)
        if certificate.name != config.gateway.name:
            raise UsageError(
                Reason.BAD_CONFIG,
                f"[broker] certificate: expected one for {config.gateway.name}, as [gateway] says, got one for "
                f"{certificate.name!r:.80}",
            )
        storage = stack.enter_context(open_storage(disk, config, limits))
        inbox = make_inbox(limits)
        running = storage.started.boot.running
        hooks = HookRunner(hook_commands(config), running, status_path(config.storage.data_dir))
        workers = Workers(Jobs(disk, storage.slots, hooks, inbox), inbox)
        stack.callback(workers.close)
        stack.callback(hooks.close)
        warn_of_missing(available_codecs())
        root, agreement_key = read_root(disk, config, limits), read_agreement_key(disk, config)
        settings = settings_of(config, certificate, root, storage.slots, agreement_key)
        link = _open_link(config, settings, limits, inbox, stack, storage.started) if with_link else NoLink()
        agent = Agent(settings, signer, os.urandom, limits)
        stack.callback(inbox.close)
        reboot = _rebooter(config.boot.reboot_command if with_link else None)
        yield Gateway(agent, storage.machine(workers, link, reboot), inbox, storage.started, link)


@contextmanager
def open_storage(disk: Disk, config: Config, limits: Limits) -> Iterator[Storage]:
    """Open what the agent keeps, and read what an agent that starts now finds in it."""
    with ExitStack() as stack:
        records = {record: stack.enter_context(_provide_record(disk, config, record, limits)) for record in Record}
        contents = {record: file.load() for record, file in records.items()}
        boot = boot_control(disk, config)
        status = _boot_status(boot, contents[Record.JOURNAL], config.slot_names)
        slots = {
            slot.name: stack.enter_context(
                SlotFile(disk, slot.name, slot.path, limits, writable=slot.name != status.running)
            )
            for slot in config.slots
        }
        _check_slots(config, slots)
        envelopes = EnvelopeFolder(disk, config.storage.data_dir, limits)
        started = Started(
            boot=status,
            records=contents,
            newer=frozenset(record for record, file in records.items() if file.is_newer),
            envelopes={name: envelope for name in slots if (envelope := envelopes.load(name)) is not None},
        )
        shown = StatusFile(disk, status_path(config.storage.data_dir), _facts(config, status))
        yield Storage(slots, records, envelopes, boot, shown, started)


def _check_slots(config: Config, slots: Mapping[str, SlotFile]) -> None:
    """Links and device names can give the running slot the other one's name, under which it would be overwritten. And
    a size that no document can carry is that of a whole disk.
    """
    first, second = slots.values()
    if first.identity == second.identity:
        paths = " and ".join(str(slot.path) for slot in config.slots)
        raise UsageError(Reason.BAD_CONFIG, f"[[slots]] path: expected two slots, got two names of one: {paths}")
    for slot in slots.values():
        if slot.size_bytes >= SIZE_END:
            raise UsageError(
                Reason.BAD_CONFIG,
                f"slot {slot.name}: expected less than {SIZE_END} bytes, got {slot.size_bytes}",
            )


def make_inbox(limits: Limits) -> Inbox:
    return Inbox(_INBOX_WINDOWS * limits.window_bytes_max)


@contextmanager
def lock_folder(data_dir: Path) -> Iterator[None]:
    """Be the only agent on a data folder. Raises `UsageError` if another one is at work or the folder is missing."""
    try:
        fd = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(
            Reason.BAD_CONFIG,
            f"[storage] data_dir: expected a folder at {data_dir}: {error.strerror}; run `narrowboat-device provision`",
        ) from None
    try:
        if not _lock(fd):
            raise UsageError(Reason.BUSY, f"another narrowboat-device is at work on {data_dir}; stop it first")
        yield
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def read_signer(disk: Disk, config: Config) -> PrivateKey:
    """The device's private key, in a token or in a file."""
    if config.identity is not None:
        from .tokens import key_in_token

        return key_in_token(config.identity.key)
    return read_connection_key(disk, config)


def read_connection_key(disk: Disk, config: Config) -> PrivateKey:
    """The key of the file that TLS uses. Raises `UsageError` if the file only refers to one in a token."""
    return PrivateKey.from_pem(read_bounded(disk, config.broker.key, _PEM_BYTES_MAX, "[broker] key"))


def read_agreement_key(disk: Disk, config: Config) -> AgreementKey | None:
    """What opens the keys of encrypted payloads, if this gateway is to take them."""
    if config.encryption is None:
        return None
    return AgreementKey.from_pem(read_bounded(disk, config.encryption.key, _PEM_BYTES_MAX, "[encryption] key"))


def read_root(disk: Disk, config: Config, limits: Limits) -> bytes:
    """The root that this gateway is provisioned with, once it is known to be one."""
    data = read_bounded(disk, config.storage.root, limits.root_bytes_max, "[storage] root")
    try:
        Trust(data, limits=limits)
    except PeerError as error:
        raise UsageError(
            Reason.BAD_CONFIG,
            f"[storage] root: expected a signed root in {config.storage.root}: {error}; copy it from the fleet anew",
        ) from None
    return data


def boot_control(disk: Disk, config: Config) -> BootControl:
    """The adapter that the configuration names."""
    return FileBootControl(disk, config.boot.state_file, config.boot.booted_path, config.slot_names, config.boot.tries)


def open_record(disk: Disk, config: Config, record: Record, limits: Limits) -> RecordFile:
    return RecordFile(disk, record_path(config.storage.data_dir, record), record_bytes_max(record, limits))


def _provide_record(disk: Disk, config: Config, record: Record, limits: Limits) -> RecordFile:
    """Open a record. One that is gone, as with a data partition that was lost, is made anew."""
    path = record_path(config.storage.data_dir, record)
    if not disk.exists(path):
        _log.warning("record %s: expected one at %s, made it anew; what it said is lost", record, path)
        RecordFile.allocate(disk, path, record_bytes_max(record, limits))
    return open_record(disk, config, record, limits)


def _boot_status(boot: BootControl, journal: bytes | None, slots: tuple[str, str]) -> BootStatus:
    """What boot control says. If it lost its variables, they are written anew: a slot that runs, or that ran before the
    trial that is on, is one that boots.
    """
    try:
        return boot.status()
    except MediumError as error:
        if error.reason is not Reason.STATE_UNREADABLE:
            raise  # it may be whole, and be read the next time
        known = read_record(Journal, journal)
        slot = committed_slot(known.attempt if known is not None else None, boot.running, slots)
        _log.warning("%s; slot %s is made the one that boots", error, slot)
        boot.restore(slot)
        return boot.status()


def hardware_of(config: Config) -> Hardware:
    vendor = vendor_id(config.gateway.vendor)
    return Hardware(vendor, class_id(vendor, config.gateway.hardware_class))


def warn_of_missing(available: Collection[Codec]) -> None:
    """Say it at the start, not when the first release has failed. Operators see it from the hello."""
    missing = ", ".join(codec.name.lower() for codec in Codec if codec not in available)
    if missing:
        _log.warning(
            "this installation cannot decode %s, and a release in it will fail here; install narrowboat-device[%s]",
            missing,
            missing,
        )


def settings_of(
    config: Config,
    certificate: Certificate,
    root: bytes,
    slots: Mapping[str, SlotFile],
    agreement_key: AgreementKey | None = None,
) -> Settings:
    """What the agent is told about this gateway."""
    first, second = (SlotSettings(slot.name, slot.size_bytes) for slot in slots.values())
    return Settings(
        device=config.gateway.name,
        component=config.gateway.component,
        hardware=hardware_of(config),
        slots=(first, second),
        certificate=certificate.der,
        certificate_ends_s=certificate.ends_s,
        first_root=root,
        agent_version=__version__,
        built_at_s=BUILT_AT_S,
        codecs=tuple(sorted(available_codecs())),
        memory_bytes_max=config.limits.memory_mib * MIB,
        local_install_allowed=config.install.allow_local,
        health_deadline_s=config.health.deadline_s,
        health_retry_s=config.health.retry_s,
        hook_timeout_s=config.hooks.timeout_s,
        hook_retry_s=config.hooks.retry_s,
        agreement_key=agreement_key,
    )


def _open_link(
    config: Config, settings: Settings, limits: Limits, inbox: Inbox, stack: ExitStack, started: Started
) -> Link:
    """Connect by what the records say; the agent tells what changes."""
    broker = config.broker
    papers = Papers(broker.server_ca, broker.certificate, broker.key)
    endpoint = Endpoint(
        host=broker.host,
        port=broker.port,
        device=config.gateway.name,
        tls=papers.context(),
        keepalive_s=broker.keepalive_s,
    )
    rendezvous = Rendezvous(endpoint, papers, config.trust.root_urls, limits, monotonic_s)
    first = Trust(settings.first_root, limits=limits)
    trust, believed = newest_trust(first, read_record(TrustRecord, started.records[Record.TRUST]), limits)
    rendezvous.use(broker_of(trust.root, first.root))
    known = time_of(settings, trust.root, 0 if believed is None else believed.time_floor)
    tls_time = TlsTime(known, settings.built_at_s, wall_s)
    link = Link(rendezvous, tls_time, inbox, limits, monotonic_s)
    stack.callback(link.close)
    link.start()
    return link


def _facts(config: Config, status: BootStatus) -> dict[str, str]:
    return {"device": config.gateway.name, "slot": status.running, "boot_id": status.boot_id.hex()}


def _rebooter(command: Sequence[str] | None) -> Callable[[], None]:
    """How this machine reboots: by a command, or by whoever waits for our exit status."""

    def reboot() -> None:
        if command is None:
            return
        try:
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=_REBOOT_COMMAND_TIMEOUT_S)
        except (OSError, subprocess.SubprocessError) as error:
            raise MediumError(
                Reason.BOOT_CONTROL_FAILED, f"[boot] reboot_command: expected a reboot, got {error}"
            ) from error

    return reboot

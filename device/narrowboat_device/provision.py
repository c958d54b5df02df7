"""Making a machine a gateway: its keys, room for what must survive, and the first boot state.

Everything here may be repeated: what is there stays as it is. A key in particular is made once and never replaced,
since it is who this gateway is. One in a token is made with the tool of the token's vendor, and looked for here. With
an [encryption] section there is a second one, which opens encrypted payloads. A private key never leaves the machine;
what leaves is a certificate signing request, whose subject is only a hint, as the registry chooses the name.

With a release file, the envelope of the release that the running slot was made from is put beside it, so that the
fleet knows what runs from the first hello on, and the next start of the agent raises the floor to it. The envelope is
believed like any other; whether the slot's bytes are that release is what `verify-slot` proves. Where another release
is said to be in the slot, by an update that came after the factory, only that proof overrules it.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from narrowboat_protocol.errors import PeerError, Reason, UsageError
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.suit import Release, parse_envelope
from narrowboat_protocol.trust import NO_FLOOR

from .assembly import hardware_of, lock_folder, read_root, read_signer
from .boot.state import STATE_BYTES_MAX, BootState, read_state, write_state
from .config import Config
from .core.actions import Record
from .disk import Disk
from .envelopes import EnvelopeFolder
from .files import medium_failed, sync_folder, write_durably
from .known import trusted_root
from .records import RecordFile, record_bytes_max, record_path
from .release_file import ReleaseFile
from .verify import slot_holds


def provision(disk: Disk, config: Config, limits: Limits, primary: str | None = None) -> list[str]:
    """Make what is missing. Returns a line for each thing that was made. Raises `UsageError` if the key is missing and
    another run is at work: each would make one, and ask for a certificate for a key that the other replaces.
    """
    make_folders(disk, config, limits)
    with nullcontext() if all(map(disk.exists, _keys(config))) else lock_folder(config.storage.data_dir):
        return make_missing(disk, config, limits, primary)


def make_folders(disk: Disk, config: Config, limits: Limits) -> None:
    """Make the folders that are missing, once there is a root to trust."""
    read_root(disk, config, limits)
    keys = [key.parent for key in _keys(config)]
    for folder in (config.storage.data_dir, *keys, config.boot.state_file.parent):
        _make_folder(disk, folder)


def make_missing(disk: Disk, config: Config, limits: Limits, primary: str | None = None) -> list[str]:
    """What `provision` does once nobody else does."""
    data_dir = config.storage.data_dir
    _look_for_token(disk, config)
    made = [f"key {path}" for path in _keys(config) if make_key(disk, path)]
    for record in Record:
        path = record_path(data_dir, record)
        if not disk.exists(path):
            made.append(f"record {path}")
        RecordFile.allocate(disk, path, record_bytes_max(record, limits))
    if _make_boot_state(disk, config, primary):
        made.append(f"boot state {config.boot.state_file}")
    return made


def _look_for_token(disk: Disk, config: Config) -> None:
    """A key in a token is made with another tool, and so is the file by which OpenSSL finds it."""
    if config.identity is None:
        return
    read_signer(disk, config)
    if not config.has_connection_key and not disk.exists(config.broker.key):
        raise UsageError(
            Reason.BAD_CONFIG,
            f"[broker] key: expected a file by which OpenSSL finds the key in the token, got none: {config.broker.key};"
            " make it with the tool of the provider",
        )


def _keys(config: Config) -> list[Path]:
    """The files of the keys that this gateway makes for itself."""
    return [config.broker.key, *([config.encryption.key] if config.encryption is not None else ())]


def make_key(disk: Disk, path: Path) -> bool:
    """Make a P-256 key, readable by its owner only, unless there is a file already. True if it was made. A power cut
    leaves a whole key or none, since a part of one would never be replaced. One caller at a time.
    """
    if disk.exists(path):
        return False
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_durably(disk, path, pem, 0o600)
    return True


def signing_request(disk: Disk, config: Config) -> bytes:
    """A certificate signing request for the device's key, PEM."""
    return request_for(config.gateway.name, read_signer(disk, config))


def request_for(name: str, private: PrivateKey) -> bytes:
    """A certificate signing request, PEM."""
    key = private.in_cryptography
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError(Reason.BAD_CONFIG, "expected a P-256 key of this gateway, got Ed25519; brokers ask for P-256")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def record_release(disk: Disk, config: Config, limits: Limits, path: Path) -> str:
    """Put the envelope of a release file beside the primary slot. Returns the slot. Raises `PeerError` if it is not
    believed, and `UsageError` if the slot is known to hold another release or an agent is at work.
    """
    with ReleaseFile(disk, path, limits) as file:
        envelope = file.envelope
    with lock_folder(config.storage.data_dir):
        trust = trusted_root(disk, config, limits)
        release = trust.open_release(envelope)
        image = trust.judge_release(release, config.gateway.component, hardware_of(config), NO_FLOOR)
        state = read_state(disk, config.boot.state_file)
        if state is None:
            raise UsageError(Reason.BAD_CONFIG, f"{config.boot.state_file}: expected a boot state; provision first")
        slot = next(slot for slot in config.slots if slot.name == state.primary)
        envelopes = EnvelopeFolder(disk, config.storage.data_dir, limits)
        recorded = envelopes.load(slot.name)
        if recorded is not None and not _is_of(recorded, release, limits) and not slot_holds(disk, slot, image, limits):
            raise UsageError(
                Reason.BAD_USE,
                f"slot {slot.name}: expected it to hold the release in {path}, got one that was installed since; "
                "name that one, or none",
            )
        envelopes.save(slot.name, envelope)
        return slot.name


def _is_of(envelope: bytes, release: Release, limits: Limits) -> bool:
    try:
        return parse_envelope(envelope, limits).digest == release.digest
    except PeerError:
        return False


def _make_folder(disk: Disk, folder: Path) -> None:
    try:
        missing = [path for path in (folder, *folder.parents) if not disk.exists(path)]
        for path in reversed(missing):
            disk.make_folder(path)
            sync_folder(disk, path.parent)
    except OSError as error:
        raise medium_failed(f"make the folder {folder}", error) from error


def _make_boot_state(disk: Disk, config: Config, primary: str | None) -> bool:
    """Say that the primary slot, and it alone, boots, unless there is a boot state already."""
    slot = primary or config.slot_names[0]
    if slot not in config.slot_names:
        raise UsageError(Reason.BAD_USE, f"--primary: expected {' or '.join(config.slot_names)}, got {slot!r:.40}")
    RecordFile.allocate(disk, config.boot.state_file, STATE_BYTES_MAX)
    if read_state(disk, config.boot.state_file) is not None:
        return False
    write_state(disk, config.boot.state_file, BootState(slot, None, 0, frozenset({slot})))
    return True

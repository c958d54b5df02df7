"""Making the folders that devices, operators and bridges take away: a certificate, usually its key, and all else
they need.

A name belongs to a key. Issuing again for a name that has a certificate renews it if the key is the same, and
is refused if it is another: whoever lost a key gets a new name, or has the old folder removed on purpose by
somebody who may.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from narrowboat_protocol.documents.enrolment import CERTIFICATE_DAYS
from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.keys import Algorithm, PrivateKey, PublicKey

from ..files import PRIVATE, PUBLIC, write_atomically, write_new
from ..pki import Authority, issue_client, key_to_pem, new_key
from .fleet_folder import FleetFolder
from .key_files import load_certificate, load_key, save_key
from .staff_crl import is_revoked, note_issued

CERTIFICATE = "certificate.pem"
KEY = "key.pem"
SIGNING_KEY = "signing-key"

_DEVICE_TOML = """\
# The configuration of gateway {name}. Edit slots and boot for its hardware; paths are relative to this file.

[gateway]
name = "{name}"
vendor = "{vendor}"
class = "{hardware_class}"
component = "{component}"

[broker]
host = "{host}"
port = {port}
server_ca = "server-ca.pem"
certificate = "certificate.pem"
key = "key.pem"

[storage]
data_dir = "data"
root = "root.signed"

# [encryption]                 # take encrypted payloads; `narrowboat-device provision` makes the key
# key = "agreement.pem"

[boot]
adapter = "file"
state_file = "boot/state"
# reboot_command = ["systemctl", "reboot"]

[[slots]]
name = "a"
path = "/dev/disk/by-partlabel/{component}-a"

[[slots]]
name = "b"
path = "/dev/disk/by-partlabel/{component}-b"
"""

_OPERATOR_TOML = """\
name = "{name}"
host = "{host}"
port = {port}
fleet_id = "{fleet_id}"
ca = "server-ca.pem"
certificate = "certificate.pem"
key = "key.pem"
signing_key = "signing-key.pem"
root = "root.signed"
"""


def make_device(
    fleet: FleetFolder, authority: Authority, name: str, requested: ec.EllipticCurvePublicKey | None, now_s: int
) -> Path:
    """The folder of device `name`, ready to be copied to it. With the key of a signing request, only what it lacks."""
    folder = fleet.device(name)
    folder.mkdir(parents=True, exist_ok=True)
    key = _own_key(folder / KEY) if requested is None else requested
    _certify(folder / CERTIFICATE, authority, name, key, now_s)
    _copy_trust(fleet, folder, fleet.root_files()[0])
    if requested is None and not (folder / "device.toml").exists():
        text = _DEVICE_TOML.format(
            name=name,
            vendor=fleet.toml.vendor,
            hardware_class=fleet.toml.hardware_class,
            component=fleet.toml.component,
            host=fleet.toml.hosts[0],
            port=fleet.toml.device_port,
        )
        write_new(folder / "device.toml", text.encode(), PUBLIC)
    return folder


def make_operator(fleet: FleetFolder, authority: Authority, name: str, now_s: int) -> tuple[Path, PublicKey]:
    """The folder of operator `name`, and the key that verifies its commands."""
    folder = fleet.operator(name)
    folder.mkdir(parents=True, exist_ok=True)
    if is_revoked(fleet, folder / CERTIFICATE):
        raise UsageError(
            Reason.NOT_PERMITTED,
            f"expected keys that were not revoked, got those in {folder}; move it away and have new ones made",
        )
    _certify(
        folder / CERTIFICATE, authority, name, _own_key(folder / KEY), now_s, note=partial(note_issued, fleet, name)
    )
    _copy_trust(fleet, folder, fleet.root_files()[-1])
    signing_key_file = folder / f"{SIGNING_KEY}.pem"
    if not signing_key_file.exists():
        save_key(folder, SIGNING_KEY, PrivateKey.generate(Algorithm.ED25519))
    if not (folder / "operator.toml").exists():
        text = _OPERATOR_TOML.format(
            name=name, host=fleet.toml.hosts[0], port=fleet.toml.staff_port, fleet_id=fleet.toml.fleet_id
        )
        write_new(folder / "operator.toml", text.encode(), PUBLIC)
    return folder, load_key(signing_key_file, None).public


def make_bridge(fleet: FleetFolder, authority: Authority, name: str, now_s: int) -> Path:
    """The TLS identity of bridge `name`: in bridge/ if it is this fleet's first, else in a folder of its own."""
    folder = fleet.bridge if name == fleet.toml.bridge else fleet.path / "bridges" / name
    folder.mkdir(parents=True, exist_ok=True)
    _certify(folder / "tls-cert.pem", authority, name, _own_key(folder / "tls-key.pem"), now_s)
    (folder / "root").mkdir(exist_ok=True)
    for root in fleet.root_files():
        shutil.copyfile(root, folder / "root" / root.name)
    shutil.copyfile(fleet.server_ca_file, folder / "server-ca.pem")
    return folder


def make_birth(fleet: FleetFolder, authority: Authority, name: str, now_s: int) -> Path:
    """A birth certificate, which never expires and opens the enrolment listener only."""
    folder = fleet.path / "births" / name
    folder.mkdir(parents=True, exist_ok=True)
    _certify(folder / CERTIFICATE, authority, name, _own_key(folder / KEY), now_s, days=None)
    _copy_trust(fleet, folder, fleet.root_files()[0])
    return folder


def _own_key(path: Path) -> ec.EllipticCurvePublicKey:
    """The public half of the P-256 key in `path`, which is made if there is none."""
    if not path.exists():
        made = new_key()
        write_new(path, key_to_pem(made), PRIVATE)
        return made.public_key()
    key = serialization.load_pem_public_key(load_key(path, None).public.to_pem())
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise UsageError(Reason.BAD_USE, f"{path}: expected a P-256 key, got another kind; move it away")
    return key


def _certify(
    path: Path,
    authority: Authority,
    name: str,
    key: ec.EllipticCurvePublicKey,
    now_s: int,
    days: int | None = CERTIFICATE_DAYS,
    note: Callable[[bytes], None] | None = None,
) -> None:
    if path.exists() and _certified_key(path) != key:
        raise UsageError(
            Reason.CONFLICT,
            f"expected the key that {name} has a certificate for, got another;"
            f" choose another name, or remove {path.parent}",
        )
    certificate = issue_client(authority, name, key, now_s, days)
    if note is not None:
        note(certificate)
    write_atomically(path, certificate)


def _certified_key(path: Path) -> object:
    try:
        return load_certificate(path).public_key()
    except UsageError as error:
        raise UsageError(error.reason, f"{error}; remove it to have it issued anew") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(
            Reason.BAD_USE, f"{path}: expected a certificate of a P-256 key; remove it to have it issued anew"
        ) from None


def _copy_trust(fleet: FleetFolder, folder: Path, root: Path) -> None:
    """What everybody believes: a root, and the authority of the broker's certificate. A device begins with the first
    root, which names the fleet, and walks; who knows the fleet's id may begin with the newest.
    """
    shutil.copyfile(root, folder / "root.signed")
    shutil.copyfile(fleet.server_ca_file, folder / "server-ca.pem")

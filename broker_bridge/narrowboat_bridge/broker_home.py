"""The folder that a broker runs in: the reference configuration, one access list for each listener, and its
certificates.

The configuration is the text of `mosquitto.conf` as it stands in this package, with nothing replaced but ports and,
where it must run as root, the user. The access lists follow from the topic grammar, so that what the protocol says and
what the broker allows cannot drift apart. They consist of `pattern` lines alone: those are what Mosquitto applies to
every authenticated client, and `%u`, the name in the certificate, is the only thing in them that a client cannot
choose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import resources
from pathlib import Path

from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.topics import (
    EVENT_TOPIC,
    PREFIX,
    READ_BY_OWNER,
    ROOT_TOPIC,
    WRITTEN_BY_OWNER,
    Channel,
    Party,
    level_pattern,
)

CONF_NAME = "mosquitto.conf"
_PRIVATE, _SHARED = 0o600, 0o644


class Listener(StrEnum):
    """The four roles that connect to the broker, each at a listener of its own."""

    DEVICE = "device"
    ENROL = "enrol"
    STAFF = "staff"
    BRIDGE = "bridge"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the listeners listen."""

    device: int = 8883
    enrol: int = 8884
    staff: int = 8885
    bridge: int = 8886


@dataclass(frozen=True, slots=True)
class BrokerCertificates:
    """PEM files of the broker: its own certificate and key, and the authority that each listener trusts."""

    server_certificate: bytes
    server_key: bytes
    authorities: Mapping[Listener, bytes]
    revoked: Mapping[Listener, bytes]
    """What the authorities of devices and staff have revoked; a broker without the files lets nobody in."""


def access_lists() -> dict[Listener, str]:
    """The text of the access list of each listener."""
    parties = {Listener.DEVICE: Party.DEVICE, Listener.ENROL: Party.ENROLMENT, Listener.STAFF: Party.OPERATOR}
    lists = {listener: _own_topics(party) for listener, party in parties.items()}
    lists[Listener.DEVICE] += [f"pattern read {ROOT_TOPIC}"]
    lists[Listener.STAFF] += [f"pattern read {ROOT_TOPIC}", f"pattern read {EVENT_TOPIC}"]
    lists[Listener.BRIDGE] = [
        *_everybodys("read", WRITTEN_BY_OWNER.items()),
        *_everybodys("write", READ_BY_OWNER.items()),
        f"pattern write {ROOT_TOPIC}",
        f"pattern write {EVENT_TOPIC}",
    ]
    return {listener: "\n".join(lines) + "\n" for listener, lines in lists.items()}


def render_conf(ports: Ports = Ports(), user: str | None = None) -> str:
    """The reference configuration with these ports, run as `user` if it starts as root."""
    text = resources.files(__package__).joinpath(CONF_NAME).read_text(encoding="utf-8")
    for listener, default in asdict(Ports()).items():
        line = f"\nlistener {default}\n"
        if text.count(line) != 1:
            raise UsageError(Reason.BAD_USE, f"{CONF_NAME}: expected one listener {default} for role {listener}")
        text = text.replace(line, f"\nlistener {listener}\n")
    for listener, port in asdict(ports).items():
        text = text.replace(f"\nlistener {listener}\n", f"\nlistener {port}\n")
    return text if user is None else text + f"\nuser {user}\n"


def write_broker_home(
    folder: Path, certificates: BrokerCertificates, ports: Ports = Ports(), user: str | None = None
) -> None:
    """Fill a broker's home. Only public parts of the authorities go there; the broker's key is for its owner alone."""
    for name in ("tls", "acl", "data"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    _write(folder / CONF_NAME, render_conf(ports, user).encode(), _SHARED)
    for listener, text in access_lists().items():
        # Newer versions of Mosquitto warn about an access list that others may read, and announce to refuse it.
        _write(folder / "acl" / f"{listener}.acl", text.encode(), _PRIVATE)
    for listener in Listener:
        _write(folder / "tls" / f"{listener}-ca.pem", certificates.authorities[listener], _SHARED)
    for listener, revoked in certificates.revoked.items():
        _write(folder / "tls" / f"{listener}-crl.pem", revoked, _SHARED)
    _write(folder / "tls" / "server-cert.pem", certificates.server_certificate, _SHARED)
    _write(folder / "tls" / "server-key.pem", certificates.server_key, _PRIVATE)


def _own_topics(party: Party) -> list[str]:
    table = {"write": WRITTEN_BY_OWNER[party], "read": READ_BY_OWNER[party]}
    return [
        f"pattern {access} {PREFIX}/{party}/%u/{level_pattern(party, channel)}"
        for access, channels in table.items()
        for channel in channels
    ]


def _everybodys(access: str, table: Iterable[tuple[Party, tuple[Channel, ...]]]) -> list[str]:
    return [
        f"pattern {access} {PREFIX}/{party}/+/{level_pattern(party, channel)}"
        for party, channels in table
        for channel in channels
    ]


def _write(path: Path, content: bytes, mode: int) -> None:
    path.touch(mode=mode)
    path.chmod(mode)
    path.write_bytes(content)

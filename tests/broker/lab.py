"""The fleet that the end-to-end tests share: a real Mosquitto under the reference configuration, the real bridge as a
process, the real command line, and gateways with the real agent.

One lab serves many tests, since a fleet takes seconds to make: each test takes gateways of names of its own and
campaigns that list them. A test that disturbs everybody (a broker that dies, a bridge whose counters it reads) makes a
lab of its own.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from narrowboat_bridge.audit import AuditEntry, verify_chain
from narrowboat_bridge.broker_home import Listener
from narrowboat_bridge.cli.fleet_folder import FleetFolder
from narrowboat_bridge.cli.pki import save_operators
from narrowboat_bridge.pki import Authority, issue_client, key_to_pem, new_key
from narrowboat_device.config import load_config
from narrowboat_device.disk import Disk, SystemDisk
from narrowboat_device.provision import provision, record_release
from narrowboat_protocol.cbor import decode
from narrowboat_protocol.documents import Operators, RoleName
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.limits import DEFAULT_LIMITS, MIB
from narrowboat_protocol.payload import Codec
from narrowboat_protocol.trust import Trust
from tests.bridge.cli_kit import Outcome, run
from tests.support.agent_thread import AgentThread
from tests.support.broker import Credentials
from tests.support.fleet import CertificateAuthority, DeviceKit, FleetKit, MadeRelease, OperatorKit
from tests.support.images import small_image
from tests.support.live_fleet import NARROWBOAT, Gateway, LiveFleet
from tests.support.odd_agent import clock_settings
from tests.support.processes import Child, Children, wait_for
from tests.support.relay import RelayThread
from tests.support.rogue import PATIENCE_S, Rogue

DISK = SystemDisk()

OPERATOR, VIEWER = "operator", "viewer"
BASE_SEQUENCE = 3
SLOT_BYTES = 16 * MIB
TERMINAL = {"succeeded", "failed", "rolled_back", "rollback_failed", "rejected", "aborted"}


@dataclass(frozen=True, slots=True)
class Pushed:
    """A release that the bridge has, and its file."""

    made: MadeRelease
    file: Path


class Lab:
    """Broker and bridge of one fleet, and everything that its owner, its operator and an attacker can do."""

    def __init__(self, folder: Path, children: Children, born: str | None = None, *options: object) -> None:
        """`born` is the day on which the fleet, by `init` with these options, and its gateways are made; whoever serves
        them gets new certificates today.
        """
        self.folder = folder
        self._born = born
        self.fleet = LiveFleet(folder, children)
        self.children = children
        ports = self.fleet.ports
        self.make(
            "init", self.fleet.path, "--host", "127.0.0.1", "--operator", OPERATOR, "--device-port", ports.device,
            "--enrol-port", ports.enrol, "--staff-port", ports.staff, "--bridge-port", ports.bridge,
            *options,
        )  # fmt: skip
        self.make("pki", "issue", "operator", VIEWER, "--role", "viewer", "--fleet", self.fleet.path)
        if born is not None:
            for party, name in (("bridge", "bridge-1"), ("operator", OPERATOR)):
                renewed = run("pki", "issue", party, name, "--fleet", self.fleet.path)
                assert renewed.status == 0, renewed.err
        self.broker: Child = self.fleet.start_broker()
        self.bridge: Child = self.fleet.start_bridge()
        self.wait_until_served()

    def restart_bridge(self, end: Callable[[Child], None]) -> None:
        end(self.bridge)
        self.children.forget(self.bridge)
        self.bridge = self.fleet.start_bridge()

    def restart_broker(self, end: Callable[[Child], None]) -> None:
        end(self.broker)
        self.children.forget(self.broker)
        self.broker = self.fleet.start_broker()

    # What the owner has.

    def make(self, *arguments: object) -> None:
        """Run a command of the owner on the day on which the fleet was made."""
        if self._born is None:
            made = run(*arguments)
            assert made.status == 0, made.err
        else:
            command = ["env", *clock_settings(self._born), NARROWBOAT, *map(str, arguments)]
            subprocess.run(command, check=True, capture_output=True)

    @cached_property
    def kit(self) -> FleetKit:
        """The keys of this fleet, for what the command line would not make."""
        path = self.fleet.path
        root_data = (path / "root" / "1.root").read_bytes()
        trust = Trust(root_data)
        ca = Authority.of((path / "pki" / "device-ca.pem").read_bytes(), self._key("pki/device-ca-key.pem"))
        return FleetKit(
            root_data=root_data,
            fleet_id=trust.fleet_id,
            root_signers=(self._key("keys/root-1.pem"),),
            release_signers=(self._key("keys/release-1.pem"),),
            release_threshold=1,
            director=self._key("bridge/director.pem"),
            bridge=self._key("bridge/bridge.pem"),
            admin=self._key("keys/admin-1.pem"),
            device_ca=CertificateAuthority(ca),
            limits=DEFAULT_LIMITS,
        )

    def _key(self, name: str) -> PrivateKey:
        return PrivateKey.from_pem((self.fleet.path / name).read_bytes())

    @cached_property
    def base(self) -> Pushed:
        """What every gateway runs at first. It is not at the bridge."""
        made = self.kit.make_release(small_image(0, 300_000), sequence=BASE_SEQUENCE, codec=Codec.ZSTD)
        return Pushed(made, self.save(made, "base"))

    def save(self, made: MadeRelease, name: str) -> Path:
        file = self.folder / f"{name}.nbr"
        file.write_bytes(made.file)
        return file

    # What the operator types.

    def type(self, *arguments: object) -> Outcome:
        return run(*arguments, "--config", self.fleet.path / "operators" / OPERATOR)

    def push(self, image: bytes, version: str, *, sequence: int = BASE_SEQUENCE, codec: Codec = Codec.ZSTD) -> Pushed:
        made = self.kit.make_release(image, version=version, sequence=sequence, codec=codec)
        file = self.save(made, f"release-{version}")
        pushed = self.type("release", "push", file, "--wait")
        assert pushed.status == 0, pushed.err
        return Pushed(made, file)

    def start(self, pushed: Pushed, campaign: str, device: str, *options: object) -> None:
        """Start a campaign for one device, once the bridge knows it."""
        self.wait_until_known(device)
        started = self.type("campaign", "start", pushed.file, "--name", campaign, "--device", device, *options)
        assert started.status == 0, started.err

    def abort(self, campaign: str) -> None:
        aborted = self.type("campaign", "abort", campaign)
        assert aborted.status == 0, aborted.err

    def attempt(self, campaign: str, device: str) -> dict[str, Any]:
        """Where a device stands in a campaign, as the bridge tells it."""
        shown = self.type("campaign", "show", campaign, "--json")
        assert shown.status == 0, shown.err
        return next(attempt for attempt in json.loads(shown.out)["attempts"] if attempt["device"] == device)

    def cut_in_mid_download(self, gateway: Gateway, relay: RelayThread, synced_bytes: int) -> tuple[int, int]:
        """Cut a gateway's power once so much is synced, then let its link go on, and switch it on again. How much was
        synced, and how much the link had carried.
        """
        wait_for(lambda: gateway.status.get("done_bytes", 0) >= synced_bytes, PATIENCE_S, "a first sync")
        self.fleet.pull_the_plug(gateway)
        figures = gateway.status["done_bytes"], relay.counts.down_bytes
        relay.stall_at(None)
        self.fleet.switch_on(gateway)
        return figures

    def wait_for_end(self, campaign: str, device: str) -> dict[str, Any]:
        """The attempt, once the bridge knows its end."""
        wait_for(
            lambda: self.attempt(campaign, device)["state"] in TERMINAL, PATIENCE_S, f"an end of {campaign} on {device}"
        )
        return self.attempt(campaign, device)

    def wait_for_state(self, campaign: str, device: str, state: str) -> None:
        wait_for(
            lambda: self.attempt(campaign, device)["state"] == state,
            PATIENCE_S,
            f"{device} to be {state} in {campaign}",
        )

    def device(self, name: str) -> dict[str, Any] | None:
        """What the bridge knows of a device; None if it never heard of it."""
        shown = self.type("device", "show", name, "--json")
        return dict(json.loads(shown.out)) if shown.status == 0 else None

    def wait_until_known(self, device: str) -> None:
        wait_for(lambda: self.device(device) is not None, PATIENCE_S, f"a hello of {device}")

    def wait_until_served(self) -> None:
        """The bridge answers its operator."""
        wait_for(lambda: self.type("device", "list", "--timeout", 2).status == 0, PATIENCE_S, "the bridge to answer")

    def let_command(self, *operators: OperatorKit) -> None:
        """Add to the operators whom the admin lets command, and wait until the bridge knows."""
        fleet = FleetFolder.open(self.fleet.path)
        known = self.kit.trust().open_by_role(Operators, fleet.operators_file.read_bytes(), RoleName.ADMIN)
        everyone = [*known.operators, *(each.entry() for each in operators)]
        save_operators(fleet, known.version + 1, everyone, [self.kit.admin], approval_over=known.approval_over)
        taken = ("operators replaced", "admin", {"version": known.version + 1})
        os.kill(self.bridge.pid, signal.SIGHUP)
        wait_for(lambda: taken in self.audit(), PATIENCE_S, "the bridge to take the operators document")

    # Gateways, and whoever is not what they seem.

    def make_gateway(
        self, name: str, relay: RelayThread | None = None, *, slot_bytes: int = SLOT_BYTES, extra_toml: str = ""
    ) -> Gateway:
        """A provisioned gateway in a folder of its own, switched off."""
        self.make("pki", "issue", "device", name, "--fleet", self.fleet.path)
        port = self.fleet.ports.device if relay is None else relay.port
        gateway = Gateway(name, self.folder / name, port)
        (self.fleet.path / "devices" / name).rename(gateway.folder)
        base = self.base
        (gateway.folder / "slot-a.img").write_bytes(base.made.image)
        for slot in ("a", "b"):
            with (gateway.folder / f"slot-{slot}.img").open("ab") as file:
                file.truncate(slot_bytes)
        text = gateway.config.read_text().replace(f"port = {self.fleet.ports.device}", f"port = {port}")
        for slot in ("a", "b"):
            text = text.replace(f'"/dev/disk/by-partlabel/rootfs-{slot}"', f'"slot-{slot}.img"')
        gateway.config.write_text(text + extra_toml)
        config = load_config(gateway.config)
        provision(DISK, config, DEFAULT_LIMITS)
        record_release(DISK, config, DEFAULT_LIMITS, base.file)
        return gateway

    @contextmanager
    def gateway(
        self,
        name: str,
        relay: RelayThread | None = None,
        *,
        slot_bytes: int = SLOT_BYTES,
        extra_toml: str = "",
        disk: Disk = DISK,
    ) -> Iterator[AgentThread]:
        """A gateway that runs in a thread of the test."""
        made = self.make_gateway(name, relay, slot_bytes=slot_bytes, extra_toml=extra_toml)
        with AgentThread(made.config, disk) as machine:
            yield machine

    def rogue(self) -> Rogue:
        own = self.fleet.path / "bridge"
        credentials = Credentials("bridge-1", own / "tls-cert.pem", own / "tls-key.pem", own / "server-ca.pem")
        return Rogue(credentials, self.fleet.ports.bridge, self.kit.fleet_id)

    def credentials(self, listener: Listener, name: str) -> Credentials:
        """A certificate that a listener accepts, for somebody of whom this fleet knows no more than the name."""
        pki, folder = self.fleet.path / "pki", self.folder / f"{listener}-{name}"
        folder.mkdir()
        authority = Authority.of((pki / f"{listener}-ca.pem").read_bytes(), self._key(f"pki/{listener}-ca-key.pem"))
        key = new_key()
        (folder / "certificate.pem").write_bytes(issue_client(authority, name, key.public_key(), int(time.time())))
        (folder / "key.pem").write_bytes(key_to_pem(key))
        return Credentials(name, folder / "certificate.pem", folder / "key.pem", pki / "server-ca.pem")

    def impostor(self, name: str) -> tuple[DeviceKit, Credentials]:
        """Whoever holds a certificate of the device authority, and speaks for itself."""
        credentials = self.credentials(Listener.DEVICE, name)
        certificate = x509.load_pem_x509_certificate(credentials.certificate.read_bytes())
        key = PrivateKey.from_pem(credentials.key.read_bytes())
        return DeviceKit(name, key, certificate.public_bytes(Encoding.DER), self.kit.fleet_id), credentials

    # What the bridge leaves behind.

    def counts(self) -> dict[str, int]:
        """What the bridge counted until now. It says so when it ends, so it is started anew."""
        self.restart_bridge(Child.stop)
        line = re.findall(r"stopped: (.*)", self.bridge.log.read_text())[-1]
        self.wait_until_served()
        return {name: int(number) for name, _, number in (word.partition("=") for word in line.split())}

    def audit(self) -> list[tuple[str, str, dict[str, Any]]]:
        """What was done, by whom, and the facts; the chain of entries holds."""
        with closing(sqlite3.connect(self.fleet.path / "bridge" / "data" / "bridge.sqlite")) as store:
            rows = store.execute("SELECT sequence, content, hash FROM audit ORDER BY sequence").fetchall()
        verify_chain(self.kit.fleet_id, [AuditEntry(*row) for row in rows])
        entries = [decode(content, max_bytes=64 * 1024) for _, content, _ in rows]
        return [(entry[3], entry[4], entry[5]) for entry in entries if isinstance(entry, dict)]


def noise(seed: int, size_bytes: int) -> bytes:
    """An image that does not compress, so that its bytes on the wire can be counted. Push it as `Codec.STORED`."""
    return random.Random(seed).randbytes(size_bytes)


@contextmanager
def running_lab(folder: Path, born: str | None = None, *options: object) -> Iterator[Lab]:
    """A lab of its own, ended with every process of it."""
    with Children(folder / "logs") as children:
        yield Lab(folder, children, born, *options)

"""A whole fleet in one folder, for the demo, the tests and the bench: made by the commands that a newcomer would type,
run as separate processes.

    FOLDER/fleet           what `narrowboat init` makes
    FOLDER/gw-N            a gateway: device.toml, two slots, its data, and the log of its machine
    FOLDER/logs            what every process printed

Each gateway reaches the broker through a relay of its own, and is a `narrowboat-device machine`: a boot loader in a
file, and the agent as the process of each boot.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .broker import free_ports
from .processes import Child, Children, wait_for
from .relay import Counts, LinkShape, read_counts
from .tools import require_tool

BIN = Path(sys.executable).parent
NARROWBOAT, NARROWBOAT_DEVICE = str(BIN / "narrowboat"), str(BIN / "narrowboat-device")
_START_S = 30.0


@dataclass(slots=True)
class Gateway:
    """One gateway and its link."""

    name: str
    folder: Path
    relay_port: int
    machine: Child | None = None

    @property
    def config(self) -> Path:
        return self.folder / "device.toml"

    @property
    def status(self) -> dict[str, Any]:
        """The agent's own view of itself; empty before its first start."""
        path = self.folder / "data" / "status.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    @property
    def counts(self) -> Counts:
        return read_counts(self.folder / "relay.json")

    def slot_sha256(self, slot: str, size_bytes: int) -> str:
        """The digest of the first bytes of a slot."""
        digest = hashlib.sha256()
        with (self.folder / f"slot-{slot}.img").open("rb") as image:
            digest.update(image.read(size_bytes))
        return digest.hexdigest()


class LiveFleet:
    """Broker, bridge and gateways, with everything in `folder`."""

    def __init__(self, folder: Path, children: Children) -> None:
        self.folder = folder
        self.path = folder / "fleet"
        self._children = children
        self.ports = free_ports()
        self.bridge_options: tuple[str, ...] = ()
        self.device_options: tuple[str, ...] = ()
        """What comes before the command of every machine."""

    def narrowboat(self, *arguments: str) -> str:
        """Run a command of the operator or release engineer; returns what it printed, raises if it failed."""
        environment = {"NARROWBOAT_OPERATOR": str(self.path / "operators" / "operator")}
        return run([NARROWBOAT, *arguments], environment)

    def init(self, *arguments: str, host: str = "127.0.0.1") -> None:
        ports = self.ports
        self.narrowboat(
            "init", str(self.path), "--host", host,
            "--device-port", str(ports.device), "--enrol-port", str(ports.enrol),
            "--staff-port", str(ports.staff), "--bridge-port", str(ports.bridge), *arguments,
        )  # fmt: skip

    def make_release(self, name: str, image: Path, codec: str, level: int | None = None) -> Path:
        """Build a release of an image, of version `name`, and sign it; its file."""
        toml, release = self.folder / f"{name}.toml", self.folder / f"{name}.nbr"
        toml.write_text(
            f'component = "rootfs"\nvendor = "example.com"\nclasses = ["gateway-a"]\nversion = "{name}"\nsequence = 1\n'
            f'image = "{image}"\ncodec = "{codec}"\n' + (f"level = {level}\n" if level is not None else "")
        )
        self.narrowboat("release", "build", str(toml), "-o", str(release))
        self.narrowboat("release", "sign", str(release), "--key", str(self.path / "keys" / "release-1.pem"))
        return release

    def start_broker(self) -> Child:
        broker = self.path / "broker"
        script = f"cd '{broker}' && exec '{require_tool('mosquitto')}' -c mosquitto.conf"
        return self._children.start("broker", ["/bin/sh", "-c", script])

    def start_bridge(self) -> Child:
        config = self.path / "bridge" / "bridge.toml"
        return self._children.start(
            "bridge", [NARROWBOAT, "bridge", "run", "--config", str(config), *self.bridge_options]
        )

    def make_gateway(
        self, name: str, image: Path, release: Path, relay_port: int, extra_toml: str = "", slot_bytes: int = 0
    ) -> Gateway:
        """Issue its certificate, put a first image into slot a, provision it. Slot b holds at least `slot_bytes`."""
        gateway = Gateway(name, self.folder / name, relay_port)
        self.narrowboat("pki", "issue", "device", name, "--fleet", str(self.path))
        shutil.copytree(self.path / "devices" / name, gateway.folder)
        shutil.copyfile(image, gateway.folder / "slot-a.img")
        with (gateway.folder / "slot-b.img").open("wb") as slot:
            slot.truncate(max(slot_bytes, image.stat().st_size))
        gateway.config.write_text(_device_toml(gateway.config.read_text(), relay_port) + extra_toml)
        run([NARROWBOAT_DEVICE, "provision", "--config", str(gateway.config), "--release", str(release)], {})
        return gateway

    def start_relay(self, gateway: Gateway, shape: LinkShape) -> Child:
        command = [
            sys.executable, "-m", "tests.support.relay", "--port", str(gateway.relay_port),
            "--to", f"127.0.0.1:{self.ports.device}", "--rate", str(shape.rate_bits_per_s),
            "--round-trip", str(shape.round_trip_s), "--cut-every", str(shape.cut_every_s),
            "--status", str(gateway.folder / "relay.json"),
        ]  # fmt: skip
        return self._children.start(f"relay-{gateway.name}", command)

    def switch_on(self, gateway: Gateway) -> None:
        command = [NARROWBOAT_DEVICE, *self.device_options, "machine", "--config", str(gateway.config)]
        gateway.machine = self._children.start(gateway.name, command)

    def pull_the_plug(self, gateway: Gateway) -> None:
        """End the machine with everything in it at once."""
        assert gateway.machine is not None
        gateway.machine.kill()
        self._children.forget(gateway.machine)

    def wait_until_served(self) -> None:
        """The bridge answers an operator."""

        def answers() -> bool:
            environment = {"NARROWBOAT_OPERATOR": str(self.path / "operators" / "operator")}
            command = [NARROWBOAT, "device", "list", "--json", "--timeout", "2"]
            return (
                subprocess.run(command, env=_environment(environment), capture_output=True, check=False).returncode == 0
            )

        wait_for(answers, _START_S, "the bridge to answer")


def run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=_environment(environment), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def _environment(more: dict[str, str]) -> dict[str, str]:
    return {**os.environ, **more}


def _device_toml(text: str, relay_port: int) -> str:
    """The template as `pki issue device` wrote it, with slots in files and the relay's port."""
    port = tomllib.loads(text)["broker"]["port"]
    text = text.replace(f"port = {port}", f"port = {relay_port}")
    for slot in ("a", "b"):
        text = text.replace(f'"/dev/disk/by-partlabel/rootfs-{slot}"', f'"slot-{slot}.img"')
    return text

"""An owner who changes the root of a fleet that runs, by the commands of docs/ceremonies.md."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from narrowboat_device.known import trusted_root
from narrowboat_protocol.keys import public_key_from_pem
from narrowboat_protocol.limits import DEFAULT_LIMITS
from tests.bridge.cli_kit import Outcome, run
from tests.broker.lab import Lab
from tests.support.agent_thread import DISK, AgentThread
from tests.support.processes import wait_for
from tests.support.rogue import PATIENCE_S


def done(*arguments: object) -> Outcome:
    """Run a command that has to work."""
    outcome = run(*arguments)
    assert outcome.status == 0, outcome.err
    return outcome


def kid_of(public: Path) -> str:
    return public_key_from_pem(public.read_bytes()).kid.hex()


@dataclass(frozen=True, slots=True)
class Owner:
    """Who has the root key of a lab's fleet."""

    lab: Lab

    @property
    def fleet(self) -> Path:
        return self.lab.fleet.path

    @property
    def keys(self) -> Path:
        return self.fleet / "keys"

    @property
    def newest_root(self) -> Path:
        return max((self.fleet / "root").glob("*.root"), key=lambda path: int(path.stem))

    @property
    def fleet_id(self) -> str:
        return self.lab.kit.fleet_id.hex()

    def make_key(self, name: str) -> Path:
        """A new key; its public half."""
        done("keys", "create", name, "--out", self.keys)
        return self.keys / f"{name}.pub.pem"

    def change_root(self, verb: str, *arguments: object) -> str:
        """Draft, sign and publish the next root. What the change means, as the command said it."""
        draft = self.lab.folder / "next.draft"
        drafted = done("root", verb, self.newest_root, *arguments, "--fleet-id", self.fleet_id, "-o", draft)
        done("root", "sign", draft, "--key", self.keys / "root-1.pem")
        done("root", "publish", draft, "--fleet", self.fleet)
        return drafted.out

    def tell_bridge(self) -> None:
        os.kill(self.lab.bridge.pid, signal.SIGHUP)

    def wait_until_trusted(self, gateway: AgentThread, version: int) -> None:
        def trusts() -> bool:
            return trusted_root(DISK, gateway.config, DEFAULT_LIMITS).root.version >= version

        wait_for(trusts, PATIENCE_S, f"root version {version} on {gateway.name}")

    def release(self, version: str, image: bytes, *, key: Path, sequence: int = 1, epoch: int = 0) -> Path:
        """Build a release and sign it with the private half of `key`."""
        folder = self.lab.folder / f"build-{version}"
        folder.mkdir()
        (folder / "rootfs.ext4").write_bytes(image)
        text = (self.fleet / "release.toml").read_text().replace('"1.0.0"', f'"{version}"')
        text = text.replace("sequence = 1", f"sequence = {sequence}\nepoch = {epoch}")
        (folder / "release.toml").write_text(text)
        file = folder / "out.nbr"
        done("release", "build", folder / "release.toml", "-o", file)
        done("release", "sign", file, "--key", key.with_name(key.name.replace(".pub.pem", ".pem")))
        return file

    def roll_out(self, file: Path, campaign: str, device: str) -> str:
        """Push a release and bring it to a device. How the attempt ended."""
        pushed = self.lab.type("release", "push", file, "--wait")
        assert pushed.status == 0, pushed.err
        self.lab.wait_until_known(device)
        started = self.lab.type("campaign", "start", file, "--name", campaign, "--device", device)
        assert started.status == 0, started.err
        return str(self.lab.wait_for_end(campaign, device)["state"])

"""`make bench`: first figures, as ratios to nginx and curl in the same run.

Everything is real: Mosquitto with mutual TLS, the bridge, the agent, and on the other side nginx and curl writing the
same file. All of it shares this machine, so single figures say little and ratios of medians much. A figure that misses
its target is marked, and the exit status says so.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from narrowboat_device.machine import AGENT_ENVIRONMENT
from narrowboat_protocol.keys import Algorithm
from tests.support.broker import free_ports
from tests.support.images import build_pair
from tests.support.live_fleet import Gateway, LiveFleet
from tests.support.paths import REPOSITORY
from tests.support.processes import Child, Children
from tests.support.relay import LinkShape, RelayThread

from .nginx import ClientIdentity, Nginx
from .verification import milliseconds_per_document

MIB = 1024 * 1024
_PLAIN_LISTENER = """
listener {port} 127.0.0.1
use_username_as_clientid true
auto_id_prefix auto:
allow_anonymous true
acl_file acl/device.acl
"""
_RUNS = 5
_PROBE_DEADLINE_S = 300
_ROUND_TRIP_S = 0.3


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the result. `holds` is None where there is no target."""

    what: str
    value: str
    target: str = ""
    holds: bool | None = None


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make bench", description="throughput, memory and latency against nginx and curl"
    )
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".bench", help="where everything is kept")
    parser.add_argument("--runs", type=int, default=_RUNS, help="runs of which the median counts")
    given = parser.parse_args()
    folder: Path = given.folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with Children(folder / "logs") as children:
        figures = Bench(folder, children, given.runs).run()
    width = max(len(figure.what) for figure in figures)
    for figure in figures:
        mark = {None: "    ", True: "ok  ", False: "MISS"}[figure.holds]
        print(f"{mark} {figure.what:<{width}}  {figure.value:<28} {figure.target}".rstrip())
    return 1 if any(figure.holds is False for figure in figures) else 0


class Bench:
    """One fleet, three releases, and a new gateway for each run."""

    def __init__(self, folder: Path, children: Children, runs: int) -> None:
        self._folder = folder
        self._children = children
        self._runs = runs
        self._fleet = LiveFleet(folder, children)
        self._made = 0
        self._began_s = time.monotonic()
        self._servers: dict[str, Child] = {}

    def run(self) -> list[Figure]:
        self._prepare()
        throughput = [*self._throughput("lzma", gated=False), *self._throughput("zstd", gated=True)]
        return [*throughput, *self._first_block(), *self._memory(), *self._verification()]

    def _prepare(self) -> None:
        self._say("building images and releases")
        served = self._folder / "served"
        served.mkdir()
        small, image = build_pair(served, size_mib=64)
        self._image = served / "image-64"
        image.rename(self._image)
        self._seed = served / "seed"
        small.rename(self._seed)
        (served / "small").write_bytes(bytes(100_000))
        large = served / "image-1024"
        with large.open("wb") as file:
            for _ in range(16):
                file.write(self._image.read_bytes())
        self._fleet.init()
        self._plain_port = free_ports().device
        with (self._fleet.path / "broker" / "mosquitto.conf").open("a") as conf:
            conf.write(_PLAIN_LISTENER.format(port=self._plain_port))
        self._servers = {"broker": self._fleet.start_broker(), "bridge": self._fleet.start_bridge()}
        self._releases = {
            name: self._fleet.make_release(name, source, codec, level)
            for name, source, codec, level in (
                ("seed", self._seed, "stored", None),
                ("zstd", self._image, "zstd", 12),
                ("lzma", self._image, "lzma", 6),
                ("large", large, "zstd", 1),
            )
        }
        self._nginx = Nginx(self._folder / "nginx", served, self._fleet.path / "broker", self._free_pair())
        self._nginx.start(self._children)
        self._fleet.wait_until_served()

    def _campaign(self, name: str) -> None:
        self._fleet.narrowboat("release", "push", str(self._releases[name]), "--wait")
        self._fleet.narrowboat("campaign", "start", str(self._releases[name]), "--name", name)

    def _gateway(self, slot_bytes: int, port: int | None = None) -> Gateway:
        self._made += 1
        return self._fleet.make_gateway(
            f"gw-{self._made}",
            self._seed,
            self._releases["seed"],
            port or self._fleet.ports.device,
            slot_bytes=slot_bytes,
        )

    def _probe(self, gateway: Gateway, wanted: str, *options: str) -> dict[str, Any]:
        """Boot the gateway and run its agent until `wanted` has happened."""
        command = [sys.executable, "-m", "tests.bench.probe", str(gateway.config), wanted, *options]
        # As it is installed: with its modules compiled, since compiling them at each start would count as its memory.
        environment = {**os.environ, **AGENT_ENVIRONMENT}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        done = subprocess.run(
            command,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=_PROBE_DEADLINE_S,
            cwd=REPOSITORY,
        )
        if done.returncode:
            raise RuntimeError(f"the probe of {gateway.name} ended with {done.returncode}:\n{done.stderr}")
        return dict(json.loads(done.stdout))

    # What is measured.

    def _throughput(self, codec: str, *, gated: bool) -> list[Figure]:
        """Image bytes a second from the opened link to the last written chunk, against curl writing the image."""
        self._campaign(codec)
        size = self._image.stat().st_size
        ours: dict[str, list[float]] = {"tls": [], "plain": []}
        theirs: dict[str, list[float]] = {"tls": [], "plain": []}
        cpu: dict[str, list[float]] = {"agent": [], "bridge": [], "broker": []}
        for number in range(self._runs):
            self._say(f"throughput, {codec} frames, run {number + 1} of {self._runs}")
            gateway = self._gateway(size)
            before = {name: cpu_s(server.pid) for name, server in self._servers.items()}
            figures = self._probe(gateway, "written")
            ours["tls"].append(size / (figures["written"] - figures["first_block"]))
            cpu["agent"].append(figures["cpu_s"])
            for name, server in self._servers.items():
                cpu[name].append(cpu_s(server.pid) - before[name])
            target = gateway.folder / "curl.out"
            theirs["plain"].append(size / self._nginx.fetch("image-64", target, None).total_s)
            theirs["tls"].append(
                size / self._nginx.fetch("image-64", target, ClientIdentity.of(gateway.folder)).total_s
            )
            shutil.rmtree(gateway.folder)
            gateway = self._gateway(size, self._plain_port)
            figures = self._probe(gateway, "written", "--plain")
            ours["plain"].append(size / (figures["written"] - figures["first_block"]))
            shutil.rmtree(gateway.folder)
        rates = f"{median(ours['tls']) / 1e6:.0f} MB/s of image with TLS, {median(ours['plain']) / 1e6:.0f} without"
        lines = [
            Figure(f"{codec}: received, decoded, verified, written", rates),
            self._ratio(f"{codec}: against nginx and curl, both mutual TLS", ours["tls"], theirs["tls"], gated=gated),
            self._ratio(f"{codec}: against nginx and curl, both plain", ours["plain"], theirs["plain"], gated=gated),
        ]
        each = ", ".join(f"{name} {median(values) * 1000 * MIB / size:.1f}" for name, values in cpu.items())
        return [*lines, Figure(f"{codec}: CPU ms per MiB of image, starting included", each)]

    def _ratio(self, what: str, ours: list[float], theirs: list[float], *, gated: bool) -> Figure:
        ratio = median(ours) / median(theirs)
        target = "at least 0.25x" if gated else ""
        return Figure(
            what, f"{ratio:.2f}x of {median(theirs) / 1e6:.0f} MB/s", target, ratio >= 0.25 if gated else None
        )

    def _memory(self) -> list[Figure]:
        """Peak memory of the whole agent process over TLS, small image and large."""
        peaks: dict[str, float] = {}
        for name, size in (("zstd", self._image.stat().st_size), ("large", 1024 * MIB)):
            self._say(f"memory, image of {size // MIB} MiB")
            if name == "large":
                self._campaign(name)
            gateway = self._gateway(size)
            peaks[name] = self._probe(gateway, "proved")["peak_memory_kib"] / 1024
            shutil.rmtree(gateway.folder)
        growth = peaks["large"] - peaks["zstd"]
        return [
            Figure(
                "agent's peak memory, 64 MiB image", f"{peaks['zstd']:.1f} MiB", "at most 56 MiB", peaks["zstd"] <= 56
            ),
            Figure(
                "agent's peak memory, 1 GiB image", f"{peaks['large']:.1f} MiB", "at most 56 MiB", peaks["large"] <= 56
            ),
            Figure("its growth from one to the other", f"{growth:+.1f} MiB", "at most 2 MiB", growth <= 2),
        ]

    def _first_block(self) -> list[Figure]:
        """From connect to the first block of a download that goes on, and to curl's first byte, over the same relay."""
        shape = LinkShape(round_trip_s=_ROUND_TRIP_S)
        ours: list[float] = []
        theirs: list[float] = []
        with (
            RelayThread(self._fleet.ports.device, shape) as link,
            RelayThread(self._nginx.tls_port, shape) as curl_link,
        ):
            for number in range(self._runs):
                self._say(f"first block, run {number + 1} of {self._runs}")
                gateway = self._gateway(self._image.stat().st_size, link.port)
                self._probe(gateway, "first_block")
                figures = self._probe(gateway, "first_block")
                ours.append(figures["first_block"])
                identity = ClientIdentity.of(gateway.folder)
                fetched = self._nginx.fetch("small", gateway.folder / "curl.out", identity, curl_link.port)
                theirs.append(fetched.first_byte_s)
                shutil.rmtree(gateway.folder)
        ratio = median(ours) / median(theirs)
        value = f"{ratio:.2f}x of {median(theirs):.2f} s"
        what = f"first block after connecting, round trip {_ROUND_TRIP_S * 1000:.0f} ms"
        return [Figure(what, value, "at most 1.1x of curl", ratio <= 1.1)]

    def _verification(self) -> list[Figure]:
        """CPU time of the dearest document that a gateway verifies."""
        self._say("documents verified")
        figures = []
        for algorithm in Algorithm:
            each = milliseconds_per_document(algorithm)
            value = ", ".join(f"{kind} {taken_ms:.1f}" for kind, taken_ms in each.items())
            what = f"CPU ms for a document signed with {algorithm.name}"
            figures.append(Figure(what, value, "at most 5 ms", max(each.values()) <= 5))
        return figures

    # Small parts.

    def _free_pair(self) -> tuple[int, int]:
        ports = free_ports()
        return ports.device, ports.enrol

    def _say(self, what: str) -> None:
        print(f"[{time.monotonic() - self._began_s:5.1f} s] {what}", file=sys.stderr, flush=True)


def cpu_s(pid: int) -> float:
    """User and system time of a process so far (proc(5), stat fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())

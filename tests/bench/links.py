"""`make bench-links`: downloads over bad lines, as ratios to curl and nginx over the same line.

Each cell of the matrix is a line of its own (see `line`), the same for both: same rate, delay, queue, seed of losses,
times of cuts, congestion control and mutual TLS 1.3, kernel TCP on both. On one side the real agent fetches a payload
from the real bridge through Mosquitto; on the other curl fetches a file of that size from nginx, and after each cut
again from where it was (`curl -C -`). Bytes do not compress, so a byte of image is a byte of payload. The gateway has
its assignment already, and goes on with a download of which it has the first block or so: what is compared is what a
link that opens brings.

A transfer ends when it is done or its time is up; goodput is what came of the payload, once, by the time that took,
connecting included. Waste is what the line carried to the gateway beyond that. Cells do not need a core each, so
several run side by side, each at its own far end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from threading import Lock

from narrowboat_device.machine import AGENT_ENVIRONMENT
from tests.support.broker import free_ports
from tests.support.live_fleet import Gateway, LiveFleet
from tests.support.paths import REPOSITORY
from tests.support.processes import Children

from .line import CUT_S, NEAR, FarEnd, Shape, leave_network
from .nginx import ClientIdentity, Nginx

_RATES = (256_000, 1_000_000, 10_000_000)
_ROUND_TRIPS_S = (0.04, 0.3, 0.8)
_LOSSES = (0.0, 0.01, 0.05)
_CUTS_S = (10.0, 30.0)
_CUT_SHAPES = ((256_000, 0.3, 0.0), (1_000_000, 0.3, 0.01), (10_000_000, 0.04, 0.0))
_STEADY_S, _CUT_RUN_S = 20.0, 65.0
"""How long a transfer may take, and about how long one takes that has the line to itself."""
_SEED_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Transfer:
    """What one side did with a line."""

    received_bytes: int
    took_s: float
    arrived_bytes: int
    """Packets, at the far end."""

    @property
    def goodput(self) -> float:
        """Bits a second."""
        return 8 * self.received_bytes / self.took_s

    @property
    def waste(self) -> float:
        """A share of what was of use."""
        return self.arrived_bytes / max(1, self.received_bytes) - 1


@dataclass(frozen=True, slots=True)
class Cell:
    """One line and what was measured on it, once for each run."""

    shape: Shape
    ours: tuple[Transfer, ...]
    theirs: tuple[Transfer, ...]

    @property
    def ratio(self) -> float:
        return median(run.goodput for run in self.ours) / median(run.goodput for run in self.theirs)

    @property
    def share(self) -> float:
        """Of the line's rate."""
        return median(run.goodput for run in self.ours) / self.shape.rate_bits_per_s

    @property
    def extra_waste(self) -> float:
        """Ours beyond theirs."""
        return median(run.waste for run in self.ours) - median(run.waste for run in self.theirs)

    @property
    def misses(self) -> list[str]:
        """Targets that this cell does not reach."""
        shape = self.shape
        steady = not shape.loss and not shape.cut_every_s
        return [
            *(["0.97x of curl"] if self.ratio < 0.97 else []),
            *(["0.90 of the line"] if steady and shape.round_trip_s <= 0.3 and self.share < 0.9 else []),
            *(["curl's bytes + 2 points"] if shape.cut_every_s and self.extra_waste > 0.02 else []),
        ]

    def row(self) -> str:
        wasted = [f"{median(run.waste for run in runs) * 100:.0f}" for runs in (self.ours, self.theirs)]
        figures = (f"{self.share:.2f}", f"{self.share / self.ratio:.2f}", f"{self.ratio:.2f}", *wasted)
        return f"| {self.shape.words()} | {' | '.join(figures)} | {', '.join(self.misses) or '-'} |"


HEADER = (
    "| line | ours, of its rate | curl, of its rate | ours / curl | our waste, % | curl's waste, % | misses |\n"
    "|---|---|---|---|---|---|---|"
)


def shapes() -> Iterator[Shape]:
    """The matrix, then the lines that break."""
    for rate, round_trip_s, loss in product(_RATES, _ROUND_TRIPS_S, _LOSSES):
        yield Shape(rate, round_trip_s, loss)
    for (rate, round_trip_s, loss), cut_every_s in product(_CUT_SHAPES, _CUTS_S):
        yield Shape(rate, round_trip_s, loss, cut_every_s)


class Laboratory:
    """Broker, bridge and nginx on this side; a far end for each transfer."""

    def __init__(self, folder: Path, children: Children, congestion: str, runs: int) -> None:
        self._folder = folder
        self._children = children
        self._congestion = congestion
        self._runs = runs
        self._fleet = LiveFleet(folder, children)
        self._made = 0
        self._lock = Lock()
        self._began_s = time.monotonic()

    def open(self) -> None:
        """Start what serves."""
        self._served = self._folder / "served"
        self._served.mkdir()
        self._fleet.init(host=NEAR)
        self._fleet.start_broker()
        self._fleet.start_bridge()
        (self._served / "seed").write_bytes(os.urandom(_SEED_BYTES))
        self._seed = self._fleet.make_release("seed", self._served / "seed", "stored")
        ports = free_ports()
        self._nginx = Nginx(
            self._folder / "nginx", self._served, self._fleet.path / "broker", (ports.device, ports.enrol), NEAR
        )
        self._nginx.start(self._children)
        self._fleet.wait_until_served()

    def offer(self, size_bytes: int) -> None:
        """Have every gateway want an image of this size."""
        name = f"image-{size_bytes}"
        (self._served / name).write_bytes(os.urandom(size_bytes))
        release = self._fleet.make_release(name, self._served / name, "stored")
        self._fleet.narrowboat("release", "push", str(release), "--wait")
        self._fleet.narrowboat("campaign", "start", str(release), "--name", name)

    def measure(self, shape: Shape, size_bytes: int) -> Cell:
        """Both sides, in turn."""
        within_s = _CUT_RUN_S if shape.cut_every_s else _STEADY_S
        ours, theirs = [], []
        for seed in range(self._runs):
            ours.append(self._update(shape, seed, size_bytes, within_s))
            theirs.append(self._fetch(shape, seed, size_bytes, within_s))
        cell = Cell(shape, tuple(ours), tuple(theirs))
        self._say(cell.row())
        return cell

    def _update(self, shape: Shape, seed: int, size_bytes: int, within_s: float) -> Transfer:
        number, gateway = self._gateway(size_bytes)
        self._probe([], gateway, "first_block")
        far = FarEnd(self._children, number, shape, seed, self._congestion)
        figures = self._probe(far.within, gateway, "written", "--for-s", str(within_s))
        shutil.rmtree(gateway.folder)
        return Transfer(int(figures["received_bytes"]), figures.get("written", figures["ended"]), far.close())

    def _probe(self, within: Sequence[str], gateway: Gateway, wanted: str, *options: str) -> dict[str, float]:
        command = [*within, sys.executable, "-m", "tests.bench.probe", str(gateway.config), wanted, *options]
        environment = {**os.environ, **AGENT_ENVIRONMENT}
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, cwd=REPOSITORY)
        return dict(json.loads(done.stdout))

    def _fetch(self, shape: Shape, seed: int, size_bytes: int, within_s: float) -> Transfer:
        number, gateway = self._gateway(size_bytes)
        target = gateway.folder / "curl.out"
        far = FarEnd(self._children, number, shape, seed, self._congestion)
        command = self._nginx.command(f"image-{size_bytes}", target, ClientIdentity.of(gateway.folder))
        began_s = time.monotonic()
        while (left_s := began_s + within_s - time.monotonic()) > 0:
            limits = ["--continue-at", "-", "--max-time", f"{left_s:.2f}", "--connect-timeout", f"{2 * CUT_S:.0f}"]
            if subprocess.run([*far.within, *command, *limits], check=False, capture_output=True).returncode == 0:
                break
        took_s = time.monotonic() - began_s
        received = target.stat().st_size if target.exists() else 0
        shutil.rmtree(gateway.folder)
        return Transfer(received, took_s, far.close())

    def _gateway(self, size_bytes: int) -> tuple[int, Gateway]:
        with self._lock:
            self._made += 1
            number = self._made
            port = self._fleet.ports.device
            name = f"gw-{number}"
            return number, self._fleet.make_gateway(
                name, self._served / "seed", self._seed, port, slot_bytes=size_bytes
            )

    def _say(self, what: str) -> None:
        print(f"[{time.monotonic() - self._began_s:5.0f} s] {what}", file=sys.stderr, flush=True)


def size_of(rate_bits_per_s: int, within_s: float) -> int:
    """What the line could carry in most of the time."""
    return int(0.75 * within_s * rate_bits_per_s / 8)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make bench-links", description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".bench-links")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=4, help="transfers side by side")
    parser.add_argument("--congestion", default="cubic", help="congestion control of all senders")
    parser.add_argument("--only", default="", help="lines of which the description holds this")
    given = parser.parse_args(arguments)
    folder: Path = given.folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    leave_network()
    cells: list[Cell] = []
    chosen = [shape for shape in shapes() if given.only in shape.words()]
    with Children(folder / "logs") as children:
        laboratory = Laboratory(folder, children, given.congestion, given.runs)
        laboratory.open()
        sizes = {
            shape: size_of(shape.rate_bits_per_s, _CUT_RUN_S if shape.cut_every_s else _STEADY_S) for shape in chosen
        }
        for size_bytes in sorted(set(sizes.values())):
            laboratory.offer(size_bytes)
            with ThreadPoolExecutor(given.at_once) as lanes:
                cells += lanes.map(
                    lambda shape, size=size_bytes: laboratory.measure(shape, size),
                    [shape for shape in chosen if sizes[shape] == size_bytes],
                )
    print(HEADER)
    for cell in cells:
        print(cell.row())
    middle = median(cell.ratio for cell in cells)
    print(f"\n{len(cells)} lines, {given.runs} runs each, {given.congestion}: median {middle:.2f}x of curl")
    return 1 if middle < 1.0 or any(cell.misses for cell in cells) else 0


if __name__ == "__main__":
    sys.exit(main())

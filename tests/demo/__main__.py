"""`make demo`: what a newcomer sees.

Two versions of a real root filesystem are built, the second is released with two of three signatures, and three
gateways take it over links of 8 Mbit/s and 100 ms that break every five seconds. One gateway loses power in the middle
of its download. One has a health check that fails, and goes back. The demo ends with exit status 0 only if everything
is as it must be: see `verdicts`.

Everything is in one folder, which stays for looking around; the next run makes it anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from narrowboat_bridge.broker_home import Ports
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.payload import HEAD_START_BYTES, Head, measure_head, parse_head
from narrowboat_protocol.release_file import HEADER_BYTES
from tests.support.broker import free_ports
from tests.support.images import build_pair
from tests.support.live_fleet import Gateway, LiveFleet
from tests.support.paths import REPOSITORY
from tests.support.processes import Children, wait_for
from tests.support.relay import LinkShape

from .table import Row, plain, render

LINK = LinkShape(rate_bits_per_s=8e6, round_trip_s=0.1, cut_every_s=5.0)
ENDS = {"succeeded", "rolled_back", "failed", "rejected", "aborted", "rollback_failed"}
_RUN_S = 150.0
_STORY_SHARE = 0.35
_DARK_S = 3.0
_WASTE_PER_CUT_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that must be so."""

    what: str
    holds: bool


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description="a signed release on its way over broken links")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".demo", help="where everything is kept")
    folder: Path = parser.parse_args().folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"Everything of this demo is in {folder}", flush=True)
    try:
        with Children(folder / "logs") as children:
            return Demo(folder, children).run()
    except KeyboardInterrupt:
        print("\nStopped; no process is left.")
        return 130


class Demo:
    """The story, from an empty folder to the verdicts."""

    def __init__(self, folder: Path, children: Children) -> None:
        self._folder = folder
        self._children = children
        self._fleet = LiveFleet(folder, children)
        self._notes: dict[str, str] = {}
        self._gateways: list[Gateway] = []
        self._began_s = time.monotonic()

    def run(self) -> int:
        self._say("building two versions of a root filesystem from this machine's own programs")
        old_image, new_image = build_pair(self._folder / "images")
        self._say("making a fleet: root, keys (two of three must sign a release), certificates, broker, bridge")
        self._fleet.init("--release-keys", "3", "--release-threshold", "2")
        old = self._release("1.0.0", old_image, keys=(1, 2), level=1)
        new = self._release("2.0.0", new_image, keys=(1, 3), level=9)
        self._say("starting broker, bridge and three gateways, each behind a link of 8 Mbit/s that breaks every 5 s")
        self._start(old_image, old)
        self._say("pushing release 2.0.0 and starting the campaign")
        self._fleet.narrowboat("release", "push", str(new), "--wait")
        self._fleet.narrowboat("campaign", "start", str(new), "--name", "demo")
        replayed = self._watch(read_head(new))
        return self._conclude(old_image, new_image, replayed)

    def _release(self, version: str, image: Path, keys: tuple[int, int], level: int) -> Path:
        """Build once, sign on two machines, merge the signatures."""
        toml = self._folder / f"release-{version}.toml"
        toml.write_text(
            f'component = "rootfs"\nvendor = "example.com"\nclasses = ["gateway-a"]\nversion = "{version}"\n'
            f'sequence = 1\nimage = "{image}"\nlevel = {level}\n'
        )
        merged, other = self._folder / f"rootfs-{version}.nbr", self._folder / f"rootfs-{version}.second.nbr"
        self._say(f"building release {version} and signing it with keys {keys[0]} and {keys[1]}")
        self._fleet.narrowboat("release", "build", str(toml), "-o", str(merged))
        shutil.copyfile(merged, other)
        for number, file in zip(keys, (merged, other), strict=True):
            key = self._fleet.path / "keys" / f"release-{number}.pem"
            self._fleet.narrowboat("release", "sign", str(file), "--key", str(key))
        self._fleet.narrowboat("release", "sign", "--add", str(other), str(merged))
        root = self._fleet.path / "root" / "1.root"
        self._fleet.narrowboat("release", "verify", str(merged), "--root", str(root))
        other.unlink()
        return merged

    def _start(self, old_image: Path, old: Path) -> None:
        self._fleet.start_broker()
        self._fleet.start_bridge()
        sick = self._folder / "sick.sh"
        sick.write_text(
            "#!/bin/sh\n# The health check of gateway 3: version 2 does not agree with it.\necho no uplink\nexit 1\n"
        )
        sick.chmod(0o755)
        relay_ports = ports_tuple(free_ports())
        for number, port in zip((1, 2, 3), relay_ports, strict=False):
            health = f'\n[health]\ncommand = ["{sick}"]\ndeadline_s = 4.0\nretry_s = 2.0\n' if number == 3 else ""
            gateway = self._fleet.make_gateway(f"gw-{number}", old_image, old, port, health)
            self._gateways.append(gateway)
            self._fleet.start_relay(gateway, LINK)
            self._fleet.switch_on(gateway)
        self._fleet.wait_until_served()

    def _watch(self, head: Head) -> bool:
        """Draw the table until every gateway has come to an end; pull the plug of gateway 2 on the way.

        Returns whether gateway 2, after its power came back, fetched only what it had not synced.
        """
        drawing = Drawing()
        victim = self._gateways[1]
        synced: int | None = None
        back_at_s: float | None = None
        carried_before = connections_before = 0
        give_up_s = time.monotonic() + _RUN_S
        while time.monotonic() < give_up_s:
            rows = [self._row(gateway) for gateway in self._gateways]
            drawing.draw(rows)
            if synced is None and rows[1].share >= _STORY_SHARE:
                self._fleet.pull_the_plug(victim)
                synced = int(victim.status["done_bytes"])
                carried_before, connections_before = victim.counts.down_bytes, victim.counts.connections
                back_at_s = time.monotonic() + _DARK_S
                self._notes[victim.name] = "power lost"
            if back_at_s is not None and time.monotonic() >= back_at_s:
                back_at_s = None
                self._fleet.switch_on(victim)
                self._notes[victim.name] = "lost power, went on"
            if all(row.state in ENDS for row in rows):
                break
            time.sleep(0.2)
        drawing.draw([self._row(gateway) for gateway in self._gateways], last=True)
        if synced is None:
            return False
        carried = victim.counts.down_bytes - carried_before
        cuts = victim.counts.connections - connections_before
        return carried <= still_to_fetch(head, synced) + _WASTE_PER_CUT_BYTES * (cuts + 1)

    def _row(self, gateway: Gateway) -> Row:
        status, counts = gateway.status, gateway.counts
        state = status.get("state") or "idle"
        if state == "on_trial" and gateway.name == "gw-3":
            self._notes[gateway.name] = "health check fails"
        return Row(
            name=gateway.name,
            version=running_version(gateway),
            state=f"{state}*" if status.get("hold") else state,
            done_bytes=int(status.get("done_bytes") or 0),
            total_bytes=int(status.get("total_bytes") or 0),
            wire_bytes=counts.down_bytes,
            reconnects=max(0, counts.connections - 1),
            note=self._notes.get(gateway.name, ""),
        )

    def _conclude(self, old_image: Path, new_image: Path, replayed: bool) -> int:
        verdicts = self._verdicts(old_image, new_image, replayed)
        print()
        for verdict in verdicts:
            print(f"  {'ok  ' if verdict.holds else 'FAIL'}  {verdict.what}")
        good = all(verdict.holds for verdict in verdicts)
        print(f"\n{'Everything is as it must be' if good else 'Something is wrong; see the logs'}, after "
              f"{time.monotonic() - self._began_s:.0f} s. Look around in {self._folder}")  # fmt: skip
        return 0 if good else 1

    def _verdicts(self, old_image: Path, new_image: Path, replayed: bool) -> list[Verdict]:
        new, old = digest_of(new_image), digest_of(old_image)
        size = new_image.stat().st_size
        one, two, three = self._gateways
        expected = {"gw-1": "succeeded", "gw-2": "succeeded", "gw-3": "rolled_back"}
        wait_for(lambda: self._server_states() == expected, 30.0, f"the bridge to know {expected}")
        return [
            Verdict(
                f"{gateway.name} runs slot b, and its SHA-256 is version 2.0.0's, {new[:16]}...",
                gateway.status["slot"] == "b" and gateway.slot_sha256("b", size) == new,
            )
            for gateway in (one, two)
        ] + [
            Verdict(
                f"gw-3 runs slot a again, and its SHA-256 is version 1.0.0's, {old[:16]}...",
                three.status["slot"] == "a" and three.slot_sha256("a", size) == old,
            ),
            Verdict("gw-3 says why: its health check failed", three.status["reason"] == "health_check_failed"),
            Verdict("gw-2 did not fetch again what it had synced before its power was cut", replayed),
            Verdict(
                "the bridge heard it from the gateways: two succeeded, one rolled back",
                self._server_states() == expected,
            ),
        ]

    def _server_states(self) -> dict[str, str]:
        shown = json.loads(self._fleet.narrowboat("campaign", "show", "demo", "--json"))
        return {attempt["device"]: attempt["state"] for attempt in shown["attempts"]}

    def _say(self, what: str) -> None:
        print(f"[{time.monotonic() - self._began_s:5.1f} s] {what}", flush=True)


class Drawing:
    """The table on the screen: in place on a terminal, a line for each change of state elsewhere."""

    def __init__(self) -> None:
        self._height = 0
        self._said: dict[str, tuple[str, str, int]] = {}

    def draw(self, rows: list[Row], *, last: bool = False) -> None:
        if sys.stdout.isatty():
            lines = render(rows, shutil.get_terminal_size().columns)
            up = f"\x1b[{self._height}A" if self._height else "\n"
            print(up + "\n".join(f"\x1b[2K{line}" for line in lines), flush=True)
            self._height = len(lines)
            return
        for row in rows:
            step = (row.state, row.note, int(row.share * 4))
            if last or self._said.get(row.name) != step:
                self._said[row.name] = step
                print(plain(row), flush=True)


def read_head(release: Path) -> Head:
    """The head of the payload in a release file."""
    with release.open("rb") as file:
        file.seek(HEADER_BYTES)
        size = measure_head(file.read(HEAD_START_BYTES), DEFAULT_LIMITS)
        file.seek(HEADER_BYTES)
        return parse_head(file.read(size), DEFAULT_LIMITS)


def still_to_fetch(head: Head, synced_bytes: int) -> int:
    """The bytes of the payload that a gateway with so much of the image still needs, head and layer included."""
    frame = head.frame_of_chunk(min(synced_bytes >> head.tree.log2_chunk_size, head.tree.chunk_count - 1))
    return head.payload_length - frame.offset + head.leaves_offset


def running_version(gateway: Gateway) -> str:
    return {"a": "1.0.0", "b": "2.0.0"}.get(str(gateway.status.get("slot")), "-")


def digest_of(image: Path) -> str:
    return hashlib.sha256(image.read_bytes()).hexdigest()


def ports_tuple(ports: Ports) -> tuple[int, int, int, int]:
    return ports.device, ports.enrol, ports.staff, ports.bridge


if __name__ == "__main__":
    sys.exit(main())

"""Devices that ask for too much, at a real bridge behind a real broker, while a healthy gateway updates.

    python -m tests.fuzz.floods --rate 1000 --messages 30000 --devices 1000

Three floods, each with a bridge and a broker of its own:

- *flood*: one device says hello, reports and fetches at a rate, and reads nothing of what it is sent;
- *slow reader*: one device asks for a payload again and again and never reads its socket;
- *reconnect*: many devices connect at once and say hello, as after a broker's restart.

Meanwhile a gateway with the real agent makes a whole update over a relay that counts bytes. What is measured does not
depend on how fast the machine is: the gateway's bytes on the wire (blocks that came late are fetched again, so they
tell how often it had to ask twice), what the bridge counted and said in its log, and the most memory that its process
ever had resident.
"""

from __future__ import annotations

import argparse
import re
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from narrowboat_bridge.broker_home import Listener
from narrowboat_bridge.pki import Authority, issue_client, key_to_pem, new_key
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.limits import MIB
from narrowboat_protocol.payload import Codec
from narrowboat_protocol.states import State
from narrowboat_protocol.topics import Channel, device_topic
from narrowboat_protocol.transfer import FetchRequest
from tests.broker.lab import Lab, Pushed, noise, running_lab
from tests.support.broker import Credentials
from tests.support.fleet import DeviceKit
from tests.support.mqtt_swarm import Greeter, RawClient, greet_all, publish_packet
from tests.support.relay import RelayThread

HEALTHY, FLOODER = "gw-healthy", "gw-flooder"
IMAGE_BYTES = 4 * MIB
_BURST = 50
_REPORT_PAIRS = 1 << 20
_SWARM_DEADLINE_S = 300.0
_LIMIT_LINE = re.compile(r"(\S+): the limit (.+) is reached")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a flood did to the bridge, and to a gateway that wanted nothing but its update."""

    what: str
    messages: int
    """What the flood sent."""
    healthy_state: str
    healthy_wire_bytes: int
    payload_bytes: int
    bridge_peak_mib: float
    counts: dict[str, int]
    limits_told: list[str]
    """The names under which the bridge's log said, once each, that a limit was reached."""

    def lines(self) -> list[str]:
        wire = self.healthy_wire_bytes / self.payload_bytes
        stopped = {
            name: count for name, count in self.counts.items() if name.startswith(("limited.", "dropped.", "shed."))
        }
        return [
            f"{self.what}: {self.messages} messages; bridge at most {self.bridge_peak_mib:.0f} MiB resident",
            f"  healthy gateway: {self.healthy_state}, {wire:.2f} times its payload on the wire",
            f"  stopped: {stopped or 'nothing'}; told in the log: {', '.join(self.limits_told) or 'nothing'}",
        ]


def flood(lab: Lab, rate_per_s: int, messages_min: int) -> Outcome:
    """Hellos, reports and fetches at a rate each, of one device that has an assignment and reads nothing."""
    pushed, kit, credentials = _flooder(lab, 1)
    hello = publish_packet(device_topic(FLOODER, Channel.HELLO), kit.hello(pair=(2, 1)))
    reports = [
        publish_packet(
            device_topic(FLOODER, Channel.REPORT),
            kit.report(pushed.made.digest, State.DOWNLOADING, attempt=1, pair=(2, _REPORT_PAIRS + number)),
        )
        for number in range(_BURST)
    ]
    fetch = publish_packet(device_topic(FLOODER, Channel.GET), _fetch_everything(pushed))
    burst = b"".join(hello + report + fetch for report in reports)

    def pour(client: RawClient, goes_on: Callable[[int], bool]) -> int:
        sent, pace = 0, Event()
        while goes_on(sent):
            client.send(burst)
            sent += 3 * _BURST
            pace.wait(_BURST / rate_per_s)
        return sent

    return _measure(lab, "flood", credentials, pour, messages_min)


def slow_reader(lab: Lab, messages_min: int) -> Outcome:
    """A device that asks for its whole payload and never reads."""
    pushed, _, credentials = _flooder(lab, 2)
    fetch = publish_packet(device_topic(FLOODER, Channel.GET), _fetch_everything(pushed))

    def pour(client: RawClient, goes_on: Callable[[int], bool]) -> int:
        sent, pace = 0, Event()
        while goes_on(sent):
            client.send(fetch)
            sent += 1
            pace.wait(0.02)
        return sent

    return _measure(lab, "slow reader", credentials, pour, messages_min)


def reconnect(lab: Lab, devices: int) -> Outcome:
    """All devices at once; each is admitted, and each hears its Ack."""
    greeters = _make_swarm(lab, devices)
    with _healthy(lab, 3) as (pushed, relay):
        greet_all(greeters, lab.fleet.ports.device, _SWARM_DEADLINE_S)
        state = lab.wait_for_end("healthy-3", HEALTHY)["state"]
    return _outcome(lab, f"{devices} devices reconnect", sum(each.sent for each in greeters), state, pushed, relay)


def _measure(
    lab: Lab,
    what: str,
    credentials: Credentials,
    pour: Callable[[RawClient, Callable[[int], bool]], int],
    messages_min: int,
) -> Outcome:
    """Let a device pour while the healthy gateway updates, and for at least so many messages."""
    over, sent = Event(), [0]

    def goes_on(number: int) -> bool:
        sent[0] = number
        return number < messages_min or not over.is_set()

    with RawClient(credentials.tls(), lab.fleet.ports.device, receive_bytes=4096) as client:
        client.subscribe(f"nb/d/{FLOODER}/#")
        thread = Thread(target=pour, args=(client, goes_on), name="flood", daemon=True)
        thread.start()
        with _healthy(lab, 1) as (pushed, relay):
            state = lab.wait_for_end("healthy-1", HEALTHY)["state"]
        over.set()
        thread.join(_SWARM_DEADLINE_S)
        assert not thread.is_alive(), "expected the flood to end when it was told to"
    return _outcome(lab, what, sent[0], state, pushed, relay)


@contextmanager
def _healthy(lab: Lab, number: int) -> Iterator[tuple[Pushed, RelayThread]]:
    """A gateway that was just assigned a release."""
    pushed = lab.push(noise(number, IMAGE_BYTES), f"{number}.0.0", codec=Codec.STORED)
    with RelayThread(lab.fleet.ports.device) as relay, lab.gateway(HEALTHY, relay):
        lab.start(pushed, f"healthy-{number}", HEALTHY)
        yield pushed, relay


def _outcome(lab: Lab, what: str, messages: int, state: str, pushed: Pushed, relay: RelayThread) -> Outcome:
    peak_mib = _peak_mib(lab.bridge.pid)
    told = [name for name, _ in _LIMIT_LINE.findall(lab.bridge.log.read_text())]
    return Outcome(
        what=what,
        messages=messages,
        healthy_state=state,
        healthy_wire_bytes=relay.counts.down_bytes,
        payload_bytes=len(pushed.made.payload),
        bridge_peak_mib=peak_mib,
        counts=lab.counts(),
        limits_told=told,
    )


def _flooder(lab: Lab, number: int) -> tuple[Pushed, DeviceKit, Credentials]:
    """A device that the bridge knows and that was assigned a release."""
    kit, credentials = lab.impostor(FLOODER)
    with RawClient(credentials.tls(), lab.fleet.ports.device) as client:
        client.send(publish_packet(device_topic(FLOODER, Channel.HELLO), kit.hello()))
        lab.wait_until_known(FLOODER)
    pushed = lab.push(noise(100 + number, IMAGE_BYTES), f"10.{number}.0", codec=Codec.STORED)
    lab.start(pushed, f"flooder-{number}", FLOODER)
    return pushed, kit, credentials


def _fetch_everything(pushed: Pushed) -> bytes:
    ranges = ((0, MIB),)
    return FetchRequest(payload=pushed.made.payload_digest, ranges=ranges, block_bytes=64 * 1024).encode()


def _make_swarm(lab: Lab, devices: int) -> list[Greeter]:
    """Devices of one key, which is quicker to make; the bridge does not mind."""
    pki, folder = lab.fleet.path / "pki", lab.folder / "swarm"
    folder.mkdir()
    certificate, key_file = (pki / f"{Listener.DEVICE}-ca.pem").read_bytes(), folder / "key.pem"
    authority = Authority.of(certificate, PrivateKey.from_pem((pki / f"{Listener.DEVICE}-ca-key.pem").read_bytes()))
    key, now_s = new_key(), int(time.time())
    key_file.write_bytes(key_to_pem(key))
    greeters = []
    for number in range(devices):
        name = f"gw-swarm-{number}"
        pem = issue_client(authority, name, key.public_key(), now_s)
        path = folder / f"{name}.pem"
        path.write_bytes(pem)
        tls = Credentials(name, path, key_file, pki / "server-ca.pem").tls()
        kit = DeviceKit(name, PrivateKey(key), ssl.PEM_cert_to_DER_cert(pem.decode()), lab.kit.fleet_id)
        ack, hello = device_topic(name, Channel.ACK), device_topic(name, Channel.HELLO)
        greeters.append(Greeter(tls, ack, hello, kit.hello()))
    return greeters


def _peak_mib(pid: int) -> float:
    """The most memory that a process ever had resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.floods", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rate", type=int, default=1000, help="hellos, reports and fetches a second, each (1000)")
    parser.add_argument("--messages", type=int, default=30_000, help="the least that a flood sends (30000)")
    parser.add_argument("--devices", type=int, default=1000, help="how many reconnect at once (1000)")
    arguments = parser.parse_args()
    scenarios: list[Callable[[Lab], Outcome]] = [
        lambda lab: flood(lab, arguments.rate, arguments.messages),
        lambda lab: slow_reader(lab, arguments.messages // 100),
        lambda lab: reconnect(lab, arguments.devices),
    ]
    for number, scenario in enumerate(scenarios):
        with tempfile.TemporaryDirectory(prefix="narrowboat-flood-") as folder, running_lab(Path(folder)) as lab:
            outcome = scenario(lab)
            print("\n".join(outcome.lines()), flush=True)
            if outcome.healthy_state != "succeeded":
                print(f"{number} floods delayed nobody, the next one did")
                return 1
    print(f"{len(scenarios)} floods, nobody else was delayed")
    return 0


if __name__ == "__main__":
    sys.exit(main())

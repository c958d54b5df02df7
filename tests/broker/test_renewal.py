"""A gateway renews its certificate by itself while it runs, in the middle of whatever it does, and long after.

The agent is a process, as on a gateway. Nobody waits for two thirds of a life: the lab issues certificates that are so
old already.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from narrowboat_bridge.broker_home import Listener
from narrowboat_bridge.pki import Authority, issue_client
from narrowboat_device.assembly import read_signer
from narrowboat_device.boot.loader import power_on
from narrowboat_device.cli import REBOOT_STATUS
from narrowboat_device.config import Config, load_config
from narrowboat_device.identity import ensure_certificate, start_renewal
from narrowboat_device.loop import NoLink
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.payload import Codec
from tests.support.agent_thread import AgentThread
from tests.support.live_fleet import NARROWBOAT_DEVICE
from tests.support.processes import Child, wait_for
from tests.support.relay import RelayThread
from tests.support.rogue import PATIENCE_S, Rogue

from .lab import DISK, Lab, noise
from .test_resume import IMAGE_BYTES, STALL_BYTES, SYNCED_BYTES, WASTE_BYTES, left_to_fetch

DUE_DAYS, OVER_DAYS = 250, 400


@dataclass(slots=True)
class Aged:
    """A gateway with a certificate of some age, which may ask for another one. It is off."""

    lab: Lab
    config: Config
    path: Path

    @property
    def name(self) -> str:
        return self.config.gateway.name

    @property
    def certificate(self) -> bytes:
        pem = self.config.broker.certificate.read_bytes()
        return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)

    @property
    def done_bytes(self) -> int:
        return AgentThread(self.path).done_bytes

    def age(self, days: int) -> None:
        """Give it a certificate that was issued so long ago."""
        pki = self.lab.fleet.path / "pki"
        authority = Authority.of(
            (pki / "device-ca.pem").read_bytes(), PrivateKey.from_pem((pki / "device-ca-key.pem").read_bytes())
        )
        public = load_pem_private_key(self.config.broker.key.read_bytes(), None).public_key()
        old = issue_client(authority, self.name, public, int(time.time()) - days * 86_400)  # type: ignore[arg-type]
        self.config.broker.certificate.write_bytes(old)

    def switch_on(self) -> Child:
        config = self.config
        power_on(DISK, config.boot.state_file, config.boot.booted_path, config.slot_names)
        command = [NARROWBOAT_DEVICE, "run", "--config", str(self.path)]
        return self.lab.children.start(f"agent-{self.name}", command)

    def switch_off(self, agent: Child) -> None:
        agent.stop()
        self.lab.children.forget(agent)


def aged(lab: Lab, name: str, days: int, *, relay: RelayThread | None = None, enrol_port: int | None = None) -> Aged:
    """Registered by its birth key, which its request bears with it."""
    birth = lab.credentials(Listener.ENROL, f"birth-{name}")
    section = (
        f"\n[enrolment]\nport = {enrol_port or lab.fleet.ports.enrol}\nvouches = true\n"
        f'certificate = "{birth.certificate}"\nkey = "{birth.key}"\n'
    )
    made = lab.make_gateway(name, relay, extra_toml=section)
    config = load_config(made.config)
    kid = PrivateKey.from_pem(birth.key.read_bytes()).public.kid.hex()
    registered = lab.type("device", "register", name, "--key", kid)
    assert registered.status == 0, registered.err
    gateway = Aged(lab, config, made.config)
    gateway.age(days)
    return gateway


@pytest.fixture
def rogue(lab: Lab) -> Iterator[Rogue]:
    with lab.rogue() as rogue:
        yield rogue


def certificates_said(rogue: Rogue, name: str) -> list[bytes]:
    """Those of its hellos, in turn, each once."""
    return list(dict.fromkeys(hello.certificate for hello in rogue.hellos(name)))


def test_a_certificate_that_is_due_is_renewed_and_used_by_the_process_that_runs(lab: Lab, rogue: Rogue) -> None:
    with RelayThread(lab.fleet.ports.enrol) as enrol:
        enrol.stall_at(0)
        gateway = aged(lab, "renew-due", DUE_DAYS, enrol_port=enrol.port)
        old = gateway.certificate
        agent = gateway.switch_on()
        lab.wait_until_known("renew-due")
        enrol.stall_at(None)
        wait_for(lambda: len(certificates_said(rogue, "renew-due")) == 2, PATIENCE_S, "a hello with the new one")
        assert certificates_said(rogue, "renew-due") == [old, gateway.certificate]
        assert agent.running
        gateway.switch_off(agent)
        assert agent.status == 0


def test_a_certificate_that_was_made_by_hand_is_renewed_over_the_link(lab: Lab, rogue: Rogue) -> None:
    made = lab.make_gateway("renew-hand")
    gateway = Aged(lab, load_config(made.config), made.config)
    gateway.age(DUE_DAYS)
    old = gateway.certificate
    agent = gateway.switch_on()
    wait_for(lambda: len(certificates_said(rogue, "renew-hand")) == 2, PATIENCE_S, "a hello with the new one")
    assert certificates_said(rogue, "renew-hand") == [old, gateway.certificate]
    gateway.switch_off(agent)
    assert agent.status == 0


def test_a_renewal_in_mid_download_fetches_nothing_again_that_was_synced(lab: Lab, rogue: Rogue) -> None:
    pushed = lab.push(noise(32, IMAGE_BYTES), "3.2.0", codec=Codec.STORED)
    with RelayThread(lab.fleet.ports.device) as relay, RelayThread(lab.fleet.ports.enrol) as enrol:
        relay.stall_at(STALL_BYTES)
        enrol.stall_at(0)
        gateway = aged(lab, "renew-mid", DUE_DAYS, relay=relay, enrol_port=enrol.port)
        agent = gateway.switch_on()
        lab.start(pushed, "renew-mid", "renew-mid")
        wait_for(lambda: relay.counts.down_bytes >= STALL_BYTES, PATIENCE_S, "the middle of the download")
        wait_for(lambda: gateway.done_bytes >= SYNCED_BYTES, PATIENCE_S, "a first sync")
        before = relay.counts.connections
        enrol.stall_at(None)
        wait_for(lambda: relay.counts.connections > before, PATIENCE_S, "the link to be opened anew")
        synced_bytes, carried_bytes = gateway.done_bytes, relay.counts.down_bytes
        relay.stall_at(None)
        wait_for(lambda: not agent.running, PATIENCE_S, "the reboot into the new release")
        assert agent.status == REBOOT_STATUS
        lab.children.forget(agent)
        assert relay.counts.down_bytes - carried_bytes <= left_to_fetch(pushed.made.head, synced_bytes) + WASTE_BYTES
        assert certificates_said(rogue, "renew-mid")[-1] == gateway.certificate
        with AgentThread(gateway.path):
            assert lab.wait_for_end("renew-mid", "renew-mid")["state"] == "succeeded"


def test_a_gateway_whose_certificate_is_over_comes_back_by_its_birth_key(lab: Lab, rogue: Rogue) -> None:
    gateway = aged(lab, "renew-over", OVER_DAYS)
    own = read_signer(DISK, gateway.config).public
    agent = gateway.switch_on()
    lab.wait_until_known("renew-over")
    assert certificates_said(rogue, "renew-over") == [gateway.certificate]
    assert read_signer(DISK, gateway.config).public == own
    gateway.switch_off(agent)
    assert agent.status == 0


def test_a_gateway_whose_clock_says_2090_is_given_the_same_certificate_and_not_started_anew(lab: Lab) -> None:
    """Else it would ask and start, and ask and start, as fast as the link allows."""
    config = aged(lab, "renew-2090", OVER_DAYS).config
    stop, renewed = Flag(), Flag()
    assert ensure_certificate(DISK, config, DEFAULT_LIMITS, stop) == config
    before = config.broker.certificate.stat().st_ino
    thread = start_renewal(DISK, config, DEFAULT_LIMITS, NoLink(), stop, renewed.set, lambda: 3.8e9)
    wait_for(lambda: config.broker.certificate.stat().st_ino != before, PATIENCE_S, "the certificate to be written")
    stop.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert not renewed.is_set()

"""A gateway that was made two years ago, and switched off at once, is switched on: nobody comes to see it.

Its certificate ended a year ago, and so did the root that it knows. Three roots came since. They brought another
director, something that only newer software understands, and another CA for the broker, which is the only one by now.
All that it has to go by is its birth key and the address of a web server where the roots lie.

The documents of today are read by the agent of today: no older format of them was ever released. What a gateway of two
years ago meets and does not know is in the roots, whose keys from 16 to 23 are for that.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from narrowboat_bridge.pki import Authority
from narrowboat_device.boot.loader import power_on
from narrowboat_device.cli import REBOOT_STATUS
from narrowboat_device.config import Config, load_config
from narrowboat_device.known import read_known
from narrowboat_protocol.cbor import decode, encode
from narrowboat_protocol.cose import SignedDocument, sign_document
from narrowboat_protocol.documents import Root
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.limits import DEFAULT_LIMITS
from tests.broker.lab import running_lab
from tests.support.agent_thread import DISK
from tests.support.images import small_image
from tests.support.odd_agent import odd_agent
from tests.support.processes import Child, wait_for
from tests.support.rogue import PATIENCE_S
from tests.support.web import serving_folder

from .kit import Owner, kid_of
from .test_broker_authority import replace_broker_certificate

NAME = "gw-slept"
SLEEP_DAYS = 2 * 365


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    born = datetime.now(UTC) - timedelta(days=SLEEP_DAYS)
    with running_lab(tmp_path / "lab", f"{born:%Y-%m-%d}", "--root-years", 1) as lab:
        yield Owner(lab)


def make_sleeper(owner: Owner, root_url: str) -> Config:
    """As it left the factory."""
    lab = owner.lab
    lab.make("pki", "issue", "birth", NAME, "--fleet", owner.fleet)
    birth = owner.fleet / "births" / NAME
    trust = f'\n[trust]\nroot_urls = ["{root_url}"]\n'
    enrolment = (
        f"\n[enrolment]\nport = {lab.fleet.ports.enrol}\nvouches = true\n"
        f'certificate = "{birth / "certificate.pem"}"\nkey = "{birth / "key.pem"}"\n'
    )
    return load_config(lab.make_gateway(NAME, extra_toml=trust + enrolment).config)


def register(owner: Owner) -> None:
    key = PrivateKey.from_pem((owner.fleet / "births" / NAME / "key.pem").read_bytes())
    registered = owner.lab.type("device", "register", NAME, "--key", key.public.kid.hex())
    assert registered.status == 0, registered.err


def replace_director(owner: Owner) -> None:
    new = owner.make_key("director-2")
    owner.change_root("rotate", kid_of(owner.keys / "director.pub.pem"), new)
    shutil.copyfile(owner.keys / "director-2.pem", owner.fleet / "bridge" / "director.pem")


def say_more_in_newest_root(owner: Owner) -> None:
    """As the software of a later day would, and before anybody has seen that root."""
    newest, kit = owner.newest_root, owner.lab.kit
    content = decode(SignedDocument.decode(newest.read_bytes()).content, max_bytes=Root.BYTES_MAX)
    assert isinstance(content, dict)
    signed = sign_document(encode(content | {20: "more"}), Root.FORMAT, Root.KIND, kit.fleet_id, kit.root_signers)
    for folder in (owner.fleet / "root", owner.fleet / "bridge" / "root"):
        (folder / newest.name).write_bytes(signed.encode())


def end_of(config: Config) -> datetime:
    return x509.load_pem_x509_certificate(config.broker.certificate.read_bytes()).not_valid_after_utc


def boot(owner: Owner, config: Config, day: str | None) -> Child:
    power_on(DISK, config.boot.state_file, config.boot.booted_path, config.slot_names)
    path = owner.lab.folder / NAME / "device.toml"
    return owner.lab.children.start(f"agent-{NAME}", odd_agent(path, day=day, hasty=True))


@pytest.mark.parametrize("day", [None, "1970-01-02"], ids=["its clock went on", "its clock has no battery"])
def test_a_gateway_that_slept_for_two_years_comes_back_alone_and_takes_a_release(
    owner: Owner, tmp_path: Path, day: str | None
) -> None:
    lab, old_ca = owner.lab, owner.fleet / "pki" / "server-ca.pem"
    authority = Authority.create("the next server CA", int(time.time()))
    new_ca = tmp_path / "next-server-ca.pem"
    new_ca.write_bytes(authority.certificate_pem)
    with serving_folder(owner.fleet / "root") as url:
        config = make_sleeper(owner, url)
        register(owner)
        assert end_of(config) < datetime.now(UTC) - timedelta(days=SLEEP_DAYS - 370)
        replace_director(owner)
        owner.change_root("set", "--broker-anchor", old_ca, "--broker-anchor", new_ca, "--years", 10)
        say_more_in_newest_root(owner)
        owner.change_root("set", "--broker-anchor", new_ca)
        replace_broker_certificate(owner, authority)
        lab.restart_broker(Child.stop)
        lab.restart_bridge(Child.stop)
        lab.wait_until_served()
        agent = boot(owner, config, day)
        lab.wait_until_known(NAME)
        assert read_known(DISK, config, DEFAULT_LIMITS).trust.root.version == 4
        assert end_of(config) > datetime.now(UTC)
        file = owner.release("2.0.0", small_image(9, 200_000), key=owner.keys / "release-1.pub.pem", sequence=5)
        pushed = lab.type("release", "push", file, "--wait")
        assert pushed.status == 0, pushed.err
        started = lab.type("campaign", "start", file, "--name", "back", "--device", NAME)
        assert started.status == 0, started.err
        wait_for(lambda: not agent.running, PATIENCE_S, "the reboot into the new release")
        assert agent.status == REBOOT_STATUS
        lab.children.forget(agent)
        boot(owner, config, day)
        assert lab.wait_for_end("back", NAME)["state"] == "succeeded"

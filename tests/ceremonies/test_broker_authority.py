"""The broker's CA is replaced: the next anchor first, then the broker's certificate, then the old anchor goes. One
gateway is awake, one sleeps through all of it and is helped by a technician who brings the roots on a stick.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from narrowboat_bridge.pki import Authority, issue_server, key_to_pem, new_key
from narrowboat_device.cli import main
from tests.support.images import small_image
from tests.support.processes import Child

from .kit import Owner


def replace_broker_certificate(owner: Owner, authority: Authority) -> None:
    """What an owner's own CA does, whatever it is, and whoever checks the broker by a file is given the new CA."""
    key = new_key()
    tls = owner.fleet / "broker" / "tls"
    (tls / "server-cert.pem").write_bytes(issue_server(authority, ["127.0.0.1"], key.public_key(), int(time.time())))
    (tls / "server-key.pem").write_bytes(key_to_pem(key))
    for party in ("bridge", "operators/anna", "operators/operator"):
        file = owner.fleet / party / "server-ca.pem"
        if file.exists():
            file.write_bytes(authority.certificate_pem)


def test_gateways_follow_a_change_of_the_brokers_authority_awake_or_asleep(owner: Owner, tmp_path: Path) -> None:
    lab, old = owner.lab, owner.fleet / "pki" / "server-ca.pem"
    authority = Authority.create("the next server CA", int(time.time()))
    new = tmp_path / "next-server-ca.pem"
    new.write_bytes(authority.certificate_pem)
    with lab.gateway("gw-awake") as awake, lab.gateway("gw-asleep") as asleep:
        for name in ("gw-awake", "gw-asleep"):
            lab.wait_until_known(name)
        asleep.switch_off()
        meaning = owner.change_root("set", "--broker-anchor", old, "--broker-anchor", new)
        assert "only after the devices have this root" in meaning.replace("\n", " ")
        owner.tell_bridge()
        owner.wait_until_trusted(awake, 2)
        replace_broker_certificate(owner, authority)
        lab.restart_broker(Child.stop)
        lab.restart_bridge(Child.stop)
        lab.wait_until_served()
        assert "removed" in owner.change_root("set", "--broker-anchor", new)
        owner.tell_bridge()
        owner.wait_until_trusted(awake, 3)
        shutil.copytree(owner.fleet / "root", tmp_path / "stick")
        config = lab.folder / "gw-asleep" / "device.toml"
        assert main(["import", str(tmp_path / "stick"), "--config", str(config)]) == 0
        asleep.switch_on()
        file = owner.release("2.0.0", small_image(9, 200_000), key=owner.keys / "release-1.pub.pem", sequence=5)
        for name in ("gw-awake", "gw-asleep"):
            assert owner.roll_out(file, f"to-{name}", name) == "succeeded"

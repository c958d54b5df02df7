"""A bridge whose keys are in a token serves a fleet as any other does; pulled out in mid-run, it stops the bridge, and
nothing is lost.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from narrowboat_bridge.broker_home import Listener
from narrowboat_bridge.cli.exits import ExitCode
from narrowboat_protocol.keys import PrivateKey
from narrowboat_protocol.limits import MIB
from tests.support.images import small_image
from tests.support.markers import forms_of, forms_of_key, leaks
from tests.support.processes import Child, wait_for
from tests.support.rogue import PATIENCE_S
from tests.support.softhsm import SoftHsm, SoftToken

from .enrolling import applicant, ask_once, ask_operator
from .lab import BASE_SEQUENCE, Lab, running_lab


@pytest.fixture(scope="module")
def bridge_token(hsm: SoftHsm) -> SoftToken:
    return hsm.token()


@pytest.fixture(scope="module")
def lab(bridge_token: SoftToken, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab(tmp_path_factory.mktemp("lab")) as lab:
        move_keys(bridge_token, lab)
        lab.restart_bridge(Child.stop)
        lab.wait_until_served()
        yield lab


def move_keys(token: SoftToken, lab: Lab) -> None:
    """What the bridge signs with goes into the token, and out of its folder. The owner keeps a copy."""
    kit, folder = lab.kit, lab.fleet.path / "bridge"
    config = folder / "bridge.toml"
    authority = PrivateKey(kit.device_ca.authority.key)
    for name, key in {"director": kit.director, "bridge": kit.bridge, "device-ca-key": authority}.items():
        token.add(name, key=key)
        (folder / f"{name}.pem").unlink()
        config.write_text(config.read_text().replace(f'"{name}.pem"', f'"{token.uri(name)}"'))


def test_a_fleet_enrols_and_updates_with_the_bridges_keys_in_a_token_and_its_pin_shows_nowhere(
    lab: Lab, bridge_token: SoftToken
) -> None:
    claim = lab.credentials(Listener.ENROL, "hw-claim")
    ask_operator(lab, "claim", "create", "hw-claim", "--count", 1, "--admit")
    assert ask_once(applicant(lab, "hw-enrols", claim))
    pushed = lab.push(small_image(71, MIB), "7.1.0", sequence=BASE_SEQUENCE + 1)
    with lab.gateway("hw-updates"):
        lab.start(pushed, "hw", "hw-updates")
        assert lab.wait_for_end("hw", "hw-updates")["state"] == "succeeded"
    searched = {
        path.name: path.read_bytes() for path in lab.folder.rglob("*") if path.is_file() and path.suffix != ".img"
    }
    secrets = {name: forms_of_key(key.to_pem()) for name, key in bridge_token.keys.items() if name != "device-ca-key"}
    assert "bridge.log" in searched
    assert list(leaks(secrets | {"pin": forms_of(bridge_token.pin.encode())}, searched)) == []


def test_a_token_that_is_pulled_out_stops_the_bridge_and_what_it_did_not_answer_is_not_half_done(
    lab: Lab, bridge_token: SoftToken
) -> None:
    bridge_token.pull_out()
    create = ("claim", "create", "out-claim", "--count", 1, "--admit")
    assert lab.type(*create, "--timeout", 1).status == ExitCode.NO_ANSWER
    wait_for(lambda: not lab.bridge.running, PATIENCE_S, "the bridge to end")
    assert "see that the token is there" in lab.bridge.log.read_text()
    assert "Traceback" not in lab.bridge.log.read_text()
    bridge_token.plug_in()
    lab.children.forget(lab.bridge)
    lab.bridge = lab.fleet.start_bridge()
    lab.wait_until_served()
    ask_operator(lab, *create)
    assert ask_once(applicant(lab, "hw-out", lab.credentials(Listener.ENROL, "out-claim")))

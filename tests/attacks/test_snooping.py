"""Who reads along: an encrypted image is seen by nobody on its way, in no store, and by no gateway that it is not for.

The image is stored, not compressed, and every 4 KiB of it begin with a text that nothing else holds, so that one block
in the clear would give it away; a release that is not encrypted shows that it would be found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from narrowboat_bridge.broker_home import Listener
from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import Assignment, Delivery
from narrowboat_protocol.errors import Reason, TrustError
from narrowboat_protocol.keys import public_key_from_cbor, public_key_from_pem
from narrowboat_protocol.limits import KIB
from narrowboat_protocol.payload import Codec
from narrowboat_protocol.states import State
from narrowboat_protocol.suit import AgreementKey, ContentKey, unseal
from tests.attacks.siege import besieged
from tests.broker.lab import BASE_SEQUENCE, Lab, running_lab
from tests.support.fleet import MadeRelease
from tests.support.mqtt_client import SUCCESS, MqttClient
from tests.support.processes import Child

MARKER = b"the text that gives the image away"
CONTENT = ContentKey(hashlib.sha256(b"content").digest()[:16], hashlib.sha256(b"iv").digest()[:16])
ENCRYPTION = '\n[encryption]\nkey = "agreement.pem"\n'
TARGET, OTHER = "gw-private", "gw-curious"


def image(seed: bytes) -> bytes:
    """150 pieces of 4 KiB, each of which says the marker."""
    blocks = (hashlib.shake_128(seed + bytes([number])).digest(4 * KIB - len(MARKER)) for number in range(150))
    return b"".join(MARKER + block for block in blocks)


def secret_pieces(made: MadeRelease) -> list[bytes]:
    """The marker, and what a chunk could be guessed by: the hashes of the plain payload."""
    leaves = [
        hashlib.sha256(b"\0" + made.image[at : at + 64 * KIB]).digest() for at in range(0, len(made.image), 64 * KIB)
    ]
    return [MARKER, *leaves]


@dataclass
class Overheard:
    """An encrypted update and a plain one, with all that the broker carried and the bridge kept."""

    encrypted: MadeRelease
    plain: MadeRelease
    wire: dict[str, list[tuple[str, bytes]]]
    """The messages while each of the two travelled, by campaign."""
    stored: dict[str, dict[Path, bytes]]
    keys: dict[str, AgreementKey]


@pytest.fixture(scope="module")
def overheard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Overheard]:
    with running_lab(tmp_path_factory.mktemp("snooping")) as lab:
        acl = lab.fleet.path / "broker" / "acl" / "bridge.acl"
        acl.write_text(acl.read_text() + "pattern read nb/#\n")
        lab.restart_broker(Child.stop)
        lab.restart_bridge(Child.stop)
        lab.wait_until_served()
        eavesdropper = lab.credentials(Listener.BRIDGE, "eavesdropper")
        with (
            MqttClient(eavesdropper.tls(), lab.fleet.ports.bridge) as tap,
            lab.gateway(TARGET, extra_toml=ENCRYPTION),
            lab.gateway(OTHER, extra_toml=ENCRYPTION),
        ):
            assert tap.connect() == SUCCESS
            tap.subscribe("nb/#")
            yield listen(lab, tap)


def listen(lab: Lab, tap: MqttClient) -> Overheard:
    bridge_key = public_key_from_pem((lab.fleet.path / "keys" / "bridge-agreement.pub.pem").read_bytes())
    common = {"sequence": BASE_SEQUENCE, "codec": Codec.STORED}
    encrypted = lab.kit.make_release(
        image(b"secret"),
        version="6.0.0",
        content_key=CONTENT,
        sealed_to=[bridge_key],
        **common,  # type: ignore[arg-type]
    )
    plain = lab.kit.make_release(image(b"open"), version="7.0.0", **common)  # type: ignore[arg-type]
    wire, stored = {}, {}
    for campaign, made in (("encrypted", encrypted), ("plain", plain)):
        file = lab.save(made, campaign)
        assert lab.type("release", "push", file, "--wait").status == 0
        lab.wait_until_known(TARGET)
        assert lab.type("campaign", "start", file, "--name", campaign, "--device", TARGET).status == 0
        assert lab.wait_for_end(campaign, TARGET)["state"] == "succeeded"
        wire[campaign] = tap.messages()
        stored[campaign] = {
            path: path.read_bytes() for path in (lab.fleet.path / "bridge" / "data").rglob("*") if path.is_file()
        }
    keys = {name: AgreementKey.from_pem((lab.folder / name / "agreement.pem").read_bytes()) for name in (TARGET, OTHER)}
    return Overheard(encrypted, plain, wire, stored, keys)


def test_the_broker_carries_nothing_of_an_encrypted_image(overheard: Overheard) -> None:
    said = b"".join(data for _, data in overheard.wire["encrypted"])
    assert len(said) > 2 * len(overheard.encrypted.payload), "it was uploaded and downloaded"
    assert not [piece for piece in secret_pieces(overheard.encrypted) if piece in said]
    assert CONTENT.key not in said
    openly = b"".join(data for _, data in overheard.wire["plain"])
    assert all(piece in openly for piece in secret_pieces(overheard.plain))


def test_a_stolen_payload_store_and_its_backups_hold_nothing_of_an_encrypted_image(overheard: Overheard) -> None:
    kept = b"".join(overheard.stored["encrypted"].values())
    assert overheard.encrypted.payload in kept
    assert overheard.encrypted.encryption is not None
    assert overheard.encrypted.encryption in kept
    assert not [piece for piece in secret_pieces(overheard.encrypted) if piece in kept]
    assert CONTENT.key not in kept
    assert MARKER in b"".join(overheard.stored["plain"].values())


def test_the_key_of_a_payload_opens_for_the_gateway_that_it_was_assigned_to_and_for_no_other(
    overheard: Overheard,
) -> None:
    infos = {
        payload.encryption
        for topic, data in overheard.wire["encrypted"]
        if topic == f"nb/d/{TARGET}/assign"
        for target in Assignment.decode(SignedDocument.decode(Delivery.decode(data).assignment).content).targets
        for payload in target.payloads
    }
    assert infos
    for info in infos:
        assert info is not None
        assert unseal(info, overheard.keys[TARGET]).key == CONTENT.key
        with pytest.raises(TrustError) as caught:
            unseal(info, overheard.keys[OTHER])
        assert caught.value.reason is Reason.NO_KEY


@pytest.mark.parametrize("place", ["layer", "first frame", "last frame"])
def test_flipped_ciphertext_ends_the_attempt_and_boots_nothing(lab: Lab, place: str) -> None:
    """Whoever flips a bit of the ciphertext flips that bit of the plaintext: nothing is believed for having a key."""
    name = f"gw-flip-{place.replace(' ', '-')}"
    with besieged(lab, name, extra_toml=ENCRYPTION) as siege:
        cose_key = siege.rogue.wait_for_hello(name).agreement_key
        assert cose_key is not None
        made = lab.kit.make_release(
            image(b"flip"),
            sequence=BASE_SEQUENCE,
            codec=Codec.STORED,
            content_key=CONTENT,
            sealed_to=[public_key_from_cbor(cose_key)],
        )
        head = made.head
        at, reason = {
            "layer": (head.layer_offset, Reason.BAD_LAYER),
            "first frame": (head.frames_offset + 100, Reason.BAD_BLOCK),
            "last frame": (head.payload_length - 1, Reason.BAD_BLOCK),
        }[place]

        def tamper(offset: int, data: bytes) -> bytes:
            within = at - offset
            if not 0 <= within < len(data):
                return data
            return data[:within] + bytes([data[within] ^ 1]) + data[within + 1 :]

        end = siege.serve(made, made.payload, tamper)
        assert (end.state, end.reason) == (State.FAILED, reason)
        assert (siege.gateway.boot.primary, siege.gateway.boot.trial) == ("a", None)


def test_a_key_that_is_sealed_to_another_gateway_costs_no_byte(lab: Lab) -> None:
    with besieged(lab, "gw-wrong-key", extra_toml=ENCRYPTION) as siege:
        made = lab.kit.make_release(
            image(b"wrong"), sequence=BASE_SEQUENCE, content_key=CONTENT, sealed_to=[AgreementKey.generate().public]
        )
        end = siege.offer(made)
        assert (end.state, end.reason) == (State.FAILED, Reason.NO_KEY)
        assert siege.requests == 0

"""What is believed under a root, and what is not: each refusal by its own reason."""

from __future__ import annotations

import pytest

from narrowboat_protocol.documents import Ack, ComponentRule, Role, RoleName, Root, sign_model
from narrowboat_protocol.errors import NarrowboatError, Reason, TrustError
from narrowboat_protocol.keys import Algorithm, PrivateKey
from narrowboat_protocol.suit import class_id
from narrowboat_protocol.trust import Floor, Freshness, Hardware, Trust, root_version_of
from tests.support.fleet import CLASS_NAME, COMPONENT, HARDWARE, NOW, VENDOR, FleetKit


@pytest.fixture(scope="module")
def fleet() -> FleetKit:
    return FleetKit.create(release_threshold=2, release_keys=3)


def next_root(fleet: FleetKit, key: PrivateKey | None = None, **changes: object) -> Root:
    """Version 2, with `key` in place of the root key."""
    fields = fleet.root.to_cbor() | {1: 2}
    root = Root.from_cbor(fields)
    if key is not None:
        old = fleet.root_signers[0].public
        keys = tuple(key.public.to_cbor() if item == old.to_cbor() else item for item in root.keys)
        roles = tuple(
            Role(name=role.name, threshold=1, kids=(key.public.kid,)) if role.name is RoleName.ROOT else role
            for role in root.roles
        )
        root = root.model_copy(update={"keys": keys, "roles": roles})
    return Root.from_cbor(root.model_copy(update=changes).to_cbor())


def test_a_root_is_walked_by_the_keys_of_both_versions(fleet: FleetKit) -> None:
    old, new = fleet.root_signers[0], PrivateKey.generate(Algorithm.ED25519)
    root = next_root(fleet, new)
    for signers in ([old], [new]):
        with pytest.raises(TrustError):
            fleet.trust().update_root(sign_model(root, fleet.fleet_id, signers))

    trust = fleet.trust()
    data = sign_model(root, fleet.fleet_id, [old, new])
    assert trust.update_root(data)
    assert (trust.root.version, trust.root_data, root_version_of(data)) == (2, data, 2)
    assert not trust.update_root(fleet.root_data)
    assert Trust(data, fleet.fleet_id).root == root


def test_a_root_that_skips_a_version_is_refused_until_the_one_between_comes(fleet: FleetKit) -> None:
    skipping = next_root(fleet, version=3)
    with pytest.raises(TrustError) as caught:
        fleet.trust().update_root(sign_model(skipping, fleet.fleet_id, fleet.root_signers))
    assert caught.value.reason is Reason.STALE


def test_a_root_of_another_fleet_is_refused_whoever_signed_it(fleet: FleetKit) -> None:
    other = FleetKit.create()
    with pytest.raises(TrustError):
        Trust(other.root_data, fleet.fleet_id)
    with pytest.raises(TrustError):
        fleet.trust().update_root(sign_model(next_root(fleet), other.fleet_id, fleet.root_signers))
    with pytest.raises(TrustError) as caught:
        Trust(sign_model(next_root(fleet), fleet.fleet_id, fleet.root_signers))
    assert caught.value.reason is Reason.WRONG_FLEET


def test_a_release_needs_its_threshold_of_release_keys(fleet: FleetKit) -> None:
    one, _, three = fleet.release_signers
    assert fleet.trust().open_release(fleet.make_release(b"i", signers=[one, three]).envelope).signers == {
        one.public.kid,
        three.public.kid,
    }
    for signers in ([one], [one, one], [one, fleet.director], [fleet.director, fleet.admin]):
        with pytest.raises(TrustError):
            fleet.trust().open_release(fleet.make_release(b"i", signers=signers).envelope)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"components": ("modem",)}, Reason.NOT_PERMITTED),
        ({"components": (COMPONENT,), "class_ids": (bytes(16),)}, Reason.NOT_PERMITTED),
        ({"components": (COMPONENT,), "class_ids": (HARDWARE.class_id.bytes,)}, None),
    ],
)
def test_release_keys_sign_only_for_what_the_root_lets_them(
    fleet: FleetKit, limits: dict[str, object], reason: Reason | None
) -> None:
    roles = tuple(
        role.model_copy(update=limits) if role.name is RoleName.RELEASE else role for role in fleet.root.roles
    )
    trust = fleet.trust()
    trust.update_root(sign_model(next_root(fleet, roles=roles), fleet.fleet_id, fleet.root_signers))
    envelope = fleet.make_release(b"i").envelope
    if reason is None:
        assert trust.open_release(envelope).images[0].component == COMPONENT
        return
    with pytest.raises(TrustError) as caught:
        trust.open_release(envelope)
    assert caught.value.reason is reason


def test_a_raised_epoch_or_minimum_retires_every_older_release(fleet: FleetKit) -> None:
    rules = {
        Reason.WRONG_EPOCH: ComponentRule(component=COMPONENT, epoch=1, minimum_sequence=0),
        Reason.BELOW_FLOOR: ComponentRule(component=COMPONENT, epoch=0, minimum_sequence=9),
    }
    envelope = fleet.make_release(b"i", sequence=8).envelope
    for reason, rule in rules.items():
        trust = fleet.trust()
        trust.update_root(sign_model(next_root(fleet, components=(rule,)), fleet.fleet_id, fleet.root_signers))
        with pytest.raises(TrustError) as caught:
            trust.open_release(envelope)
        assert caught.value.reason is reason


def test_a_release_is_judged_for_this_hardware_and_this_floor(fleet: FleetKit) -> None:
    trust = fleet.trust()
    release = trust.open_release(fleet.make_release(b"i", sequence=5, classes=(CLASS_NAME, "gateway-b")).envelope)
    other_class = Hardware(VENDOR, class_id(VENDOR, "gateway-c"))
    other_vendor = Hardware(class_id(VENDOR, "x"), HARDWARE.class_id)
    assert trust.judge_release(release, COMPONENT, HARDWARE, Floor(0, 5)).version == "1.0.0"
    refusals = [
        (COMPONENT, other_class, Floor(0, 5), Reason.WRONG_CLASS),
        (COMPONENT, other_vendor, Floor(0, 5), Reason.WRONG_CLASS),
        ("modem", HARDWARE, Floor(0, 5), Reason.MISSING_RELEASE),
        (COMPONENT, HARDWARE, Floor(0, 6), Reason.BELOW_FLOOR),
        (COMPONENT, HARDWARE, Floor(1, 0), Reason.BELOW_FLOOR),
    ]
    for component, hardware, floor, reason in refusals:
        with pytest.raises(TrustError) as caught:
            trust.judge_release(release, component, hardware, floor)
        assert caught.value.reason is reason


def test_an_assignment_is_fresh_by_nonce_and_counter_or_by_being_the_same(fleet: FleetKit) -> None:
    nonce = b"n" * 16
    data = fleet.assignment("gw-1", counter=7, nonce=nonce)
    trust = fleet.trust()
    fresh = Freshness([b"m" * 16, nonce], 6, None, NOW)
    assert trust.open_assignment(data, "gw-1", fresh).counter == 7
    assert trust.open_assignment(data, "gw-1", Freshness([], 7, data, NOW + 10**9)).counter == 7
    for stale in (Freshness([nonce], 7, None, NOW), Freshness([b"m" * 16], 6, None, NOW)):
        with pytest.raises(TrustError) as caught:
            trust.open_assignment(data, "gw-1", stale)
        assert caught.value.reason is Reason.STALE


def test_an_ack_counts_for_its_device_and_from_a_bridge_key_only(fleet: FleetKit) -> None:
    ack = Ack(device="gw-1", pair=(3, 4), challenge=bytes(16))
    good = sign_model(ack, fleet.fleet_id, [fleet.bridge])
    assert fleet.trust().open_ack(good, "gw-1") == ack
    with pytest.raises(TrustError) as caught:
        fleet.trust().open_ack(good, "gw-2")
    assert caught.value.reason is Reason.WRONG_DEVICE
    with pytest.raises(NarrowboatError):
        fleet.trust().open_ack(sign_model(ack, fleet.fleet_id, [fleet.director]), "gw-1")

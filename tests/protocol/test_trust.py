"""What is believed under a root, and what is not: each refusal by its own reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cbor2
import pytest

from narrowboat_protocol.cbor import encode
from narrowboat_protocol.cose import document_aad, fleet_id_of, sign1
from narrowboat_protocol.documents import (
    Ack,
    Assignment,
    ComponentRule,
    Event,
    EventKind,
    Operator,
    OperatorRole,
    Operators,
    Reply,
    Role,
    RoleName,
    Root,
    SignedModel,
    sign_model,
)
from narrowboat_protocol.errors import DocumentError, NarrowboatError, Reason, TrustError
from narrowboat_protocol.keys import Algorithm, PrivateKey, public_key_from_cbor
from narrowboat_protocol.suit import class_id
from narrowboat_protocol.trust import Floor, Freshness, Hardware, Trust
from tests.support.fleet import CLASS_NAME, COMPONENT, HARDWARE, NOW, VENDOR, FleetKit

CLASS_IDS = {class_id(VENDOR, name).bytes for name in (CLASS_NAME, "gateway-b")}
NONCE = b"n" * 16


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
    assert (trust.root.version, trust.root_data) == (2, data)
    assert not trust.update_root(fleet.root_data)
    assert Trust(data, fleet.fleet_id).root == root


def shared(fleet: FleetKit, name: RoleName, version: int = 1, **changes: object) -> tuple[Root, list[PrivateKey]]:
    """A root in which two of three new keys must sign for `name`, and those keys."""
    keys = [PrivateKey.generate(Algorithm.ED25519) for _ in range(3)]
    kids = tuple(key.public.kid for key in keys)
    retired = {kid for role in fleet.root.roles if role.name is name for kid in role.kids}
    kept = [public_key_from_cbor(item) for item in fleet.root.keys]
    fields: dict[str, object] = {
        "version": version,
        "keys": tuple(key.to_cbor() for key in (*(k for k in kept if k.kid not in retired), *(k.public for k in keys))),
        "roles": tuple(
            Role(name=name, threshold=2, kids=kids) if role.name is name else role for role in fleet.root.roles
        ),
    }
    return Root.from_cbor(fleet.root.model_copy(update=fields | changes).to_cbor()), keys


def test_a_root_that_starts_a_fleet_is_signed_by_its_own_threshold(fleet: FleetKit) -> None:
    root, (one, two, three) = shared(fleet, RoleName.ROOT)
    fleet_id = fleet_id_of(root.encode())
    for signers in ([one], [one, one], [fleet.director], [one, fleet.director]):
        with pytest.raises(TrustError):
            Trust(sign_model(root, fleet_id, signers))
    with pytest.raises(TrustError):
        Trust(sign_model(fleet.root, fleet.fleet_id, [fleet.director]), fleet.fleet_id)
    for signers in ([one, three], [one, two, three]):
        assert Trust(sign_model(root, fleet_id, signers)).root == root


def test_a_stored_root_is_signed_by_its_own_threshold(fleet: FleetKit) -> None:
    """A later root is adopted by its own keys alone: the one before it is not there any more to ask."""
    root, (one, two, _) = shared(fleet, RoleName.ROOT, version=2)
    for signers in ([one], [fleet.root_signers[0]], [one, fleet.root_signers[0]]):
        with pytest.raises(TrustError):
            Trust(sign_model(root, fleet.fleet_id, signers), fleet.fleet_id)
    assert Trust(sign_model(root, fleet.fleet_id, [one, two]), fleet.fleet_id).root == root


def test_one_of_several_root_keys_replaces_no_root(fleet: FleetKit) -> None:
    first, (one, two, three) = shared(fleet, RoleName.ROOT)
    fleet_id = fleet_id_of(first.encode())
    first_data = sign_model(first, fleet_id, [one, two])
    second = Root.from_cbor(first.model_copy(update={"version": 2}).to_cbor())
    for signers in ([one], [three, three], [three, fleet.director]):
        with pytest.raises(TrustError):
            Trust(first_data).update_root(sign_model(second, fleet_id, signers))
    assert Trust(first_data).update_root(sign_model(second, fleet_id, [two, three]))


def test_a_root_that_raises_its_threshold_needs_the_new_one_at_once(fleet: FleetKit) -> None:
    old = fleet.root_signers[0]
    root, (one, two, _) = shared(fleet, RoleName.ROOT, version=2)
    for signers in ([old, one], [one, two]):
        with pytest.raises(TrustError):
            fleet.trust().update_root(sign_model(root, fleet.fleet_id, signers))
    assert fleet.trust().update_root(sign_model(root, fleet.fleet_id, [old, one, two]))


ROLES_OPENED: dict[str, tuple[RoleName, SignedModel, Callable[[Trust, bytes], object]]] = {
    "an assignment": (
        RoleName.DIRECTOR,
        Assignment(device="gw-1", counter=1, issued_at=NOW, expires_at=NOW, nonce=NONCE, root_version=1, targets=()),
        lambda trust, data: trust.open_assignment(data, "gw-1", Freshness([NONCE], 0, None, NOW)),
    ),
    "an Ack": (
        RoleName.BRIDGE,
        Ack(device="gw-1", pair=(1, 1), challenge=bytes(16), statement=bytes(32)),
        lambda trust, data: trust.open_ack(data, "gw-1"),
    ),
    "a reply": (RoleName.BRIDGE, Reply(request_id=bytes(16)), lambda trust, data: trust.open_reply(data)),
    "an event": (
        RoleName.BRIDGE,
        Event(sequence=1, at=NOW, kind=EventKind.ALARM),
        lambda trust, data: trust.open_event(data),
    ),
    "the operators": (
        RoleName.ADMIN,
        Operators(
            version=1,
            operators=(
                Operator(
                    name="ada",
                    cose_key=PrivateKey.generate(Algorithm.ED25519).public.to_cbor(),
                    role=OperatorRole.VIEWER,
                ),
            ),
        ),
        lambda trust, data: trust.open_by_role(Operators, data, RoleName.ADMIN),
    ),
}


@pytest.mark.parametrize(("role", "document", "opened"), ROLES_OPENED.values(), ids=ROLES_OPENED.keys())
def test_one_of_several_online_keys_is_not_enough(
    fleet: FleetKit, role: RoleName, document: SignedModel, opened: Callable[[Trust, bytes], object]
) -> None:
    root, (one, two, _) = shared(fleet, role, version=2)
    trust = fleet.trust()
    trust.update_root(sign_model(root, fleet.fleet_id, fleet.root_signers))
    for signers in ([one], [one, one], [one, fleet.root_signers[0]]):
        with pytest.raises(TrustError):
            opened(trust, sign_model(document, fleet.fleet_id, signers))
    assert opened(trust, sign_model(document, fleet.fleet_id, [one, two])) == document


def test_a_root_of_another_format_or_over_its_size_is_refused_before_it_is_read(fleet: FleetKit) -> None:
    form, content, signatures = cbor2.loads(fleet.root_data)
    aad = document_aad("root", 2, fleet.fleet_id)
    other_format = encode([2, content, [sign1(fleet.root_signers[0], content, external_aad=aad)]])
    overlong = encode([form, content, signatures + [bytes(1100)] * 15])
    for data, reason in ((other_format, Reason.UNKNOWN_FORMAT), (overlong, Reason.TOO_LARGE)):
        for read in (Trust, fleet.trust().update_root):
            with pytest.raises(DocumentError) as caught:
                read(data)
            assert caught.value.reason is reason


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
        ({"components": (COMPONENT,), "class_ids": (HARDWARE.class_id.bytes,)}, Reason.NOT_PERMITTED),
        ({"components": (COMPONENT,), "class_ids": tuple(sorted(CLASS_IDS))}, None),
    ],
    ids=["another component", "another class", "one of the two classes", "both classes"],
)
def test_release_keys_sign_only_for_what_the_root_lets_them(
    fleet: FleetKit, limits: dict[str, object], reason: Reason | None
) -> None:
    """The release is for two classes: a key that may sign for one of them must not sign for the other beside it."""
    roles = tuple(
        role.model_copy(update=limits) if role.name is RoleName.RELEASE else role for role in fleet.root.roles
    )
    trust = fleet.trust()
    trust.update_root(sign_model(next_root(fleet, roles=roles), fleet.fleet_id, fleet.root_signers))
    envelope = fleet.make_release(b"i", classes=(CLASS_NAME, "gateway-b")).envelope
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


@pytest.mark.parametrize(
    ("changes", "device", "reason"),
    [
        ({"expires_at": NOW - 1}, "gw-1", Reason.EXPIRED),
        ({"expires_at": NOW}, "gw-1", None),
        ({}, "gw-2", Reason.WRONG_DEVICE),
        ({"root_version": 2}, "gw-1", Reason.STALE),
        ({"root_version": 0}, "gw-1", None),
    ],
    ids=["expired", "expiring", "for another device", "of a root to come", "of an older root"],
)
def test_an_assignment_counts_in_its_time_on_its_device_and_under_its_root(
    fleet: FleetKit, changes: dict[str, Any], device: str, reason: Reason | None
) -> None:
    data = fleet.assignment("gw-1", nonce=NONCE, **changes)
    fresh = Freshness([NONCE], 0, None, NOW)
    if reason is None:
        assert fleet.trust().open_assignment(data, device, fresh).counter == 1
        return
    with pytest.raises(TrustError) as caught:
        fleet.trust().open_assignment(data, device, fresh)
    assert caught.value.reason is reason


def test_an_ack_counts_for_its_device_and_from_a_bridge_key_only(fleet: FleetKit) -> None:
    ack = Ack(device="gw-1", pair=(3, 4), challenge=bytes(16), statement=bytes(32))
    good = sign_model(ack, fleet.fleet_id, [fleet.bridge])
    assert fleet.trust().open_ack(good, "gw-1") == ack
    with pytest.raises(TrustError) as caught:
        fleet.trust().open_ack(good, "gw-2")
    assert caught.value.reason is Reason.WRONG_DEVICE
    with pytest.raises(NarrowboatError):
        fleet.trust().open_ack(sign_model(ack, fleet.fleet_id, [fleet.director]), "gw-1")

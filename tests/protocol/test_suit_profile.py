"""A gateway reads a signed manifest in exactly one way, and refuses by name what it does not do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from narrowboat_protocol.errors import NarrowboatError, PeerError, Reason, TrustError
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.suit import class_id, parse_envelope
from tests.support.suit_manifests import ONE_IMAGE, VENDOR, Parts, authentication, believe, dump, with_members

Change = Callable[[Parts], object]


def with_fetch_arguments(**changes: object) -> Change:
    def change(parts: Parts) -> None:
        arguments = parts.fetch_arguments() | {int(key.removeprefix("key_")): v for key, v in changes.items()}
        parts.install[3][25] = dump({key: value for key, value in arguments.items() if value is not None})

    return change


def with_tree(*, length: int) -> Change:
    def change(parts: Parts) -> None:
        algorithm, log2_chunk_size, _, root = parts.fetch_arguments()[1]
        with_fetch_arguments(key_1=[algorithm, log2_chunk_size, length, root])(parts)

    return change


def set_in(where: str, key: object, value: object) -> Change:
    def change(parts: Parts) -> None:
        getattr(parts, where)[key] = value

    return change


def drop_from(where: str, *keys: object) -> Change:
    def change(parts: Parts) -> None:
        for key in keys:
            del getattr(parts, where)[key]

    return change


def insert_into(where: str, position: int, *commands: object) -> Change:
    def change(parts: Parts) -> None:
        getattr(parts, where)[position:position] = commands

    return change


def cut_from(where: str, start: int, stop: int) -> Change:
    def change(parts: Parts) -> None:
        del getattr(parts, where)[start:stop]

    return change


def many_components(parts: Parts) -> None:
    parts.common[2] = [[b"rootfs-%d" % index] for index in range(9)]


def branch(uuid: bytes) -> bytes:
    return dump([20, {2: uuid}, 2, 15])


def classes(*branches: object) -> Change:
    """Turn the one image into one for several classes, with these branches of try-each."""

    def change(parts: Parts) -> None:
        del parts.shared[3][2]
        parts.shared[-2:] = [15, list(branches)]

    return change


BRANCHES = [branch(class_id(VENDOR, f"class-{number}").bytes) for number in range(17)]
OUTSIDE = "is outside profile OTA-1"

REFUSALS: dict[str, tuple[Change, str]] = {
    # Members of the manifest and of the envelope.
    "manifest of another version": (set_in("manifest", 1, 2), "expected manifest version 1, got 2"),
    "version that is a truth value": (set_in("manifest", 1, True), "manifest version: expected an integer"),
    "no sequence number": (drop_from("manifest", 2), "manifest member 2 (manifest-sequence-number)"),
    "negative sequence number": (set_in("manifest", 2, -1), "sequence number: expected an integer from 0"),
    "sequence number of 2^53": (
        set_in("manifest", 2, 1 << 53),
        "sequence number: expected an integer from 0",
    ),
    "set-version": (set_in("manifest", 6, b""), f"manifest member 6 (set-version) {OUTSIDE}"),
    "load": (set_in("manifest", 8, dump([3, 15])), f"manifest member 8 (load) {OUTSIDE}"),
    "invoke sequence": (set_in("manifest", 9, dump([23, 2])), f"manifest member 9 (invoke) {OUTSIDE}"),
    "payload-fetch": (set_in("manifest", 16, dump([21, 2])), f"manifest member 16 (payload-fetch) {OUTSIDE}"),
    "unknown member": (set_in("manifest", 99, b""), f"manifest member 99 {OUTSIDE}"),
    "member with a name": (set_in("manifest", "x", b""), f"manifest member 'x' {OUTSIDE}"),
    "severed install": (
        set_in("manifest", 20, [-16, bytes(32)]),
        f"severed manifest member 20 (install) {OUTSIDE}",
    ),
    "severed text": (
        set_in("manifest", 23, [-16, bytes(32)]),
        f"severed manifest member 23 (text) {OUTSIDE}",
    ),
    "severed install beside": (
        set_in("envelope", 20, dump([3, 15])),
        f"severed envelope member 20 (install) {OUTSIDE}",
    ),
    "integrated payload": (set_in("envelope", "#payload", b"x"), f"integrated payload '#payload' {OUTSIDE}"),
    # Components.
    "extra common member": (set_in("common", 5, b""), f"common member 5 {OUTSIDE}"),
    "no components": (set_in("common", 2, []), "expected a list of 1 to 8 components, got a list of 0"),
    "nine components": (many_components, "expected a list of 1 to 8 components, got a list of 9"),
    "component of two parts": (set_in("common", 2, [[b"rootfs", b"a"]]), "expected a component identifier"),
    "component that is no name": (set_in("common", 2, [[b"../etc"]]), "expected a component identifier"),
    "component with a line break": (set_in("common", 2, [[b"rootfs\n"]]), "expected a component identifier"),
    "component listed and not used": (
        set_in("common", 2, [[b"rootfs"], [b"modem"]]),
        "shared sequence: expected directive 12 (set-component-index), got the end",
    ),
    # Commands that we do not have.
    "run-sequence": (
        insert_into("install", 2, 32, dump([21, 2])),
        f"install: directive 32 (run-sequence) {OUTSIDE}, which has directive 20 (override-parameters) here",
    ),
    "swap": (insert_into("install", 8, 31, 2), f"install: directive 31 (swap) {OUTSIDE}"),
    "copy": (insert_into("install", 4, 22, 2), f"install: directive 22 (copy) {OUTSIDE}"),
    "write": (insert_into("install", 4, 18, 2), f"install: directive 18 (write) {OUTSIDE}"),
    "invoke": (insert_into("validate", 4, 23, 2), f"validate: directive 23 (invoke) {OUTSIDE}"),
    "abort": (insert_into("shared", 0, 14, 15), f"shared sequence: condition 14 (abort) {OUTSIDE}"),
    "slot": (insert_into("shared", 4, 5, 15), f"shared sequence: condition 5 (component-slot) {OUTSIDE}"),
    "custom command": (insert_into("install", 0, -300, None), f"install: command -300 {OUTSIDE}"),
    "unknown command": (insert_into("install", 0, 77, 0), f"install: command 77 {OUTSIDE}"),
    "command that is a list": (insert_into("install", 0, [21], 0), f"install: command [21] {OUTSIDE}"),
    "command that is a truth value": (set_in("shared", 4, True), f"shared sequence: command True {OUTSIDE}"),
    "command of text": (insert_into("install", 0, "fetch", 0), f"install: command 'fetch' {OUTSIDE}"),
    "try-each in install": (
        insert_into("install", 2, 15, [dump([3, 15]), dump([3, 15])]),
        f"install: directive 15 (try-each) {OUTSIDE}",
    ),
    # Commands missing, doubled, out of order.
    "vendor not tested": (
        cut_from("shared", 4, 6),
        f"shared sequence: condition 2 (class-identifier) {OUTSIDE}, which has condition 1 ",
    ),
    "class not tested": (cut_from("shared", 6, 8), "expected condition 2 (class-identifier), got the end"),
    "image not matched after fetch": (
        cut_from("install", 6, 8),
        "expected condition 3 (image-match), got the end",
    ),
    "image not validated": (cut_from("validate", 2, 4), "expected condition 3 (image-match), got the end"),
    "fetch missing": (cut_from("install", 4, 6), f"install: condition 3 (image-match) {OUTSIDE}"),
    "fetch before its parameters": (
        insert_into("install", 2, 21, 2),
        f"install: directive 21 (fetch) {OUTSIDE}",
    ),
    "class before vendor": (
        set_in("shared", slice(4, 8), [2, 15, 1, 15]),
        f"shared sequence: condition 2 (class-identifier) {OUTSIDE}",
    ),
    "command doubled": (
        insert_into("install", 8, 3, 15),
        f"install: condition 3 (image-match) {OUTSIDE}, which has the end of the sequence here",
    ),
    "command without argument": (insert_into("install", 8, 3), "install: expected a list of commands"),
    "empty sequence": (
        cut_from("validate", 0, 4),
        "expected directive 12 (set-component-index), got the end",
    ),
    "component index missing": (
        cut_from("install", 0, 2),
        f"install: directive 20 (override-parameters) {OUTSIDE}",
    ),
    "component index beyond": (set_in("install", 1, 1), "install: expected set-component-index 0, got 1"),
    "component index true": (set_in("install", 1, True), "install: expected set-component-index 0, got True"),
    "component index false": (
        set_in("install", 1, False),
        "install: expected set-component-index 0, got False",
    ),
    "component index list": (set_in("install", 1, [0]), "expected set-component-index 0, got a list of 1"),
    "reporting policy of 5 bits": (
        set_in("install", 5, 16),
        "reporting policy: expected an integer from 0 to 15",
    ),
    # Parameters.
    "soft failure": (lambda p: p.shared[3].update({13: True}), f"parameter 13 (soft-failure) {OUTSIDE}"),
    "encryption": (lambda p: p.install[3].update({19: b""}), f"parameter 19 (encryption-info) {OUTSIDE}"),
    "custom parameter": (lambda p: p.install[3].update({-300: 1}), f"parameter -300 {OUTSIDE}"),
    "digest set again in install": (
        lambda p: p.install[3].update({3: dump([-16, bytes(32)])}),
        f"install: parameter 3 (image-digest) {OUTSIDE}",
    ),
    "no vendor": (
        lambda p: p.shared[3].pop(1),
        "expected shared sequence: parameter 1 (vendor-identifier), which is",
    ),
    "no digest": (lambda p: p.shared[3].pop(3), "parameter 3 (image-digest), which is missing"),
    "no size": (lambda p: p.shared[3].pop(14), "parameter 14 (image-size), which is missing"),
    "no fetch-arguments": (
        lambda p: p.install[3].pop(25),
        "parameter 25 (fetch-arguments), which is missing",
    ),
    "short vendor": (
        lambda p: p.shared[3].update({1: b"v"}),
        "vendor identifier: expected 16 bytes, got 1 bytes",
    ),
    "short class": (
        lambda p: p.shared[3].update({2: b"c"}),
        "class identifier: expected 16 bytes, got 1 bytes",
    ),
    "SHA-512 of the image": (
        lambda p: p.shared[3].update({3: dump([-44, bytes(32)])}),
        "expected a SHA-256 digest",
    ),
    "short digest": (lambda p: p.shared[3].update({3: dump([-16, bytes(31)])}), "expected a SHA-256 digest"),
    "digest with an extension": (
        lambda p: p.shared[3].update({3: dump([-16, bytes(32), 0])}),
        "expected a SHA-256 digest",
    ),
    "another URI": (lambda p: p.install[3].update({21: "http://evil.example/"}), "expected the URI #payload"),
    # Classes.
    "one branch": (
        classes(BRANCHES[0]),
        "try-each: expected 2 to 16 branches, one for each class, got a list of 1",
    ),
    "17 classes": (
        classes(*BRANCHES),
        "try-each: expected 2 to 16 branches, one for each class, got a list of 17",
    ),
    "any class will do": (classes(*BRANCHES[:2], None), "try-each branch: expected a byte string, got None"),
    "class twice": (classes(BRANCHES[0], BRANCHES[0]), "try-each: expected every class once"),
    "branch without test": (
        classes(BRANCHES[0], dump([20, {2: bytes(16)}])),
        "try-each branch: expected condition 2 (class-identifier), got the end",
    ),
    "branch that goes on": (
        classes(BRANCHES[0], dump([20, {2: bytes(16)}, 2, 15, 3, 15])),
        f"try-each branch: condition 3 (image-match) {OUTSIDE}",
    ),
    "branch with a digest of its own": (
        classes(BRANCHES[0], dump([20, {2: bytes(16), 3: b""}, 2, 15])),
        f"try-each branch: parameter 3 (image-digest) {OUTSIDE}",
    ),
    "class by default and by try-each": (
        lambda p: p.shared.extend([15, BRANCHES[:2]]),
        f"shared sequence: directive 15 (try-each) {OUTSIDE}, which has the end of the sequence here",
    ),
    # Fetch arguments.
    "extra fetch argument": (with_fetch_arguments(key_4=0), f"fetch argument 4 {OUTSIDE}"),
    "no version": (with_fetch_arguments(key_2=None), "expected fetch argument 2 (version), which is missing"),
    "empty version": (with_fetch_arguments(key_2=""), "expected a version of 1 to 64 printable bytes"),
    "long version": (with_fetch_arguments(key_2="v" * 65), "expected a version of 1 to 64 printable bytes"),
    "version that clears a screen": (
        with_fetch_arguments(key_2="\x1b[2J"),
        "expected a version of 1 to 64 printable",
    ),
    "epoch that is a truth value": (with_fetch_arguments(key_3=True), "epoch: expected an integer"),
    "tree over another length": (
        with_tree(length=6),
        "component rootfs: expected a chunk tree over the 5 bytes of the image, got one over 6",
    ),
}

BAD_ENCODINGS: dict[str, tuple[Change, Reason, str]] = {
    "float": (set_in("install", 1, 0.0), Reason.NOT_DETERMINISTIC, "install: CBOR at byte"),
    "tag": (
        set_in("install", 1, cbor2.CBORTag(4, [0, 0])),
        Reason.NOT_DETERMINISTIC,
        "install: CBOR at byte",
    ),
    "undefined": (set_in("install", 1, cbor2.undefined), Reason.NOT_DETERMINISTIC, "install: CBOR at byte"),
    "private enterprise number": (
        lambda p: p.shared[3].update({1: cbor2.CBORTag(112, b"x")}),
        Reason.NOT_DETERMINISTIC,
        "shared sequence: CBOR at byte",
    ),
    "empty image": (with_tree(length=0), Reason.BAD_DOCUMENT, "at least one byte"),
    "image beyond the limit": (
        with_tree(length=DEFAULT_LIMITS.image_bytes_max + 1),
        Reason.IMAGE_TOO_LARGE,
        "expected an image of at most",
    ),
}


def changed(change: Change) -> Parts:
    parts = Parts.of(ONE_IMAGE)
    change(parts)
    return parts


def test_the_table_changes_a_manifest_that_is_otherwise_good() -> None:
    assert believe(Parts.of(ONE_IMAGE).sign()).images == ONE_IMAGE.images
    assert believe(changed(classes(*BRANCHES[:16])).sign()).images[0].class_ids[15] == class_id(VENDOR, "class-15")


@pytest.mark.parametrize("case", REFUSALS)
def test_a_signed_manifest_outside_the_profile_is_refused_by_name(case: str) -> None:
    change, message = REFUSALS[case]
    with pytest.raises(TrustError) as refusal:
        believe(changed(change).sign())
    assert refusal.value.reason is Reason.UNSUPPORTED_MANIFEST
    assert message in str(refusal.value)


@pytest.mark.parametrize("case", BAD_ENCODINGS)
def test_a_signed_manifest_with_values_that_we_never_use_is_refused(case: str) -> None:
    change, reason, message = BAD_ENCODINGS[case]
    with pytest.raises(PeerError) as refusal:
        believe(changed(change).sign())
    assert refusal.value.reason is reason
    assert message in str(refusal.value)


@pytest.mark.parametrize("case", [*REFUSALS, *BAD_ENCODINGS])
def test_nothing_in_a_manifest_is_read_before_its_signature(case: str) -> None:
    change = REFUSALS[case][0] if case in REFUSALS else BAD_ENCODINGS[case][0]
    envelope = changed(change).sign()
    digest, block = authentication(envelope)
    forged = block[:-1] + bytes([block[-1] ^ 1])
    with pytest.raises(TrustError) as refusal:
        believe(with_members(envelope, {2: dump([digest, forged])}))
    assert refusal.value.reason is Reason.BAD_SIGNATURE


def test_another_digest_algorithm_is_refused_since_nothing_could_be_authenticated() -> None:
    parts = Parts.of(ONE_IMAGE)
    parts.digest_algorithm = -44
    with pytest.raises(TrustError, match="expected a SHA-256 digest") as refusal:
        parse_envelope(parts.seal())
    assert refusal.value.reason is Reason.UNSUPPORTED_MANIFEST


def test_what_people_wrote_into_a_manifest_is_signed_and_not_obeyed() -> None:
    parts = Parts.of(ONE_IMAGE)
    parts.manifest |= {4: "https://boats.example/7", 23: dump({"en": {2: "Fixes the modem."}})}
    assert believe(parts.sign()).images == ONE_IMAGE.images


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=40) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 40) | st.text(max_size=3), inner),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(["manifest", "common", "shared", "install", "validate"]),
    st.integers(0, 25),
    VALUES,
)
def test_any_signed_manifest_raises_our_errors_only(where: str, place: int, value: Any) -> None:
    parts = Parts.of(ONE_IMAGE)
    target = getattr(parts, where)
    if isinstance(target, list):
        target[place % (len(target) + 1) : place] = [value]
    else:
        target[place] = value
    try:
        release = believe(parts.sign())
    except NarrowboatError as error:
        assert isinstance(error, PeerError)  # noqa: PT017
    else:
        assert release.images == ONE_IMAGE.images

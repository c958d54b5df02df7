"""Our envelopes and those of the SUIT working group are of one kind.

The examples and the CDDL of draft-ietf-suit-manifest-37 carry a licence (IETF Trust) that keeps them out of this
repository. Where they lie beside it, in `../shared/suit`, these tests run; elsewhere they do not exist.

The examples are signed with ES256 and name no key, and what they do is outside our profile. So they must be
authenticated, which proves digest and signature, and then be refused by name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import cbor2
import pycddl
import pytest

from narrowboat_protocol.cose import sign1
from narrowboat_protocol.errors import PeerError, Reason, TrustError
from narrowboat_protocol.keys import Algorithm, PrivateKey, public_key_from_pem
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.suit import (
    Image,
    Manifest,
    add_signature,
    authenticate,
    build_envelope,
    class_id,
    open_release,
    parse_envelope,
    vendor_id,
)
from narrowboat_protocol.suit.numbers import CommonKey, Directive, ManifestKey
from narrowboat_protocol.tree import TreeBuilder

VECTORS = Path(__file__).parents[3] / "shared" / "suit"
__test__ = VECTORS.is_dir()

REFUSALS = {
    "example0": "manifest member 9 (invoke) is outside profile OTA-1",
    "example1": "expected a component identifier of one byte string",
    "example3": "expected a component identifier of one byte string",
}


def read(name: str) -> bytes:
    return (VECTORS / name).read_bytes()


@pytest.mark.parametrize("example", REFUSALS)
def test_the_digest_of_an_example_is_the_one_that_we_compute(example: str) -> None:
    unsigned, signed = (parse_envelope(read(f"{example}.{kind}.suit")) for kind in ("unsigned", "signed"))
    assert unsigned.digest == signed.digest
    assert unsigned.encode() == read(f"{example}.unsigned.suit")


@pytest.mark.parametrize("example", REFUSALS)
def test_an_example_is_authentic_and_then_refused_by_name(example: str) -> None:
    key = public_key_from_pem(read("public_key.pem"))
    envelope = read(f"{example}.signed.suit")
    signers = authenticate(parse_envelope(envelope), {key.kid: key}, 1, accept_es256=True).signers
    assert signers == {key.kid}
    with pytest.raises(TrustError) as refusal:
        open_release(envelope, {key.kid: key}, 1, accept_es256=True)
    assert refusal.value.reason is Reason.UNSUPPORTED_MANIFEST
    assert REFUSALS[example] in str(refusal.value)


@pytest.mark.parametrize("example", REFUSALS)
def test_an_example_is_not_believed_without_the_argument_that_only_tests_pass(example: str) -> None:
    key = public_key_from_pem(read("public_key.pem"))
    with pytest.raises(PeerError):
        open_release(read(f"{example}.signed.suit"), {key.kid: key}, 1)
    stranger = PrivateKey.generate(Algorithm.ESP256).public
    with pytest.raises(TrustError):
        open_release(read(f"{example}.signed.suit"), {stranger.kid: stranger}, 1, accept_es256=True)


# pycddl does not follow groups that a map includes, does not try every choice of what an array holds, and does
# not understand the draft's use of .bits and of an optional last null. So the grammar is rewritten for it: groups
# are put in, policies are numbers, sequences are left open, and each command, parameter and signature in them is
# checked alone, with the choices made here.

COMPLETION = """
COSE_Sign1_Tagged = #6.18([bstr, {}, nil, bstr])
COSE_Sign_Tagged = #6.98(any)
COSE_Mac_Tagged = #6.97(any)
COSE_Mac0_Tagged = #6.17(any)
SUIT_Authentication = [+ bstr]
SUIT_Shared_Sequence = [+ any]
SUIT_Command_Sequence = [+ any]
"""


@cache
def grammar() -> str:
    text = read("draft-ietf-suit-manifest.cddl").decode()
    text = re.sub(r"(?m)^SUIT_start = .*$|^\s*\* \$\$(?!SUIT_Parameters).*$", "", text)
    for opened in ("Authentication", "Shared_Sequence", "Command_Sequence"):
        text = re.sub(rf"(?ms)^SUIT_{opened} = \[.*?\]$", "", text)
    for group in ("Unseverable_Members", "Severable_Members_Choice", "Severable_Manifest_Members"):
        (body,) = re.findall(rf"(?ms)^SUIT_{group} = \((.*?)^\)", text)
        text = text.replace(f"  SUIT_{group},\n", body)
    text = text.replace("uint .bits suit-reporting-bits", "0..15").replace(",\n    ?nil", "")
    return text.replace("{+ $$SUIT_Parameters}", "{+ int => any}") + COMPLETION


@cache
def schema(rule: str) -> pycddl.Schema:
    return pycddl.Schema(f"checked = {rule}\n{grammar()}")


@cache
def choices(name: str) -> list[str]:
    return re.findall(rf"(?s){re.escape(name)} //= \((.*?)\)(?=\n)", grammar())


def conforms(value: object, rules: Iterable[str]) -> bool:
    for rule in rules:
        try:
            schema(rule).validate_cbor(cbor2.dumps(value))
        except pycddl.ValidationError:
            continue
        return True
    return False


def commands_conform(sequence: bytes, directives: str) -> bool:
    rules = [f"[{choice}]" for choice in (*choices("SUIT_Condition"), *choices(directives))]
    flat = cbor2.loads(sequence)
    for command, argument in zip(flat[::2], flat[1::2], strict=True):
        if not conforms([command, argument], rules):
            return False
        if command == Directive.OVERRIDE_PARAMETERS and not parameters_conform(argument):
            return False
        if command == Directive.TRY_EACH and not all(commands_conform(branch, directives) for branch in argument):
            return False
    return True


def parameters_conform(parameters: dict[int, object]) -> bool:
    rules = [f"{{{choice}}}" for choice in choices("$$SUIT_Parameters") if "custom" not in choice]
    return all(conforms({key: value}, rules) for key, value in parameters.items())


def envelope_conforms(envelope: bytes) -> bool:
    parsed = parse_envelope(envelope)
    manifest = cbor2.loads(parsed.manifest)
    return (
        conforms(cbor2.loads(envelope), ["SUIT_Envelope_Tagged"])
        and conforms(cbor2.loads(parsed.signed_payload), ["SUIT_Digest"])
        and all(conforms(cbor2.loads(block), ["SUIT_Authentication_Block"]) for block in parsed.authentication)
        and commands_conform(
            cbor2.loads(manifest[ManifestKey.COMMON])[CommonKey.SHARED_SEQUENCE], "SUIT_Shared_Commands"
        )
        and all(
            commands_conform(manifest[key], "SUIT_Directive")
            for key in {ManifestKey.VALIDATE, ManifestKey.INVOKE, ManifestKey.INSTALL} & set(manifest)
        )
    )


def our_envelope() -> bytes:
    builder = TreeBuilder(DEFAULT_LIMITS)
    builder.update(b"image")
    built = builder.finish()
    vendor = vendor_id("boats.example")
    classes = (class_id(vendor, "gateway"), class_id(vendor, "big-gateway"))
    images = tuple(
        Image(name, vendor, class_ids, built.image_sha256, built.tree, version="2.4.1", epoch=1)
        for name, class_ids in (("rootfs", classes), ("modem", classes[:1]))
    )
    envelope = build_envelope(Manifest(7, images))
    for algorithm in Algorithm:
        block = sign1(PrivateKey.generate(algorithm), parse_envelope(envelope).signed_payload, external_aad=b"")
        envelope = add_signature(envelope, block)
    return envelope


@pytest.mark.parametrize("example", REFUSALS)
def test_the_rewritten_grammar_admits_the_examples(example: str) -> None:
    assert envelope_conforms(read(f"{example}.signed.suit"))


def test_our_envelopes_conform_to_the_grammar_of_the_draft() -> None:
    assert envelope_conforms(our_envelope())


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        pytest.param(b"\x02\x0f", b"\x02\x10", id="reporting policy of 5 bits"),
        pytest.param(b"\x15\x02", b"\x18\x63", id="unknown command"),
        pytest.param(b"\x0c\x00", b"\x0c\x20", id="negative component index"),
        pytest.param(b"\x0e\x05", b"\x0e\x24", id="negative image size"),
        pytest.param(b"\xa5\x01\x01", b"\xa5\x01\x02", id="manifest version 2"),
    ],
)
def test_the_rewritten_grammar_still_tells_right_from_wrong(right: bytes, wrong: bytes) -> None:
    parsed = parse_envelope(our_envelope())
    assert right in parsed.manifest
    manifest = parsed.manifest.replace(right, wrong)
    digest = hashlib.sha256(cbor2.dumps(manifest)).digest()
    assert not envelope_conforms(replace(parsed, manifest=manifest, digest=digest).encode())

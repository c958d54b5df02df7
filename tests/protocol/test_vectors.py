"""The vectors are what the library says, what the CDDL describes, and what a reader accepts or refuses."""

from __future__ import annotations

import json
from typing import Any

import pycddl
import pytest

from narrowboat_protocol import documents
from narrowboat_protocol.cbor import decode
from narrowboat_protocol.cose import SignedDocument, verify_signatures
from narrowboat_protocol.errors import NarrowboatError
from narrowboat_protocol.keys import PublicKey, public_key_from_cbor
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.model import Document
from narrowboat_protocol.payload import FrameStream, parse_head
from narrowboat_protocol.suit import open_release
from narrowboat_protocol.topics import parse_topic
from narrowboat_protocol.transfer import FetchRequest, decode_block
from narrowboat_protocol.tree import Tree, check_layer
from tests.support.paths import REPOSITORY
from tests.vectors.generate import FILES, HERE, render

CDDL = (REPOSITORY / "docs" / "narrowboat.cddl").read_text(encoding="utf-8")
VECTORS: dict[str, dict[str, Any]] = {name: json.loads((HERE / name).read_text(encoding="utf-8")) for name in FILES}
DOCUMENTS = VECTORS["documents.json"]


def key_of(data: str) -> PublicKey:
    return public_key_from_cbor(decode(bytes.fromhex(data), max_bytes=200))


def kind_of(rule: str) -> type[Document]:
    name = rule.replace("-", "")
    return FetchRequest if name == "FetchRequest" else getattr(documents, name)


def described_by(rule: str, data: bytes) -> bool:
    try:
        pycddl.Schema(f"vector = {rule}\n{CDDL}").validate_cbor(data)
    except pycddl.ValidationError:
        return False
    return True


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_what_the_library_says_today(name: str) -> None:
    assert (HERE / name).read_text(encoding="utf-8") == render(FILES[name]())


@pytest.mark.parametrize("case", DOCUMENTS["accepted"], ids=lambda case: case["name"])
def test_a_document_is_read_written_and_described_alike(case: dict[str, str]) -> None:
    content = bytes.fromhex(case["content"])
    assert kind_of(case["rule"]).decode(content).encode() == content
    assert described_by(case["rule"], content)
    if "signed" not in case:
        return
    signed = SignedDocument.decode(bytes.fromhex(case["signed"]))
    key = key_of(case["signer"])
    aad = bytes.fromhex(case["external_aad"])
    assert signed.content == content
    assert verify_signatures(content, signed.signatures, keys={key.kid: key}, threshold=1, external_aad=aad)
    assert described_by("Signed", signed.encode())
    assert described_by("Aad", aad)
    assert all(described_by("Sign1", block) for block in signed.signatures)


@pytest.mark.parametrize("case", DOCUMENTS["refused"], ids=lambda case: case["name"])
def test_a_refused_document_is_refused_for_its_reason(case: dict[str, str]) -> None:
    with pytest.raises(NarrowboatError) as caught:
        kind_of(case["rule"]).decode(bytes.fromhex(case["hex"]))
    assert caught.value.reason == case["refused"]


def test_every_document_has_a_vector() -> None:
    shown = {case["rule"].replace("-", "") for case in DOCUMENTS["accepted"]}
    nested = {
        name
        for case in DOCUMENTS["accepted"]
        for name in _nested(kind_of(case["rule"]).decode(bytes.fromhex(case["content"])))
    }
    everything = {name for name in documents.__all__ if _is_document(getattr(documents, name))}
    assert everything - {"SignedModel", "Request"} <= shown | nested


def _is_document(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Document)


def _nested(value: object) -> set[str]:
    if isinstance(value, tuple):
        return set().union(*map(_nested, value))
    if isinstance(value, Document):
        return {type(value).__name__}.union(*(_nested(getattr(value, name)) for name in type(value).model_fields))
    return set()


def test_a_signature_counts_and_its_forgeries_do_not() -> None:
    vectors = VECTORS["signatures.json"]
    key, content, aad = (
        key_of(vectors["key"]),
        bytes.fromhex(vectors["content"]),
        bytes.fromhex(vectors["external_aad"]),
    )

    def verify(block: str) -> frozenset[bytes]:
        return verify_signatures(content, [bytes.fromhex(block)], keys={key.kid: key}, threshold=1, external_aad=aad)

    assert verify(vectors["accepted"]) == {bytes.fromhex(vectors["kid"])}
    for case in vectors["refused"]:
        with pytest.raises(NarrowboatError):
            verify(case["hex"])


def test_keys_go_by_their_thumbprint() -> None:
    for case in VECTORS["keys.json"]["accepted"]:
        assert key_of(case["cose_key"]).kid.hex() == case["kid"]
    for case in VECTORS["keys.json"]["refused"]:
        with pytest.raises(NarrowboatError):
            key_of(case["cose_key"])


def test_topics_are_taken_apart() -> None:
    for case in VECTORS["topics.json"]["accepted"]:
        topic = parse_topic(case["topic"])
        assert (topic.party, topic.name, topic.channel) == (case["party"], case["name"], case["channel"])
    for text in VECTORS["topics.json"]["refused"]:
        with pytest.raises(NarrowboatError):
            parse_topic(text)


def test_blocks_are_read_and_described_alike() -> None:
    for case in VECTORS["blocks.json"]["accepted"]:
        message = bytes.fromhex(case["message"])
        block = decode_block(message)
        assert (block.digest_prefix.hex(), block.offset) == (case["digest_prefix"], case["offset"])
        assert bytes(block.data).hex() == case["data"]
        assert described_by("Block", message)
    for case in VECTORS["blocks.json"]["refused"]:
        with pytest.raises(NarrowboatError):
            decode_block(bytes.fromhex(case["message"]))


def test_a_tree_is_bound_to_its_layer_and_bounded() -> None:
    for case in VECTORS["trees.json"]["accepted"]:
        tree = Tree(DEFAULT_LIMITS.log2_chunk_size, case["length"], bytes.fromhex(case["root"]))
        check_layer(tree, bytes.fromhex(case["layer"]), DEFAULT_LIMITS)
    for case in VECTORS["trees.json"]["refused"]:
        with pytest.raises(NarrowboatError):
            Tree.from_cbor(decode(bytes.fromhex(case["tree"]), max_bytes=100), DEFAULT_LIMITS)


@pytest.mark.parametrize("case", VECTORS["payloads.json"]["accepted"], ids=lambda case: case["name"])
def test_a_payload_decodes_to_its_image(case: dict[str, Any]) -> None:
    payload = bytes.fromhex(case["payload"])
    head = parse_head(payload[: case["head_size"]], DEFAULT_LIMITS)
    stream = FrameStream(head, DEFAULT_LIMITS)
    frames = stream.feed(head.frames_offset, payload[head.frames_offset :])
    assert b"".join(image for _, image in frames).hex() == case["image"]
    assert described_by("Payload-Head", payload[: case["head_size"]])


@pytest.mark.parametrize("case", VECTORS["payloads.json"]["refused"], ids=lambda case: case["name"])
def test_a_refused_head_is_refused_for_its_reason(case: dict[str, str]) -> None:
    with pytest.raises(NarrowboatError) as caught:
        parse_head(bytes.fromhex(case["head"]), DEFAULT_LIMITS)
    assert caught.value.reason == case["refused"]


@pytest.mark.parametrize("case", VECTORS["releases.json"]["accepted"], ids=lambda case: "+".join(case["classes"]))
def test_a_release_is_read_as_said(case: dict[str, Any]) -> None:
    key = key_of(case["signer"])
    release = open_release(bytes.fromhex(case["envelope"]), {key.kid: key}, 1)
    image = release.images[0]
    assert release.digest.hex() == case["release"]
    assert (image.component, image.version, release.sequence) == (case["component"], case["version"], case["sequence"])
    assert [str(number) for number in image.class_ids] == case["class_ids"]
    assert image.image_sha256.hex() == case["image_sha256"]

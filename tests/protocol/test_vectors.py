"""The vectors are what the library says, what the CDDL describes, and what a reader accepts or refuses."""

from __future__ import annotations

import json
import re
from typing import Any

import cbor2
import pycddl
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from narrowboat_protocol import documents
from narrowboat_protocol.cbor import decode, encode
from narrowboat_protocol.cose import SignedDocument, verify_signatures
from narrowboat_protocol.errors import NarrowboatError, PayloadError, Reason
from narrowboat_protocol.keys import PublicKey, public_key_from_cbor
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.model import Document
from narrowboat_protocol.payload import (
    Codec,
    Frame,
    FrameStream,
    PayloadCipher,
    check_hashes,
    decode_frame,
    parse_head,
)
from narrowboat_protocol.payload.codecs import decompress_frame
from narrowboat_protocol.release_file import ReleaseFileLayout, read_layout
from narrowboat_protocol.states import HoldReason, State
from narrowboat_protocol.suit import AgreementKey, open_release, unseal
from narrowboat_protocol.topics import parse_topic
from narrowboat_protocol.transfer import FetchRequest, decode_block
from narrowboat_protocol.tree import Tree, check_layer, check_leaves
from tests.support.paths import REPOSITORY
from tests.vectors.generate import FILES, HERE, render
from tests.vectors.images import HAND_MADE

CDDL = (REPOSITORY / "docs" / "narrowboat.cddl").read_text(encoding="utf-8")
VECTORS: dict[str, dict[str, Any]] = {name: json.loads((HERE / name).read_text(encoding="utf-8")) for name in FILES}
DOCUMENTS = VECTORS["documents.json"]


def key_of(data: str) -> PublicKey:
    return public_key_from_cbor(decode(bytes.fromhex(data), max_bytes=200))


def kind_of(rule: str) -> type[Document]:
    name = rule.replace("-", "")
    return FetchRequest if name == "FetchRequest" else getattr(documents, name)


NOT_SEEN_BY_PYCDDL = {
    "a name with a capital",  # it does not anchor `.regexp`
    "a broker address with a path",
    "text for bytes",  # takes text for `bstr .size`
    "a certificate that is not issued",  # a choice of maps: takes keys that only another map of it has
    "too many ranges",  # counts no items of an array that is not of documents
    "an argument below 0",  # takes `{}`, which is Campaign-List, for any map
    "an argument above 23",
}


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
    for block in signed.signatures:
        assert described_by("Sign1", block)
        assert described_by("Protected", cbor2.loads(block).value[0])


@pytest.mark.parametrize("case", DOCUMENTS["refused"], ids=lambda case: case["name"])
def test_a_refused_document_is_refused_for_its_reason(case: dict[str, str]) -> None:
    with pytest.raises(NarrowboatError) as caught:
        kind_of(case["rule"]).decode(bytes.fromhex(case["hex"]))
    assert caught.value.reason == case["refused"]


SHAPES = [case for case in DOCUMENTS["refused"] if case["refused"] == Reason.BAD_DOCUMENT]


@pytest.mark.parametrize("case", SHAPES, ids=lambda case: case["name"])
def test_the_cddl_refuses_each_shape_that_a_reader_refuses(case: dict[str, str]) -> None:
    """The set is exact, so that it shrinks when pycddl learns more."""
    assert described_by(case["rule"], bytes.fromhex(case["hex"])) == (case["name"] in NOT_SEEN_BY_PYCDDL)


def test_the_cddl_admits_the_keys_of_a_root_to_come_and_no_others() -> None:
    root = next(case for case in DOCUMENTS["accepted"] if case["rule"] == "Root")
    fields = cbor2.loads(bytes.fromhex(root["content"]))
    for number in (*range(8, 16), 24, 255):
        assert not described_by("Root", encode(fields | {number: "later"}))
    for later in ({16: "later"}, {23: [1]}, dict.fromkeys(range(16, 24), 0)):
        content = encode(fields | later)
        assert described_by("Root", content)
        assert documents.Root.decode(content).to_cbor() == fields


def test_the_cddl_has_the_words_of_the_code() -> None:
    for rule, words in (("Reason", Reason), ("State", State), ("Hold-Reason", HoldReason), ("Verb", documents.Verb)):
        text = re.search(rf"^{rule} = ((?:.|\n  )*)", CDDL, re.MULTILINE)
        assert text is not None
        assert re.findall(r'"(\w+)"', text[1]) == list(words)


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
        curve = case["name"] in ("a point off the curve", "a point of order 1")
        assert described_by("Cose-Key", bytes.fromhex(case["cose_key"])) == curve


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
    encodings = {"an offset that is not shortest", "data cut short", "a byte too many"}
    for case in VECTORS["blocks.json"]["refused"]:
        with pytest.raises(NarrowboatError):
            decode_block(bytes.fromhex(case["message"]))
        assert case["name"] in encodings or not described_by("Block", bytes.fromhex(case["message"]))


def test_a_tree_is_bound_to_its_layer_and_bounded() -> None:
    for case in VECTORS["trees.json"]["accepted"]:
        tree = Tree(DEFAULT_LIMITS.log2_chunk_size, case["length"], bytes.fromhex(case["root"]))
        layer, leaves = bytes.fromhex(case["layer"]), bytes.fromhex(case["leaves"])
        check_layer(tree, layer, DEFAULT_LIMITS)
        assert len(leaves) == 32 * tree.chunk_count
        for subtree in range(tree.subtree_count(DEFAULT_LIMITS)):
            first, count = tree.subtree_span(subtree, DEFAULT_LIMITS)
            check_leaves(tree, layer, subtree, leaves[32 * first : 32 * (first + count)], DEFAULT_LIMITS)
    for case in VECTORS["trees.json"]["refused"]:
        with pytest.raises(NarrowboatError):
            Tree.from_cbor(decode(bytes.fromhex(case["tree"]), max_bytes=100), DEFAULT_LIMITS)
        assert not described_by("Tree", bytes.fromhex(case["tree"]))


@pytest.mark.parametrize("case", VECTORS["payloads.json"]["accepted"], ids=lambda case: case["name"])
def test_a_payload_decodes_to_its_image(case: dict[str, Any]) -> None:
    payload = bytes.fromhex(case["payload"])
    head = parse_head(payload[: case["head_size"]], DEFAULT_LIMITS)
    stream = FrameStream(head, DEFAULT_LIMITS)
    frames = stream.feed(head.frames_offset, payload[head.frames_offset :])
    assert b"".join(image for _, image in frames).hex() == case["image"]
    assert described_by("Payload-Head", payload[: case["head_size"]])


def test_an_encrypted_payload_decodes_to_its_image() -> None:
    vectors = VECTORS["encryption.json"]
    info, payload = bytes.fromhex(vectors["encryption_info"]), bytes.fromhex(vectors["payload"])
    content = unseal(info, recipient_of(vectors))
    assert (content.key.hex(), content.iv.hex()) == (vectors["content_key"], vectors["iv"])
    head = parse_head(payload[: vectors["head_size"]], DEFAULT_LIMITS)
    cipher = PayloadCipher(content, vectors["head_size"])
    check_hashes(head, head.tree, lambda offset, length: payload[offset : offset + length], DEFAULT_LIMITS, cipher)
    stream = FrameStream(head, DEFAULT_LIMITS, cipher=cipher)
    frames = stream.feed(head.frames_offset, payload[head.frames_offset :])
    assert b"".join(image for _, image in frames).hex() == vectors["image"]
    assert described_by("Payload-Head", payload[: vectors["head_size"]])
    assert described_by("Encryption-Info", info)
    for protected, _, _ in cbor2.loads(info).value[3]:
        assert described_by("Recipient-Protected", protected)


def recipient_of(vectors: dict[str, Any]) -> AgreementKey:
    key = AgreementKey(ec.derive_private_key(int(vectors["private_key"], 16), ec.SECP256R1()))
    assert (key.public.cose_key.hex(), key.public.kid.hex()) == (vectors["cose_key"], vectors["kid"])
    assert described_by("Agreement-Key", key.public.cose_key)
    return key


@pytest.mark.parametrize("case", VECTORS["encryption.json"]["refused"], ids=lambda case: case["name"])
def test_a_refused_encryption_info_is_not_opened(case: dict[str, str]) -> None:
    info = bytes.fromhex(case["encryption_info"])
    with pytest.raises(NarrowboatError) as caught:
        unseal(info, recipient_of(VECTORS["encryption.json"]))
    assert caught.value.reason == case["refused"]
    # The curve; Recipient-Protected; pycddl counts no items of an array that is not of documents.
    elsewhere = {"an ephemeral key off the curve", "a recipient by A128KW alone", "seventeen recipients"}
    assert described_by("Encryption-Info", info) == (case["refused"] == Reason.NO_KEY or case["name"] in elsewhere)


@pytest.mark.parametrize("case", VECTORS["payloads.json"]["refused"], ids=lambda case: case["name"])
def test_a_refused_head_is_refused_for_its_reason(case: dict[str, str]) -> None:
    with pytest.raises(NarrowboatError) as caught:
        parse_head(bytes.fromhex(case["head"]), DEFAULT_LIMITS)
    assert caught.value.reason == case["refused"]


@pytest.mark.parametrize("case", VECTORS["payloads.json"]["frames"], ids=lambda case: case["name"])
def test_a_refused_frame_is_refused_for_its_reason(case: dict[str, Any]) -> None:
    encoded = bytes.fromhex(case["encoded"])
    frame = Frame(0, Codec(case["codec"]), 0, 1, 0, 300, 0, len(encoded), bytes.fromhex(case["hash8"]))
    with pytest.raises(PayloadError) as caught:
        decode_frame(frame, encoded, DEFAULT_LIMITS)
    assert caught.value.reason == case["refused"]


def test_the_frame_that_the_refused_ones_differ_from_is_read() -> None:
    assert decompress_frame(Codec.ZSTD, HAND_MADE, 300, DEFAULT_LIMITS) == bytes(300)


def tree_of(length: int) -> tuple[Tree, dict[str, Any]]:
    case = next(case for case in VECTORS["trees.json"]["accepted"] if case["length"] == length)
    return Tree(DEFAULT_LIMITS.log2_chunk_size, length, bytes.fromhex(case["root"])), case


@pytest.mark.parametrize("case", VECTORS["trees.json"]["layers"], ids=lambda case: case["name"])
def test_a_refused_layer_is_refused(case: dict[str, Any]) -> None:
    tree, _ = tree_of(case["length"])
    with pytest.raises(PayloadError) as caught:
        check_layer(tree, bytes.fromhex(case["layer"]), DEFAULT_LIMITS)
    assert caught.value.reason == case["refused"]


@pytest.mark.parametrize("case", VECTORS["trees.json"]["leaves"], ids=lambda case: case["name"])
def test_refused_leaves_are_refused(case: dict[str, Any]) -> None:
    tree, built = tree_of(case["length"])
    layer, leaves = bytes.fromhex(built["layer"]), bytes.fromhex(case["leaves"])
    with pytest.raises(PayloadError) as caught:
        check_leaves(tree, layer, case["subtree"], leaves, DEFAULT_LIMITS)
    assert caught.value.reason == case["refused"]


RELEASES = VECTORS["releases.json"]
RELEASE_KEYS = {key.kid: key for key in map(key_of, RELEASES["keys"])}


@pytest.mark.parametrize("case", RELEASES["accepted"], ids=lambda case: f"{case['threshold']} of 3")
def test_a_release_is_read_as_said(case: dict[str, Any]) -> None:
    release = open_release(bytes.fromhex(case["envelope"]), RELEASE_KEYS, case["threshold"])
    image = release.images[0]
    assert release.digest.hex() == case["release"]
    assert {kid.hex() for kid in release.signers} == set(case["signers"])
    assert (image.component, image.version, release.sequence) == (case["component"], case["version"], case["sequence"])
    assert [str(number) for number in image.class_ids] == case["class_ids"]
    assert image.image_sha256.hex() == case["image_sha256"]
    assert case["fetch_arguments"] in case["envelope"]
    assert described_by("Fetch-Arguments", bytes.fromhex(case["fetch_arguments"]))


@pytest.mark.parametrize("case", RELEASES["refused"], ids=lambda case: case["name"])
def test_a_refused_release_is_refused_for_its_reason(case: dict[str, Any]) -> None:
    with pytest.raises(NarrowboatError) as caught:
        open_release(bytes.fromhex(case["envelope"]), RELEASE_KEYS, case["threshold"])
    assert caught.value.reason == case["refused"]


@pytest.mark.parametrize("case", DOCUMENTS["disbelieved"], ids=lambda case: case["name"])
def test_a_document_that_is_not_believed_is_refused_for_its_reason(case: dict[str, Any]) -> None:
    fleet_id = bytes.fromhex(DOCUMENTS["fleet_id"])
    keys = {key.kid: key for key in map(key_of, case["keys"])}
    with pytest.raises(NarrowboatError) as caught:
        documents.open_signed(
            documents.Assignment,
            bytes.fromhex(case["signed"]),
            fleet_id=fleet_id,
            keys=keys,
            threshold=case["threshold"],
        )
    assert caught.value.reason == case["refused"]


def layout_of(file: bytes) -> ReleaseFileLayout:
    return read_layout(lambda offset, length: file[offset : offset + length], len(file), DEFAULT_LIMITS)


def test_a_release_file_is_taken_apart() -> None:
    for case in VECTORS["release_files.json"]["accepted"]:
        file = bytes.fromhex(case["file"])
        layout = layout_of(file)
        assert file[layout.payload_offset :][: layout.payload_length].hex() == case["payload"]
        assert file[layout.envelope_offset :][: layout.envelope_length].hex() == case["envelope"]


@pytest.mark.parametrize("case", VECTORS["release_files.json"]["refused"], ids=lambda case: case["name"])
def test_a_refused_release_file_is_refused_for_its_reason(case: dict[str, str]) -> None:
    with pytest.raises(NarrowboatError) as caught:
        layout_of(bytes.fromhex(case["file"]))
    assert caught.value.reason == case["refused"]

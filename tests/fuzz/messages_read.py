"""Targets: what comes over the broker or in a release, which is everything that a peer may say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import cbor2

from narrowboat_bridge.pki import verify_device_certificate
from narrowboat_bridge.server.operators import Accepted
from narrowboat_protocol import documents as doc
from narrowboat_protocol.cbor import decode, encode
from narrowboat_protocol.cose import SignedDocument, signature_kid, verify_signatures
from narrowboat_protocol.documents.signed import open_signed
from narrowboat_protocol.keys import PrivateKey, public_key_from_cbor
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.model import Document
from narrowboat_protocol.suit import Manifest, build_envelope, open_release, parse_envelope
from narrowboat_protocol.suit.profile import read_manifest
from narrowboat_protocol.topics import parse_topic
from narrowboat_protocol.transfer import FetchRequest, decode_block
from narrowboat_protocol.tree import HASH_BYTES, Tree, check_layer, check_leaves
from narrowboat_protocol.trust import Trust
from tests.vectors.documents import ASSIGNMENT, FLEET_ID, PLAIN, ROOT, SIGNED
from tests.vectors.generate import FILES
from tests.vectors.seeds import DEVICE, NOW, OPERATOR, ROLES

from . import owner
from .payloads_read import PAYLOAD_TARGETS
from .shapes import CBOR, CERTIFICATE, ENVELOPE, after_selector, signed_by
from .targets import Target

_TAGS = frozenset({18, 107})
_FETCH_BYTES_MAX = 1024
_RELEASE_KEYS = {key.public.kid: key.public for key in owner.RELEASE_KEYS}
_VECTORS = {name: make() for name, make in FILES.items()}


def _cbor(tags: frozenset[int], data: bytes) -> bytes:
    return encode(decode(data, max_bytes=DEFAULT_LIMITS.document_bytes_max, tags=tags))


def _plain(kind: type[Document], data: bytes) -> bytes:
    return kind.decode(data).encode()


def _of_many(kinds: list[type[Document]], data: bytes) -> bytes | None:
    """A document whose kind the first byte chooses."""
    if not data:
        return None
    return data[:1] + _plain(kinds[data[0] % len(kinds)], data[1:])


def _signed(read: Callable[[bytes], doc.SignedModel], data: bytes) -> bytes:
    document, signed = read(data), SignedDocument.decode(data)
    ignored = {}
    if isinstance(document, doc.Root):  # signed and kept as it came, though its keys 16 to 23 are not read
        ignored = {key: item for key, item in cbor2.loads(signed.content).items() if 16 <= key < 24}
    return replace(signed, content=encode(document.to_cbor() | ignored)).encode()


def _open(kind: type[doc.SignedModel], key: PrivateKey, data: bytes) -> doc.SignedModel:
    return open_signed(kind, data, fleet_id=FLEET_ID, keys={key.public.kid: key.public})


def _root(data: bytes) -> doc.Root:
    trust = Trust(owner.ROOT_DATA)
    return trust.root if trust.update_root(data) else doc.Root.decode(SignedDocument.decode(data).content)


def _command(data: bytes) -> bytes | None:
    judged = owner.desk().judge("ada", data, NOW)
    if not isinstance(judged, Accepted):
        return None
    arguments = doc.Command.decode(SignedDocument.decode(data).content).arguments
    assert encode(judged.request.to_cbor()) == encode(arguments), "what was carried out is not what was signed"
    return _signed(partial(_open, doc.Command, OPERATOR), data)


def _operators(data: bytes) -> bytes:
    owner.desk().replace_operators(data)
    return _signed(lambda each: owner.TRUST.open_by_role(doc.Operators, each, doc.RoleName.ADMIN), data)


def _signature(data: bytes) -> None:
    """Whoever wrote it, it does not count as a signature of ours over something else."""
    signature_kid(data)
    verify_signatures(b"content", [data], keys=_RELEASE_KEYS, threshold=1, external_aad=b"")
    raise AssertionError("a signature over other content counts")


def _envelope(data: bytes) -> bytes | None:
    envelope = parse_envelope(data)
    return None if envelope.other_members else envelope.encode()


def _release(data: bytes) -> None:
    """A manifest has more than one encoding: its commands carry reporting policies that nobody obeys."""
    release = open_release(data, _RELEASE_KEYS, len(_RELEASE_KEYS))
    written = Manifest(release.sequence, release.images)
    assert read_manifest(parse_envelope(build_envelope(written)).manifest) == written, "a second round differs"


def _tree(data: bytes) -> bytes:
    """A tree, and any layer and leaves against it."""
    value = decode(data, max_bytes=DEFAULT_LIMITS.document_bytes_max)
    match value:
        case [tree_tuple, bytes(layer), bytes(leaves)]:
            tree = Tree.from_cbor(tree_tuple, DEFAULT_LIMITS)
            check_layer(tree, layer, DEFAULT_LIMITS)
            check_leaves(tree, layer, 0, leaves, DEFAULT_LIMITS)
            return encode([tree.to_cbor(), layer, leaves])
        case _:
            return encode(Tree.from_cbor(value, DEFAULT_LIMITS).to_cbor())


def _topic(data: bytes) -> bytes:
    return str(parse_topic(data.decode("latin-1"))).encode("latin-1")


def _key(data: bytes) -> bytes:
    return encode(public_key_from_cbor(decode(data, max_bytes=_FETCH_BYTES_MAX)).to_cbor())


def _certificate(data: bytes) -> None:
    name, _ = verify_device_certificate(data, [owner.authority().certificate], NOW)
    assert name, "a certificate without a name"


def _hex(name: str, *fields: str) -> tuple[bytes, ...]:
    """What the vectors hold under these names, accepted and refused."""
    cases = [*_VECTORS[name].get("accepted", ()), *_VECTORS[name].get("refused", ())]
    return tuple(
        bytes.fromhex(case[each]) for case in cases if isinstance(case, dict) for each in fields if each in case
    )


def _tree_seeds() -> tuple[bytes, ...]:
    cases: list[dict[str, Any]] = _VECTORS["trees.json"]["accepted"]
    whole = [[-16, 16, case["length"], bytes.fromhex(case["root"])] for case in cases]
    single = [[tree, bytes.fromhex(case["layer"]), bytes(HASH_BYTES)] for tree, case in zip(whole, cases, strict=True)]
    return tuple(map(encode, [*whole, *single]))


def _requests(kinds: list[type[Document]]) -> tuple[bytes, ...]:
    return tuple(
        bytes([kinds.index(type(document))]) + document.encode() for _, document in PLAIN if type(document) in kinds
    )


_READERS: dict[type[doc.SignedModel], Callable[[bytes], doc.SignedModel]] = {
    doc.Root: _root,
    doc.Assignment: lambda data: owner.TRUST.open_assignment(data, ASSIGNMENT.device, owner.FRESHNESS),
    doc.Hello: partial(_open, doc.Hello, DEVICE),
    doc.Report: partial(_open, doc.Report, DEVICE),
    doc.Ack: lambda data: owner.TRUST.open_ack(data, ASSIGNMENT.device),
    doc.Reply: owner.TRUST.open_reply,
    doc.Event: owner.TRUST.open_event,
}
_OWN_CHECKS: dict[type[doc.SignedModel], Callable[[bytes], bytes | None]] = {
    doc.Command: _command,
    doc.Operators: _operators,
}


def _signed_targets() -> list[Target]:
    targets = []
    for kind in (*_READERS, *_OWN_CHECKS):
        models = [(document, key) for _, document, key in SIGNED if type(document) is kind]
        if kind is doc.Root:
            models.append((ROOT.model_copy(update={"version": 2}), ROLES[doc.RoleName.ROOT]))
        seeds = tuple(doc.sign_model(document, FLEET_ID, [key]) for document, key in models)
        read = _OWN_CHECKS.get(kind) or partial(_signed, _READERS[kind])
        targets.append(Target(kind.KIND, read, seeds, signed_by(kind, models[0][1])))
    return targets


_REQUESTS: list[type[Document]] = list(doc.REQUESTS.values())
_RESULTS: list[type[Document]] = list(dict.fromkeys(doc.RESULTS.values()))
_DELIVERIES = tuple(document.encode() for _, document in PLAIN if isinstance(document, doc.Delivery))
_FETCHES = tuple(document.encode() for _, document in PLAIN if isinstance(document, FetchRequest))
_ENVELOPES = tuple(
    ENVELOPE.put_together(ENVELOPE.take_apart(bytes.fromhex(case["envelope"])))
    for case in _VECTORS["releases.json"]["accepted"]
)
_TOPICS = tuple(
    (case["topic"] if isinstance(case, dict) else case).encode()
    for case in (*_VECTORS["topics.json"]["accepted"], *_VECTORS["topics.json"]["refused"])
)

MESSAGE_TARGETS = (
    Target("cbor", partial(_cbor, frozenset()), _hex("documents.json", "content", "hex")),
    Target("cbor-tagged", partial(_cbor, _TAGS), (*_hex("releases.json", "envelope"), *_hex("signatures.json", "hex"))),
    Target("signed-document", lambda data: SignedDocument.decode(data).encode(), _hex("documents.json", "signed")),
    *_signed_targets(),
    Target("delivery", partial(_plain, doc.Delivery), _DELIVERIES),
    Target("request", partial(_of_many, _REQUESTS), _requests(_REQUESTS), after_selector(CBOR)),
    Target("result", partial(_of_many, _RESULTS), _requests(_RESULTS), after_selector(CBOR)),
    Target("signature", _signature, _hex("signatures.json", "hex")),
    Target("envelope", _envelope, _ENVELOPES),
    Target("release", _release, _ENVELOPES, ENVELOPE),
    Target("tree", _tree, _tree_seeds()),
    Target("topic", _topic, _TOPICS, None),
    Target("fetch-request", partial(_plain, FetchRequest), _FETCHES),
    Target("block", lambda data: decode_block(data).encode(), _hex("blocks.json", "message")),
    Target("cose-key", _key, _hex("keys.json", "cose_key")),
    Target("certificate", _certificate, (owner.device_certificate(),), CERTIFICATE),
    *PAYLOAD_TARGETS,
)

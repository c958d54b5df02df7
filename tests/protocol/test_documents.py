"""Documents are closed: one spelling on the wire, known keys only, bounded, and silent about what they refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowboat_protocol import documents
from narrowboat_protocol.cbor import encode
from narrowboat_protocol.documents import (
    REQUESTS,
    RESULTS,
    Assignment,
    Command,
    DeviceList,
    DeviceShow,
    Hello,
    Operators,
    RoleName,
    Root,
    SignedModel,
    Verb,
    open_signed,
)
from narrowboat_protocol.errors import DocumentError, NarrowboatError, Reason
from narrowboat_protocol.keys import Algorithm, PrivateKey
from narrowboat_protocol.model import Document
from narrowboat_protocol.topics import WRITTEN_BY_OWNER, bridge_subscriptions, is_name, parse_topic
from narrowboat_protocol.transfer import Block, FetchRequest, decode_block, split_range
from tests.support.fleet import NOW, FleetKit, hello_document


@pytest.fixture(scope="module", params=Algorithm, ids=lambda algorithm: algorithm.name)
def fleet(request: pytest.FixtureRequest) -> FleetKit:
    return FleetKit.create(algorithm=request.param)


def kinds() -> Iterator[type[Document]]:
    values = (getattr(documents, name) for name in documents.__all__)
    return (value for value in values if isinstance(value, type) and issubclass(value, Document))


def test_every_signed_kind_has_a_name_of_its_own() -> None:
    names = [kind.KIND for kind in kinds() if issubclass(kind, SignedModel) and kind is not SignedModel]
    assert len(set(names)) == len(names) == 11


def test_every_verb_has_one_request_and_one_result() -> None:
    assert set(REQUESTS) == set(RESULTS) == set(Verb)
    assert len(set(REQUESTS.values())) == len(Verb)


def test_a_document_comes_back_as_it_was(fleet: FleetKit) -> None:
    release = fleet.make_release(bytes(100))
    data = fleet.assignment("gw-1", release, campaign="spring", byte_budget=5, reboot_windows=((0, 3600),))
    keys = fleet.root.role_keys(RoleName.DIRECTOR)
    assignment = open_signed(Assignment, data, fleet_id=fleet.fleet_id, keys=keys)
    assert Assignment.decode(assignment.encode()) == assignment
    assert assignment.targets[0].payloads[0] == release.reference


def hello_map() -> dict[int, object]:
    fleet = FleetKit.create()
    return hello_document(fleet.device("gw-1")).to_cbor()


HELLO = hello_map()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (1, "Gateway"),
        (1, "gw-1\n"),
        (1, ""),
        (1, b"gw-1"),
        (2, [1]),
        (2, [1, -1]),
        (2, [True, 1]),
        (3, bytes(15)),
        (3, None),
        (4, 1 << 53),
        (13, [256]),
        (10, []),
        (17, "exploded"),
        (23, 0),
        (16, None),
    ],
)
def test_a_field_out_of_bounds_is_refused_and_not_repeated(key: int, value: object) -> None:
    with pytest.raises(DocumentError) as caught:
        Hello.decode(encode(HELLO | {key: value}))
    assert caught.value.reason is Reason.BAD_DOCUMENT
    assert "Gateway" not in str(caught.value)


def test_field_names_are_no_second_spelling_on_the_wire() -> None:
    summary = documents.DeviceSummary(name="gw-1", last_seen_at=1, running_slot="a")
    nested = {1: [{"name": "gw-1", "last_seen_at": 1, "running_slot": "a"}], 2: False}
    page = documents.DevicePage(devices=(summary,), more=False)
    assert documents.DevicePage.decode(page.encode()) == page
    with pytest.raises(DocumentError):
        documents.DevicePage.decode(encode(nested))


@given(st.sampled_from(sorted(kinds(), key=lambda kind: kind.__name__)), st.binary(max_size=80))
def test_hostile_bytes_raise_only_our_errors(kind: type[Document], data: bytes) -> None:
    try:
        document = kind.decode(data)
    except NarrowboatError:
        return
    assert document.encode() == data


@given(
    st.dictionaries(
        st.integers(0, 23),
        st.recursive(st.one_of(st.integers(), st.binary(), st.text(), st.none()), st.lists, max_leaves=5),
    )
)
def test_whatever_a_map_holds_only_our_errors_leave_a_document(fields: dict[int, object]) -> None:
    for kind in kinds():
        try:
            document = kind.from_cbor(fields)
        except NarrowboatError:
            continue
        assert kind.from_cbor(document.to_cbor()) == document


def test_the_root_ignores_keys_to_come_yet_they_are_signed(fleet: FleetKit) -> None:
    fields = fleet.root.to_cbor()
    assert Root.decode(encode(fields | {16: "later"})) == fleet.root
    with pytest.raises(DocumentError):
        Root.decode(encode(fields | {15: "later"}))


def test_a_key_with_two_roles_makes_no_root(fleet: FleetKit) -> None:
    fields = fleet.root.to_cbor()
    roles = fields[4]
    assert isinstance(roles, list)
    shared = [*roles[:4], {**roles[4], 3: roles[3][3]}]
    with pytest.raises(DocumentError):
        Root.decode(encode(fields | {4: shared}))


def changed_role(root: dict[int, Any], name: RoleName, **changes: object) -> dict[int, object]:
    """The root with other fields in one of its roles."""
    numbers = {"threshold": 2, "kids": 3, "components": 4, "class_ids": 5}
    wire = {numbers[field]: value for field, value in changes.items()}
    return root | {4: [role | wire if role[1] == name.value else role for role in root[4]]}


INCONSISTENT: dict[str, tuple[Callable[[dict[int, Any]], dict[int, object]], str]] = {
    "a threshold that its keys cannot reach": (
        lambda root: changed_role(root, RoleName.DIRECTOR, threshold=2),
        "kids must be distinct and at least as many as the threshold",
    ),
    "a key twice in its role": (
        lambda root: changed_role(root, RoleName.DIRECTOR, kids=root[4][2][3] * 2, threshold=2),
        "kids must be distinct and at least as many as the threshold",
    ),
    "a director limited to components, which nothing would hold it to": (
        lambda root: changed_role(root, RoleName.DIRECTOR, components=["rootfs"]),
        "only the release role is limited",
    ),
    "a root role limited to classes": (
        lambda root: changed_role(root, RoleName.ROOT, class_ids=[bytes(16)]),
        "only the release role is limited",
    ),
    "a role twice": (
        lambda root: root | {4: [*root[4][:4], root[4][4] | {1: "bridge"}]},
        "each role must stand here once",
    ),
    "a component twice": (
        lambda root: root | {5: [root[5][0], root[5][0] | {3: 7}]},
        "each component must stand here once",
    ),
    "a key twice": (lambda root: root | {3: [*root[3], root[3][0]]}, "each key must stand in exactly one role"),
    "a key without a role": (
        lambda root: root | {3: [*root[3], PrivateKey.generate(Algorithm.ED25519).public.to_cbor()]},
        "each key must stand in exactly one role",
    ),
    "a key that is none": (lambda root: root | {3: [{1: 1}, *root[3][1:]]}, "keys must be COSE_Keys"),
}


@pytest.mark.parametrize(("change", "expected"), INCONSISTENT.values(), ids=INCONSISTENT.keys())
def test_a_root_that_nobody_could_follow_is_refused_in_words(
    fleet: FleetKit, change: Callable[[dict[int, Any]], dict[int, object]], expected: str
) -> None:
    with pytest.raises(DocumentError, match=expected):
        Root.from_cbor(change(fleet.root.to_cbor()))


def test_two_targets_for_one_component_are_refused(fleet: FleetKit) -> None:
    release = fleet.make_release(bytes(100))
    fields = Assignment.decode(cbor2.loads(fleet.assignment("gw-1", release))[1]).to_cbor()
    targets = fields[7]
    assert isinstance(targets, list)
    with pytest.raises(DocumentError, match="each component must stand here once"):
        Assignment.from_cbor(fields | {7: targets * 2})


def test_two_keys_for_one_operator_are_refused(fleet: FleetKit) -> None:
    entries = [fleet.operator("ada").entry().to_cbor(), fleet.operator("ada").entry().to_cbor()]
    assert Operators.from_cbor({1: 1, 2: entries[:1]}).find("ada") is not None
    with pytest.raises(DocumentError, match="each operator must stand here once"):
        Operators.from_cbor({1: 1, 2: entries})


def test_true_is_no_key_1_of_a_map_that_was_not_scanned() -> None:
    with pytest.raises(DocumentError):
        DeviceShow.from_cbor({True: "gw-1"})


def test_a_document_of_an_unknown_format_is_named_as_such(fleet: FleetKit) -> None:
    data = cbor2.loads(fleet.assignment("gw-1"))
    keys = fleet.root.role_keys(RoleName.DIRECTOR)
    with pytest.raises(DocumentError) as caught:
        open_signed(Assignment, encode([2, *data[1:]]), fleet_id=fleet.fleet_id, keys=keys)
    assert caught.value.reason is Reason.UNKNOWN_FORMAT


def test_a_command_carries_the_request_of_its_verb_and_of_no_other() -> None:
    command = Command.of(DeviceList(limit=5), operator="ada", request_id=bytes(16), issued_at=NOW, expires_at=NOW + 60)
    assert Command.decode(command.encode()).request == DeviceList(limit=5)
    other = command.model_copy(update={"verb": Verb.DEVICE_SHOW})
    with pytest.raises(DocumentError):
        _ = other.request


TOPICS_REFUSED = [
    "",
    "nb",
    "nb/d/gw-1",
    "nb/d/gw-1/",
    "nb/d/gw-1/command",
    "nb/o/ada/hello",
    "nb/d/GW/hello",
    "nb/d/a/b/c",
]
TOPICS_REFUSED += [
    "nb/d/+/hello",
    "nb/d/#",
    "xx/d/gw-1/hello",
    "nb/d/gw-1\n/hello",
    "nb/d/" + "a" * 65 + "/hello",
    "a" * 100_000,
]


@pytest.mark.parametrize("text", TOPICS_REFUSED)
def test_a_topic_outside_the_grammar_is_refused(text: str) -> None:
    with pytest.raises(NarrowboatError):
        parse_topic(text)


def test_every_topic_that_a_party_writes_is_heard_by_the_bridge() -> None:
    heard = {filter_.removeprefix("$share/bridge/") for filter_ in bridge_subscriptions()}
    written = {f"nb/{party}/+/{channel}" for party, channels in WRITTEN_BY_OWNER.items() for channel in channels}
    assert heard == written
    assert all(str(parse_topic(filter_.replace("+", "gw-1"))) == filter_.replace("+", "gw-1") for filter_ in written)


@given(st.text(max_size=70))
def test_a_name_is_safe_in_a_topic_a_path_and_an_acl(text: str) -> None:
    if is_name(text):
        assert text.isascii()
        assert not set(text) & set("/+#%$. \n\0")


@given(st.binary(min_size=8, max_size=8), st.integers(0, (1 << 40) - 1), st.binary(min_size=1, max_size=300))
def test_a_block_comes_back_and_is_plain_cbor(prefix: bytes, offset: int, data: bytes) -> None:
    message = Block(prefix, offset, data).encode()
    assert cbor2.loads(message) == [prefix, offset, data]
    assert message == encode([prefix, offset, data])
    block = decode_block(message)
    assert (block.digest_prefix, block.offset, bytes(block.data)) == (prefix, offset, data)


@given(st.binary(max_size=60))
def test_a_hostile_block_is_refused_or_is_the_one_encoding(message: bytes) -> None:
    try:
        block = decode_block(message)
    except DocumentError:
        return
    assert block.encode() == message


def test_a_block_over_its_limits_is_refused() -> None:
    assert len(decode_block(Block(bytes(8), (1 << 40) - 1, bytes(65_536)).encode()).data) == 65_536
    with pytest.raises(DocumentError) as caught:
        decode_block(Block(bytes(8), 0, bytes(65_537)).encode())
    assert caught.value.reason is Reason.TOO_LARGE
    with pytest.raises(DocumentError) as caught:
        decode_block(Block(bytes(8), 1 << 40, b"x").encode())
    assert caught.value.reason is Reason.BAD_BLOCK


@pytest.mark.parametrize(
    "fields",
    [
        {"ranges": ((0, 1 << 21),)},
        {"ranges": ((0, 1 << 20), (0, 1 << 20))},
        {"ranges": ()},
        {"ranges": ((0, 0),)},
        {"ranges": ((0, 1),) * 33},
        {"block_bytes": 128 * 1024},
        {"block_bytes": 1},
    ],
)
def test_a_request_for_more_than_a_server_owes_is_refused(fields: dict[str, object]) -> None:
    fetch = FetchRequest(payload=bytes(32), ranges=((0, 1),), block_bytes=1024).to_cbor()
    numbers = {"ranges": 2, "block_bytes": 3}
    changed = {numbers[name]: value for name, value in fields.items()}
    with pytest.raises(DocumentError):
        FetchRequest.from_cbor(fetch | changed)


@given(st.integers(0, 1 << 30), st.integers(1, 1 << 20), st.integers(1024, 65_536))
def test_blocks_cover_a_range_exactly(offset: int, length: int, block_bytes: int) -> None:
    blocks = split_range(offset, length, block_bytes)
    assert blocks[0][0] == offset
    assert sum(size for _, size in blocks) == length
    assert all(at + size == following for (at, size), (following, _) in pairwise(blocks))

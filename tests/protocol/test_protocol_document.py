"""docs/protocol.md says what the code does: its state table, topics, kinds and reasons are the code's own."""

from __future__ import annotations

import re

from narrowboat_device.core.memory import ASSIGNMENT_BYTES_MAX
from narrowboat_protocol import documents
from narrowboat_protocol.documents import (
    REQUESTS,
    RESULTS,
    ROLES,
    Delivery,
    EnrolmentReply,
    EnrolmentRequest,
    Event,
    EventKind,
    Hello,
    OperatorRole,
    Report,
    Root,
    RootChain,
    SignedModel,
    Verb,
)
from narrowboat_protocol.documents.director import SOURCE_LENGTH_MAX
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.model import Document
from narrowboat_protocol.states import TABLE, State
from narrowboat_protocol.suit.encryption import INFO_BYTES_MAX, RECIPIENTS_MAX
from narrowboat_protocol.topics import EVENT_TOPIC, READ_BY_OWNER, ROOT_TOPIC, WRITTEN_BY_OWNER, level_pattern
from narrowboat_protocol.transfer import FetchRequest
from tests.support.paths import REPOSITORY

TEXT = (REPOSITORY / "docs" / "protocol.md").read_text(encoding="utf-8")


def table_under(heading: str) -> list[list[str]]:
    """The rows of the first table in a section, without its head."""
    section = TEXT.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_the_state_table_that_people_read_is_the_one_that_runs() -> None:
    shown = {row[0].strip("`"): row[1:] for row in table_under("States")}
    assert set(shown) == set(State)
    for state, rule in TABLE.items():
        followers, abort, on_start, durable = shown[state]
        assert set(re.findall(r"`(\w+)`", followers)) == rule.followers
        assert abort == ("yes" if rule.abortable else "no")
        assert on_start == rule.on_start.name.lower()
        assert durable == rule.durable


def test_every_reason_is_explained_once() -> None:
    assert [row[0].strip("`") for row in table_under("Reasons")] == list(Reason)


def test_every_topic_is_listed_with_its_owner() -> None:
    parties = {"d": "<device>", "o": "<operator>", "e": "<claim>"}
    tables = (WRITTEN_BY_OWNER, READ_BY_OWNER)
    topics = {
        f"nb/{party}/{parties[party]}/{level_pattern(party, channel).replace('+', '<thumbprint>')}"
        for table in tables
        for party, channels in table.items()
        for channel in channels
    }
    assert {row[0].strip("`") for row in table_under("Topics")} == topics | {EVENT_TOPIC, ROOT_TOPIC}


def rule_of(kind: type) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__)


def roles_of(verb: Verb) -> str:
    return (
        "all" if ROLES[verb] == set(OperatorRole) else ", ".join(role for role in OperatorRole if role in ROLES[verb])
    )


def test_every_verb_is_told_with_its_roles_request_and_result() -> None:
    shown = {row[0].strip("`"): row[1:4] for row in table_under("Commands")}
    assert shown == {verb.value: [roles_of(verb), rule_of(REQUESTS[verb]), rule_of(RESULTS[verb])] for verb in Verb}


def test_every_kind_of_event_is_told_with_fields_that_there_are() -> None:
    shown = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[1])) for row in table_under("Events")}
    assert list(shown) == list(EventKind)
    assert set().union(*shown.values()) == set(Event.model_fields) - {"sequence", "at", "kind"}


UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def test_every_limit_is_the_one_that_holds() -> None:
    shown = {}
    for what, most in table_under("Limits"):
        number, _, unit = most.strip(" |").partition(" ")
        shown[what] = int(number) * UNITS[unit]
    limits = DEFAULT_LIMITS
    assert shown == {
        "a document as it travels, signatures included": limits.document_bytes_max,
        "the content of a signed document": SignedModel.BYTES_MAX,
        "a root as it travels": limits.root_bytes_max,
        "the content of a root": Root.BYTES_MAX,
        "the content of a Hello": Hello.BYTES_MAX,
        "the content of a Report": Report.BYTES_MAX,
        "the content of an Enrolment-Request": EnrolmentRequest.BYTES_MAX,
        "the content of an Enrolment-Reply": EnrolmentReply.BYTES_MAX,
        "a Fetch-Request": FetchRequest.BYTES_MAX,
        "a SUIT envelope": limits.envelope_bytes_max,
        "an assignment as it travels, which a device stores": ASSIGNMENT_BYTES_MAX,
        "signatures of a document or envelope": limits.signatures_max,
        "values and keys in one CBOR item": limits.items_max,
        "values and keys in a Hello": Hello.ITEMS_MAX,
        "values and keys in a Report": Report.ITEMS_MAX,
        "values and keys in a Fetch-Request": FetchRequest.ITEMS_MAX,
        "values and keys in a Delivery": Delivery.ITEMS_MAX,
        "values and keys in a Root-Chain": RootChain.ITEMS_MAX,
        "roots in a Root-Chain": RootChain.ROOTS_MAX,
        "nesting of CBOR": limits.depth_max,
        "an X.509 certificate": length_max(Hello, "certificate"),
        "the source of a payload, in characters": SOURCE_LENGTH_MAX,
        "an encryption info": INFO_BYTES_MAX,
        "recipients of an encryption info": RECIPIENTS_MAX,
        "an image": limits.image_bytes_max,
        "the head of a payload": limits.head_bytes_max,
        "image bytes of one frame of a full payload": limits.full_frame_image_bytes_max,
        "the data of a Block": limits.block_bytes_max,
        "ranges of a Fetch-Request": limits.ranges_per_request_max,
        "bytes that one Fetch-Request asks for": limits.request_bytes_max,
    }


def length_max(kind: type[Document], field: str) -> int:
    (length,) = [rule.max_length for rule in kind.model_fields[field].metadata if hasattr(rule, "max_length")]
    assert isinstance(length, int)
    return length


def test_every_kind_of_document_is_listed() -> None:
    values = [getattr(documents, name) for name in documents.__all__]
    kinds = {
        value.KIND
        for value in values
        if isinstance(value, type) and issubclass(value, SignedModel) and value is not SignedModel
    }
    assert {row[1].strip("`") for row in table_under("Documents")} == kinds | {"SUIT"}

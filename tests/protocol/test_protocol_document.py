"""docs/protocol.md says what the code does: its state table, topics, kinds and reasons are the code's own."""

from __future__ import annotations

import re

from narrowboat_protocol import documents
from narrowboat_protocol.documents import SignedModel
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.states import TABLE, State
from narrowboat_protocol.topics import EVENT_TOPIC, READ_BY_OWNER, ROOT_TOPIC, WRITTEN_BY_OWNER
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
        f"nb/{party}/{parties[party]}/{channel}"
        for table in tables
        for party, channels in table.items()
        for channel in channels
    }
    assert {row[0].strip("`") for row in table_under("Topics")} == topics | {EVENT_TOPIC, ROOT_TOPIC}


def test_every_kind_of_document_is_listed() -> None:
    values = [getattr(documents, name) for name in documents.__all__]
    kinds = {
        value.KIND
        for value in values
        if isinstance(value, type) and issubclass(value, SignedModel) and value is not SignedModel
    }
    assert {row[1].strip("`") for row in table_under("Documents")} == kinds | {"SUIT"}

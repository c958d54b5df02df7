"""The agent of the next version, which writes records in a format that the one of today cannot read.

It behaves as the agent of today does. Its records differ by their format number alone: what a new format would hold is
not the matter here, but who may write it when, and what an older agent does that finds it. On trial, and while the
machine is yet to go back after it, it writes the format of the agent that it replaces, so that one can go on; from its
commit on it writes its own. It reads both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cbor2

from narrowboat_device.core import Agent
from narrowboat_device.core.actions import Action, Save
from narrowboat_device.core.events import ActionFailed, Event, Now, SlotCommitted, Started
from narrowboat_device.core.memory import RECORD_FORMAT
from narrowboat_protocol.cbor import encode

NEXT_FORMAT = RECORD_FORMAT + 1


class NewerAgent:
    """The core that the loop drives, around the agent of today."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._format = RECORD_FORMAT
        self._saves: list[tuple[Save, Save]] = []
        """Of the newest list: as it went out, and as the agent knows it."""

    @property
    def deadline(self) -> float | None:
        return self._agent.deadline

    def handle(self, event: Event, now: Now) -> Sequence[Action]:
        match event:
            case Started(boot, records):
                uncommitted = boot.running != boot.primary
                found = [format_of(content) for content in records.values() if content]
                self._format = max(found, default=RECORD_FORMAT) if uncommitted else NEXT_FORMAT
                readable = {name: in_format(content, RECORD_FORMAT) for name, content in records.items()}
                event = replace(event, records=readable)
            case SlotCommitted():
                self._format = NEXT_FORMAT
            case ActionFailed(Save() as failed):
                known = next(known for sent, known in self._saves if sent is failed)
                event = replace(event, action=known)
        self._saves.clear()
        return [self._sent(action) if isinstance(action, Save) else action for action in self._agent.handle(event, now)]

    def _sent(self, save: Save) -> Save:
        content = in_format(save.content, self._format)
        assert content is not None
        sent = replace(save, content=content)
        self._saves.append((sent, save))
        return sent


def format_of(content: bytes) -> int:
    """The format of a record. Its number is the first entry of a short map."""
    assert content[1] == 1, "expected the format number under key 1"
    return content[2]


def in_format(content: bytes | None, form: int) -> bytes | None:
    """The same record in another format; what is missing stays missing."""
    if not content or format_of(content) == form:
        return content
    return encode(cbor2.loads(content) | {1: form})

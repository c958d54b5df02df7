"""The operator's side of the command topic: signed commands out, signed replies and events in.

A command is signed once and may be sent more than once. The bridge keeps its answer until the command expires
and gives it again for the same bytes, so after a lost connection, and after some seconds without a reply, the same
command is simply sent again: it happens once, and its reply comes, although the bridge was away or too busy to hear
the first one. A reply counts if a bridge key of the root signed it and it names our
request; the broker cannot forge one. When nothing comes in time, that is a `NoAnswerError`, and not a
failure: whether the command was carried out is then unknown, and asking again is safe.
"""

from __future__ import annotations

import argparse
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from narrowboat_protocol.documents import RESULTS, Command, Event, Reply, Request, sign_model
from narrowboat_protocol.errors import NarrowboatError, PeerError, UsageError
from narrowboat_protocol.model import Document
from narrowboat_protocol.topics import EVENT_TOPIC, Channel, operator_topic
from narrowboat_protocol.transfer import Block

from .exits import NoAnswerError
from .key_files import load_key, passphrase_of
from .operator_toml import OperatorToml, find_operator_toml
from .staff_link import Message, StaffLink
from .trust_files import load_trust

LIFE_S = 300
"""How long a command may be carried out. The bridge admits ten minutes; clocks may differ by two."""
_EVENTS_HELD_MAX = 1000
_REPLY_WAIT_S_MIN = 2.0
_REPLY_WAIT_S_MAX = 16.0

ResultT = TypeVar("ResultT", bound=Document)
ItemT = TypeVar("ItemT")


def connect(arguments: argparse.Namespace) -> OperatorClient:
    """The client that the arguments of `add_operator_arguments` describe. It connects when it has something to say."""
    return OperatorClient(find_operator_toml(arguments.config), passphrase_of(arguments), arguments.timeout)


class OperatorClient:
    """One operator at work. A context manager: leaving it closes the connection."""

    def __init__(self, config_path: Path, passphrase: bytes | None, timeout_s: float) -> None:
        config = OperatorToml.load(config_path)
        self.name = config.name
        self.trust = load_trust(config.root, bytes.fromhex(config.fleet_id))
        self._timeout_s = timeout_s
        self._signer = load_key(config.signing_key, passphrase)
        self._link = StaffLink(config, timeout_s)
        self._events: deque[Event] = deque(maxlen=_EVENTS_HELD_MAX)
        self._disbelieved: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._link.close()

    def call(self, request: Request, result: type[ResultT]) -> ResultT:
        """Carry out `request` and return its result.

        Raises `PeerError` with the bridge's reason if it refuses, `NoAnswerError` if it does not answer.
        """
        command, data = self._sign(request)
        if RESULTS[command.verb] is not result:
            raise TypeError(f"expected {RESULTS[command.verb].__name__} as the result of {command.verb}, got another")
        reply = self._exchange(command.request_id, data)
        if reply.reason is not None:
            raise PeerError(reply.reason, f"the bridge: {reply.reason}: {reply.message or 'refused'}")
        return result.from_cbor(reply.result)

    def tell(self, request: Request) -> None:
        """Hand `request` to the broker and do not wait for what the bridge says."""
        _, data = self._sign(request)
        deadline_s = time.monotonic() + self._timeout_s
        while not (self._link.publish(operator_topic(self.name, Channel.COMMAND), data) and self._link.flush()):
            if time.monotonic() > deadline_s:
                raise self._link.silence()

    def next_event(self, timeout_s: float) -> Event | None:
        """The next event, or None if none came in time."""
        deadline_s = time.monotonic() + timeout_s
        while not self._events and (left_s := deadline_s - time.monotonic()) > 0:
            message = self._link.receive(left_s)
            if message is not None and message.topic == EVENT_TOPIC:
                self._note_event(message)
        return self._events.popleft() if self._events else None

    def forget_events(self) -> None:
        """Drop what has come so far: the caller is about to ask for the newest state anyway."""
        self._events.clear()

    def upload(self, block: Block) -> bool:
        """Send a block of a release file. False if the connection was lost instead."""
        return self._link.publish(operator_topic(self.name, Channel.UPLOAD), block.encode())

    def flush(self) -> bool:
        """Wait until the broker has every block. False if the connection was lost instead."""
        return self._link.flush()

    def _sign(self, request: Request) -> tuple[Command, bytes]:
        now_s = int(time.time())
        command = Command.of(
            request,
            operator=self.name,
            request_id=secrets.token_bytes(16),
            issued_at=now_s,
            expires_at=now_s + LIFE_S,
        )
        try:
            return command, sign_model(command, self.trust.fleet_id, [self._signer])
        except UsageError as error:
            raise UsageError(error.reason, f"{error}; name fewer devices") from None

    def _exchange(self, request_id: bytes, data: bytes) -> Reply:
        """Send the command, once on each connection and again after each wait, until its reply comes."""
        topic = operator_topic(self.name, Channel.COMMAND)
        deadline_s = time.monotonic() + min(self._timeout_s, LIFE_S)
        sent_on: int | None = None
        wait_s, again_s = _REPLY_WAIT_S_MIN, 0.0
        while (now_s := time.monotonic()) < deadline_s:
            if sent_on != self._link.connection or now_s >= again_s:
                sent_on = self._link.connection if self._link.publish(topic, data) else None
                again_s = time.monotonic() + wait_s
                wait_s = min(2 * wait_s, _REPLY_WAIT_S_MAX)
                continue
            message = self._link.receive(min(deadline_s, again_s) - now_s)
            if message is None:
                continue
            if message.topic == EVENT_TOPIC:
                self._note_event(message)
            elif (reply := self._believed_reply(message)) is not None and reply.request_id == request_id:
                return reply
        if self._disbelieved is not None:
            raise NoAnswerError(f"expected a reply that our root vouches for, got only others: {self._disbelieved}")
        raise self._link.silence()

    def _believed_reply(self, message: Message) -> Reply | None:
        """A reply, or None for what is none: anybody who holds the broker can send us something."""
        try:
            return self.trust.open_reply(message.data)
        except NarrowboatError as error:
            self._disbelieved = str(error)
            return None

    def _note_event(self, message: Message) -> None:
        try:
            self._events.append(self.trust.open_event(message.data))
        except NarrowboatError as error:
            self._disbelieved = str(error)


def every(page_after: Callable[[ItemT | None], tuple[Sequence[ItemT], bool]]) -> Iterator[ItemT]:
    """Everything in a listing: `page_after` asks for the page after an item, and says whether there are more. The next
    page is asked for when this one was used up.
    """
    last: ItemT | None = None
    more = True
    while more:
        items, more = page_after(last)
        yield from items
        if not items:
            return
        last = items[-1]

"""The topic grammar: every topic that the protocol uses, who may write it, and how to take one apart.

    written by its owner                               read by its owner
    nb/d/<device>/hello report get get-any request     nb/d/<device>/assign ack data root reply
    nb/o/<operator>/command upload                     nb/o/<operator>/reply
    nb/e/<claim>/request                               nb/e/<claim>/reply/<thumbprint>

    nb/event  read by operators                        nb/root (retained)  read by devices and operators

The third level names the party, which is the common name of its certificate and thereby its user name at the broker;
an ACL needs no more than `%u`. Many gateways may hold one claim, so what answers one of them ends in the thumbprint of
its key, in hex. Bridges share `get` by a shared subscription. A dead member of the share swallows what it was given
until the broker notices, so a device whose requests stay unanswered asks again on `get-any`, which every bridge hears.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from .errors import PeerError, Reason, UsageError

PREFIX = "nb"
NAME_PATTERN = r"^[a-z0-9-]{1,64}$"
ROOT_TOPIC = f"{PREFIX}/root"
EVENT_TOPIC = f"{PREFIX}/event"
SHARE_GROUP = "bridge"

_NAME = re.compile(NAME_PATTERN.removesuffix("$") + r"\Z")
_KID = re.compile(r"[0-9a-f]{64}")
_TOPIC_BYTES_MAX = 160


class Party(StrEnum):
    """Who stands in the third level of a topic."""

    DEVICE = "d"
    OPERATOR = "o"
    ENROLMENT = "e"


class Channel(StrEnum):
    """What a topic carries. The owner is the party whose name is in the topic."""

    HELLO = "hello"
    REPORT = "report"
    GET = "get"
    GET_ANY = "get-any"
    ASSIGN = "assign"
    ACK = "ack"
    DATA = "data"
    ROOT = "root"
    COMMAND = "command"
    UPLOAD = "upload"
    REPLY = "reply"
    REQUEST = "request"


WRITTEN_BY_OWNER: dict[Party, tuple[Channel, ...]] = {
    Party.DEVICE: (Channel.HELLO, Channel.REPORT, Channel.GET, Channel.GET_ANY, Channel.REQUEST),
    Party.OPERATOR: (Channel.COMMAND, Channel.UPLOAD),
    Party.ENROLMENT: (Channel.REQUEST,),
}
READ_BY_OWNER: dict[Party, tuple[Channel, ...]] = {
    Party.DEVICE: (Channel.ASSIGN, Channel.ACK, Channel.DATA, Channel.ROOT, Channel.REPLY),
    Party.OPERATOR: (Channel.REPLY,),
    Party.ENROLMENT: (Channel.REPLY,),
}


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of one party."""

    party: Party
    name: str
    channel: Channel
    kid: str | None = None
    """Of the key that is answered, in hex: in the reply to an applicant, and there only."""

    def __str__(self) -> str:
        own = f"{PREFIX}/{self.party}/{self.name}/{self.channel}"
        return own if self.kid is None else f"{own}/{self.kid}"


def device_topic(name: str, channel: Channel) -> str:
    return _build(Party.DEVICE, name, channel)


def operator_topic(name: str, channel: Channel) -> str:
    return _build(Party.OPERATOR, name, channel)


def enrolment_request_topic(claim: str) -> str:
    return _build(Party.ENROLMENT, claim, Channel.REQUEST)


def enrolment_reply_topic(claim: str, kid: bytes) -> str:
    """Where the applicant with this key hears what became of its request."""
    return f"{_build(Party.ENROLMENT, claim, Channel.REPLY)}/{kid.hex()}"


def level_pattern(party: Party, channel: Channel) -> str:
    """What follows the name in a topic, as a filter writes it."""
    return f"{channel}/+" if has_thumbprint(party, channel) else str(channel)


def has_thumbprint(party: Party, channel: Channel) -> bool:
    return party is Party.ENROLMENT and channel is Channel.REPLY


def parse_topic(text: str) -> Topic:
    """Take apart a topic of a party. Raises `PeerError` (`bad_topic`) for anything else; the text is not repeated."""
    levels = text.split("/") if len(text) <= _TOPIC_BYTES_MAX else []
    if 4 <= len(levels) <= 5 and levels[0] == PREFIX and levels[1] in set(Party) and _NAME.match(levels[2]):
        party = Party(levels[1])
        if levels[3] in {*WRITTEN_BY_OWNER[party], *READ_BY_OWNER[party]}:
            channel, rest = Channel(levels[3]), levels[4:]
            if bool(rest) is has_thumbprint(party, channel) and all(map(_KID.fullmatch, rest)):
                return Topic(party, levels[2], channel, *rest)
    raise PeerError(Reason.BAD_TOPIC, f"expected {PREFIX}/<d|o|e>/<name>/<channel>, got something else")


def bridge_subscriptions() -> tuple[str, ...]:
    """The filters of a bridge. `get` is shared between bridges; everything else each bridge hears."""
    shared = f"$share/{SHARE_GROUP}/{PREFIX}/{Party.DEVICE}/+/{Channel.GET}"
    written = [(party, channel) for party, channels in WRITTEN_BY_OWNER.items() for channel in channels]
    return (
        shared,
        *(f"{PREFIX}/{party}/+/{channel}" for party, channel in written if channel is not Channel.GET),
    )


def device_subscriptions(name: str) -> tuple[str, ...]:
    return (*(device_topic(name, channel) for channel in READ_BY_OWNER[Party.DEVICE]), ROOT_TOPIC)


def operator_subscriptions(name: str) -> tuple[str, ...]:
    return (operator_topic(name, Channel.REPLY), EVENT_TOPIC)


def is_name(text: str) -> bool:
    return _NAME.match(text) is not None


def _build(party: Party, name: str, channel: Channel) -> str:
    if not is_name(name):
        raise UsageError(Reason.BAD_TOPIC, "expected a name of 1 to 64 characters of a-z, 0-9 and '-'")
    return str(Topic(party, name, channel))

"""Devices and the pairs that order what they say.

Every hello and report carries a pair (boot number, n). The boot number is raised durably at each start of the
agent and n counts in memory, so a pair is used once: the same pair with the same content is a duplicate, and
the same pair with other content comes from a second agent with the same key, a clone. A lower pair is late,
never wrong by itself, since the broker promises no order between topics. It is evidence only if it is live: a
hello that answers the challenge of our last Ack was made after it, so its pair must be above everything that
came before.

The first hello of a certificate of the device CA admits the device and pins its key. Another key under the
same name is refused, unless the registry issued to it: then its pairs begin anew.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from enum import Enum, auto

from narrowboat_protocol.documents import BootPair, Hello
from narrowboat_protocol.keys import PublicKey

from .records import RECENT_PAIRS, Device


class Standing(Enum):
    """How a pair stands to what the device said before."""

    NEW = auto()
    LATE = auto()
    DUPLICATE = auto()
    CLONE = auto()


def digest_of(content: bytes) -> bytes:
    """What is remembered of a statement. Not of its signature, which may differ between two sendings of one
    statement.
    """
    return hashlib.sha256(content).digest()


def standing(device: Device, pair: BootPair, digest: bytes) -> Standing:
    """Compare a pair and its content with what is known. Content is remembered for the few highest pairs only."""
    known = next((content for other, content in device.recent if other == pair), None)
    if known is not None:
        return Standing.DUPLICATE if known == digest else Standing.CLONE
    return Standing.NEW if pair > device.pair else Standing.LATE


def admit(hello: Hello, key: PublicKey, digest: bytes, now_s: int) -> Device:
    """The record of a device that says hello for the first time."""
    return Device(
        name=hello.device,
        key=key,
        hello=hello,
        accepted_counter=hello.assignment_counter,
        pair=hello.pair,
        recent=((hello.pair, digest),),
        challenge=b"",
        first_seen_at=now_s,
        last_seen_at=now_s,
        alarmed_at=0,
        reports_stored=0,
    )


def heard(device: Device, pair: BootPair, digest: bytes, now_s: int) -> Device:
    """The device after it said something, whatever that was."""
    recent = tuple(sorted((*device.recent, (pair, digest))))[-RECENT_PAIRS:]
    return replace(device, pair=max(device.pair, pair), recent=recent, last_seen_at=now_s)


def with_hello(device: Device, hello: Hello) -> Device:
    """The device after a hello; one that came later than a newer hello describes the past and changes nothing.

    A report that overtook the hello may have shown already that the device accepted something since.
    """
    if hello.pair <= device.hello.pair:
        return device
    overtaken = hello.pair < device.pair
    return replace(
        device,
        hello=hello,
        accepted_counter=max(hello.assignment_counter, device.accepted_counter if overtaken else 0),
    )


def is_live(device: Device, hello: Hello) -> bool:
    """True if the hello answers the challenge of our last Ack."""
    return hello.challenge is not None and hello.challenge == device.challenge

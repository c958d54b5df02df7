"""Scopes of operators as they are typed and shown: `prefix=berlin-`, `device=gw-1`, `class=gateway-a`,
`component=rootfs`, or `all`.

A device must fit every kind that is named, and one of those of its kind. Classes are named as in a release.toml; what
the document holds is their UUID, which does not tell the name again.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from typing import TypeVar
from uuid import UUID

from narrowboat_protocol.documents import Scope
from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.suit import class_id, vendor_id
from narrowboat_protocol.topics import is_name

from .arguments import CLASS_PATTERN
from .typed import as_typed

ALL = "all"
_ONE_OF = "expected all, prefix=, device=, class= or component= and a name"

Part = tuple[str, str]
TextT = TypeVar("TextT", str, bytes)


def scope_part(text: str) -> Part:
    """One `--scope`."""
    if text == ALL:
        return ALL, ""
    kind, _, value = text.partition("=")
    fits = re.fullmatch(CLASS_PATTERN, value) is not None if kind == "class" else is_name(value)
    if kind not in ("prefix", "device", "class", "component") or not fits:
        raise argparse.ArgumentTypeError(f"{_ONE_OF}, got {text!r:.80}")
    return kind, value


def scope_of(parts: Iterable[Part], vendor: str) -> Scope | None:
    """What all the parts say together; None is the whole fleet."""
    named: dict[str, list[str]] = {}
    for kind, value in parts:
        named.setdefault(kind, []).append(value)
    if ALL in named:
        if len(named) > 1:
            raise UsageError(Reason.BAD_USE, "expected --scope all alone, got other scopes with it; leave one out")
        return None
    vendor_uuid = vendor_id(vendor)
    with as_typed():
        return Scope(
            name_prefix=_only(named.get("prefix"), "prefix"),
            devices=_sorted(named.get("device")),
            class_ids=_sorted([class_id(vendor_uuid, name).bytes for name in named.get("class", ())]),
            component=_only(named.get("component"), "component"),
        )


def scope_words(scope: Scope | None) -> list[str]:
    """A scope in the words that it is typed in, save that a class is its UUID."""
    if scope is None:
        return [ALL]
    return [
        *([f"prefix={scope.name_prefix}"] if scope.name_prefix is not None else []),
        *(f"device={name}" for name in scope.devices or ()),
        *(f"class={UUID(bytes=each)}" for each in scope.class_ids or ()),
        *([f"component={scope.component}"] if scope.component is not None else []),
    ]


def _only(values: list[str] | None, kind: str) -> str | None:
    if values is None:
        return None
    if len(values) > 1:
        raise UsageError(Reason.BAD_USE, f"expected one {kind} in a scope, got {len(values)}; leave out the others")
    return values[0]


def _sorted(values: list[TextT] | None) -> tuple[TextT, ...] | None:
    return tuple(sorted(set(values))) if values else None

"""Documents made of what a person typed. Their bounds are the wire's, and are told in its words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from narrowboat_protocol.errors import Reason, UsageError


@contextmanager
def as_typed() -> Iterator[None]:
    """Raise `UsageError` for a document that cannot hold what was typed. Values stay out of the message."""
    try:
        yield
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = " ".join(str(part) for part in fault["loc"]) or "the whole"
        raise UsageError(Reason.BAD_USE, f"{place}: {fault['msg'][0].lower()}{fault['msg'][1:]}") from None

"""Trust that begins at a root in a file."""

from __future__ import annotations

from pathlib import Path

from narrowboat_protocol.errors import PeerError, Reason, TrustError
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.trust import Trust

from .files import read_bounded


def load_trust(path: Path, fleet_id: bytes | None = None) -> Trust:
    """Trust the root in `path`, which must belong to the fleet `fleet_id` if that is given."""
    data = read_bounded(path, DEFAULT_LIMITS.root_bytes_max)
    try:
        return Trust(data, fleet_id)
    except PeerError as error:
        hint = "; pass --fleet-id" if error.reason is Reason.WRONG_FLEET and fleet_id is None else ""
        raise TrustError(error.reason, f"{path}: {error}{hint}") from None

"""Trust that begins at a root in a file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from narrowboat_protocol.errors import PeerError, Reason, TrustError, UsageError
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.trust import Trust

from ..files import read_bounded
from .arguments import digest


def add_fleet_id(parser: argparse.ArgumentParser) -> None:
    """Declare how to say which fleet a root must belong to."""
    parser.add_argument(
        "--fleet-id",
        metavar="HEX",
        type=digest,
        help="the fleet it must belong to; needed for a root from version 2 on",
    )


def fleet_hint(error: PeerError, fleet_id: bytes | None) -> str:
    """What to do about a root that is not believed, if that is to say which fleet it belongs to."""
    return "; pass --fleet-id" if error.reason is Reason.WRONG_FLEET and fleet_id is None else ""


def load_trust(path: Path, fleet_id: bytes | None = None) -> Trust:
    """Trust the root in `path`, which must belong to the fleet `fleet_id` if that is given."""
    data = read_bounded(path, DEFAULT_LIMITS.root_bytes_max)
    try:
        return Trust(data, fleet_id)
    except PeerError as error:
        raise TrustError(error.reason, f"{path}: {error}{fleet_hint(error, fleet_id)}") from None


def load_chain(paths: Sequence[Path], fleet_id: bytes) -> Trust:
    """Trust the newest of the roots in `paths`, which follow on one another from the first, as a device does."""
    if not paths:
        raise UsageError(Reason.BAD_CONFIG, "expected 1.root in the fleet's folder root/, got none; bring it back")
    trust = load_trust(paths[0], fleet_id)
    for path in paths[1:]:
        try:
            trust.update_root(read_bounded(path, DEFAULT_LIMITS.root_bytes_max))
        except PeerError as error:
            raise TrustError(error.reason, f"{path}: {error}") from None
    return trust

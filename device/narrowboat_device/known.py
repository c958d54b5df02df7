"""What is known before an agent runs, or beside it: the newest root, and between which times the clock can be right.

An agent has both from its records when it starts. Whoever asks for a certificate, proves a slot or looks at the clock
without one reads the same records here.
"""

from __future__ import annotations

from dataclasses import dataclass

from narrowboat_protocol.documents import Root
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.trust import Trust

from . import BUILT_AT_S
from .assembly import open_record, read_root
from .config import Config
from .core.actions import BelieveTime, Record
from .core.memory import TrustRecord, read_record
from .core.roots import newest_trust
from .disk import Disk


@dataclass(frozen=True, slots=True)
class Known:
    """What the files of a gateway tell."""

    first: Root
    """Of provisioning."""
    trust: Trust
    """In the newest root that the agent stored, if it is of the fleet of provisioning; else in that of provisioning."""
    time: BelieveTime
    """From the time floor to the expiry of that root. That a certificate has ended makes no later time absurd here:
    whether it has is what is asked.
    """


def read_known(disk: Disk, config: Config, limits: Limits) -> Known:
    """Raises `UsageError` if this machine was not provisioned."""
    with open_record(disk, config, Record.TRUST, limits) as record:
        stored = read_record(TrustRecord, record.load())
    first = Trust(read_root(disk, config, limits), limits=limits)
    trust, believed = newest_trust(first, stored, limits)
    floor_s = 0 if believed is None else believed.time_floor
    latest_s = trust.root.expires_at
    return Known(first.root, trust, BelieveTime(max(BUILT_AT_S, min(floor_s, latest_s)), latest_s))


def trusted_root(disk: Disk, config: Config, limits: Limits) -> Trust:
    """Trust in the newest root."""
    return read_known(disk, config, limits).trust

"""`import FILE|URL`: newer roots by hand, for a gateway that no bridge reaches.

The walk is the agent's: one version at a time, each believed by the one before and stored before the next is looked at.
So it may be cut at any point and repeated. It goes as far as there are roots; a single file is one step.
"""

from __future__ import annotations

from collections.abc import Callable

from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.trust import Trust

from . import BUILT_AT_S
from .assembly import lock_folder, open_record, read_root
from .config import Config
from .core.actions import Record, Save
from .core.memory import Journal, Memory, Outbox, TrustRecord, read_record
from .core.roots import newest_trust, take_step
from .disk import Disk
from .root_source import root_source

STEPS_MAX = 1000


def import_roots(disk: Disk, config: Config, limits: Limits, source: str, say: Callable[[str], None]) -> int:
    """Walk to the newest root that `source` has. Returns the version that is trusted then; `say` takes lines of
    progress. Raises `UsageError`, `PeerError` (a root that is not believed) or `MediumError`.
    """
    return walk_roots(disk, config, limits, root_source(source, limits), say)


def walk_roots(
    disk: Disk, config: Config, limits: Limits, read: Callable[[int], bytes | None], say: Callable[[str], None]
) -> int:
    """The same with `read`, which gives the root of a version, or None if there is none."""
    with lock_folder(config.storage.data_dir), open_record(disk, config, Record.TRUST, limits) as file:
        content = file.load()
        if file.is_newer:
            raise UsageError(Reason.BAD_USE, "the trust record was written by a newer agent; import with that one")
        first = read_root(disk, config, limits)
        trust, believed = newest_trust(Trust(first, limits=limits), read_record(TrustRecord, content), limits)
        fresh = TrustRecord(root=first, fleet_id=trust.fleet_id, time_floor=BUILT_AT_S)
        memory = Memory(Journal(), believed or fresh, Outbox())
        for _ in range(STEPS_MAX):
            data = read(trust.root.version + 1)
            step = [] if data is None else take_step(trust, memory, BUILT_AT_S, data)
            if not step:
                break
            for action in step:
                if isinstance(action, Save):
                    file.save(action.content, both=action.both)
            say(f"root version {trust.root.version} accepted")
        return trust.root.version

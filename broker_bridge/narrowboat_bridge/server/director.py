"""The director: signs assignments with the one online key that decides what a gateway runs.

It signs what the core decided and nothing else. The newest assignment of each device is kept as signed, since
the same bytes are sent again: a device that accepted them knows them, and some signature algorithms never
give the same bytes twice.
"""

from __future__ import annotations

from narrowboat_protocol.documents import Assignment, Delivery, RoleName, sign_model
from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.keys import Signer
from narrowboat_protocol.trust import Trust


class Director:
    """Signs, and remembers the newest signed assignment of each device."""

    def __init__(self, key: Signer, trust: Trust, signed: dict[str, bytes]) -> None:
        require_role(key, trust, RoleName.DIRECTOR)
        self._key = key
        self._fleet_id = trust.fleet_id
        self._signed = dict(signed)

    def sign(self, assignment: Assignment) -> bytes:
        """Sign an assignment; it is the newest of its device from now on."""
        signed = sign_model(assignment, self._fleet_id, [self._key])
        self._signed[assignment.device] = signed
        return signed

    def delivery(self, device: str, envelopes: tuple[bytes, ...]) -> bytes:
        """What is sent on a device's `assign` topic."""
        return Delivery(assignment=self._signed[device], envelopes=envelopes).encode()


def require_role(key: Signer, trust: Trust, name: RoleName) -> None:
    """Raise `UsageError` unless the root lets this key alone sign for a role: nobody would believe it otherwise."""
    role = trust.root.role(name)
    if key.public.kid not in role.kids or role.threshold != 1:
        raise UsageError(
            Reason.BAD_CONFIG,
            f"expected a key that the root names for the role {name} with a threshold of 1, got key "
            f"{key.public.kid.hex()[:16]}; use the key of this fleet, or a root that names it",
        )

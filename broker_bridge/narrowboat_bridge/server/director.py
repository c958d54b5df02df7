"""The director: signs assignments with the one online key that decides what a gateway runs.

It signs what the core decided and nothing else, but for the keys of encrypted payloads: a release brings them sealed to
this bridge, and each assignment has them sealed to its device. In between they are in memory, for that moment only.

The newest assignment of each device is kept as signed, since the same bytes are sent again: a device that accepted them
knows them, and some signature algorithms never give the same bytes twice.
"""

from __future__ import annotations

from narrowboat_protocol.documents import Assignment, Delivery, PayloadReference, RoleName, Target, sign_model
from narrowboat_protocol.errors import PeerError, Reason, UsageError
from narrowboat_protocol.keys import PublicKey, Signer
from narrowboat_protocol.suit import AgreementKey, seal, unseal
from narrowboat_protocol.trust import Trust


class Director:
    """Signs, and remembers the newest signed assignment of each device."""

    def __init__(
        self, key: Signer, trust: Trust, signed: dict[str, bytes], agreement_key: AgreementKey | None = None
    ) -> None:
        require_role(key, trust, RoleName.DIRECTOR)
        self._key = key
        self._agreement_key = agreement_key
        self._fleet_id = trust.fleet_id
        self._signed = dict(signed)

    def sign(self, assignment: Assignment, recipient: PublicKey | None = None) -> bytes:
        """Sign an assignment, with the keys of payloads sealed to `recipient`. It is the newest of its device from now
        on.
        """
        if recipient is not None:
            targets = tuple(self._seal_target(target, recipient) for target in assignment.targets)
            assignment = assignment.model_copy(update={"targets": targets})
        signed = sign_model(assignment, self._fleet_id, [self._key])
        self._signed[assignment.device] = signed
        return signed

    def delivery(self, device: str, envelopes: tuple[bytes, ...]) -> bytes:
        """What is sent on a device's `assign` topic."""
        return Delivery(assignment=self._signed[device], envelopes=envelopes).encode()

    def _seal_target(self, target: Target, recipient: PublicKey) -> Target:
        payloads = tuple(self._seal_payload(payload, recipient) for payload in target.payloads)
        return target.model_copy(update={"payloads": payloads})

    def _seal_payload(self, payload: PayloadReference, recipient: PublicKey) -> PayloadReference:
        """One whose key cannot be opened here stays as it is: the device, for which it is not, says `no_key`."""
        if payload.encryption is None or self._agreement_key is None:
            return payload
        try:
            content = unseal(payload.encryption, self._agreement_key)
        except PeerError:
            return payload
        return payload.model_copy(update={"encryption": seal(content, [recipient])})


def require_role(key: Signer, trust: Trust, name: RoleName) -> None:
    """Raise `UsageError` unless the root lets this key alone sign for a role: nobody would believe it otherwise."""
    role = trust.root.role(name)
    if key.public.kid not in role.kids or role.threshold != 1:
        raise UsageError(
            Reason.BAD_CONFIG,
            f"expected a key that the root names for the role {name} with a threshold of 1, got key "
            f"{key.public.kid.hex()[:16]}; use the key of this fleet, or a root that names it",
        )

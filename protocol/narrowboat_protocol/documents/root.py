"""The root: who may sign what, and where the broker is. Signed by k of n offline root keys. And the chain of newer
roots that a bridge sends to a device which missed some.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from itertools import islice
from typing import Annotated, ClassVar, Self

from pydantic import Field, PrivateAttr, StringConstraints, model_validator

from ..errors import DocumentError
from ..keys import PublicKey, public_key_from_cbor
from ..limits import DEFAULT_LIMITS
from ..model import AS_TUPLE, Document, as_enum, key, refusal
from .fields import Certificate, CoseKey, Counter, Name, Seconds, Uuid
from .signed import SIGNATURES_BYTES, SignedModel

SignedRoot = Annotated[bytes, Field(min_length=1, max_length=DEFAULT_LIMITS.root_bytes_max)]
RootUrl = Annotated[str, StringConstraints(pattern=r"^https?://[!-~]{1,240}$")]
_CHAIN_OVERHEAD_BYTES = 4
"""Of the wrapper, and of each root in it."""


class RoleName(StrEnum):
    """Who signs which documents. A key has one role."""

    ROOT = "root"
    RELEASE = "release"
    DIRECTOR = "director"
    BRIDGE = "bridge"
    ADMIN = "admin"


class Role(Document):
    """The keys of one role, by thumbprint, and how many of them must sign."""

    name: Annotated[RoleName, as_enum(RoleName)] = key(1)
    threshold: int = key(2, ge=1, le=16)
    kids: Annotated[tuple[Annotated[bytes, Field(min_length=32, max_length=32)], ...], AS_TUPLE] = key(
        3, min_length=1, max_length=16
    )
    components: Annotated[tuple[Name, ...], AS_TUPLE] | None = key(4, None, max_length=32)
    """Release role: the only components that it may sign for; absent means any."""
    class_ids: Annotated[tuple[Uuid, ...], AS_TUPLE] | None = key(5, None, max_length=32)
    """Release role: the only hardware classes that it may sign for; absent means any."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if len(set(self.kids)) != len(self.kids) or self.threshold > len(self.kids):
            raise refusal("kids must be distinct and at least as many as the threshold")
        if self.name is not RoleName.RELEASE and (self.components, self.class_ids) != (None, None):
            raise refusal("only the release role is limited to components and classes")
        return self


class ComponentRule(Document):
    """What the owner demands of releases of one component."""

    component: Name = key(1)
    epoch: Counter = key(2)
    """Releases of any other epoch are refused, so that raising it retires all older releases."""
    minimum_sequence: Counter = key(3)


class BrokerAddress(Document):
    """Where devices find the broker."""

    host: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:-]{1,253}$")] = key(1)
    port: int = key(2, ge=1, le=65535)


class Root(SignedModel):
    """One version of the root. Version N+1 is believed if the thresholds of N and of N+1 signed it (TUF 1.0.34, section
    5.3).
    """

    KIND: ClassVar[str] = "root"
    BYTES_MAX: ClassVar[int] = DEFAULT_LIMITS.root_bytes_max - SIGNATURES_BYTES
    _ignored_keys: ClassVar[range] = range(16, 24)

    version: int = key(1, ge=1, lt=1 << 32)
    expires_at: Seconds = key(2)
    keys: Annotated[tuple[CoseKey, ...], AS_TUPLE] = key(3, min_length=1, max_length=64)
    """COSE_Keys; a role names them by thumbprint."""
    roles: Annotated[tuple[Role, ...], AS_TUPLE] = key(4, min_length=5, max_length=5)
    components: Annotated[tuple[ComponentRule, ...], AS_TUPLE] = key(5, min_length=1, max_length=32)
    broker_anchors: Annotated[tuple[Certificate, ...], AS_TUPLE] = key(6, (), max_length=4)
    broker_addresses: Annotated[tuple[BrokerAddress, ...], AS_TUPLE] = key(7, (), max_length=8)

    root_urls: Annotated[tuple[RootUrl, ...], AS_TUPLE] = key(8, (), max_length=4)
    """Folders on the web in which `N.root` lies for each version N, for devices that no broker can reach any more."""

    _public_keys: dict[bytes, PublicKey] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        try:
            public = [public_key_from_cbor(value) for value in self.keys]
        except DocumentError:
            raise refusal("keys must be COSE_Keys of Ed25519 or P-256") from None
        self._public_keys.update({item.kid: item for item in public})
        named = [kid for role in self.roles for kid in role.kids]
        if len(self._public_keys) != len(public) or sorted(named) != sorted(self._public_keys):
            raise refusal("each key must stand in exactly one role, once")
        if {role.name for role in self.roles} != set(RoleName):
            raise refusal("each role must stand here once")
        if len({rule.component for rule in self.components}) != len(self.components):
            raise refusal("each component must stand here once")
        return self

    def role(self, name: RoleName) -> Role:
        return next(role for role in self.roles if role.name is name)

    def role_keys(self, name: RoleName) -> Mapping[bytes, PublicKey]:
        return {kid: self._public_keys[kid] for kid in self.role(name).kids}

    def component_rule(self, component: str) -> ComponentRule | None:
        return next((rule for rule in self.components if rule.component == component), None)


class RootChain(Document):
    """Roots on a device's `root` topic, oldest first. A wrapper without a signature of its own: each root proves
    itself, and a device takes no more of them than follow on what it trusts.
    """

    ITEMS_MAX: ClassVar[int] = 16
    ROOTS_MAX: ClassVar[int] = 4

    roots: Annotated[tuple[SignedRoot, ...], AS_TUPLE] = key(1, min_length=1, max_length=ROOTS_MAX)

    @classmethod
    def first_of(cls, roots: Iterable[bytes]) -> RootChain | None:
        """As many of these, from the first on, as one message carries; None if there are none."""
        taken: list[bytes] = []
        size = _CHAIN_OVERHEAD_BYTES
        for root in islice(roots, cls.ROOTS_MAX):
            size += len(root) + _CHAIN_OVERHEAD_BYTES
            if size > DEFAULT_LIMITS.document_bytes_max:
                break
            taken.append(root)
        return cls(roots=tuple(taken)) if taken else None

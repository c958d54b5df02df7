"""A root that is being made: what it will say, who has signed it, and the root that it follows.

A draft is a file that travels from one signing machine to the next, none of which needs a network or a fleet folder. It
carries the root before it, so every machine sees for itself what changes and how many signatures are missing, of the
keys before and of the keys after. Signing adds to it; changing what it says drops the signatures, since they were for
something else. With enough of them it becomes the signed root that devices walk to.

The root that a draft carries is checked against its own threshold. That it is the one which devices trust shows when
the draft is published into the fleet folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from narrowboat_protocol.cose import (
    SignedDocument,
    bytes_to_sign,
    document_aad,
    fleet_id_of,
    sign1,
    sign1_of,
    signature_kid,
    verify_signatures,
)
from narrowboat_protocol.documents import RoleName, Root
from narrowboat_protocol.documents.fields import Digest
from narrowboat_protocol.documents.root import SignedRoot
from narrowboat_protocol.errors import PeerError, Reason, TrustError, UsageError
from narrowboat_protocol.keys import PublicKey, Signer, raw_signature
from narrowboat_protocol.limits import DEFAULT_LIMITS, KIB
from narrowboat_protocol.model import AS_TUPLE, Document, key
from narrowboat_protocol.trust import FIRST_ROOT_VERSION, Trust

from ..files import read_bounded, write_atomically
from .trust_files import fleet_hint

_DRAFT_BYTES_MAX = 2 * DEFAULT_LIMITS.root_bytes_max + KIB
Signature = Annotated[bytes, Field(min_length=1, max_length=256)]


class DraftFile(Document):
    """What is on disk. The fleet id is that of the root before; of a first root it follows from the content."""

    content: bytes = key(1, min_length=1, max_length=DEFAULT_LIMITS.root_bytes_max)
    signatures: Annotated[tuple[Signature, ...], AS_TUPLE] = key(2, (), max_length=DEFAULT_LIMITS.signatures_max)
    before: SignedRoot | None = key(3, None)
    fleet_id: Digest | None = key(4, None)


@dataclass(frozen=True, slots=True)
class Draft:
    """A root in the making. `before` is None for the first."""

    root: Root
    before: Trust | None
    signatures: tuple[bytes, ...] = ()

    @property
    def fleet_id(self) -> bytes:
        return fleet_id_of(self.root.encode()) if self.before is None else self.before.fleet_id

    @classmethod
    def load(cls, path: Path, fleet_id: bytes | None = None) -> Draft:
        """Read a draft, or begin one that follows on the signed root in `path`, alike but for the version."""
        data = read_bounded(path, _DRAFT_BYTES_MAX)
        try:
            return _follow_on(data, fleet_id) if _is_signed(data) else _read_draft(data)
        except PeerError as error:
            hint = fleet_hint(error, fleet_id)
            raise TrustError(
                error.reason, f"{path}: expected a draft of a root, or a signed root: {error}{hint}"
            ) from None

    def save(self, path: Path) -> None:
        before = self.before
        file = DraftFile(
            content=self.root.encode(),
            signatures=self.signatures,
            before=None if before is None else before.root_data,
            fleet_id=None if before is None else before.fleet_id,
        )
        write_atomically(path, file.encode())

    def change(self, root: Root) -> Draft:
        """Say something else: what was signed is void."""
        if len(root.encode()) > Root.BYTES_MAX:
            raise UsageError(Reason.TOO_LARGE, f"expected a root of at most {Root.BYTES_MAX} bytes; take something out")
        return self if root == self.root else Draft(root, self.before)

    def sign(self, signer: Signer) -> Draft:
        self._require_signer(signer.public)
        return self._with(sign1(signer, self.root.encode(), external_aad=self._aad))

    def bytes_to_sign(self, public: PublicKey) -> bytes:
        """What the key signs elsewhere."""
        self._require_signer(public)
        return bytes_to_sign(public, self.root.encode(), external_aad=self._aad)

    def take_signature(self, public: PublicKey, signature: bytes) -> Draft:
        """Take back what was signed elsewhere. Raises `UsageError` if it is not this key's over this draft."""
        raw = raw_signature(public, signature)
        if not public.verify(raw, self.bytes_to_sign(public)):
            raise UsageError(
                Reason.BAD_SIGNATURE, "expected this key's signature over this draft, got another; write --tbs-out anew"
            )
        return self._with(sign1_of(public, raw))

    def merge(self, other: Draft) -> Draft:
        """Take over the signatures of a copy."""
        if other.root != self.root or other.fleet_id != self.fleet_id:
            raise UsageError(Reason.CONFLICT, "expected a copy of the same draft, got one that says something else")
        merged = self
        for block in other.signatures:
            merged = merged._with(block)  # of this class
        return merged

    @property
    def authorities(self) -> Mapping[str, Root]:
        """Whose thresholds must be met, by the words for it."""
        own = {f"version {self.root.version}": self.root}
        return own if self.before is None else {f"version {self.before.root.version}": self.before.root} | own

    def signed_by(self, authority: Root) -> frozenset[bytes]:
        """The root keys of `authority` that signed."""
        keys = authority.role_keys(RoleName.ROOT)
        if not any(signature_kid(block) in keys for block in self.signatures):
            return frozenset()
        return verify_signatures(self.root.encode(), self.signatures, keys=keys, threshold=1, external_aad=self._aad)

    @property
    def is_complete(self) -> bool:
        return all(
            len(self.signed_by(authority)) >= authority.role(RoleName.ROOT).threshold
            for authority in self.authorities.values()
        )

    def signed_root(self) -> bytes:
        """The root as devices take it. Raises `TrustError` if signatures are missing."""
        if not self.is_complete:
            raise TrustError(Reason.BAD_SIGNATURE, f"expected more signatures: {'; '.join(self.missing())}")
        return SignedDocument(Root.FORMAT, self.root.encode(), self.signatures).encode()

    def missing(self) -> list[str]:
        """What is missing of signatures, in words."""
        lines = []
        for name, authority in self.authorities.items():
            role, signed = authority.role(RoleName.ROOT), self.signed_by(authority)
            if len(signed) < role.threshold:
                open_kids = ", ".join(kid.hex()[:16] for kid in role.kids if kid not in signed)
                lines.append(f"{role.threshold - len(signed)} more by root keys of {name}, out of {open_kids}")
        return lines

    @property
    def _aad(self) -> bytes:
        return document_aad(Root.KIND, Root.FORMAT, self.fleet_id)

    def _require_signer(self, public: PublicKey) -> None:
        if not any(public.kid in authority.role_keys(RoleName.ROOT) for authority in self.authorities.values()):
            raise UsageError(
                Reason.UNKNOWN_KEY,
                f"expected a root key of this draft or of the root before it, got key {public.kid.hex()[:16]}",
            )

    def _with(self, block: bytes) -> Draft:
        """One signature for each key; the blocks stand in order of thumbprint, whatever the order of signing."""
        blocks = {signature_kid(known): known for known in (*self.signatures, block)}
        return Draft(self.root, self.before, tuple(blocks[kid] for kid in sorted(blocks)))


def is_signed_root(path: Path) -> bool:
    """Whether a file is to be read as a signed root, not as a draft."""
    return _is_signed(read_bounded(path, _DRAFT_BYTES_MAX))


def _is_signed(data: bytes) -> bool:
    """A signed document is an array of three; a draft is a map."""
    return data[:1] == b"\x83"


def _read_draft(data: bytes) -> Draft:
    file = DraftFile.decode(data, max_bytes=_DRAFT_BYTES_MAX)
    root = Root.decode(file.content)
    if (file.before is None) != (root.version == FIRST_ROOT_VERSION):
        raise TrustError(Reason.STALE, "the draft does not carry the root that it follows")
    before = None if file.before is None else Trust(file.before, file.fleet_id)
    if before is not None and before.root.version + 1 != root.version:
        raise TrustError(Reason.STALE, f"version {root.version} cannot follow on {before.root.version}")
    draft = Draft(root, before, file.signatures)
    for authority in draft.authorities.values():
        draft.signed_by(authority)
    return draft


def _follow_on(data: bytes, fleet_id: bytes | None) -> Draft:
    before = Trust(data, fleet_id)
    return Draft(before.root.model_copy(update={"version": before.root.version + 1}), before)


def merged(drafts: Iterable[Draft], first: Draft) -> Draft:
    for draft in drafts:
        first = first.merge(draft)
    return first

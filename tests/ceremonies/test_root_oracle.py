"""Chains of roots, judged by us and by python-tuf, whose rules ours are: the verdicts must be the same.

Each world is random: a few root keys, a first root, and steps that may have too few signatures, signatures of the old
keys only or of the new ones only, of strangers, one key twice, a version too far on or not on at all, or an expiry that
is long past. Both sides keep what they accepted and refuse what they refuse, and are asked for the next.

Two rules differ on purpose and are kept out of the worlds: a signature that names a known key and does not verify is
refused by us even beside enough good ones, and the same root again is no error to us, but nothing new either.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from securesystemslib.signer._crypto_signer import CryptoSigner
from tuf.api._payload import Root as TufRoot
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from narrowboat_protocol.cose import SignedDocument, document_aad, fleet_id_of, sign1
from narrowboat_protocol.documents import ComponentRule, Role, RoleName, Root
from narrowboat_protocol.errors import PeerError
from narrowboat_protocol.keys import Algorithm, PrivateKey
from narrowboat_protocol.trust import Trust

KEYS = 6
STEPS = 8
PAST, FUTURE = datetime(2001, 1, 1, tzinfo=UTC), datetime(2090, 1, 1, tzinfo=UTC)
OURS = [PrivateKey.generate(Algorithm.ED25519) for _ in range(KEYS)]
THEIRS = [CryptoSigner.generate_ed25519() for _ in range(KEYS)]
OTHERS = {role: PrivateKey.generate(Algorithm.ED25519) for role in RoleName if role is not RoleName.ROOT}


@dataclass(frozen=True, slots=True)
class Step:
    """One root: its content, and who signed it; a key may stand there twice."""

    version: int
    keys: tuple[int, ...]
    threshold: int
    signers: tuple[int, ...]
    expires: datetime = FUTURE

    def ours(self, fleet_id: bytes | None) -> tuple[bytes, bytes]:
        """The root as we say it, and the fleet id."""
        kids: dict[RoleName, tuple[bytes, ...]] = {role: (key.public.kid,) for role, key in OTHERS.items()}
        kids[RoleName.ROOT] = tuple(OURS[key].public.kid for key in self.keys)
        root = Root(
            version=self.version,
            expires_at=int(self.expires.timestamp()),
            keys=tuple(key.public.to_cbor() for key in (*(OURS[number] for number in self.keys), *OTHERS.values())),
            roles=tuple(
                Role(name=role, threshold=self.threshold if role is RoleName.ROOT else 1, kids=kids[role])
                for role in RoleName
            ),
            components=(ComponentRule(component="rootfs", epoch=0, minimum_sequence=0),),
        )
        content = root.encode()
        fleet_id = fleet_id or fleet_id_of(content)
        aad = document_aad(Root.KIND, Root.FORMAT, fleet_id)
        blocks = tuple(sign1(OURS[key], content, external_aad=aad) for key in self.signers)
        return SignedDocument(Root.FORMAT, content, blocks).encode(), fleet_id

    def theirs(self) -> bytes:
        """The same root as TUF says it."""
        root = TufRoot(version=self.version, expires=self.expires)
        for key in self.keys:
            root.add_key(THEIRS[key].public_key, "root")
        root.roles["root"].threshold = self.threshold
        metadata = Metadata(root)
        for key in self.signers:
            metadata.sign(THEIRS[key], append=True)
        return metadata.to_bytes()


def first(rng: random.Random) -> Step:
    keys = tuple(rng.sample(range(KEYS), rng.randint(1, 4)))
    threshold = rng.randint(1, len(keys))
    return Step(1, keys, threshold, keys)


def following(rng: random.Random, known: Step) -> Step:
    """A next root, right as often as wrong."""
    keys = known.keys if rng.random() < 0.4 else tuple(rng.sample(range(KEYS), rng.randint(1, 4)))
    threshold = rng.randint(1, len(keys))
    groups: Sequence[Sequence[int]] = (known.keys, keys, (*known.keys, *keys), range(KEYS))
    pool = sorted(set(rng.choice(groups)))
    signers = tuple(rng.sample(pool, rng.randint(1, len(pool))))
    if rng.random() < 0.5:
        signers = tuple(sorted({*known.keys[: known.threshold], *keys[:threshold]}))
    version = known.version + rng.choice((1, 1, 1, 1, 1, 2, 3, 0))
    return Step(version, keys, threshold, signers, rng.choice((PAST, FUTURE)))


def tuf_accepts(trusted: TrustedMetadataSet, data: bytes) -> bool:
    try:
        trusted.update_root(data)
    except RepositoryError:
        return False
    return True


def we_accept(trust: Trust, data: bytes) -> bool:
    try:
        return trust.update_root(data)
    except PeerError:
        return False


@pytest.mark.parametrize("seed", range(40))
def test_a_chain_of_roots_is_believed_exactly_as_far_as_tuf_believes_it(seed: int) -> None:
    rng = random.Random(seed)
    known = first(rng)
    data, fleet_id = known.ours(None)
    trust, trusted = Trust(data), TrustedMetadataSet(known.theirs(), EnvelopeType.METADATA)
    for _ in range(STEPS):
        step = following(rng, known)
        verdict = tuf_accepts(trusted, step.theirs())
        assert we_accept(trust, step.ours(fleet_id)[0]) is verdict, f"{known} -> {step}"
        known = step if verdict else known
        assert trust.root.version == trusted.root.version == known.version


def test_the_worlds_hold_both_verdicts_and_long_chains() -> None:
    """The comparison above would say nothing of worlds in which everything is refused."""
    accepted = refused = longest = 0
    for seed in range(40):
        rng = random.Random(seed)
        known = first(rng)
        trusted = TrustedMetadataSet(known.theirs(), EnvelopeType.METADATA)
        for _ in range(STEPS):
            step = following(rng, known)
            verdict = tuf_accepts(trusted, step.theirs())
            accepted, refused = accepted + verdict, refused + (not verdict)
            known = step if verdict else known
        longest = max(longest, known.version)
    assert min(accepted, refused) >= 60
    assert longest >= 5


def test_one_key_that_signs_twice_is_one_signature_to_both() -> None:
    start = Step(1, (0, 1), 2, (0, 1))
    data, fleet_id = start.ours(None)
    trust, trusted = Trust(data), TrustedMetadataSet(start.theirs(), EnvelopeType.METADATA)
    twice = Step(2, (0, 1), 2, (0, 0))
    assert not we_accept(trust, twice.ours(fleet_id)[0])
    theirs = json.loads(twice.theirs())
    theirs["signatures"] *= 2
    assert not tuf_accepts(trusted, json.dumps(theirs).encode())
    assert not tuf_accepts(trusted, twice.theirs())

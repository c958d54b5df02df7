"""What every world of one process shares, since making it costs more than simulating it: the fleet's keys, releases,
and certificates that were checked before.

Nothing of it depends on a seed, and no event log shows bytes that depend on it: keys are made anew in each process,
and yet a seed is the same run in all of them.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

from narrowboat_bridge.core.records import Release as KnownRelease
from narrowboat_bridge.pki import verify_device_certificate
from narrowboat_bridge.server.payloads import PayloadFolder
from narrowboat_protocol.errors import PeerError, Reason
from narrowboat_protocol.keys import PublicKey
from narrowboat_protocol.payload import Codec
from tests.support.fleet import COMPONENT, HARDWARE, NOW, DeviceKit, FleetKit, MadeRelease, OperatorKit
from tests.support.gateway import SMALL

LIMITS = replace(SMALL, sync_bytes=8192)
GATEWAYS_MAX = 4
OPERATORS = ("anna", "bert")
FACTORY_IMAGE = random.Random(5).randbytes(40_000)
"""What every gateway runs first: no release of ours."""
_ROOTS = 3
_IMAGE_BYTES = (22_001, 35_003, 47_000)
"""Two or three subtrees of four chunks of 4 KiB, the last of them short."""


class Files(PayloadFolder):
    """Payloads in memory, behind descriptors as the real server wants them."""

    def __init__(self, payloads: dict[bytes, bytes]) -> None:
        super().__init__(Path(os.devnull))
        self._files: dict[bytes, tuple[int, int]] = {}
        for digest, content in payloads.items():
            descriptor = os.memfd_create("payload")
            os.write(descriptor, content)
            self._files[digest] = descriptor, len(content)

    def open(self, digest: bytes) -> tuple[int, int]:
        try:
            return self._files[digest]
        except KeyError:
            raise PeerError(Reason.UNKNOWN_PAYLOAD, "expected a payload of this world") from None


class Kit(FleetKit):
    """A fleet whose gateways are made once."""

    def device(self, name: str, **_changes: object) -> DeviceKit:
        return _device(name)


@dataclass(frozen=True)
class Site:
    """A fleet and everything that it may be told to run."""

    fleet: Kit
    roots: tuple[bytes, ...]
    """Every root that the owner makes, the first one included."""
    releases: tuple[MadeRelease, ...]
    """Whoever committed the last one takes none of the others any more."""
    operators: tuple[OperatorKit, ...]
    operators_document: bytes
    folder: tempfile.TemporaryDirectory[str]
    """For the list of what is revoked."""

    @cached_property
    def files(self) -> Files:
        return Files({release.payload_digest: release.payload for release in self.releases})

    @cached_property
    def images(self) -> dict[bytes, bytes | None]:
        """Every image that can boot, and the digest of its release if it is one."""
        return {FACTORY_IMAGE: None} | {release.image: release.digest for release in self.releases}

    @cached_property
    def sequences(self) -> dict[bytes, int]:
        """Of each release, by its digest."""
        trust = self.fleet.trust()
        return {release.digest: trust.open_release(release.envelope).sequence for release in self.releases}

    @cached_property
    def known_releases(self) -> tuple[KnownRelease, ...]:
        return tuple(_known(release, number) for number, release in enumerate(self.releases))

    @cached_property
    def numbers(self) -> dict[bytes, int]:
        """Releases by digest: what an event log calls them."""
        return {release.digest: number for number, release in enumerate(self.releases)}

    @cached_property
    def verify_certificate(self) -> Callable[[bytes, int], tuple[str, PublicKey]]:
        """The real check, once for each certificate and day."""

        @cache
        def checked(certificate: bytes, day: int) -> tuple[str, PublicKey]:
            return verify_device_certificate(certificate, [self.fleet.device_ca.authority.certificate], day * 86_400)

        return lambda certificate, now_s: checked(certificate, now_s // 86_400)


@cache
def site() -> Site:
    """The one of this process."""
    fleet = _fleet()
    roots = (fleet.root_data, *fleet.root_chain(_ROOTS))
    operators = tuple(fleet.operator(name) for name in OPERATORS)
    noise = random.Random(7)
    releases = tuple(
        fleet.make_release(
            bytes(noise.choices(range(8), k=size)),
            version=f"{number + 1}.0",
            sequence=2 if size == _IMAGE_BYTES[-1] else 1,
            codec=Codec.STORED,
        )
        for number, size in enumerate(_IMAGE_BYTES)
    )
    return Site(fleet, roots, releases, operators, fleet.operators(*operators), tempfile.TemporaryDirectory())


@cache
def _fleet() -> Kit:
    made = Kit.create(limits=LIMITS)
    assert isinstance(made, Kit)
    return made


@cache
def _device(name: str) -> DeviceKit:
    return FleetKit.device(_fleet(), name)


def _known(release: MadeRelease, number: int) -> KnownRelease:
    return KnownRelease(
        digest=release.digest,
        component=COMPONENT,
        version=f"{number + 1}.0",
        sequence=site().sequences[release.digest],
        vendor_id=HARDWARE.vendor_id,
        class_ids=(HARDWARE.class_id,),
        image_size_bytes=len(release.image),
        payload=release.reference,
        envelope=release.envelope,
        file_digest=release.file_digest,
        added_at=NOW,
        codecs=tuple(sorted(release.head.codecs)),
    )

"""Every decision to believe something, in one class that takes bytes and raises.

`Trust` holds one root and the fleet it belongs to. Bytes go in; out come documents whose signatures, role, freshness
and addressee have been checked, or a `PeerError` that says which check failed. It reads no clock and keeps no file: the
caller passes the time floor and the counters in, and stores what the results tell it to store. The order of checks is
fixed: size, encoding, format, signatures, version or counter, freshness, addressee, hardware, sequence. A root is read
before its signatures, since it brings the keys of its own threshold.

The root is the TUF root role (TUF 1.0.34, section 5.3): version N+1 is believed if the thresholds of N and of N+1 both
signed it. A release is believed if the threshold of release keys signed its SUIT digest and the root lets them sign for
its components and classes. Its sequence is a security counter, not a version: releases of one sequence may replace each
other in either direction, and only a release below the floor is refused. The floor limits what is installed, never what
boots.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from .cose import SignedDocument, document_aad, fleet_id_of, verify_signatures
from .documents import Ack, Assignment, Event, Reply, RoleName, Root, open_signed
from .documents.signed import SignedT
from .errors import DocumentError, Reason, TrustError
from .limits import DEFAULT_LIMITS, Limits
from .suit import Image, Release, open_release

FIRST_ROOT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a release must be made for to run here."""

    vendor_id: UUID
    class_id: UUID


@dataclass(frozen=True, slots=True)
class Freshness:
    """What a device knows that bounds which assignments are new."""

    nonces: Collection[bytes]
    """The last two nonces that it sent."""
    counter: int
    """The highest assignment counter accepted so far."""
    accepted: bytes | None
    """The assignment that carried it, as it came; the same bytes are accepted again."""
    certain_s: int
    """A time that has certainly passed, in seconds since 1970: not by anybody's word, so that no clock that was wrong
    once locks a device out. The nonce bounds the age of an assignment; this catches what expired before there was one.
    """


class Floor(NamedTuple):
    """The lowest release that may be installed, in the order of epochs first: a new epoch begins a new count."""

    epoch: int
    sequence: int


NO_FLOOR = Floor(0, 0)


class Trust:
    """One root of one fleet, and what may be believed under it."""

    __slots__ = ("_data", "_fleet_id", "_limits", "_root")

    def __init__(self, root_data: bytes, fleet_id: bytes | None = None, limits: Limits = DEFAULT_LIMITS) -> None:
        """Adopt a root that the caller trusts already: version 1 at provisioning, or the one it stored.

        A root of version 1 names the fleet; a later one needs the `fleet_id` that was pinned. Raises `TrustError` if
        the root is not signed by its own threshold or belongs to another fleet.
        """
        signed = _decode_root(root_data, limits)
        root = Root.decode(signed.content)
        if root.version == FIRST_ROOT_VERSION:
            own = fleet_id_of(signed.content)
            if fleet_id not in (None, own):
                raise TrustError(Reason.WRONG_FLEET, "this root begins another fleet than the one pinned here")
            fleet_id = own
        if fleet_id is None:
            raise TrustError(Reason.WRONG_FLEET, f"root version {root.version} needs the fleet id that version 1 gave")
        self._fleet_id = fleet_id
        self._limits = limits
        self._data = root_data
        self._root = root
        self._verify_root(signed, root)

    @property
    def root(self) -> Root:
        return self._root

    @property
    def root_data(self) -> bytes:
        """The root as it came, for storing."""
        return self._data

    @property
    def fleet_id(self) -> bytes:
        return self._fleet_id

    def update_root(self, data: bytes) -> bool:
        """Walk to the next root version. False if `data` is not newer than what is trusted; raises if it is not
        believed.

        Each step must be stored before the next is taken. A root more than one version ahead is refused: the ones
        between must come first.
        """
        signed = _decode_root(data, self._limits)
        root = Root.decode(signed.content)
        if root.version <= self._root.version:
            return False
        if root.version != self._root.version + 1:
            raise TrustError(
                Reason.STALE,
                f"expected root version {self._root.version + 1}, got {root.version}; send the versions between",
            )
        self._verify_root(signed, self._root)
        self._verify_root(signed, root)
        self._root, self._data = root, data
        return True

    def open_release(self, envelope: bytes) -> Release:
        """Believe a release: threshold, components and classes of the release role, epoch and minimum sequence of the
        root.
        """
        role = self._root.role(RoleName.RELEASE)
        release = open_release(envelope, self._root.role_keys(RoleName.RELEASE), role.threshold, self._limits)
        for image in release.images:
            if role.components is not None and image.component not in role.components:
                raise TrustError(Reason.NOT_PERMITTED, f"the release keys may not sign for component {image.component}")
            if role.class_ids is not None and not {i.bytes for i in image.class_ids} <= set(role.class_ids):
                raise TrustError(Reason.NOT_PERMITTED, "the release keys may not sign for one of its hardware classes")
            rule = self._root.component_rule(image.component)
            if rule is None:
                raise TrustError(Reason.NOT_PERMITTED, f"the root knows no component {image.component}")
            if image.epoch != rule.epoch:
                raise TrustError(Reason.WRONG_EPOCH, f"expected epoch {rule.epoch}, got {image.epoch}; sign it anew")
            if release.sequence < rule.minimum_sequence:
                raise TrustError(
                    Reason.BELOW_FLOOR,
                    f"expected sequence {rule.minimum_sequence} or more, got {release.sequence}",
                )
        return release

    def judge_release(self, release: Release, component: str, hardware: Hardware, floor: Floor) -> Image:
        """The image of a believed release that may be installed as `component` on this hardware at this floor, or
        `TrustError`.
        """
        image = next((image for image in release.images if image.component == component), None)
        if image is None:
            raise TrustError(Reason.MISSING_RELEASE, f"the release has no image for component {component}")
        if image.vendor_id != hardware.vendor_id or hardware.class_id not in image.class_ids:
            raise TrustError(Reason.WRONG_CLASS, "the release is made for other hardware than this device")
        if (image.epoch, release.sequence) < floor:
            raise TrustError(
                Reason.BELOW_FLOOR,
                f"expected epoch {floor.epoch}, sequence {floor.sequence} or more, "
                f"got epoch {image.epoch}, sequence {release.sequence}",
            )
        return image

    def open_assignment(self, data: bytes, device: str, freshness: Freshness) -> Assignment:
        """Believe an assignment to `device`: director key, counter, nonce, expiry, addressee."""
        assignment = self._open(Assignment, data, RoleName.DIRECTOR)
        if data != freshness.accepted:
            if assignment.counter <= freshness.counter:
                raise TrustError(
                    Reason.STALE,
                    f"expected an assignment above counter {freshness.counter}, got {assignment.counter}",
                )
            if assignment.nonce not in freshness.nonces:
                raise TrustError(Reason.STALE, "the assignment answers none of the last two hellos")
            if assignment.expires_at < freshness.certain_s:
                raise TrustError(Reason.EXPIRED, "the assignment expired before a time that has certainly passed")
        if assignment.device != device:
            raise TrustError(Reason.WRONG_DEVICE, "the assignment is for another device")
        if assignment.root_version > self._root.version:
            raise TrustError(
                Reason.STALE,
                f"the assignment needs root version {assignment.root_version}, here is {self._root.version}",
            )
        return assignment

    def open_ack(self, data: bytes, device: str) -> Ack:
        ack = self._open(Ack, data, RoleName.BRIDGE)
        if ack.device != device:
            raise TrustError(Reason.WRONG_DEVICE, "the Ack is for another device")
        return ack

    def open_reply(self, data: bytes) -> Reply:
        return self._open(Reply, data, RoleName.BRIDGE)

    def open_event(self, data: bytes) -> Event:
        return self._open(Event, data, RoleName.BRIDGE)

    def open_by_role(self, kind: type[SignedT], data: bytes, role: RoleName) -> SignedT:
        """Believe any document by the threshold of `role`, without checks of its meaning."""
        return self._open(kind, data, role)

    def _open(self, kind: type[SignedT], data: bytes, role: RoleName) -> SignedT:
        return open_signed(
            kind,
            data,
            fleet_id=self._fleet_id,
            keys=self._root.role_keys(role),
            threshold=self._root.role(role).threshold,
            limits=self._limits,
        )

    def _verify_root(self, signed: SignedDocument, authority: Root) -> None:
        verify_signatures(
            signed.content,
            signed.signatures,
            keys=authority.role_keys(RoleName.ROOT),
            threshold=authority.role(RoleName.ROOT).threshold,
            external_aad=document_aad(Root.KIND, signed.format, self._fleet_id),
        )


def _decode_root(data: bytes, limits: Limits) -> SignedDocument:
    if len(data) > limits.root_bytes_max:
        raise DocumentError(Reason.TOO_LARGE, f"root: expected at most {limits.root_bytes_max} bytes, got {len(data)}")
    signed = SignedDocument.decode(data, limits)
    if signed.format != Root.FORMAT:
        raise DocumentError(Reason.UNKNOWN_FORMAT, f"root: expected format {Root.FORMAT}, got {signed.format}")
    return signed

"""Uploads: a release file comes in blocks, is verified, and becomes a release in the store.

An operator announces a file by its digest and size, publishes its blocks in order, and asks how far the
bridge has come by announcing it again. A block that does not continue the file where it ends is dropped, so a
lost one stops the upload until the operator asks; what is told as stored has been synced. The partial file's
own length is the progress, which therefore survives any restart.

Finishing reads the file once, hashing the whole and copying the payload out at the same time. The release is
believed by the same checks that a gateway makes; of the payload, head, layer and leaves are compared with the
release, and each frame with the head as it passes. Nothing is decoded here. Of an encrypted payload, whose key must be
sealed to this bridge, layer and leaves alone are decrypted. The payload appears under its digest only when everything
is right. Any of this may be repeated.

Bounds: the number of partial files, and their size. When there are as many as may be, one of the same operator
gives way that was not written to for some minutes, or one of anybody's that was not for a day: a push that was
given up for a newer build is never finished. Whose a file is is known from its announcement to this process.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from narrowboat_protocol.documents import PayloadReference, UploadState
from narrowboat_protocol.errors import PayloadError, PeerError, Reason, TrustError
from narrowboat_protocol.limits import DEFAULT_LIMITS, MIB, Limits
from narrowboat_protocol.payload import FrameProof, Head, PayloadCipher, check_hashes, measure_head, parse_head
from narrowboat_protocol.payload.head import HEAD_START_BYTES
from narrowboat_protocol.release_file import ReleaseFileLayout, read_layout
from narrowboat_protocol.suit import AgreementKey, Image, unseal
from narrowboat_protocol.transfer import DIGEST_PREFIX_BYTES, decode_block
from narrowboat_protocol.trust import Trust

from ..core.records import Release
from ..files import sync_folder

_COPY_BYTES = MIB
_OWN_ABANDONED_S = 600
_ABANDONED_S = 86_400
_PART = ".part"


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """What operators may take of the disk."""

    uploads_max: int
    upload_bytes_max: int


@dataclass(slots=True)
class _Upload:
    path: Path
    size_bytes: int
    offset: int
    failure: OSError | None = None
    """Why its newest block was not written, until the operator was told."""


class Uploads:
    """The partial files. Used by one thread."""

    def __init__(
        self,
        folder: Path,
        payloads: Path,
        trust: Trust,
        upload_limits: UploadLimits,
        wall_s: Callable[[], int],
        limits: Limits = DEFAULT_LIMITS,
        agreement_key: AgreementKey | None = None,
    ) -> None:
        """`agreement_key` opens the keys of encrypted payloads; without it none is taken in."""
        self._agreement_key = agreement_key
        self._folder = folder
        self._payloads = payloads
        self._trust = trust
        self._upload_limits = upload_limits
        self._wall_s = wall_s
        self._limits = limits
        self._open: dict[tuple[str, bytes], _Upload] = {}
        folder.mkdir(parents=True, exist_ok=True)
        payloads.mkdir(parents=True, exist_ok=True)
        for unfinished in payloads.glob(f"*{_PART}"):
            unfinished.unlink()

    def begin(self, operator: str, digest: bytes, size_bytes: int) -> UploadState:
        """Announce a file, or ask how far it has come. Everything below the offset in the answer is synced. Raises the
        `OSError` of a block that was not written, once: nobody waited for that block.
        """
        if not 1 <= size_bytes <= self._upload_limits.upload_bytes_max:
            most = self._upload_limits.upload_bytes_max
            raise PeerError(Reason.TOO_LARGE, f"expected a file of 1 to {most} bytes, got {size_bytes}")
        before = self._open.get((operator, digest[:DIGEST_PREFIX_BYTES]))
        if before is not None and before.failure is not None:
            failure, before.failure = before.failure, None
            raise failure
        path = self._folder / f"{digest.hex()}{_PART}"
        if not path.exists():
            self._make_room(operator)
        with path.open("ab") as file:
            os.fsync(file.fileno())
            offset = file.tell()
        if offset > size_bytes:
            os.truncate(path, 0)
            offset = 0
        self._open[operator, digest[:DIGEST_PREFIX_BYTES]] = _Upload(path, size_bytes, offset)
        return UploadState(offset=offset)

    def add_block(self, operator: str, message: bytes) -> None:
        """Append a block that continues an announced file. Raises a `PeerError` for any other."""
        block = decode_block(message, self._limits)
        upload = self._open.get((operator, block.digest_prefix))
        if upload is None:
            raise PeerError(Reason.CONFLICT, "expected a block of a file that this operator announced; announce it")
        if block.offset != upload.offset or block.offset + len(block.data) > upload.size_bytes:
            raise PeerError(Reason.CONFLICT, "expected a block that continues the file; ask how far it has come")
        try:
            with upload.path.open("r+b") as file:
                file.seek(upload.offset)
                file.write(block.data)
        except OSError as error:
            upload.failure = error
            raise
        upload.offset += len(block.data)
        upload.failure = None

    def finish(self, operator: str, digest: bytes) -> Release:
        """Verify a whole file and put its payload into the store.

        Raises a `PeerError` that says what is wrong. A file that is not the one announced is deleted; one that is not
        whole is kept.
        """
        upload = self._open.get((operator, digest[:DIGEST_PREFIX_BYTES]))
        if upload is None:
            raise PeerError(Reason.CONFLICT, "expected a file that this operator announced; announce it first")
        if upload.offset != upload.size_bytes:
            raise PeerError(
                Reason.CONFLICT,
                f"expected {upload.size_bytes} bytes before the end, got {upload.offset}; send the rest",
            )
        try:
            return self._take_in(upload.path, digest)
        except PeerError:
            self.forget(digest)
            raise

    def has(self, payload: PayloadReference) -> bool:
        """True if the payload is in the store, and as long as it must be. May be asked by any thread."""
        try:
            return (self._payloads / payload.digest.hex()).stat().st_size == payload.size
        except OSError:
            return False

    def discard(self, payload: PayloadReference) -> None:
        """Remove a payload. May be called by any thread. Raises `OSError`."""
        (self._payloads / payload.digest.hex()).unlink(missing_ok=True)

    def forget(self, digest: bytes) -> None:
        """Drop the partial file: its release is in the store, or never will be."""
        self._drop(self._folder / f"{digest.hex()}{_PART}")

    def _drop(self, path: Path) -> None:
        self._open = {key: upload for key, upload in self._open.items() if upload.path != path}
        path.unlink(missing_ok=True)

    def _make_room(self, operator: str) -> None:
        """Let the file that was not written to for the longest give way, if it is abandoned."""
        now_s = self._wall_s()
        ages_s = {path: int(now_s - path.stat().st_mtime) for path in self._folder.glob(f"*{_PART}")}
        if len(ages_s) < self._upload_limits.uploads_max:
            return
        own = {upload.path for (name, _), upload in self._open.items() if name == operator}
        oldest_first = sorted(ages_s, key=lambda path: -ages_s[path])
        for path in oldest_first:
            if ages_s[path] >= (_OWN_ABANDONED_S if path in own else _ABANDONED_S):
                self._drop(path)
                return
        oldest = oldest_first[0]
        raise PeerError(
            Reason.BUSY,
            f"expected at most {len(ages_s)} unfinished uploads; the oldest, {oldest.stem[:16]}, was written to"
            f" {max(0, ages_s[oldest]) // 60} min ago: finish one, or wait until one of yours is"
            f" {_OWN_ABANDONED_S // 60} min old",
        )

    def _take_in(self, path: Path, digest: bytes) -> Release:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:

            def read_at(offset: int, length: int) -> bytes:
                return os.pread(file.fileno(), length, offset)

            layout = read_layout(read_at, size_bytes, self._limits)
            envelope = read_at(layout.envelope_offset, layout.envelope_length)
            image, sequence, release_digest = self._believe(envelope)
            head, head_data = self._read_head(read_at, layout)
            _require_same_image(head, image, layout)

            def read_payload(offset: int, length: int) -> bytes:
                return read_at(layout.payload_offset + offset, length)

            info = read_at(layout.info_offset, layout.info_length)
            check_hashes(head, image.tree, read_payload, self._limits, self._cipher(head, info))
            payload_digest = self._copy_payload(read_at, layout, digest, FrameProof(head))
        return Release(
            digest=release_digest,
            component=image.component,
            version=image.version,
            sequence=sequence,
            vendor_id=image.vendor_id,
            class_ids=image.class_ids,
            image_size_bytes=image.size_bytes,
            payload=PayloadReference(
                digest=payload_digest,
                kind=head.kind,
                size=layout.payload_length,
                head_size=len(head_data),
                head_sha256=hashlib.sha256(head_data).digest(),
                encryption=info or None,
            ),
            envelope=envelope,
            file_digest=digest,
            added_at=self._wall_s(),
            codecs=tuple(sorted(head.codecs)),
        )

    def _believe(self, envelope: bytes) -> tuple[Image, int, bytes]:
        release = self._trust.open_release(envelope)
        if len(release.images) != 1:
            raise TrustError(
                Reason.UNSUPPORTED_MANIFEST, f"expected a release of one image, got {len(release.images)}; split it"
            )
        return release.images[0], release.sequence, release.digest

    def _read_head(self, read_at: Callable[[int, int], bytes], layout: ReleaseFileLayout) -> tuple[Head, bytes]:
        start = read_at(layout.payload_offset, min(HEAD_START_BYTES, layout.payload_length))
        data = read_at(layout.payload_offset, measure_head(start, self._limits))
        return parse_head(data, self._limits), data

    def _cipher(self, head: Head, info: bytes) -> PayloadCipher | None:
        """What decrypts an encrypted payload. Raises `PeerError` if this bridge could not let a device have its key."""
        if head.encrypted != bool(info):
            raise PayloadError(
                Reason.BAD_HEAD, "expected an encryption info with an encrypted payload and no other; build it anew"
            )
        if not info:
            return None
        if self._agreement_key is None:
            raise TrustError(
                Reason.NO_KEY,
                "expected a payload that is not encrypted, as this bridge has no agreement key; name one in [keys]",
            )
        return PayloadCipher(unseal(info, self._agreement_key), head.layer_offset)

    def _copy_payload(
        self,
        read_at: Callable[[int, int], bytes],
        layout: ReleaseFileLayout,
        digest: bytes,
        frames: FrameProof,
    ) -> bytes:
        """Hash the whole file and copy the payload out of it, in one pass; the payload's digest is its name."""
        whole, payload = hashlib.sha256(), hashlib.sha256()
        copy = self._payloads / f"{digest.hex()}{_PART}"
        try:
            with copy.open("wb") as target:
                end = layout.payload_offset + layout.payload_length
                for offset in range(0, layout.envelope_offset + layout.envelope_length, _COPY_BYTES):
                    data = read_at(offset, _COPY_BYTES)
                    whole.update(data)
                    part = data[max(0, layout.payload_offset - offset) : max(0, end - offset)]
                    payload.update(part)
                    frames.feed(part)
                    target.write(part)
                target.flush()
                os.fsync(target.fileno())
            if whole.digest() != digest:
                raise PayloadError(Reason.BAD_BLOCK, "the file that came is not the one announced; send it again")
            frames.check()
            copy.replace(self._payloads / payload.hexdigest())
            sync_folder(self._payloads)
        finally:
            copy.unlink(missing_ok=True)
        return payload.digest()


def _require_same_image(head: Head, image: Image, layout: ReleaseFileLayout) -> None:
    if head.tree != image.tree or head.image_sha256 != image.image_sha256:
        raise PayloadError(Reason.BAD_HEAD, "the payload is of another image than the release; build it anew")
    if head.payload_length != layout.payload_length:
        raise PayloadError(
            Reason.BAD_HEAD, f"expected a payload of {head.payload_length} bytes, got {layout.payload_length}"
        )

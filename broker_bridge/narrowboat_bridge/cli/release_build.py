"""Building a release file: one pass over the image, memory that does not grow with it, the same bytes every
time.

The head of a payload lists its frames and stands before them, so the frames go to a nameless file first and
are copied behind the head once that is known. Nothing of time, path or machine enters the result: whoever
builds the same `release.toml` from the same image, with the same version of the codec's library, gets the
same file, and can check a colleague's build before signing it. An encrypted payload is the exception: its key is
random, and used once.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from narrowboat_protocol.errors import UsageError
from narrowboat_protocol.keys import PublicKey
from narrowboat_protocol.limits import DEFAULT_LIMITS, Limits
from narrowboat_protocol.payload import PayloadWriter, Prologue
from narrowboat_protocol.release_file import encode_header, encode_trailer
from narrowboat_protocol.suit import ContentKey, Image, Manifest, build_envelope, parse_envelope, seal

from ..files import atomic_file, scratch_file
from .image_source import read_image
from .release_io import COPY_BYTES
from .release_toml import ReleaseToml


@dataclass(frozen=True, slots=True)
class BuiltRelease:
    """What was built. Nobody has signed it yet."""

    digest: bytes
    image: Image
    payload_length: int


def build_release(
    description: ReleaseToml,
    out: Path,
    on_progress: Callable[[int, int], None],
    recipients: Sequence[PublicKey] = (),
    limits: Limits = DEFAULT_LIMITS,
) -> BuiltRelease:
    """Write the unsigned release file at `out`, whole or not at all. `on_progress` is as in `read_image`. With
    recipients the payload is encrypted, and its key sealed to them.
    """
    content_key = ContentKey(secrets.token_bytes(16), secrets.token_bytes(16)) if recipients else None
    writer = PayloadWriter(limits, description.payload_codec, description.level, content_key)
    with scratch_file(out) as frames, atomic_file(out) as file:
        try:
            for frame in writer.encode(read_image(description.image, on_progress)):
                frames.write(frame)
            prologue = writer.prologue()
        except UsageError as error:
            raise _naming_the_image(error, description.image) from None
        image = _describe(description, prologue)
        envelope = build_envelope(Manifest(description.sequence, (image,)), limits=limits)
        before_frames = prologue.head + prologue.layer + prologue.leaves
        payload_length = len(before_frames) + frames.tell()
        file.write(encode_header(payload_length, limits) + before_frames)
        frames.seek(0)
        shutil.copyfileobj(frames, file, COPY_BYTES)
        info = seal(prologue.content_key, recipients) if prologue.content_key is not None else b""
        file.write(encode_trailer(envelope, limits, info))
    return BuiltRelease(parse_envelope(envelope, limits).digest, image, payload_length)


def _describe(description: ReleaseToml, prologue: Prologue) -> Image:
    return Image(
        component=description.component,
        vendor_id=description.vendor_id,
        class_ids=description.class_ids,
        image_sha256=prologue.image_sha256,
        tree=prologue.tree,
        version=description.version,
        epoch=description.epoch,
    )


def _naming_the_image(error: UsageError, image: Path) -> UsageError:
    message = str(error)
    return error if message.startswith(str(image)) else UsageError(error.reason, f"{image}: {message}")

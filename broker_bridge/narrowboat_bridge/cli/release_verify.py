"""Proving that a release file is what a gateway will accept, before it goes anywhere.

A gateway believes the release by its signatures and the image by the release, chunk by chunk as they arrive.
This does the same in one go: every hash that a gateway could ask for (layer, leaves, index) is checked, each
frame is decoded, and the whole image is compared with the tree and the digest that were signed. Memory stays
at one frame and one subtree. Of an encrypted payload only the frames' hashes can be checked without the key.
"""

from __future__ import annotations

from collections.abc import Callable

from narrowboat_protocol.errors import PayloadError, PeerError, Reason
from narrowboat_protocol.payload import FrameProof, FrameStream, Head, PayloadCipher, check_hashes
from narrowboat_protocol.suit import AgreementKey, Image, Release, recipients_of, unseal
from narrowboat_protocol.tree import TreeBuilder
from narrowboat_protocol.trust import Trust

from .release_io import COPY_BYTES, ReleaseFile


def verify_release_file(
    file: ReleaseFile, trust: Trust, on_progress: Callable[[int, int], None], key: AgreementKey | None = None
) -> Release:
    """Return the release if `trust` believes it and the payload yields its image, as far as `key` lets it be read.
    Raises a `PeerError`.
    """
    release = trust.open_release(file.envelope_data)
    head = file.read_head()
    image = matching_image(release.images, head)
    if head.payload_length != file.layout.payload_length:
        raise PayloadError(
            Reason.BAD_HEAD,
            f"expected a payload of {head.payload_length} bytes by its head, got {file.layout.payload_length}",
        )
    if head.encrypted != bool(file.encryption):
        raise PayloadError(
            Reason.BAD_HEAD, "expected an encryption info with an encrypted payload and no other; build the file again"
        )
    if head.encrypted and key is None:
        recipients_of(file.encryption)
        _verify_frames(file, head, on_progress)
        return release
    cipher = None
    if head.encrypted and key is not None:
        cipher = PayloadCipher(unseal(file.encryption, key), head.layer_offset)
    check_hashes(head, image.tree, file.read_payload, file.limits, cipher)
    _verify_image(file, head, image, cipher, on_progress)
    return release


def matching_image(images: tuple[Image, ...], head: Head) -> Image:
    """The image that the payload claims to encode."""
    for image in images:
        if image.image_sha256 == head.image_sha256 and image.tree == head.tree:
            return image
    raise PayloadError(
        Reason.BAD_HEAD, "expected the payload of an image that the manifest names, got another; build the file again"
    )


def _verify_frames(file: ReleaseFile, head: Head, on_progress: Callable[[int, int], None]) -> None:
    proof = FrameProof(head)
    for offset in range(0, head.payload_length, COPY_BYTES):
        proof.feed(file.read_payload(offset, COPY_BYTES))
        on_progress(min(offset + COPY_BYTES, head.payload_length), head.payload_length)
    proof.check()


def _verify_image(
    file: ReleaseFile,
    head: Head,
    image: Image,
    cipher: PayloadCipher | None,
    on_progress: Callable[[int, int], None],
) -> None:
    stream = FrameStream(head, file.limits, cipher=cipher)
    builder = TreeBuilder(file.limits)
    for offset in range(head.frames_offset, head.payload_length, COPY_BYTES):
        block = file.read_payload(offset, COPY_BYTES)
        try:
            for frame, image_bytes in stream.feed(offset, block):
                builder.update(image_bytes)
                on_progress(frame.image_offset + frame.image_bytes, image.size_bytes)
        except PeerError as error:
            raise PayloadError(error.reason, f"payload: {error}") from None
    built = builder.finish()
    if built.tree != image.tree or built.image_sha256 != image.image_sha256:
        raise PayloadError(
            Reason.IMAGE_CONTRADICTS_RELEASE,
            "expected frames that decode to the image that was signed, got another image; build the file again",
        )

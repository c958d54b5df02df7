"""Profile OTA-1: the one sentence of the SUIT language that we read.

    manifest = {1: 1, 2: sequence, 3: common, ? 4: reference-uri, 7: validate, 20: install, ? 23: text}
    common   = {2: [[component name], ...], 4: shared sequence}

and, for each component i in the order of the component list,

    shared   = 12 set-component-index i,
               20 override-parameters {1 vendor, 2 class, 3 image-digest, 14 image-size},
               condition 1 vendor-identifier, condition 2 class-identifier
    install  = 12 set-component-index i, 20 override-parameters {21 uri, 25 fetch-arguments},
               21 fetch, condition 3 image-match
    validate = 12 set-component-index i, condition 3 image-match

An image for several classes leaves parameter 2 out of that, and has in place of condition 2 the directive 15
try-each with one branch for each class: override-parameters {2: class}, condition 2. Nothing else may use
try-each. Its trailing null, by which the draft makes a test optional, is refused: it would make the image fit
any hardware.

What is not in the profile cannot be passed over: a member, parameter or command too many, too few or
elsewhere is refused with its number and name. Reporting policies are read and not obeyed, as the draft
permits. The reference URI and the text are for people; they are signed, bounded by the envelope, and not
read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import UUID

from ..limits import DEFAULT_LIMITS, Limits
from ..topics import NAME_PATTERN
from ..tree import Tree
from .envelope import read_digest
from .manifest import CLASSES_MAX, IMAGES_MAX, PAYLOAD_URI, VERSION_BYTES_MAX, Image, Manifest
from .numbers import (
    MANIFEST_VERSION,
    CommonKey,
    Condition,
    Directive,
    FetchArgument,
    ManifestKey,
    Parameter,
    named,
)
from .reading import Commands, kind_of, members, octets, outside_profile, refused, unsigned, unwrap, uuid

_FOR_PEOPLE = frozenset({ManifestKey.REFERENCE_URI, ManifestKey.TEXT})
_FOR_GATEWAYS = frozenset(
    {
        ManifestKey.MANIFEST_VERSION,
        ManifestKey.MANIFEST_SEQUENCE_NUMBER,
        ManifestKey.COMMON,
        ManifestKey.VALIDATE,
        ManifestKey.INSTALL,
    }
)
_IDENTITY = frozenset({Parameter.VENDOR_IDENTIFIER, Parameter.IMAGE_DIGEST, Parameter.IMAGE_SIZE})
_CLASS = frozenset({Parameter.CLASS_IDENTIFIER})
_ORIGIN = frozenset({Parameter.URI, Parameter.FETCH_ARGUMENTS})


@dataclass(frozen=True, slots=True)
class _Identity:
    """What the shared sequence says of one component."""

    vendor_id: UUID
    class_ids: tuple[UUID, ...]
    image_sha256: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Origin:
    """What the install sequence says of one component."""

    tree: Tree
    version: str
    epoch: int


def read_manifest(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Manifest:
    """Read the manifest of an envelope, authentic or not.

    It serves the signing station, which must show what it is about to sign; a gateway takes `open_release`.
    Raises `TrustError` (`unsupported_manifest`) for what is outside the profile, `EncodingError`, or what
    `Tree.from_cbor` raises.
    """
    manifest = members(unwrap(data, "manifest"), "manifest member", ManifestKey, _FOR_GATEWAYS, _FOR_PEOPLE)
    version = unsigned(manifest[ManifestKey.MANIFEST_VERSION], "manifest version")
    if version != MANIFEST_VERSION:
        raise refused(f"expected manifest version {MANIFEST_VERSION}, got {version}")
    _refuse_severed(manifest)
    common = members(unwrap(manifest[ManifestKey.COMMON], "common"), "common member", CommonKey, frozenset(CommonKey))
    components = _read_components(common[CommonKey.COMPONENTS])
    count = len(components)
    identities = _read_shared(Commands(common[CommonKey.SHARED_SEQUENCE], "shared sequence"), count)
    origins = _read_install(Commands(manifest[ManifestKey.INSTALL], "install"), count, limits)
    _read_validate(Commands(manifest[ManifestKey.VALIDATE], "validate"), count)
    sequence = unsigned(manifest[ManifestKey.MANIFEST_SEQUENCE_NUMBER], "sequence number")
    return Manifest(sequence, tuple(map(_image, components, identities, origins)))


def _refuse_severed(manifest: dict[int, object]) -> None:
    for key in (ManifestKey.INSTALL, ManifestKey.TEXT):
        if isinstance(manifest.get(key), list):
            raise outside_profile(f"severed manifest member {named(ManifestKey, key)}")


def _read_components(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= IMAGES_MAX:
        raise refused(f"expected a list of 1 to {IMAGES_MAX} components, got {kind_of(value)}")
    names = tuple(map(_read_component, value))
    if len(set(names)) != len(names):
        raise refused("expected every component once, got one of them twice")
    return names


def _read_component(identifier: object) -> str:
    match identifier:
        case [bytes(name)] if re.fullmatch(NAME_PATTERN.encode(), name):
            return name.decode()
        case _:
            raise refused(f"expected a component identifier of one byte string {NAME_PATTERN}, got another")


def _read_shared(commands: Commands, count: int) -> list[_Identity]:
    identities = []
    for index in range(count):
        commands.component(index)
        parameters = commands.parameters(_IDENTITY, optional=_CLASS)
        commands.reported(Condition.VENDOR_IDENTIFIER)
        if Parameter.CLASS_IDENTIFIER in parameters:
            commands.reported(Condition.CLASS_IDENTIFIER)
            class_ids: tuple[UUID, ...] = (uuid(parameters[Parameter.CLASS_IDENTIFIER], "class identifier"),)
        else:
            class_ids = _read_classes(commands.argument(Directive.TRY_EACH))
        identities.append(
            _Identity(
                vendor_id=uuid(parameters[Parameter.VENDOR_IDENTIFIER], "vendor identifier"),
                class_ids=class_ids,
                image_sha256=read_digest(octets(parameters[Parameter.IMAGE_DIGEST], "image digest")),
                size_bytes=unsigned(parameters[Parameter.IMAGE_SIZE], "image size"),
            )
        )
    commands.end()
    return identities


def _read_classes(branches: object) -> tuple[UUID, ...]:
    if not isinstance(branches, list) or not 2 <= len(branches) <= CLASSES_MAX:
        raise refused(f"try-each: expected 2 to {CLASSES_MAX} branches, one for each class, got {kind_of(branches)}")
    class_ids = tuple(_read_class(Commands(branch, "try-each branch")) for branch in branches)
    if len(set(class_ids)) != len(class_ids):
        raise refused("try-each: expected every class once, got one of them twice")
    return class_ids


def _read_class(commands: Commands) -> UUID:
    parameters = commands.parameters(_CLASS)
    commands.reported(Condition.CLASS_IDENTIFIER)
    commands.end()
    return uuid(parameters[Parameter.CLASS_IDENTIFIER], "class identifier")


def _read_install(commands: Commands, count: int, limits: Limits) -> list[_Origin]:
    origins = []
    for index in range(count):
        commands.component(index)
        parameters = commands.parameters(_ORIGIN)
        commands.reported(Directive.FETCH)
        commands.reported(Condition.IMAGE_MATCH)
        if parameters[Parameter.URI] != PAYLOAD_URI:
            raise refused(f"install: expected the URI {PAYLOAD_URI}, got another")
        origins.append(_read_origin(parameters[Parameter.FETCH_ARGUMENTS], limits))
    commands.end()
    return origins


def _read_origin(value: object, limits: Limits) -> _Origin:
    arguments = members(unwrap(value, "fetch-arguments"), "fetch argument", FetchArgument, frozenset(FetchArgument))
    return _Origin(
        tree=Tree.from_cbor(arguments[FetchArgument.TREE], limits),
        version=_read_version(arguments[FetchArgument.VERSION]),
        epoch=unsigned(arguments[FetchArgument.EPOCH], "epoch"),
    )


def _read_version(value: object) -> str:
    match value:
        case str() if 1 <= len(value.encode()) <= VERSION_BYTES_MAX and value.isprintable():
            return value
        case _:
            raise refused(f"expected a version of 1 to {VERSION_BYTES_MAX} printable bytes, got {kind_of(value)}")


def _read_validate(commands: Commands, count: int) -> None:
    for index in range(count):
        commands.component(index)
        commands.reported(Condition.IMAGE_MATCH)
    commands.end()


def _image(component: str, identity: _Identity, origin: _Origin) -> Image:
    if origin.tree.length != identity.size_bytes:
        raise refused(
            f"component {component}: expected a chunk tree over the {identity.size_bytes} bytes of the image,"
            f" got one over {origin.tree.length}"
        )
    return Image(
        component=component,
        vendor_id=identity.vendor_id,
        class_ids=identity.class_ids,
        image_sha256=identity.image_sha256,
        tree=origin.tree,
        version=origin.version,
        epoch=origin.epoch,
    )

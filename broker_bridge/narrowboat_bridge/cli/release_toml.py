"""`release.toml`: what a release is made of.

    component = "rootfs"
    vendor = "example.com"                     a DNS domain of yours; it and a class name give the ids in the manifest
    classes = ["gateway-a", "gateway-b"]       the hardware that the image is for
    version = "2.1.0"                          for people
    sequence = 4                               a security counter: raise it only to forbid the way back
    image = "deploy/core-image.rootfs.ext4.zst"

and, where the defaults do not suit,

    epoch = 0                                  must be the root's
    codec = "zstd"                             or "lzma" for gateways without zstd, or "stored"
    level = 19                                 of the codec; the highest if left out

It holds no key and no address, so it belongs in version control beside the recipe of the image.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, StringConstraints, field_validator, model_validator

from narrowboat_protocol.documents.fields import Counter
from narrowboat_protocol.model import AS_TUPLE
from narrowboat_protocol.payload import Codec
from narrowboat_protocol.suit import class_id, vendor_id
from narrowboat_protocol.suit.manifest import CLASSES_MAX, VERSION_BYTES_MAX
from narrowboat_protocol.topics import NAME_PATTERN

from ..toml_file import Location, TomlFile
from .arguments import CLASS_PATTERN, is_domain

_LEVEL_MAX = {"zstd": 19, "lzma": 9, "stored": 0}

ClassName = Annotated[str, StringConstraints(pattern=CLASS_PATTERN)]


class ReleaseToml(TomlFile):
    """The file, checked. Whether the image is there shows when it is opened."""

    component: Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
    vendor: str
    classes: Annotated[tuple[ClassName, ...], AS_TUPLE] = Field(min_length=1, max_length=CLASSES_MAX)
    version: str
    sequence: Counter
    image: Location
    epoch: Counter = 0
    codec: Literal["zstd", "lzma", "stored"] = "zstd"
    level: int | None = None

    @field_validator("vendor")
    @classmethod
    def _domain(cls, vendor: str) -> str:
        if not is_domain(vendor):
            raise ValueError("expected a DNS domain in lower case, such as example.com")
        return vendor

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) != len(classes):
            raise ValueError("expected every class once, got one of them twice")
        return classes

    @field_validator("version")
    @classmethod
    def _printable(cls, version: str) -> str:
        if not 1 <= len(version.encode()) <= VERSION_BYTES_MAX or not version.isprintable():
            raise ValueError(f"expected 1 to {VERSION_BYTES_MAX} bytes of printable text")
        return version

    @model_validator(mode="after")
    def _level_of_codec(self) -> Self:
        highest = _LEVEL_MAX[self.codec]
        if self.level is not None and not 0 <= self.level <= highest:
            raise ValueError(f"expected a level from 0 to {highest} for codec {self.codec}")
        return self

    @property
    def payload_codec(self) -> Codec:
        return Codec[self.codec.upper()]

    @property
    def vendor_id(self) -> UUID:
        return vendor_id(self.vendor)

    @property
    def class_ids(self) -> tuple[UUID, ...]:
        return tuple(class_id(self.vendor_id, name) for name in self.classes)

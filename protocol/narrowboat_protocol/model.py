"""The base of every document: a closed pydantic model whose fields travel under small integer keys.

A field declares its key with `key(n)`; on the wire the document is a map from those integers to values, keys below 24
so that each costs one byte and sorts alike in every CBOR library. Absent optional fields are left out, never sent as
null. A default other than that is a convenience for who builds a document and always travels, so that a document has
one encoding. Nested models work the same way, recursively. Models are strict (no value is converted), frozen, and
refuse fields that they do not know, save where a model says otherwise.

What is too long is refused before pydantic sees any part of it, since it would validate every item of a list, and keep
an error for each, before it said that there are too many. What is read before any signature counts is small by nature
and says so in `BYTES_MAX` and `ITEMS_MAX`.

pydantic's own errors quote the input. Input may be secret or hostile, so only the place and the kind of a fault leave
this module, and the words of our own checks, which are constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar, Self, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError, PydanticUndefined

from .cbor import decode, encode
from .errors import DocumentError, Reason
from .limits import DEFAULT_LIMITS

_WIRE_KEY = "wire_key"
_FROM_WIRE = {"wire": True}
_OURS = "refused"
_SCALARS = frozenset({int, bytes, str, bool})

AS_TUPLE = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
"""Lets a strict tuple field take the list that CBOR decodes an array to."""


def as_enum(kind: type[Enum]) -> BeforeValidator:
    """Lets a strict enum field take the plain value that travels on the wire."""
    members = {member.value: member for member in kind}

    def convert(value: Any) -> Any:
        return members.get(value, value) if isinstance(value, (str, int)) else value

    return BeforeValidator(convert)


def at_most(count: int) -> BeforeValidator:
    """Bounds a list or map that stands in another, where the field's `max_length` does not reach."""
    return BeforeValidator(lambda value: _bounded(value, count))


def refusal(message: str) -> PydanticCustomError:
    """What a validator raises. The message is shown, so it must repeat nothing of the input."""
    return PydanticCustomError(_OURS, "{message}", {"message": message})


def key(number: int, default: Any = PydanticUndefined, **constraints: Any) -> Any:
    """Declare a field that travels under the integer `number` (0 to 23); `constraints` are pydantic's."""
    if not 0 <= number < 24:
        raise ValueError(f"expected a wire key from 0 to 23, got {number}")
    return Field(default, json_schema_extra={_WIRE_KEY: number}, **constraints)


class Document(BaseModel):
    """Base class of everything that is a map on the wire."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        defer_build=True,  # so that a device never builds the validators of what only operators say
    )

    _ignored_keys: ClassVar[range] = range(0)
    """Wire keys that are signed and stored but may be unknown to this version (the root's 16 to 23)."""

    BYTES_MAX: ClassVar[int] = DEFAULT_LIMITS.document_bytes_max
    """The longest encoding that is read or signed."""
    ITEMS_MAX: ClassVar[int] = DEFAULT_LIMITS.items_max
    """The most values and keys that it may have, all levels together."""

    _by_key: ClassVar[dict[int, str]] = {}
    _lengths_max: ClassVar[dict[int, int]] = {}
    """Wire keys of the lists and maps that have a `max_length`, and that."""
    _always_sent: ClassVar[frozenset[int]] = frozenset()
    """Wire keys of the fields with a default other than absence."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        by_key: dict[int, str] = {}
        for name, info in cls.model_fields.items():
            extra = cast(Mapping[str, Any], info.json_schema_extra or {})
            if _WIRE_KEY not in extra or extra[_WIRE_KEY] in by_key:
                raise TypeError(f"{cls.__name__}.{name}: expected a wire key of its own, declared with key()")
            by_key[extra[_WIRE_KEY]] = name
        cls._by_key = by_key
        cls._lengths_max = {
            number: length
            for number, name in by_key.items()
            for constraint in cls.model_fields[name].metadata
            if isinstance(length := getattr(constraint, "max_length", None), int)
        }
        cls._always_sent = frozenset(
            number
            for number, name in by_key.items()
            if cls.model_fields[name].get_default() not in (None, PydanticUndefined)
        )

    @model_validator(mode="before")
    @classmethod
    def _name_keys(cls, value: Any, info: ValidationInfo) -> Any:
        """Turn a map with integer keys, as it comes from the wire, into one with field names.

        On the wire a field has one spelling only: its integer key, no null for what is absent, no default left out.
        """
        if not info.context or not (type(value) is dict or isinstance(value, Mapping)):
            return value
        if not cls._always_sent <= value.keys():
            raise refusal("expected every field that has a default to be sent")
        by_key, lengths_max = cls._by_key, cls._lengths_max
        named: dict[str, object] = {}
        for number, item in value.items():
            if type(number) is not int or item is None:
                raise refusal("expected integer keys and no null")
            if number in by_key:
                named[by_key[number]] = _bounded(item, lengths_max[number]) if number in lengths_max else item
            elif number not in cls._ignored_keys:
                raise refusal(f"expected no key {number}")
        return named

    def to_cbor(self) -> dict[int, object]:
        """Return the document as a map with integer keys, absent fields left out."""
        return {
            number: value if type(value) in _SCALARS else _plain(value)
            for number, name in self._by_key.items()
            if (value := getattr(self, name)) is not None
        }

    def encode(self) -> bytes:
        return encode(self.to_cbor())

    @classmethod
    def decode(cls, data: bytes, *, max_bytes: int | None = None) -> Self:
        """Read one document, of at most `BYTES_MAX` if nothing else is said. Raises `EncodingError` or
        `DocumentError`.
        """
        max_bytes = cls.BYTES_MAX if max_bytes is None else max_bytes
        return cls.from_cbor(decode(data, max_bytes=max_bytes, max_items=cls.ITEMS_MAX))

    @classmethod
    def from_cbor(cls, value: object) -> Self:
        """Read one document from what CBOR decoded to. Raises `DocumentError` that names the place, never the value."""
        if not isinstance(value, Mapping):
            raise DocumentError(Reason.BAD_DOCUMENT, f"{cls.__name__}: expected a map with integer keys")
        try:
            return cls.model_validate(value, context=_FROM_WIRE)
        except ValidationError as error:
            raise DocumentError(Reason.BAD_DOCUMENT, f"{cls.__name__}: {_describe(error)}") from None


def _plain(value: object) -> object:
    if type(value) in _SCALARS:
        return value
    if isinstance(value, Document):
        return value.to_cbor()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [item if type(item) in _SCALARS else _plain(item) for item in value]
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _bounded(value: object, count: int | None) -> object:
    if count is not None and isinstance(value, (list, Mapping)) and len(value) > count:
        raise refusal(f"expected at most {count} items, got more")
    return value


def _describe(error: ValidationError) -> str:
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'document'}: {fault['msg'] if fault['type'] == _OURS else fault['type']}"
        for fault in faults[:3]
    )

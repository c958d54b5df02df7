"""Configuration in TOML: read once, checked whole, with messages for the person who typed it.

A file is a closed model, so a misspelt setting is an error that names the one that was probably meant, and
never a default in silence. Relative paths are relative to the file, so that a folder can be moved and a build
started from anywhere. Values stay out of messages: somebody may have typed a passphrase where a path belongs.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails

from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.toml_text import CONFIG_BYTES_MAX, parse_toml

from .files import read_bounded
from .key_place import KeyPlace, key_setting

_FAULTS_SHOWN_MAX = 5


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    folder: Path = info.context["folder"] if info.context else Path()
    if "\0" in str(path):
        raise ValueError("expected a path, got one with a null character")
    try:
        return folder / path.expanduser()
    except RuntimeError:
        raise ValueError("expected a user of this machine after ~, got another; write the whole path") from None


def _key_beside_the_file(value: object, info: ValidationInfo) -> KeyPlace:
    place = key_setting(value)
    return _beside_the_file(place, info) if isinstance(place, Path) else place


Location = Annotated[Path, Field(strict=False), AfterValidator(_beside_the_file)]
"""A path; a relative one starts at the folder of the file that names it."""
KeyLocation = Annotated[KeyPlace, PlainValidator(_key_beside_the_file)]
"""The path of a key, or the URI of one in a token."""


class TomlFile(BaseModel):
    """Base of everything that is one TOML file."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check `path`. Raises `UsageError` that lists what is wrong with it."""
        data = read_bounded(path, CONFIG_BYTES_MAX)
        try:
            return cls.model_validate(parse_toml(data), context={"folder": path.parent})
        except UsageError as error:
            raise UsageError(error.reason, f"{path}: {error}") from None
        except ValidationError as error:
            faults = error.errors(include_url=False, include_context=False, include_input=False)
            described = [_describe(fault, list(cls.model_fields)) for fault in faults[:_FAULTS_SHOWN_MAX]]
            if len(faults) > len(described):
                described.append(f"and {len(faults) - len(described)} more")
            raise UsageError(Reason.BAD_CONFIG, f"{path}: {'; '.join(described)}") from None


def _describe(fault: ErrorDetails, known: list[str]) -> str:
    place = ".".join(str(part) for part in fault["loc"]) or "file"
    if fault["type"] == "missing":
        return f"expected a setting `{place}`, got none"
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(place, known, n=1)
        return f"there is no setting `{place}`" + (f"; did you mean `{near[0]}`?" if near else "")
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("a ")
    return f"`{place}`: {message if message.startswith('expected') else f'expected {message[0].lower()}{message[1:]}'}"

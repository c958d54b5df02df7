"""`release.toml`: what is accepted, and what somebody reads who got it wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from narrowboat_bridge.cli.release_toml import ReleaseToml
from narrowboat_protocol.errors import Reason, UsageError
from narrowboat_protocol.payload import Codec
from narrowboat_protocol.suit import class_id, vendor_id
from tests.bridge.cli_kit import write_release_toml


def test_paths_are_relative_to_the_file_and_absolute_ones_stay(tmp_path: Path) -> None:
    assert ReleaseToml.load(write_release_toml(tmp_path, "deploy/a.ext4")).image == tmp_path / "deploy/a.ext4"
    assert ReleaseToml.load(write_release_toml(tmp_path, "/deploy/a.ext4")).image == Path("/deploy/a.ext4")


def test_the_ids_are_those_of_the_manifest_standard(tmp_path: Path) -> None:
    release = ReleaseToml.load(write_release_toml(tmp_path, "a.img", classes=["gateway-a", "gateway-b"]))
    vendor = vendor_id("example.com")
    assert release.vendor_id == vendor
    assert release.class_ids == (class_id(vendor, "gateway-a"), class_id(vendor, "gateway-b"))


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    release = ReleaseToml.load(write_release_toml(tmp_path, "a.img", level=None))
    assert (release.epoch, release.payload_codec, release.level) == (0, Codec.ZSTD, None)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"component": None}, "expected a setting `component`, got none"),
        ({"sequnce": 4, "sequence": None}, "no setting `sequnce`; did you mean `sequence`?"),
        ({"component": "Root FS"}, "`component`"),
        ({"vendor": "EXAMPLE"}, "`vendor`: expected a DNS domain in lower case"),
        ({"classes": []}, "`classes`"),
        ({"classes": ["a", "a"]}, "`classes`: expected every class once"),
        ({"classes": [f"class-{number}" for number in range(17)]}, "`classes`"),
        ({"version": ""}, "`version`: expected 1 to 64 bytes"),
        ({"version": "v" * 65}, "`version`: expected 1 to 64 bytes"),
        ({"sequence": "4"}, "`sequence`: expected valid integer"),
        ({"sequence": -1}, "`sequence`: expected greater than or equal to 0"),
        ({"epoch": True}, "`epoch`"),
        ({"codec": "gzip"}, "`codec`: expected 'zstd', 'lzma' or 'stored'"),
        ({"level": 20}, "expected a level from 0 to 19 for codec zstd"),
        ({"codec": "lzma", "level": 10}, "expected a level from 0 to 9 for codec lzma"),
        ({"image": 3}, "`image`"),
        ({"image": "~nobody-here/a.ext4"}, "`image`: expected a user of this machine after ~"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_what_belongs_there(
    tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    with pytest.raises(UsageError) as caught:
        ReleaseToml.load(write_release_toml(tmp_path, "a.img", **changes))
    assert caught.value.reason is Reason.BAD_CONFIG
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_was_typed_in_the_wrong_place_is_not_repeated(tmp_path: Path) -> None:
    secret = "hunter2" * 20
    with pytest.raises(UsageError) as caught:
        ReleaseToml.load(write_release_toml(tmp_path, "a.img", version=secret, vendor=secret, component=secret))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("content", [b"component = ", b"\xff\xfe", b"a = 1\na = 2"])
def test_what_is_no_toml_says_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "release.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="expected TOML"):
        ReleaseToml.load(path)

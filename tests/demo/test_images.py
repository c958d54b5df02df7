"""The images of the demo must be filesystems that a gateway could mount, and differ as an update does."""

from __future__ import annotations

import subprocess
import zlib
from pathlib import Path

import pytest

from tests.support.images import MIB, build_pair, small_image
from tests.support.tools import require_tool


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build_pair(tmp_path_factory.mktemp("images"), size_mib=64)


def test_both_versions_are_whole_filesystems_of_the_size_asked_for(pair: tuple[Path, Path]) -> None:
    for image in pair:
        assert image.stat().st_size == 64 * MIB
        checked = subprocess.run([require_tool("e2fsck"), "-fn", str(image)], capture_output=True, check=False)
        assert checked.returncode == 0, checked.stdout.decode()


def test_each_version_says_which_one_it_is(pair: tuple[Path, Path]) -> None:
    for image, own, other in zip(pair, (b"1.0.0", b"2.0.0"), (b"2.0.0", b"1.0.0"), strict=True):
        data = image.read_bytes()
        assert b"VERSION_ID=" + own in data
        assert b"VERSION_ID=" + other not in data


def test_an_image_compresses_as_real_software_does(pair: tuple[Path, Path]) -> None:
    """Neither noise nor emptiness: a demo of either would prove nothing about a download."""
    for image in pair:
        share = len(zlib.compress(image.read_bytes(), 1)) / image.stat().st_size
        assert 0.05 < share < 0.7


def test_an_update_leaves_most_of_the_content_as_it_was(pair: tuple[Path, Path]) -> None:
    first, second = (_blocks(image.read_bytes()) for image in pair)
    assert first != second
    assert len(first & second) > 0.8 * len(first)


def test_nothing_but_the_images_is_left_in_the_folder(pair: tuple[Path, Path]) -> None:
    assert sorted(pair[0].parent.iterdir()) == sorted(pair)


@pytest.mark.parametrize("size_bytes", [0, 1, 4095, 65536, 300_001])
def test_a_small_image_has_the_size_asked_for_and_is_the_same_for_one_seed(size_bytes: int) -> None:
    image = small_image(7, size_bytes)
    assert len(image) == size_bytes
    assert image == small_image(7, size_bytes)


def test_small_images_differ_by_seed_and_compress() -> None:
    image = small_image(1, 300_000)
    assert image != small_image(2, 300_000)
    assert len(zlib.compress(image)) < 0.7 * len(image)


def _blocks(image: bytes) -> set[bytes]:
    """The image in pieces of 1 KiB, the smallest block that ext4 has."""
    return {image[start : start + 1024] for start in range(0, len(image), 1024)}

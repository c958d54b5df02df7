"""`narrowboat release build`: alike everywhere, out of images and nothing else, in little memory."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from narrowboat_bridge.cli.release_io import open_release_file
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.release_file import encode_trailer
from tests.bridge.cli_kit import IMAGE, build, run, run_python, write_release_toml
from tests.support.fleet import FleetKit
from tests.support.suit_manifests import sign_envelope

SPARSE_BYTES = 3_000_000


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd.compress,
}


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_the_same_image_gives_the_same_file_wherever_and_however_it_was_compressed(tmp_path: Path, suffix: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "image.ext4").write_bytes(IMAGE)
    (tmp_path / f"core-image.rootfs.ext4{suffix}").write_bytes(COMPRESSIONS[suffix](IMAGE))
    assert build(tmp_path, f"core-image.rootfs.ext4{suffix}") == build(elsewhere, "image.ext4")


def test_holes_are_zeros(tmp_path: Path) -> None:
    (tmp_path / "dense.img").write_bytes(IMAGE + bytes(SPARSE_BYTES - len(IMAGE)))
    (tmp_path / "sparse.img").write_bytes(IMAGE)
    os.truncate(tmp_path / "sparse.img", SPARSE_BYTES)
    assert build(tmp_path, "dense.img") == build(tmp_path, "sparse.img")


@pytest.mark.parametrize("codec", ["zstd", "lzma", "stored"])
def test_every_codec_gives_a_release_that_verifies(tmp_path: Path, codec: str) -> None:
    fleet = FleetKit.create()
    (tmp_path / "image.squashfs").write_bytes(IMAGE)
    (tmp_path / "root").write_bytes(fleet.root_data)
    (tmp_path / "key.pem").write_bytes(fleet.release_signers[0].to_pem())
    build(tmp_path, "image.squashfs", codec=codec, level=None if codec == "stored" else 1)
    assert run("release", "sign", tmp_path / "out.nbr", "--key", tmp_path / "key.pem").status == 0
    assert run("release", "verify", tmp_path / "out.nbr", "--root", tmp_path / "root").status == 0


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESSIONS if suffix])
def test_a_truncated_image_leaves_what_was_there_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    compressed = COMPRESSIONS[suffix](IMAGE)
    (tmp_path / f"a.ext4{suffix}").write_bytes(compressed[: len(compressed) // 2])
    (tmp_path / "out.nbr").write_bytes(b"the release before")
    toml = write_release_toml(tmp_path, f"a.ext4{suffix}")
    before = set(tmp_path.iterdir())
    outcome = run("release", "build", toml, "-o", tmp_path / "out.nbr")
    assert outcome.status == 2
    assert f"a.ext4{suffix}: expected whole {suffix} data" in outcome.error_line
    assert (tmp_path / "out.nbr").read_bytes() == b"the release before"
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.ext4.gz", IMAGE, "expected .gz data"),
        ("a.ext4", gzip.compress(IMAGE), "got .gz data; let its name end in .gz"),
        ("a.ext4", zstd.compress(IMAGE), "got .zst data"),
        ("a.img", b"\x3a\xff\x26\xed" + IMAGE, "simg2img"),
        ("rootfs.tar.gz", gzip.compress(IMAGE), "an archive of files"),
        ("core-image.wic.xz", lzma.compress(IMAGE), "a whole disk"),
        ("rootfs.ext4.lz4", IMAGE, "compress with zst or xz"),
        ("empty.img", b"", "at least one byte"),
    ],
)
def test_what_is_no_image_of_a_partition_is_refused_before_it_is_shipped(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(content)
    outcome = run("release", "build", write_release_toml(tmp_path, name), "-o", tmp_path / "out.nbr")
    assert outcome.status == 2
    assert told in outcome.error_line
    assert not (tmp_path / "out.nbr").exists()


@pytest.mark.parametrize("out", [".", "/", "nowhere/out.nbr"])
def test_a_place_where_no_file_can_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run("release", "build", write_release_toml(tmp_path, "missing.ext4"), "-o", out)
    assert outcome.status == 2
    assert "argument -o/--out: expected a f" in outcome.err


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    outcome = run("release", "build", write_release_toml(tmp_path, "no.ext4"), "-o", tmp_path / "out.nbr")
    assert outcome.status == 1
    assert "no.ext4" in outcome.error_line


_PEAK_KIB = """
import resource, sys
from narrowboat_bridge.cli import main
status = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(status)
"""


def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    fleet = FleetKit.create()
    (tmp_path / "root").write_bytes(fleet.root_data)
    peaks_kib: dict[str, list[int]] = {"build": [], "verify": []}
    for size_mib in (8, 136):
        with (tmp_path / "image.img").open("wb") as image:
            image.write(IMAGE)
            image.truncate(size_mib << 20)
        toml, out = write_release_toml(tmp_path, "image.img"), tmp_path / "out.nbr"
        built = run_python(_PEAK_KIB, "release", "build", toml, "-o", out)
        with open_release_file(out) as file:
            envelope = sign_envelope(file.envelope_data, fleet.release_signers[0])
        with out.open("r+b") as target:
            target.truncate(file.layout.trailer_offset)
            target.seek(0, os.SEEK_END)
            target.write(encode_trailer(envelope, DEFAULT_LIMITS))
        verified = run_python(_PEAK_KIB, "release", "verify", out, "--root", tmp_path / "root")
        for done, peaks in zip((built, verified), peaks_kib.values(), strict=True):
            assert done.returncode == 0, done.stderr
            peaks.append(int(done.stdout.splitlines()[-1]))
    for small_kib, large_kib in peaks_kib.values():
        assert large_kib - small_kib < 8 * 1024

"""Two versions of a real root filesystem, made of this machine's own programs and libraries, and small images for
tests.

The filesystem is ext4, filled by `mke2fs -d` without privileges. What goes in is real: executables and shared libraries
in order of path, so that it compresses and changes as a root filesystem does. Version 2 differs as an update does: a
few programs and a library are other ones, one is new, and the release file and a configuration say so.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from .tools import require_tool

MIB = 1024 * 1024
_PROGRAMS = ("/usr/bin", "/usr/sbin", "/bin")
_LIBRARIES = ("/usr/lib", "/lib")
_FILE_BYTES = range(2048, 4 * MIB)
_CHANGED = (3, 17, 40)
"""Which files version 2 replaces, by their place in the order."""
_UUID = "6e617272-6f77-4f62-8f61-742d64656d6f"
_DAY_ZERO = 1_700_000_000


def build_pair(folder: Path, size_mib: int = 64, content_mib: int = 44) -> tuple[Path, Path]:
    """Two images in `folder`, `rootfs-1.0.0.ext4` and `rootfs-2.0.0.ext4`, each of `size_mib`."""
    half = content_mib * MIB // 2
    files = [*_real_files(_PROGRAMS, "*", half), *_real_files(_LIBRARIES, "*.so*", half)]
    spare, files = files[: len(_CHANGED) + 1], files[len(_CHANGED) + 1 :]
    changed = {files[place % len(files)]: spare[number] for number, place in enumerate(_CHANGED)}
    first = _build(folder, "1.0.0", {path: path for path in files}, size_mib)
    second = _build(
        folder, "2.0.0", {path: changed.get(path, path) for path in files} | {spare[-1]: spare[-1]}, size_mib
    )
    return first, second


def small_image(seed: int, size_bytes: int) -> bytes:
    """An image for tests: the same for one seed, and compressible as real ones are."""
    chooser = random.Random(seed)
    words = [chooser.randbytes(chooser.randrange(4, 64)) for _ in range(64)]
    pieces: list[bytes] = []
    left = size_bytes
    while left > 0:
        piece = chooser.choice(words) if chooser.random() < 0.7 else chooser.randbytes(16)
        pieces.append(piece[:left])
        left -= len(piece)
    return b"".join(pieces)


def _real_files(folders: Sequence[str], pattern: str, total_bytes: int) -> Iterator[Path]:
    """Regular files of this machine in order of path, as many as `total_bytes` hold."""
    seen: set[Path] = set()
    for folder in folders:
        for path in sorted(Path(folder).rglob(pattern)) if Path(folder).is_dir() else ():
            if path.is_symlink() or not path.is_file() or path.resolve() in seen or not os.access(path, os.R_OK):
                continue
            if path.stat().st_size not in _FILE_BYTES:
                continue
            seen.add(path.resolve())
            total_bytes -= path.stat().st_size
            if total_bytes < 0:
                return
            yield path


def _build(folder: Path, version: str, files: dict[Path, Path], size_mib: int) -> Path:
    """One image; `files` maps where a file stands to the file whose content it has."""
    tree = folder / f"tree-{version}"
    shutil.rmtree(tree, ignore_errors=True)
    for place, source in files.items():
        target = tree / place.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o755)
    (tree / "etc").mkdir(exist_ok=True)
    (tree / "etc" / "os-release").write_text(f'NAME="Demo gateway"\nID=demo\nVERSION_ID={version}\n')
    (tree / "etc" / "gateway.conf").write_text(f"# configuration of the gateway\nrelease = {version}\nuplink = wwan0\n")
    for path in [tree, *tree.rglob("*")]:
        os.utime(path, (_DAY_ZERO, _DAY_ZERO))
    image = folder / f"rootfs-{version}.ext4"
    image.unlink(missing_ok=True)
    command = [
        require_tool("mke2fs"), "-q", "-t", "ext4", "-L", "rootfs", "-U", _UUID, "-b", "4096", "-m", "0", "-N", "8192",
        "-E", f"root_owner=0:0,hash_seed={_UUID}", "-d", str(tree), str(image), f"{size_mib}M",
    ]  # fmt: skip
    subprocess.run(
        command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "E2FSPROGS_FAKE_TIME": str(_DAY_ZERO)}
    )
    shutil.rmtree(tree)
    return image

"""What tests of the command line share: running it, and files for it to work on."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from narrowboat_bridge.cli import main

SOURCES = [str(Path(__file__).parents[2] / folder) for folder in ("protocol", "broker_bridge", "device", "tokens")]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def error_line(self) -> str:
        """The one line that an error is."""
        lines = [line for line in self.err.splitlines() if line.startswith("narrowboat: ")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0]


def run(*arguments: object) -> Outcome:
    """Run `narrowboat` with these arguments, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as left:
            status = int(left.code or 0)
    return Outcome(status, out.getvalue(), err.getvalue())


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own that knows our packages."""
    path = os.pathsep.join(SOURCES)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)


def make_image(size_bytes: int, seed: int = 1) -> bytes:
    """Bytes that compress about as well as a file system: runs of zeros, repeats, noise."""
    source = random.Random(seed)
    pieces: list[bytes] = []
    while sum(map(len, pieces)) < size_bytes:
        pieces += [bytes(source.randrange(4096)), source.randbytes(source.randrange(4096)), b"text " * 300]
    return b"".join(pieces)[:size_bytes]


def write_release_toml(folder: Path, image: str, /, **changes: object) -> Path:
    """A release.toml in `folder`; `changes` are settings."""
    settings: dict[str, object] = {
        "component": "rootfs",
        "vendor": "example.com",
        "classes": ["gateway-a"],
        "version": "2.1.0",
        "sequence": 4,
        "image": image,
        "level": 1,
    } | changes
    lines = [f"{name} = {_toml(value)}" for name, value in settings.items() if value is not None]
    path = folder / "release.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def _toml(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


IMAGE = make_image(700_001)


def build(folder: Path, image: str, **changes: object) -> bytes:
    """Build in `folder` and return the file."""
    outcome = run("release", "build", write_release_toml(folder, image, **changes), "-o", folder / "out.nbr")
    assert outcome.status == 0, outcome.err
    return (folder / "out.nbr").read_bytes()

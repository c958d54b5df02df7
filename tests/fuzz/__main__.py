"""`python -m tests.fuzz`: fuzz all targets, or read one input again.

    python -m tests.fuzz --seconds 60                      all targets share the seconds
    python -m tests.fuzz --seconds 120 --only head,block   these share them
    python -m tests.fuzz TARGET FILE                       what becomes of one input, with the trace of a find

A find is written below `tests/fuzz/finds`, where the test suite reads it from then on. The exit status is 1 if there
were any.
"""

from __future__ import annotations

import argparse
import importlib
import io
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .judge import Find
    from .targets import Target

FINDS = Path(__file__).parent / "finds"
_PRODUCT = ["narrowboat_protocol", "narrowboat_device", "narrowboat_bridge", "cbor2", "tomllib"]
_GRACE_S = 60


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one target."""

    target: str
    executions: int
    accepted: int
    finds: list[Path]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", nargs="?", help="read FILE again by this target")
    parser.add_argument("file", nargs="?", type=Path, help="the input to read again")
    parser.add_argument("--seconds", type=float, default=60.0, help="shared among the targets (default: 60)")
    parser.add_argument("--only", default="", metavar="TARGETS", help="these targets, with commas between")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the random choices (default: the time)")
    parser.add_argument("--engine", choices=("atheris", "walk"), help="default: atheris, if it is installed")
    arguments = parser.parse_args()
    if arguments.target:
        return _read_again(arguments.target, arguments.file, parser)
    atheris = _find_atheris() if arguments.engine != "walk" else None
    if atheris is None and arguments.engine == "atheris":
        parser.error("expected atheris to be installed, found none; run make setup on CPython 3.11 to 3.13, x86-64")
    targets = _load_targets(atheris)
    names = arguments.only.split(",") if arguments.only else list(targets)
    if unknown := set(names) - set(targets):
        parser.error(f"expected targets out of {', '.join(targets)}; got {', '.join(sorted(unknown))}")
    engine = f"atheris {importlib.metadata.version('atheris')}" if atheris else "the seeded walk"
    print(f"{len(names)} targets, {arguments.seconds / len(names):.1f} s each, by {engine}, seed {arguments.seed}")
    print(f"{'target':<20}{'executions':>12}{'accepted':>10}{'new finds':>11}")
    rows = []
    for name, seconds in zip(names, _shares(arguments.seconds, len(names)), strict=True):
        row = _fuzz(targets[name], seconds, arguments.seed, atheris)
        print(f"{row.target:<20}{row.executions:>12}{row.accepted:>10}{len(row.finds):>11}", flush=True)
        rows.append(row)
    return _sum_up(rows)


def _shares(seconds: float, count: int) -> list[int]:
    """Whole seconds, as libFuzzer wants them, and at least one for each target."""
    share = seconds / count
    return [max(1, round((number + 1) * share) - round(number * share)) for number in range(count)]


def _fuzz(target: Target, seconds: int, seed: int, atheris: ModuleType | None) -> Row:
    """Fuzz one target in a process of its own, which any input may end."""
    from .engines import Counts, fuzz_with_atheris, walk

    counts = Counts()
    with tempfile.TemporaryDirectory(prefix="narrowboat-fuzz-") as name:
        folder = Path(name)
        keep = partial(_keep, folder / "finds")
        if atheris is not None:
            run = partial(fuzz_with_atheris, atheris, target, seconds, seed % (1 << 31), folder, keep, counts)
        else:
            run = partial(walk, target, str(seed), _until(time.monotonic() + seconds), keep, counts)
        process = multiprocessing.get_context("fork").Process(target=partial(_quietly, run, folder / "log"))
        process.start()
        process.join(seconds + _GRACE_S)
        if process.is_alive():
            process.kill()
            process.join()
        finds = [_publish(target.name, path, path.name) for path in sorted((folder / "finds").glob("*/*"))]
        finds += [_publish(target.name, path, path.name) for path in sorted(folder.glob("stopped-*"))]
        if process.exitcode and not finds:
            print((folder / "log").read_text(errors="replace")[-4000:], file=sys.stderr)
            raise RuntimeError(f"expected the process of {target.name} to end well, got status {process.exitcode}")
    return Row(target.name, counts.executions, counts.accepted, finds)


def _quietly(run: Callable[[], None], log: Path) -> None:
    """LibFuzzer writes to the descriptor itself."""
    with log.open("w") as file, redirect_stderr(file):
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        run()


def _keep(folder: Path, find: Find) -> None:
    """In the process that fuzzes: one folder for each cause, so that only the shortest input of it is kept."""
    place = folder / "".join(letter if letter.isalnum() else "-" for letter in find.cause)[:80]
    place.mkdir(parents=True, exist_ok=True)
    (place / find.name).write_bytes(find.data)


def _publish(target: str, found: Path, name: str) -> Path:
    path = FINDS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(found.read_bytes())
    return path


def _sum_up(rows: list[Row]) -> int:
    executions, accepted, finds = sum(row.executions for row in rows), sum(row.accepted for row in rows), 0
    for row in rows:
        for path in row.finds:
            finds += 1
            print(f"\nfound in {row.target}: python -m tests.fuzz {row.target} {path.relative_to(Path.cwd())}")
    print(f"{'together':<20}{executions:>12}{accepted:>10}{finds:>11}")
    return 1 if finds else 0


def _read_again(name: str, file: Path | None, parser: argparse.ArgumentParser) -> int:
    from .judge import judge

    targets = _load_targets(None)
    if name not in targets or file is None:
        parser.error(f"expected a target and a file; targets are {', '.join(targets)}")
    verdict = judge(targets[name], file.read_bytes())
    if verdict.find is None:
        print(f"{name}: {'accepted' if verdict.accepted else f'refused: {verdict.ending}'}")
        return 0
    print(f"{name}: {verdict.find.cause}\n{verdict.find.trace}")
    return 1


def _find_atheris() -> ModuleType | None:
    with suppress(ImportError):
        return importlib.import_module("atheris")
    return None


def _load_targets(atheris: ModuleType | None) -> dict[str, Target]:
    """Import the product, instrumented for coverage if atheris is there to use it."""
    if atheris is None:
        from .targets import all_targets

        return all_targets()
    instrumented = atheris.instrument_imports(include=_PRODUCT, enable_loader_override=False)
    with redirect_stderr(io.StringIO()), instrumented:  # it lists each module
        from .targets import all_targets

        return all_targets()


def _until(end_s: float) -> Callable[[int], bool]:
    return lambda _: time.monotonic() < end_s


if __name__ == "__main__":
    sys.exit(main())

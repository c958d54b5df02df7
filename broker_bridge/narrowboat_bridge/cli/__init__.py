"""The command line `narrowboat`, for release engineers and operators.

Each command is a module with one function, `add_parser(subparsers)`, that declares its arguments and sets
`run`, a function of the parsed arguments that returns an exit status. Only the module of the command that was
typed is imported. That is what lets `release`, `keys` and `root` work on a machine that builds and signs and
has none of the server's packages, and it keeps `--help` quick.

Results go to standard output, progress and errors to standard error, so `--json` output can be piped while a
bar is drawn. An error is one line, `narrowboat: ...`, and never a traceback. `exits` says what each exit
status means.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast

from narrowboat_protocol.errors import NarrowboatError, SigningError

from .. import __version__
from .exits import EXIT_CODES_HELP, ExitCode, NoAnswerError, describe, exit_code_of

if TYPE_CHECKING:
    from .arguments import Subparsers

COMMANDS = {
    "init": ("fleet_init", "make a working fleet in a new folder: keys, certificates, broker, bridge, first operator"),
    "keys": ("keys", "create signing keys"),
    "root": ("root", "who may sign what in a fleet: show it, change it, sign it"),
    "pki": ("pki", "issue certificates to devices, operators and bridges"),
    "operator": ("operator", "list and revoke the operators of a fleet"),
    "audit": ("audit", "verify and export the audit log of a bridge"),
    "release": ("release", "build, sign, inspect, verify and push releases"),
    "campaign": ("campaign", "bring a release to devices, and watch it"),
    "claim": ("claim", "let new gateways in"),
    "device": ("device", "list and show devices, and decide who is one"),
    "bridge": ("bridge", "run the server between broker and stores"),
}
_SERVER_PACKAGES = frozenset({"paho", "sqlalchemy", "tenacity"})


class _CommandModule(Protocol):
    def add_parser(self, subparsers: Subparsers) -> None: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _carry_out(arguments)
    except BrokenPipeError:
        # The reader of our output went away (`| head`); what is left must not fail again when Python ends (its
        # documentation of `signal`, note on SIGPIPE).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.REFUSED
    except (NarrowboatError, SigningError, NoAnswerError, OSError) as error:
        print(f"narrowboat: {describe(error)}", file=sys.stderr)
        return exit_code_of(error)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _SERVER_PACKAGES:
            raise
        print(
            f"narrowboat: this command needs the package {error.name}, which is not installed here;"
            " install narrowboat-bridge[server]",
            file=sys.stderr,
        )
        return ExitCode.USAGE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def _carry_out(arguments: Sequence[str]) -> int:
    parsed = _parser(arguments).parse_args(arguments)
    status = int(parsed.run(parsed))
    # What cannot be written must fail here, where it is reported, and not when Python ends.
    sys.stdout.flush()
    return status


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """The parser with the arguments of the command that was typed, and the bare names of the others."""
    parser = argparse.ArgumentParser(
        prog="narrowboat",
        description="Over-the-air updates for fleets of Linux gateways on narrow, broken links.",
        epilog=EXIT_CODES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"narrowboat {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    typed = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, (module, summary) in COMMANDS.items():
        if name == typed:
            imported = importlib.import_module(f".{module}", __package__)
            cast("_CommandModule", imported).add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary)
    return parser

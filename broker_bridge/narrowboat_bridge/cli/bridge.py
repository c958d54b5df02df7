"""`narrowboat bridge`: run the server between broker and stores.

It runs in the foreground, for a service manager to supervise, and logs to standard error. SIGTERM and SIGINT
end it after the batch at hand; SIGHUP makes it read roots and operators again. It may be killed at any
time: what it acknowledged is in its store.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import Subparsers, add_group
from .exits import ExitCode

if TYPE_CHECKING:
    from ..server.loop import Loop

_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def add_parser(subparsers: Subparsers) -> None:
    commands = add_group(subparsers, "bridge", "The server between broker and stores.")
    parser = commands.add_parser(
        "run",
        help="run a bridge in the foreground",
        description="Run a bridge in the foreground until SIGTERM. SIGHUP reads roots and operators again.",
    )
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="the bridge's bridge.toml")
    parser.add_argument("--verbose", action="store_true", help="log more")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out `narrowboat bridge run`."""
    from ..server.assembly import open_bridge
    from ..server.config import load_config

    level = logging.DEBUG if arguments.verbose else logging.INFO
    logging.basicConfig(level=level, format=_LOG_FORMAT, stream=sys.stderr)
    with open_bridge(load_config(arguments.config)) as loop:
        _handle_signals(loop)
        loop.run()
    return ExitCode.OK


def _handle_signals(loop: Loop) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.stop())
    signal.signal(signal.SIGHUP, lambda *_: loop.reload())

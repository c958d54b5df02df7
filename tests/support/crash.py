"""Runs one of our command lines so that its death tells everything that it knows.

    python -m tests.support.crash narrowboat-device run --config device.toml

SIGUSR1 raises an exception in the main thread, wherever that is. Its traceback shows the repr of every local, as crash
reporters do, and after it comes the repr of every object of ours that is alive. SIGABRT ends the process with the stack
of each thread, by faulthandler.
"""

from __future__ import annotations

import faulthandler
import gc
import signal
import sys
import traceback
from types import FrameType, TracebackType

from narrowboat_bridge.cli import main as bridge_main
from narrowboat_device.cli import main as device_main

_COMMANDS = {"narrowboat": bridge_main, "narrowboat-device": device_main}
_REPR_MAX = 1 << 20
OVER = "that was every object"


class CrashError(BaseException):
    """Nobody catches it."""


def _crash(_number: int, _frame: FrameType | None) -> None:
    raise CrashError


def _tell_everything(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    for line in traceback.TracebackException(kind, error, trace, capture_locals=True).format():
        print(line, file=sys.stderr)
    for item in gc.get_objects():
        if type(item).__module__.startswith("narrowboat_"):
            print(repr(item)[:_REPR_MAX], file=sys.stderr)
    print(OVER, file=sys.stderr, flush=True)


if __name__ == "__main__":
    faulthandler.enable()
    sys.excepthook = _tell_everything
    signal.signal(signal.SIGUSR1, _crash)
    sys.exit(_COMMANDS[sys.argv[1]](sys.argv[2:]))

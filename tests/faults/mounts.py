"""Mounts that end with the process that made them, whatever ends it."""

from __future__ import annotations

import ctypes
import os
import subprocess

from tests.support.tools import require_tool

_CLONE_NEWNS = 0x20000


def keep_mounts_to_ourselves() -> None:
    """From now on, what is mounted here is seen by this process and its children only, and goes with the last of them.
    Needs root.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), f"{os.strerror(ctypes.get_errno())}: mounting needs root; run this as root")
    subprocess.run([require_tool("mount"), "--make-rprivate", "/"], check=True)

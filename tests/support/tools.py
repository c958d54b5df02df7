"""Where the system's programs are.

Debian keeps `mosquitto`, `mke2fs` and `nginx` in /usr/sbin, which is not in the PATH of ordinary users,
although they may run them. So a search looks there too. Only the standard library is used: set-up asks here
before anything is installed.
"""

from __future__ import annotations

import os
import shutil

_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def find_tool(name: str) -> str | None:
    """The path of program `name`, or None."""
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(name, path=os.pathsep.join([path, *_SYSTEM_FOLDERS]))


def require_tool(name: str) -> str:
    """The path of program `name`; says how to get it when there is none."""
    found = find_tool(name)
    if found is None:
        raise FileNotFoundError(f"expected the program {name} in PATH or /usr/sbin, got none; run `make setup`")
    return found

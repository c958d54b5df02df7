"""Narrowboat's agent on the gateway: one pure state machine (`core`) inside a thin shell of disk, boot, network and
hooks.
"""

from __future__ import annotations

__version__ = "0.1.0"
BUILT_AT_S = 1_795_478_400
"""When this version was made (2026-11-24), in seconds since 1970: a time that has certainly passed. Raised with each
version.
"""

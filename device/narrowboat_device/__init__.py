"""Narrowboat's agent on the gateway: one pure state machine (`core`) inside a thin shell of disk, boot,
network and hooks.
"""

from __future__ import annotations

__version__ = "0.1.0"

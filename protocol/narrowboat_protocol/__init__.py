"""What Narrowboat's parties say to each other, and how they prove it. Pure: no socket, no clock, no file."""

from __future__ import annotations

__version__ = "0.1.0"

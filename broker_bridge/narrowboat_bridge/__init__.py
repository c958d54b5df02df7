"""Narrowboat's server between broker and stores, and the command line of operators and release engineers.

"Bridge" is this server process, not an MQTT broker-to-broker bridge. Its decisions are pure, in `core`; stores,
broker and command line are shells around them.
"""

from __future__ import annotations

__version__ = "0.1.0"

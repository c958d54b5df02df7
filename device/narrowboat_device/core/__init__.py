"""The agent: a pure state machine. It is given events and the time, and answers with actions; it touches nothing
itself.

`Agent` in `agent.py` is the entry. `events` and `actions` are its closed vocabulary, `memory` is what survives a power
cut, `stream` and `download` bring an image into a slot, `judge` decides what a boot means, `voice` says hello and
reports.
"""

from __future__ import annotations

from .agent import Agent

__all__ = ["Agent"]

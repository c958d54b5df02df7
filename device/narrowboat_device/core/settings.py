"""What an agent is told about itself and its machine. Made by the shell from the configuration; never changes while it
runs.
"""

from __future__ import annotations

from dataclasses import dataclass

from narrowboat_protocol.suit import AgreementKey
from narrowboat_protocol.trust import Hardware


@dataclass(frozen=True, slots=True)
class SlotSettings:
    """One slot of the pair."""

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Settings:
    """The fixed facts of one gateway, and the times that its integrator chose."""

    device: str
    component: str
    hardware: Hardware
    slots: tuple[SlotSettings, SlotSettings]
    certificate: bytes
    """The device's X.509 certificate, DER."""
    certificate_ends_s: int
    """Its notAfter, in seconds since 1970."""
    first_root: bytes
    """The root that it was provisioned with; a newer one may be stored."""
    agent_version: str
    built_at_s: int
    """When this agent was built: a time that has certainly passed."""
    codecs: tuple[int, ...]
    memory_bytes_max: int
    """The most that decoding a payload may take; a head that needs more is refused before anything is allocated."""
    local_install_allowed: bool
    health_deadline_s: float
    health_retry_s: float
    hook_timeout_s: float
    """A hook answers within this time, or its runner says that it failed."""
    hook_retry_s: float
    agreement_key: AgreementKey | None = None
    """Opens the keys of encrypted payloads."""
    hello_interval_s: float = 86_400.0
    hello_repeat_s: float = 3600.0
    """A link that opens so long after the last hello begins with another one, though that one was answered."""
    root_answer_s_max: float = 60.0
    """When a bridge publishes the root, a hello follows within this time,"""
    hello_rest_s: float = 300.0
    """or within this time and so much more after the last one."""
    report_interval_s: float = 10.0
    """The shortest time between two progress reports; a change of state is reported at once."""
    repeat_s_min: float = 15.0
    """The shortest time after which something unanswered is said again,"""
    repeat_s_max: float = 900.0
    """and the longest."""

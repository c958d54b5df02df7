"""The documents that the parties sign, one module for each party that signs. docs/narrowboat.cddl describes the same in
CDDL.

Each class carries its `KIND`, which enters the external AAD of its signatures, and `FORMAT`, the number that stands
before its content. A format is a closed model; a change of shape is a new format, never an optional reading of an old
one. The root alone has one format for ever: its keys 16 to 23 are ignored when unknown, yet signed.

What only operators and bridges say to each other is imported when it is first asked for: a gateway, which never does,
keeps a third of a megabyte by it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .bridge import Ack, Event, EventKind, Reply
from .delivery import Delivery
from .device import BootPair, Hello, Hold, Report, SlotInfo
from .director import Assignment, PayloadReference, Target
from .root import BrokerAddress, ComponentRule, Role, RoleName, Root, RootChain
from .signed import SignedModel, open_signed, sign_model

if TYPE_CHECKING:
    from .operator import (
        REQUESTS,
        CampaignAbort,
        CampaignList,
        CampaignShow,
        CampaignStart,
        Command,
        DeviceList,
        DeviceShow,
        Operator,
        OperatorRole,
        Operators,
        Request,
        Scope,
        UploadBegin,
        UploadFinish,
        Verb,
    )
    from .results import (
        RESULTS,
        AttemptSummary,
        CampaignDetail,
        CampaignPage,
        CampaignSummary,
        DeviceDetail,
        DevicePage,
        DeviceSummary,
        ReleaseSummary,
        UploadState,
    )

__all__ = [
    "REQUESTS",
    "RESULTS",
    "Ack",
    "Assignment",
    "AttemptSummary",
    "BootPair",
    "BrokerAddress",
    "CampaignAbort",
    "CampaignDetail",
    "CampaignList",
    "CampaignPage",
    "CampaignShow",
    "CampaignStart",
    "CampaignSummary",
    "Command",
    "ComponentRule",
    "Delivery",
    "DeviceDetail",
    "DeviceList",
    "DevicePage",
    "DeviceShow",
    "DeviceSummary",
    "Event",
    "EventKind",
    "Hello",
    "Hold",
    "Operator",
    "OperatorRole",
    "Operators",
    "PayloadReference",
    "ReleaseSummary",
    "Reply",
    "Report",
    "Request",
    "Role",
    "RoleName",
    "Root",
    "RootChain",
    "Scope",
    "SignedModel",
    "SlotInfo",
    "Target",
    "UploadBegin",
    "UploadFinish",
    "UploadState",
    "Verb",
    "open_signed",
    "sign_model",
]


def __getattr__(name: str) -> object:
    """PEP 562: import what is not here yet."""
    if name in __all__:
        for module in ("operator", "results"):
            found: object = getattr(import_module(f".{module}", __name__), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

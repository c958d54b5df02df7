"""The documents that the parties sign, one module for each party that signs. docs/narrowboat.cddl describes the same in
CDDL.

Each class carries its `KIND`, which enters the external AAD of its signatures, and `FORMAT`, the number that stands
before its content. A format is a closed model; a change of shape is a new format, never an optional reading of an old
one. The root alone has one format for ever: its keys 16 to 23 are ignored when unknown, yet signed.

What only operators and bridges say to each other, and what a gateway says once in its life, is imported when it is
first asked for: a gateway keeps a third of a megabyte by it.
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
    from .enrolment import (
        EnrolmentOutcome,
        EnrolmentReply,
        EnrolmentRequest,
        claim_key,
        open_request,
    )
    from .operator import (
        LOOKS,
        REQUESTS,
        ROLES,
        AuditList,
        CampaignAbort,
        CampaignApprove,
        CampaignList,
        CampaignShow,
        CampaignStart,
        ClaimCreate,
        ClaimList,
        ClaimRevoke,
        Command,
        DeviceApprove,
        DeviceList,
        DeviceRegister,
        DeviceReject,
        DeviceResolve,
        DeviceRevoke,
        DeviceShow,
        EnrolmentList,
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
        Admission,
        AttemptSummary,
        AuditLink,
        AuditPage,
        CampaignDetail,
        CampaignPage,
        CampaignSummary,
        CampaignTerms,
        ClaimPage,
        ClaimSummary,
        DeviceDetail,
        DevicePage,
        DeviceSummary,
        EnrolmentPage,
        EnrolmentSummary,
        ReleaseSummary,
        UploadState,
    )

__all__ = [
    "LOOKS",
    "REQUESTS",
    "RESULTS",
    "ROLES",
    "Ack",
    "Admission",
    "Assignment",
    "AttemptSummary",
    "AuditLink",
    "AuditList",
    "AuditPage",
    "BootPair",
    "BrokerAddress",
    "CampaignAbort",
    "CampaignApprove",
    "CampaignDetail",
    "CampaignList",
    "CampaignPage",
    "CampaignShow",
    "CampaignStart",
    "CampaignSummary",
    "CampaignTerms",
    "ClaimCreate",
    "ClaimList",
    "ClaimPage",
    "ClaimRevoke",
    "ClaimSummary",
    "Command",
    "ComponentRule",
    "Delivery",
    "DeviceApprove",
    "DeviceDetail",
    "DeviceList",
    "DevicePage",
    "DeviceRegister",
    "DeviceReject",
    "DeviceResolve",
    "DeviceRevoke",
    "DeviceShow",
    "DeviceSummary",
    "EnrolmentList",
    "EnrolmentOutcome",
    "EnrolmentPage",
    "EnrolmentReply",
    "EnrolmentRequest",
    "EnrolmentSummary",
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
    "claim_key",
    "open_request",
    "open_signed",
    "sign_model",
]


def __getattr__(name: str) -> object:
    """PEP 562: import what is not here yet."""
    if name in __all__:
        for module in ("operator", "results", "enrolment"):
            found: object = getattr(import_module(f".{module}", __name__), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

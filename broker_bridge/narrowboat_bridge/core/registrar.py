"""What operators decide about claims, keys and names.

Every request can be repeated without harm. What is revoked stays revoked: a registration of a revoked key is never
approved again, and the name is free for another key. Taking a name from one key for another revokes the first.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from narrowboat_protocol.documents import (
    Admission,
    ClaimCreate,
    ClaimList,
    ClaimRevoke,
    DeviceApprove,
    DeviceRegister,
    DeviceReject,
    DeviceResolve,
    DeviceRevoke,
    EnrolmentList,
    Request,
)
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.model import Document

from . import views
from .actions import Record, Refusal, RevokeCertificates, StoreClaim, StoreRegistration, Turn
from .changes import Changes
from .events import CommandAccepted, Now
from .records import Claim, Registration
from .sight import Sight

CLAIMS_MAX = 10_000
REQUESTS = (
    ClaimCreate,
    ClaimList,
    ClaimRevoke,
    EnrolmentList,
    DeviceRegister,
    DeviceApprove,
    DeviceReject,
    DeviceRevoke,
    DeviceResolve,
)
"""What `carry_out` carries out."""


class Registrar:
    """Operators' decisions, made on the shared ledger."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._ledger = changes.ledger

    def carry_out(self, command: CommandAccepted, now: Now, turn: Turn) -> Document | Refusal:
        """Do what is asked, or say why not. The result is the document that the verb promises."""
        return self._out_of_scope(command) or self._decide(command.request, command.operator, now, turn)

    def _decide(self, request: Request, operator: str, now: Now, turn: Turn) -> Document | Refusal:
        match request:
            case ClaimCreate():
                return self._create_claim(request, operator, now, turn)
            case ClaimRevoke(claim=name):
                return self._revoke_claim(name, operator, turn)
            case ClaimList(after=after, limit=limit):
                return views.claim_page(self._ledger, after, limit)
            case EnrolmentList(after=kid, limit=limit):
                return views.enrolment_page(self._ledger, kid, limit)
            case DeviceRegister(device=name, kid=kid):
                return self._register(name, kid, operator, turn)
            case DeviceApprove():
                return self._approve(request, operator, turn)
            case DeviceReject(kid=kid):
                return self._reject(kid, operator, turn)
            case DeviceRevoke(device=name):
                return self._revoke(name, operator, turn)
            case DeviceResolve(device=name):
                return self._resolve(name, operator, now, turn)
            case _:
                return Refusal(Reason.BAD_USE, "expected a request about claims or keys, got another")

    def _out_of_scope(self, command: CommandAccepted) -> Refusal | None:
        """Who belongs to the fleet is the fleet's affair; a device in sight may be stopped, or let go on."""
        request = command.request
        if command.scope is None:
            return None
        if not isinstance(request, DeviceRevoke | DeviceResolve):
            return Refusal(Reason.NOT_PERMITTED, "your scope is not the whole fleet; ask an operator without one")
        if Sight(self._ledger, command.operator, command.scope).device(request.device) is None:
            return Refusal(Reason.UNKNOWN_DEVICE, f"expected a device that is heard, got {request.device}")
        return None

    def _create_claim(self, request: ClaimCreate, operator: str, now: Now, turn: Turn) -> Document | Refusal:
        digest = hashlib.sha256(request.encode()).digest()
        known = self._ledger.claims.get(request.claim)
        if known is not None:
            if known.digest == digest:
                return views.claim_summary(known)
            return Refusal(Reason.CONFLICT, f"a claim {known.name} with other content exists; choose another name")
        if len(self._ledger.claims) >= CLAIMS_MAX:
            return Refusal(Reason.BUSY, f"expected at most {CLAIMS_MAX} claims; this bridge takes no more")
        claim = Claim(
            name=request.claim,
            digest=digest,
            count=request.count,
            used=0,
            expires_at=request.expires_at,
            kids=request.keys,
            listed=bool(request.keys),
            admits=request.admits,
            revoked=False,
            created_at=now.wall_s,
            created_by=operator,
        )
        return self._put_claim(claim, "claim created", operator, turn)

    def _revoke_claim(self, name: str, operator: str, turn: Turn) -> Document | Refusal:
        claim = self._ledger.claims.get(name)
        if claim is None:
            return Refusal(Reason.UNKNOWN_KEY, f"expected a claim of this bridge, got {name}; check the name")
        if claim.revoked:
            return views.claim_summary(claim)
        return self._put_claim(replace(claim, revoked=True), "claim revoked", operator, turn)

    def _put_claim(self, claim: Claim, what: str, operator: str, turn: Turn) -> Document:
        self._ledger.claims[claim.name] = claim
        turn.write(StoreClaim(claim), Record(what, operator, {"claim": claim.name}))
        return views.claim_summary(claim)

    def _register(self, name: str, kid: bytes, operator: str, turn: Turn) -> Document | Refusal:
        known = self._ledger.registration_of_key(kid)
        if known is not None and (known.device, known.admission) == (name, Admission.APPROVED):
            return views.enrolment_summary(known)
        if known is not None:
            return Refusal(Reason.CONFLICT, f"expected an unknown key, got one that is {known.admission}")
        if self._ledger.key_of(name) not in (None, kid):
            return _taken(name)
        made = Registration(kid=kid, kids=(kid,), admission=Admission.APPROVED, device=name)
        return self._put(made, "device registered", operator, turn)

    def _approve(self, request: DeviceApprove, operator: str, turn: Turn) -> Document | Refusal:
        known = self._ledger.registration_of_key(request.kid)
        if known is None:
            return _unknown_key(request.kid)
        name = request.device or known.device
        if known.admission is Admission.APPROVED and known.device == name:
            return views.enrolment_summary(known)
        if known.admission not in (Admission.PENDING, Admission.REJECTED):
            return Refusal(Reason.CONFLICT, f"expected a key that waits, got one that is {known.admission}")
        if self._ledger.key_of(name) not in (None, *known.kids):
            if not request.replace:
                return _taken(name)
            self._revoke(name, operator, turn)
        approved = replace(known, admission=Admission.APPROVED, device=name)
        return self._put(approved, "device approved", operator, turn)

    def _reject(self, kid: bytes, operator: str, turn: Turn) -> Document | Refusal:
        known = self._ledger.registration_of_key(kid)
        if known is None:
            return _unknown_key(kid)
        if known.admission is Admission.REJECTED:
            return views.enrolment_summary(known)
        if known.admission is not Admission.PENDING:
            return Refusal(Reason.CONFLICT, f"expected a key that waits, got one that is {known.admission}; revoke it")
        return self._put(replace(known, admission=Admission.REJECTED), "device rejected", operator, turn)

    def _revoke(self, name: str, operator: str, turn: Turn) -> Document | Refusal:
        kid, device = self._ledger.key_of(name), self._ledger.devices.get(name)
        if kid is None and (before := self._ledger.revoked_under(name)) is not None:
            return views.enrolment_summary(before)
        if kid is None:
            return Refusal(Reason.UNKNOWN_DEVICE, f"expected a device that is registered or has said hello, got {name}")
        known = self._ledger.registered(name) or Registration(kid, (kid,), Admission.APPROVED, name)
        kids = dict.fromkeys((*known.kids, *([device.key.kid] if device else [])))
        revoked = replace(known, kids=tuple(kids), admission=Admission.REVOKED)
        turn.write(RevokeCertificates(revoked.kids, device.hello.certificate if device else None))
        self._put(revoked, "device revoked", operator, turn)
        if device is not None:
            self._changes.put_device(replace(device, stopped=True), turn)
            self._changes.schedule.drop(name)
        return views.enrolment_summary(revoked)

    def _resolve(self, name: str, operator: str, now: Now, turn: Turn) -> Document | Refusal:
        device = self._ledger.devices.get(name)
        if device is None or self._ledger.is_revoked(device.key.kid):
            return Refusal(Reason.UNKNOWN_DEVICE, f"expected a device that is heard and not revoked, got {name}")
        if device.stopped:
            self._changes.put_device(replace(device, stopped=False, alarmed_at=0), turn)
            turn.write(Record("alarm resolved", operator, {"device": name}))
            self._changes.schedule.at(name, now.monotonic_s)
        return views.device_summary(self._ledger, self._ledger.devices[name])

    def _put(self, registration: Registration, what: str, operator: str, turn: Turn) -> Document:
        self._ledger.put_registration(registration)
        facts: dict[str, str | int] = {"device": registration.device, "key": registration.kid.hex()}
        turn.write(StoreRegistration(registration), Record(what, operator, facts))
        return views.enrolment_summary(registration)


def _taken(name: str) -> Refusal:
    return Refusal(Reason.CONFLICT, f"{name} is another key's; choose another name, or replace that key")


def _unknown_key(kid: bytes) -> Refusal:
    return Refusal(Reason.UNKNOWN_KEY, f"expected a key that asked or was registered, got {kid.hex()}")

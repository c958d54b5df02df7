"""Who becomes a device: what a key that asks is given, decided from what operators said before.

A registration belongs to the key that a gateway made, or to the one that an operator registered for it. It is looked
for by the thumbprints of all keys that signed a request, so a registered birth key finds it as well as the operational
one, at any age and by whatever claim the request came. What there is decides:

    approved    a certificate, under the name of the registration
    pending     wait; an operator decides
    rejected    refused, until an operator approves it after all
    revoked     refused, for good
    none        the claim decides. Within its limits it admits, if it was made to or lists one of the keys, and the name
                is free; else the key waits. A claim that is spent, over, revoked or unknown refuses.

A name belongs to one key. A claim is spent by each key that it let in or made to wait, so unknown keys are bounded by
the claims that they come by; a listed key counts once and vouches for nothing later. Nor does any other key that
signs the first request beside the gateway's own: nobody knows whether two gateways have it. A device whose certificate
was made by hand has no registration until it asks to renew, on its own topic, under the key that its hello pinned.

A gateway whose key is in a token may need another one for TLS. That key asks under its own name for a certificate that
only connects, and the device's present key vouches for it. It is registered nowhere, so it signs and renews nothing.

A certificate that is young is given again, so a request that is repeated costs no serial number. One for another key
is given once in a while only: each stands in the audit log and on the list of what is revoked for ever, and whoever has
two keys of one device could ask under them in turn.
"""

from __future__ import annotations

from dataclasses import replace

from narrowboat_protocol.documents import Admission, EnrolmentOutcome, EventKind
from narrowboat_protocol.documents.enrolment import CERTIFICATE_DAYS
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.topics import Party

from .actions import AnswerEnrolment, Emit, IssueCertificate, Record, Refusal, StoreClaim, StoreRegistration, Turn
from .changes import Changes
from .events import EnrolmentRequested, Now
from .records import Claim, Registration

NEVER_S = 1 << 40
CERTIFICATE_S = CERTIFICATE_DAYS * 86_400
YOUNG_S = CERTIFICATE_S // 4
OTHER_KEY_S = 600
ASK_AGAIN_PENDING_S = 600
ASK_AGAIN_REFUSED_S = 6 * 3600
_NAME_DIGITS = 12
KIDS_MAX = 16
"""Of a registration. They are what revoking it takes back, so none is ever dropped."""

TOO_MANY_KEYS = Refusal(
    Reason.NOT_PERMITTED, f"expected at most {KIDS_MAX} keys of a device; revoke it, and register it anew"
)
AUTHORITY_ENDED = Refusal(Reason.EXPIRED, "the device authority of this fleet has ended; its owner has to replace it")


class Admissions:
    """Decisions about keys that ask, made on the shared ledger."""

    def __init__(self, changes: Changes, authority_ends_s: int) -> None:
        self._changes = changes
        self._ledger = changes.ledger
        self._authority_ends_s = authority_ends_s
        self._connecting: dict[bytes, tuple[bytes, int]] = {}
        """By the first key of a registration: the newest key that connects for it, and when it was certified. A bridge
        that starts anew has forgotten it, and gives each one certificate more.
        """

    def take_request(self, event: EnrolmentRequested, now: Now, turn: Turn) -> None:
        if now.wall_s >= self._authority_ends_s:
            self._refuse(event, AUTHORITY_ENDED, now, turn)
            return
        if event.connects_only:
            self._let_connect(event, now, turn)
            return
        known = self._registration_of(event) or self._register(event, now, turn)
        if isinstance(known, Refusal):
            self._refuse(event, known, now, turn)
        elif event.party is Party.DEVICE and known.device != event.name:
            self._refuse(event, Refusal(Reason.WRONG_DEVICE, "the key is another device's"), now, turn)
        elif known.admission is Admission.APPROVED:
            self._issue(known, event, now, turn)
        elif known.admission is Admission.PENDING:
            refusal = Refusal(Reason.NOT_PERMITTED, f"an operator decides on key {event.key.kid.hex()}")
            ask_again_at = now.wall_s + ASK_AGAIN_PENDING_S
            turn.say(AnswerEnrolment(event, EnrolmentOutcome.PENDING, now.wall_s, None, refusal, ask_again_at))
        else:
            self._refuse(event, Refusal(Reason.NOT_PERMITTED, f"this key was {known.admission}"), now, turn)

    def _registration_of(self, event: EnrolmentRequested) -> Registration | None:
        """What is known of the key that asks, and else of one that vouches for it."""
        kids = (event.key.kid, *sorted(event.kids))
        found = (self._ledger.registration_of_key(kid) for kid in kids)
        return next((registration for registration in found if registration is not None), None)

    def _register(self, event: EnrolmentRequested, now: Now, turn: Turn) -> Registration | Refusal:
        """The first request of a key."""
        if event.party is Party.DEVICE:
            return self._adopt(event, now, turn)
        claim = self._ledger.claims.get(event.name)
        refusal = _unfit(claim, event, now)
        if claim is None or refusal is not None:
            return refusal or _no_claim()
        name = event.wish or f"gw-{event.key.kid.hex()[:_NAME_DIGITS]}"
        taken = self._ledger.key_of(name) is not None
        admitted = not taken and (claim.admits or claim.listed)
        made = Registration(
            kid=event.key.kid,
            kids=(event.key.kid,),
            admission=Admission.APPROVED if admitted else Admission.PENDING,
            device=name,
            claim=claim.name,
            serial=event.serial,
            asked_at=now.wall_s,
        )
        self._put(made, turn)
        unspent = tuple(kid for kid in claim.kids if kid not in event.kids)
        spent = replace(claim, used=claim.used + 1, kids=unspent)
        self._ledger.claims[claim.name] = spent
        turn.write(StoreClaim(spent))
        facts: dict[str, str | int] = {"key": made.kid.hex(), "claim": claim.name}
        turn.write(Record("device enrolled" if admitted else "enrolment waits", name, facts))
        detail = "enrolled" if admitted else "waits: the name is another key's" if taken else "waits for an operator"
        turn.say(Emit(EventKind.ENROLMENT, device=name, detail=f"{detail}; key {made.kid.hex()}"))
        return made

    def _adopt(self, event: EnrolmentRequested, now: Now, turn: Turn) -> Registration | Refusal:
        if self._ledger.key_of(event.name) != event.key.kid:
            return Refusal(Reason.UNKNOWN_KEY, "expected the key of the device that the topic names, got another")
        made = Registration(
            kid=event.key.kid,
            kids=(event.key.kid,),
            admission=Admission.APPROVED,
            device=event.name,
            serial=event.serial,
            asked_at=now.wall_s,
        )
        self._put(made, turn)
        return made

    def _issue(self, known: Registration, event: EnrolmentRequested, now: Now, turn: Turn) -> None:
        """The key that asked is the device's from now on: one that was registered, or that such a key vouches for."""
        age_s = None if known.certified_at is None else now.wall_s - known.certified_at
        if known.kid != event.key.kid and age_s is not None and 0 <= age_s < OTHER_KEY_S:
            self._refuse(event, _too_soon(), now, turn, after_s=OTHER_KEY_S - age_s)
            return
        kids = known.kids if event.key.kid in known.kids else (*known.kids, event.key.kid)
        if len(kids) > KIDS_MAX:
            self._refuse(event, TOO_MANY_KEYS, now, turn)
            return
        asked = replace(known, kid=event.key.kid, kids=kids, asked_at=now.wall_s, serial=event.serial or known.serial)
        young = age_s is not None and 0 <= age_s < YOUNG_S
        if not young or known.kid != event.key.kid:
            ends_s = min(now.wall_s + CERTIFICATE_S, self._authority_ends_s)
            asked = replace(asked, certified_at=now.wall_s, expires_at=ends_s)
            turn.write(IssueCertificate(asked.device, event.key, now.wall_s))
            turn.write(Record("certificate issued", asked.device, {"key": asked.kid.hex()}))
        self._put(asked, turn)
        turn.say(AnswerEnrolment(event, EnrolmentOutcome.ISSUED, now.wall_s, asked.device))

    def _let_connect(self, event: EnrolmentRequested, now: Now, turn: Turn) -> None:
        """A certificate for a key that a device's present key vouches for."""
        vouching = (self._ledger.registration_of_key(kid) for kid in sorted(event.kids - {event.key.kid}))
        known = next((each for each in vouching if each is not None and each.kid in event.kids), None)
        refusal = self._unfit_to_connect(known, event)
        if known is None or refusal is not None:
            self._refuse(event, refusal or _no_voucher(), now, turn)
            return
        kid, certified_at = self._connecting.get(known.kids[0], (b"", 0))
        age_s = now.wall_s - certified_at
        if kid != event.key.kid and 0 <= age_s < OTHER_KEY_S:
            self._refuse(event, _too_soon(), now, turn, after_s=OTHER_KEY_S - age_s)
            return
        if kid != event.key.kid or not 0 <= age_s < YOUNG_S:
            self._connecting[known.kids[0]] = (event.key.kid, now.wall_s)
            turn.write(IssueCertificate(known.device, event.key, now.wall_s, voucher=known.kid))
            turn.write(Record("connection certified", known.device, {"key": event.key.kid.hex()}))
        turn.say(AnswerEnrolment(event, EnrolmentOutcome.ISSUED, now.wall_s, known.device))

    def _unfit_to_connect(self, known: Registration | None, event: EnrolmentRequested) -> Refusal | None:
        if known is None:
            return _no_voucher()
        if event.party is Party.DEVICE and known.device != event.name:
            return Refusal(Reason.WRONG_DEVICE, "the key that vouches is another device's")
        if known.admission is not Admission.APPROVED:
            return Refusal(Reason.NOT_PERMITTED, f"the key that vouches is {known.admission}")
        if self._ledger.registration_of_key(event.key.kid) is not None:
            return Refusal(Reason.CONFLICT, "expected a key that only connects, got one that is registered")
        return None

    def _refuse(
        self, event: EnrolmentRequested, refusal: Refusal, now: Now, turn: Turn, *, after_s: int = ASK_AGAIN_REFUSED_S
    ) -> None:
        ask_again_at = now.wall_s + after_s
        turn.say(AnswerEnrolment(event, EnrolmentOutcome.REFUSED, now.wall_s, None, refusal, ask_again_at))

    def _put(self, registration: Registration, turn: Turn) -> None:
        self._ledger.put_registration(registration)
        turn.write(StoreRegistration(registration))


def _unfit(claim: Claim | None, event: EnrolmentRequested, now: Now) -> Refusal | None:
    """Why a claim lets this key neither in nor wait."""
    if claim is None or claim.revoked:
        return _no_claim()
    if claim.expires_at is not None and now.wall_s >= claim.expires_at:
        return Refusal(Reason.EXPIRED, f"claim {claim.name} is over")
    if claim.used >= claim.count:
        return Refusal(Reason.NOT_PERMITTED, f"claim {claim.name} is spent")
    if claim.listed and not event.kids & set(claim.kids):
        return Refusal(Reason.UNKNOWN_KEY, f"claim {claim.name} lists none of the keys that signed, or no longer")
    return None


def _too_soon() -> Refusal:
    return Refusal(Reason.BUSY, f"expected one key in {OTHER_KEY_S} s, and another has just been certified")


def _no_voucher() -> Refusal:
    return Refusal(Reason.UNKNOWN_KEY, "expected a registered device's present key to vouch for one that connects")


def _no_claim() -> Refusal:
    return Refusal(Reason.UNKNOWN_KEY, "expected a registered key, or a claim that an operator made")

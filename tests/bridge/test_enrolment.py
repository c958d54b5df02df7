"""Who becomes a device: claims within their limits, names that stay with their keys, and what revocation takes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count

import pytest

from narrowboat_bridge.core.actions import (
    Action,
    Answer,
    AnswerEnrolment,
    IssueCertificate,
    Refusal,
    RevokeCertificates,
    StoreClaim,
    StoreRegistration,
)
from narrowboat_bridge.core.admission import CERTIFICATE_S, KIDS_MAX, OTHER_KEY_S
from narrowboat_bridge.core.campaigns import Campaigns, Settings
from narrowboat_bridge.core.events import CommandAccepted, EnrolmentRequested, Now, Restored
from narrowboat_bridge.core.records import Registration
from narrowboat_protocol.documents import (
    Admission,
    ClaimCreate,
    ClaimRevoke,
    DeviceApprove,
    DeviceRegister,
    DeviceReject,
    DeviceRevoke,
    EnrolmentOutcome,
    EnrolmentSummary,
    Request,
    Scope,
)
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.keys import Algorithm, PrivateKey, PublicKey
from narrowboat_protocol.model import Document
from narrowboat_protocol.topics import Party
from tests.bridge.world import World, answer, key_of

NOW_S = 1_800_000_000
ISSUED, PENDING, REFUSED = EnrolmentOutcome.ISSUED, EnrolmentOutcome.PENDING, EnrolmentOutcome.REFUSED


def new_key() -> PublicKey:
    return PrivateKey.generate(Algorithm.ESP256).public


@dataclass
class Registry:
    """A core of its own, with what it stored."""

    core: Campaigns = field(default_factory=lambda: Campaigns(Settings(1)))
    now_s: int = NOW_S
    written: list[Action] = field(default_factory=list)
    numbers: count[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        self.core.handle(Restored(), Now(0.0, self.now_s))

    def order(self, request: Request, scope: Scope | None = None) -> Document | Refusal:
        event = CommandAccepted("anna", bytes(32), scope, next(self.numbers).to_bytes(16, "big"), request)
        actions = self._handle(event)
        return next(action.outcome for action in actions if isinstance(action, Answer))

    def ask(
        self, key: PublicKey, claim: str = "batch", *vouchers: PublicKey, wish: str | None = None,
        party: Party = Party.ENROLMENT, connects_only: bool = False,
    ) -> AnswerEnrolment:  # fmt: skip
        kids = frozenset(each.kid for each in (key, *vouchers))
        actions = self._handle(EnrolmentRequested(party, claim, key, kids, bytes(16), wish, None, connects_only))
        return next(action for action in actions if isinstance(action, AnswerEnrolment))

    @property
    def issued(self) -> int:
        return sum(isinstance(action, IssueCertificate) for action in self.written)

    @property
    def registrations(self) -> list[StoreRegistration]:
        return [action for action in self.written if isinstance(action, StoreRegistration)]

    def started_anew(self) -> Registry:
        """What a bridge knows that is started on what this one stored."""
        claims = {action.claim.name: action.claim for action in self.written if isinstance(action, StoreClaim)}
        stored = [action.registration for action in self.written if isinstance(action, StoreRegistration)]
        registrations = {registration.kids[0]: registration for registration in stored}
        other = Registry(now_s=self.now_s)
        other.core = Campaigns(Settings(1))
        restored = Restored(claims=tuple(claims.values()), registrations=tuple(registrations.values()))
        other.core.handle(restored, Now(0.0, self.now_s))
        return other

    def _handle(self, event: CommandAccepted | EnrolmentRequested) -> list[Action]:
        actions = self.core.handle(event, Now(0.0, self.now_s))
        self.written += actions
        return actions


def reason_of(answer: AnswerEnrolment | Document | Refusal) -> Reason | None:
    refusal = answer.refusal if isinstance(answer, AnswerEnrolment) else answer
    return refusal.reason if isinstance(refusal, Refusal) else None


def test_a_claim_that_admits_lets_in_as_many_keys_as_it_says_and_each_of_them_again() -> None:
    registry, keys = Registry(), [new_key() for _ in range(3)]
    registry.order(ClaimCreate(claim="batch", count=2, admits=True))
    assert [registry.ask(key).outcome for key in keys] == [ISSUED, ISSUED, REFUSED]
    again = registry.started_anew()
    assert [again.ask(key).outcome for key in keys] == [ISSUED, ISSUED, REFUSED]


def test_a_certificate_that_is_young_is_given_again_and_costs_no_serial_number() -> None:
    registry, key = Registry(), new_key()
    registry.order(ClaimCreate(claim="batch", count=1, admits=True))
    for _ in range(5):
        assert registry.ask(key).outcome is ISSUED
    assert registry.issued == 1


REFUSING: dict[str, tuple[ClaimCreate | None, Callable[[Registry], object], Reason]] = {
    "no claim": (None, lambda _: None, Reason.UNKNOWN_KEY),
    "a claim that is over": (
        ClaimCreate(claim="batch", count=9, expires_at=NOW_S, admits=True), lambda _: None, Reason.EXPIRED,
    ),
    "a claim that was revoked": (
        ClaimCreate(claim="batch", count=9, admits=True),
        lambda registry: registry.order(ClaimRevoke(claim="batch")), Reason.UNKNOWN_KEY,
    ),
    "a claim for other keys": (
        ClaimCreate(claim="batch", count=9, keys=(new_key().kid,)), lambda _: None, Reason.UNKNOWN_KEY,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("claim", "prepare", "reason"), REFUSING.values(), ids=REFUSING)
def test_a_claim_beyond_its_limits_lets_nobody_in(
    claim: ClaimCreate | None, prepare: Callable[[Registry], object], reason: Reason
) -> None:
    registry = Registry()
    if claim is not None:
        registry.order(claim)
    prepare(registry)
    answer = registry.ask(new_key())
    assert (answer.outcome, reason_of(answer)) == (REFUSED, reason)
    assert registry.issued == 0


def test_a_claim_secret_admits_one_key_once() -> None:
    """Whoever finds the secret later, in a scrapped gateway, enrols nothing with it."""
    registry, secret = Registry(), new_key()
    registry.order(ClaimCreate(claim="batch", count=9, keys=(secret.kid,)))
    honest, thief = new_key(), new_key()
    assert registry.ask(honest, "batch", secret).outcome is ISSUED
    assert registry.ask(thief, "batch", secret).outcome is REFUSED
    assert registry.started_anew().ask(thief, "batch", secret).outcome is REFUSED


def test_a_key_that_nobody_admitted_waits_for_an_operator_who_may_say_yes_or_no() -> None:
    registry, first, second = Registry(), new_key(), new_key()
    registry.order(ClaimCreate(claim="batch", count=9))
    assert registry.ask(first, wish="gw-1").outcome is PENDING
    assert registry.ask(second, wish="gw-2").outcome is PENDING
    registry.order(DeviceApprove(kid=first.kid))
    registry.order(DeviceReject(kid=second.kid))
    assert (registry.ask(first).outcome, registry.ask(first).device) == (ISSUED, "gw-1")
    assert registry.ask(second).outcome is REFUSED
    registry.order(DeviceApprove(kid=second.kid, device="gw-3"))
    assert registry.ask(second).device == "gw-3"


def test_a_key_that_was_registered_is_admitted_without_a_claim_and_so_is_what_it_vouches_for() -> None:
    registry, birth, own = Registry(), new_key(), new_key()
    registry.order(DeviceRegister(device="gw-1", kid=birth.kid))
    answer = registry.ask(own, "anything", birth, wish="gw-9")
    assert (answer.outcome, answer.device) == (ISSUED, "gw-1")
    assert registry.ask(own, "anything").outcome is ISSUED


def test_a_name_is_its_keys_after_a_restart_whichever_of_its_keys_the_store_names_first() -> None:
    registry, waiting, revoked = Registry(), new_key(), new_key()
    registry.order(ClaimCreate(claim="batch", count=1))
    assert registry.ask(waiting, wish="gw-1").outcome is PENDING
    registry.order(DeviceRegister(device="gw-1", kid=revoked.kid))
    registry.order(DeviceApprove(kid=waiting.kid, replace=True))
    for bridge in (registry, registry.started_anew()):
        assert reason_of(bridge.order(DeviceRegister(device="gw-1", kid=new_key().kid))) is Reason.CONFLICT


def test_a_device_that_asks_under_two_keys_in_turn_fills_no_log_that_nobody_can_prune() -> None:
    registry, birth, first, second = Registry(), new_key(), new_key(), new_key()
    registry.order(DeviceRegister(device="gw-1", kid=birth.kid))
    answers = [registry.ask(key, "anything", birth) for key in (first, second) * 50]
    assert [answer.outcome for answer in answers] == [ISSUED, REFUSED] * 50
    assert (reason_of(answers[1]), answers[1].ask_again_at) == (Reason.BUSY, NOW_S + OTHER_KEY_S)
    assert registry.issued == 1
    registry.now_s += OTHER_KEY_S
    assert registry.ask(second, "anything", birth).outcome is ISSUED


def test_a_name_that_was_registered_for_another_devices_key_is_free_once_that_is_revoked() -> None:
    world = World()
    world.hello("gw-1")
    world.command(DeviceRegister(device="gw-2", kid=key_of("gw-1").kid))
    world.command(DeviceRevoke(device="gw-1"))
    registered = answer(world.command(DeviceRegister(device="gw-2", kid=new_key().kid)))
    assert isinstance(registered, EnrolmentSummary)


@pytest.mark.parametrize("order", [1, -1])
def test_what_was_revoked_twice_is_revoked_after_a_restart(order: int) -> None:
    """The device was heard under its first key only, so that goes with the second one too."""
    first, second, other = new_key().kid, new_key().kid, new_key().kid
    rows = (
        Registration(first, (first,), Admission.REVOKED, "gw-1"),
        Registration(second, (second, first), Admission.REVOKED, "gw-1"),
        Registration(other, (other, first), Admission.APPROVED, "gw-2"),
    )
    core = Campaigns(Settings(1))
    core.handle(Restored(registrations=rows[::order]), Now(0.0, NOW_S))
    assert [core.is_revoked(kid) for kid in (first, second, other)] == [True, True, False]


def test_a_name_is_not_given_to_a_second_key_until_an_operator_decides() -> None:
    registry, first, second = Registry(), new_key(), new_key()
    registry.order(ClaimCreate(claim="batch", count=9, admits=True))
    assert registry.ask(first, wish="gw-1").outcome is ISSUED
    assert registry.ask(second, wish="gw-1").outcome is PENDING
    assert reason_of(registry.order(DeviceApprove(kid=second.kid))) is Reason.CONFLICT
    assert registry.ask(second).outcome is PENDING
    registry.order(DeviceApprove(kid=second.kid, replace=True))
    assert registry.ask(second).device == "gw-1"
    assert registry.ask(first).outcome is REFUSED
    assert registry.core.is_revoked(first.kid)


@pytest.mark.parametrize("age_s", [CERTIFICATE_S * 2 // 3, CERTIFICATE_S - 1, 20 * CERTIFICATE_S])
def test_a_registered_key_renews_at_any_age_by_a_claim_that_is_long_over(age_s: int) -> None:
    registry, key = Registry(), new_key()
    registry.order(ClaimCreate(claim="batch", count=1, expires_at=NOW_S + 60, admits=True))
    registry.ask(key)
    registry.now_s += age_s
    assert registry.ask(key).outcome is ISSUED
    assert registry.issued == 2


def test_what_is_revoked_stays_so_and_its_name_is_free() -> None:
    registry, key, other = Registry(), new_key(), new_key()
    registry.order(DeviceRegister(device="gw-1", kid=key.kid))
    assert registry.ask(key).outcome is ISSUED
    revoked = registry.order(DeviceRevoke(device="gw-1"))
    assert isinstance(revoked, EnrolmentSummary)
    assert revoked.admission is Admission.REVOKED
    assert any(isinstance(action, RevokeCertificates) for action in registry.written)
    assert registry.ask(key).outcome is REFUSED
    assert reason_of(registry.order(DeviceApprove(kid=key.kid))) is Reason.CONFLICT
    assert registry.started_anew().core.is_revoked(key.kid)
    registry.order(DeviceRegister(device="gw-1", kid=other.kid))
    assert registry.ask(other).device == "gw-1"


def test_two_gateways_with_one_secret_are_not_one_gateway() -> None:
    """The secret was never listed; an image may have brought it, or one birth key, to any number of them."""
    registry, secret = Registry(), new_key()
    registry.order(ClaimCreate(claim="batch", count=9, admits=True))
    first, second = (registry.ask(new_key(), "batch", secret, wish=wish) for wish in ("gw-1", "gw-2"))
    assert (first.device, second.device) == ("gw-1", "gw-2")
    assert registry.ask(new_key(), "batch", secret, wish="gw-1").outcome is PENDING


def test_a_device_has_a_bounded_number_of_keys_and_every_one_is_revoked_with_it() -> None:
    registry, birth = Registry(), new_key()
    registry.order(DeviceRegister(device="gw-1", kid=birth.kid))
    keys = [new_key() for _ in range(KIDS_MAX)]
    answers = []
    for key in keys:
        answers.append(registry.ask(key, "batch", birth))
        registry.now_s += OTHER_KEY_S
    assert [answer.outcome for answer in answers] == [*[ISSUED] * (KIDS_MAX - 1), REFUSED]
    assert reason_of(answers[-1]) is Reason.NOT_PERMITTED
    registry.order(DeviceRevoke(device="gw-1"))
    (taken_back,) = [action.kids for action in registry.written if isinstance(action, RevokeCertificates)]
    assert set(taken_back) == {key.kid for key in (birth, *keys[:-1])}
    for bridge in (registry, registry.started_anew()):
        assert all(bridge.core.is_revoked(kid) for kid in taken_back)
        assert not bridge.core.is_revoked(keys[-1].kid)


def test_an_authority_that_has_ended_makes_nobody_a_device_and_its_certificates_end_with_it() -> None:
    registry, early, late = Registry(Campaigns(Settings(1, authority_ends_s=NOW_S + 60))), new_key(), new_key()
    registry.order(ClaimCreate(claim="batch", count=9, admits=True))
    assert registry.ask(early).outcome is ISSUED
    registered = [action.registration for action in registry.written if isinstance(action, StoreRegistration)]
    assert registered[-1].expires_at == NOW_S + 60
    registry.now_s += 60
    for key in (early, late):
        answer = registry.ask(key)
        assert (answer.outcome, reason_of(answer)) == (REFUSED, Reason.EXPIRED)
    assert registry.issued == 1


def test_a_device_renews_for_itself_and_for_no_other() -> None:
    registry, key, other = Registry(), new_key(), new_key()
    registry.order(DeviceRegister(device="gw-1", kid=key.kid))
    registry.order(DeviceRegister(device="gw-2", kid=other.kid))
    assert registry.ask(key, "gw-1", party=Party.DEVICE).outcome is ISSUED
    assert reason_of(registry.ask(key, "gw-2", party=Party.DEVICE)) is Reason.WRONG_DEVICE
    assert reason_of(registry.ask(new_key(), "gw-1", party=Party.DEVICE)) is Reason.UNKNOWN_KEY


def test_a_claim_is_made_once() -> None:
    registry = Registry()
    wanted = ClaimCreate(claim="batch", count=2, keys=(new_key().kid,))
    assert registry.order(wanted) == registry.order(wanted)
    assert reason_of(registry.order(ClaimCreate(claim="batch", count=3))) is Reason.CONFLICT


def test_an_operator_with_a_scope_decides_nothing_about_who_belongs_to_the_fleet() -> None:
    registry, key = Registry(), new_key()
    scope = Scope(devices=("gw-1",))
    for request in (
        ClaimCreate(claim="batch", count=1, admits=True),
        DeviceRegister(device="gw-1", kid=key.kid),
        DeviceApprove(kid=key.kid),
    ):
        assert reason_of(registry.order(request, scope)) is Reason.NOT_PERMITTED
    assert reason_of(registry.order(DeviceRevoke(device="gw-2"), scope)) is Reason.UNKNOWN_DEVICE
    assert registry.ask(key).outcome is REFUSED


# A key that only connects, beside one in a token that signs.


def with_a_device() -> tuple[Registry, PublicKey]:
    registry, own = Registry(), new_key()
    registry.order(DeviceRegister(device="gw-1", kid=own.kid))
    return registry, own


def test_a_device_vouches_for_a_key_that_connects_and_stays_who_it_is() -> None:
    registry, own = with_a_device()
    connecting = new_key()
    answer = registry.ask(connecting, "anything", own, connects_only=True)
    assert (answer.outcome, answer.device) == (ISSUED, "gw-1")
    (issued,) = [action for action in registry.written if isinstance(action, IssueCertificate)]
    assert (issued.device, issued.key, issued.voucher) == ("gw-1", connecting, own.kid)
    assert registry.ask(own).outcome is ISSUED
    assert not any(connecting.kid in action.registration.kids for action in registry.registrations)


def test_a_key_that_connects_is_given_its_certificate_again_and_renewed_when_that_is_old() -> None:
    registry, own = with_a_device()
    connecting = new_key()
    for _ in range(3):
        registry.ask(connecting, "gw-1", own, party=Party.DEVICE, connects_only=True)
    assert registry.issued == 1
    registry.now_s += CERTIFICATE_S - 1
    registry.ask(connecting, "gw-1", own, party=Party.DEVICE, connects_only=True)
    assert registry.issued == 2


def test_a_device_is_not_given_certificates_for_one_connecting_key_after_the_other() -> None:
    registry, own = with_a_device()
    assert registry.ask(new_key(), "anything", own, connects_only=True).outcome is ISSUED
    assert reason_of(registry.ask(new_key(), "anything", own, connects_only=True)) is Reason.BUSY
    registry.now_s += OTHER_KEY_S
    assert registry.ask(new_key(), "anything", own, connects_only=True).outcome is ISSUED


def test_a_key_that_connects_can_ask_for_nothing_without_the_one_that_signs() -> None:
    """Whoever copies the file with it can connect, and say nothing that is believed."""
    registry, own = with_a_device()
    connecting, stranger = new_key(), new_key()
    assert registry.ask(connecting, "anything", own, connects_only=True).outcome is ISSUED
    for voucher in ((), (stranger,)):
        for connects_only in (True, False):
            for party, name in ((Party.DEVICE, "gw-1"), (Party.ENROLMENT, "anything")):
                answer = registry.ask(connecting, name, *voucher, party=party, connects_only=connects_only)
                assert (answer.outcome, reason_of(answer)) == (REFUSED, Reason.UNKNOWN_KEY)
    assert registry.issued == 1


def test_nobody_vouches_for_a_connection_of_another_device_or_after_it_was_revoked() -> None:
    registry, own = with_a_device()
    other = new_key()
    registry.order(DeviceRegister(device="gw-2", kid=other.kid))
    ask = partial(registry.ask, connects_only=True)
    assert reason_of(ask(new_key(), "gw-2", own, party=Party.DEVICE)) is Reason.WRONG_DEVICE
    assert reason_of(ask(other, "anything", own)) is Reason.CONFLICT
    registry.order(DeviceRevoke(device="gw-1"))
    assert reason_of(ask(new_key(), "anything", own)) is Reason.NOT_PERMITTED
    assert registry.issued == 0

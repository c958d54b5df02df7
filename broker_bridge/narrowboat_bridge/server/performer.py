"""Carries out what the core decides: writes at once into the open batch, and says nothing before the batch is
committed.

Whatever is said is signed when it is decided and sent in `flush`, after the commit. So the rows that belong
to a message (the reply that a repeated command will get, the number of an event, an assignment as signed) are
in the same transaction as what the message is about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, assert_never

from pydantic import ValidationError

from narrowboat_protocol.documents import AuditLink, AuditPage, EnrolmentOutcome, EventKind
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.topics import EVENT_TOPIC, Channel, Party, device_topic, enrolment_reply_topic, operator_topic

from ..audit import AuditChain
from ..core import actions as act
from ..core.actions import Action, Answer, Refusal
from ..core.events import Now
from ..core.views import fitting
from .director import Director
from .herald import Herald
from .issuer import Issuer
from .operators import OperatorDesk
from .payloads import PayloadServer, payloads_of
from .revocation import RevocationList
from .root_shelf import RootShelf
from .store import OperatorsTaken, Store

AT_MOST_ONCE, AT_LEAST_ONCE = 0, 1


class Publisher(Protocol):
    """What the performer asks of the control link."""

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> None:
        """Send a message, or lose it."""
        ...


@dataclass(frozen=True, slots=True)
class Office:
    """Everyone in a bridge who signs."""

    director: Director
    herald: Herald
    issuer: Issuer
    revocations: RevocationList


class Performer:
    """The hands of the core."""

    def __init__(
        self,
        store: Store,
        office: Office,
        chain: AuditChain,
        desk: OperatorDesk,
        payloads: PayloadServer,
        publisher: Publisher,
        roots: RootShelf,
    ) -> None:
        self._store = store
        self._director = office.director
        self._herald = office.herald
        self._chain = chain
        self._desk = desk
        self._payloads = payloads
        self._publisher = publisher
        self._roots = roots
        self._office = office
        self._messages: list[tuple[str, bytes, int]] = []
        self._after_commit: list[Callable[[], None]] = []

    def perform(self, actions: Iterable[Action], now: Now) -> None:
        """Add the actions of one event to the batch."""
        for action in actions:
            self._perform(action, now)

    def record(self, what: str, who: str, facts: Mapping[str, str | int], now: Now) -> None:
        """Append an entry to the audit log, in this batch."""
        self._store.put_audit_entry(self._chain.append(now.wall_s, what, who, facts))

    def audit_page(self, after: int, limit: int) -> AuditPage | Refusal:
        """What the audit log has on disk after an entry, as much as fits in a reply. Whoever altered the store may have
        left there what no reply can carry.
        """
        found = self._store.audit_entries_after(after, limit + 1)
        try:
            shown = fitting(AuditLink(sequence=e.sequence, content=e.content, hash=e.hash) for e in found[:limit])
        except ValidationError:
            return Refusal(
                Reason.STATE_UNREADABLE,
                f"expected entries of the audit log after {after} as they were written, got others;"
                " run `narrowboat audit verify` on the store",
            )
        return AuditPage(entries=shown, more=len(shown) < len(found))

    def note_operators(self, taken: OperatorsTaken) -> None:
        """Store, in this batch, which operators document was taken, so that no older one is taken later."""
        self._store.put_operators_taken(taken)

    def send(self, topic: str, payload: bytes, qos: int) -> None:
        """Send a message after the commit of this batch."""
        self._messages.append((topic, payload, qos))

    def refuse(self, answer: Answer) -> None:
        """Answer a command that was not accepted. Nothing is remembered of it: its request id may be another's."""
        self.send(operator_topic(answer.operator, Channel.REPLY), self._herald.reply(answer), AT_LEAST_ONCE)

    def after_commit(self, step: Callable[[], None]) -> None:
        """Do something once this batch is on disk."""
        self._after_commit.append(step)

    def flush(self, now: Now) -> None:
        """Commit the batch, then say what it has to say. Raises `MediumError` if it cannot be committed."""
        self._store.commit(now.wall_s)
        for step in self._after_commit:
            step()
        self._after_commit.clear()
        for topic, payload, qos in self._messages:
            self._publisher.publish(topic, payload, qos=qos)
        self._messages.clear()

    def _perform(self, action: Action, now: Now) -> None:  # noqa: C901, PLR0912  # one line for each action is the whole of it
        store = self._store
        match action:
            case act.StoreDevice(device):
                store.put_device(device)
            case act.StoreReport(device_name, number, received_at, content):
                store.put_report(device_name, number, received_at, content)
            case act.StoreRelease(release):
                store.put_release(release)
            case act.StoreCampaign(campaign):
                store.put_campaign(campaign)
            case act.ForgetCampaign(name):
                store.forget_campaign(name)
            case act.StoreAttempt(attempt):
                store.put_attempt(attempt)
            case act.StoreAssignment():
                self._store_assignment(action)
            case act.StoreClaim(claim):
                store.put_claim(claim)
            case act.StoreRegistration(registration):
                store.put_registration(registration)
            case act.IssueCertificate():
                store.put_certificate(self._office.issuer.issue(action))
            case act.RevokeCertificates(kids, certificate):
                serials = self._office.issuer.serials_of(kids, certificate)
                self.after_commit(partial(self._office.revocations.add, serials))
            case act.Record(what, who, facts):
                self.record(what, who, facts, now)
            case act.Commit():
                pass  # what follows in the list is gathered, and sent by `flush` after the commit
            case act.Acknowledge():
                self.send(device_topic(action.device, Channel.ACK), self._herald.ack(action), AT_LEAST_ONCE)
            case act.Deliver(name, envelopes):
                delivery = self._director.delivery(name, envelopes)
                self.send(device_topic(name, Channel.ASSIGN), delivery, AT_LEAST_ONCE)
            case act.SendRoots(name, version):
                self._send_roots(name, version)
            case act.Emit():
                self._emit(action, now)
            case act.Answer():
                self._answer(action)
            case act.AnswerEnrolment():
                self._answer_enrolment(action)
            case _:
                assert_never(action)

    def _store_assignment(self, action: act.StoreAssignment) -> None:
        assignment = action.assignment
        signed = self._director.sign(assignment, action.recipient)
        self._store.put_assignment(assignment.device, assignment.counter, signed)
        self.after_commit(partial(self._payloads.allow, assignment.device, payloads_of(assignment)))

    def _send_roots(self, device: str, version: int) -> None:
        chain = self._roots.after(version)
        if chain is not None:
            self.send(device_topic(device, Channel.ROOT), chain.encode(), AT_LEAST_ONCE)

    def _answer_enrolment(self, action: act.AnswerEnrolment) -> None:
        asked = action.request
        issued = action.outcome is EnrolmentOutcome.ISSUED
        certificate = self._office.issuer.newest(asked.key.kid) if issued else None
        topic = (
            device_topic(asked.name, Channel.REPLY)
            if asked.party is Party.DEVICE
            else enrolment_reply_topic(asked.name, asked.key.kid)
        )
        self.send(topic, self._herald.enrolment_reply(action, certificate), AT_LEAST_ONCE)

    def _emit(self, action: act.Emit, now: Now) -> None:
        """Progress is worth one try, as more of it follows; the rest is worth an acknowledged one."""
        event = self._herald.event(action, now.wall_s)
        self._store.put_event_sequence(self._herald.event_sequence)
        progress = action.kind is EventKind.REPORT and action.state is not None and not action.state.terminal
        self.send(EVENT_TOPIC, event, AT_MOST_ONCE if progress else AT_LEAST_ONCE)

    def _answer(self, action: act.Answer) -> None:
        reply = self._herald.reply(action)
        replay = self._desk.answered(action, reply)
        if replay is not None:
            self._store.put_replay(replay)
        self.send(operator_topic(action.operator, Channel.REPLY), reply, AT_LEAST_ONCE)

"""The herald: signs what the bridge says in its own name, which are Acks, replies and events.

Events are numbered without gaps as long as the store lives, so that whoever watches sees that something was
missed. The number is stored with the batch that the event belongs to.
"""

from __future__ import annotations

from narrowboat_protocol.documents import Ack, EnrolmentReply, Event, Reply, RoleName, sign_model
from narrowboat_protocol.keys import Signer
from narrowboat_protocol.trust import Trust

from ..core.actions import Acknowledge, Answer, AnswerEnrolment, Emit, Refusal
from .director import require_role

_TEXT_MAX = 500


class Herald:
    """Makes signed documents out of what the core wants to say."""

    def __init__(self, key: Signer, trust: Trust, event_sequence: int) -> None:
        require_role(key, trust, RoleName.BRIDGE)
        self._key = key
        self._fleet_id = trust.fleet_id
        self._event_sequence = event_sequence

    @property
    def event_sequence(self) -> int:
        """The number of the last event."""
        return self._event_sequence

    def ack(self, action: Acknowledge) -> bytes:
        document = Ack(device=action.device, pair=action.pair, challenge=action.challenge, statement=action.statement)
        return sign_model(document, self._fleet_id, [self._key])

    def event(self, action: Emit, now_s: int) -> bytes:
        self._event_sequence += 1
        document = Event(
            sequence=self._event_sequence,
            at=now_s,
            kind=action.kind,
            device=action.device,
            campaign=action.campaign,
            release=action.release,
            state=action.state,
            hold=action.hold,
            done_bytes=action.done_bytes,
            total_bytes=action.total_bytes,
            wire_bytes=action.wire_bytes,
            reason=action.reason,
            operator=action.operator,
            detail=action.detail,
        )
        return sign_model(document, self._fleet_id, [self._key])

    def enrolment_reply(self, action: AnswerEnrolment, certificate: bytes | None) -> bytes:
        document = EnrolmentReply(
            kid=action.request.key.kid,
            nonce=action.request.nonce,
            outcome=action.outcome,
            device=action.device,
            certificate=certificate,
            reason=action.refusal.reason if action.refusal else None,
            message=action.refusal.message[:_TEXT_MAX] if action.refusal else None,
            ask_again_at=action.ask_again_at,
            at=action.at,
        )
        return sign_model(document, self._fleet_id, [self._key])

    def reply(self, action: Answer) -> bytes:
        outcome = action.outcome
        if isinstance(outcome, Refusal):
            document = Reply(request_id=action.request_id, reason=outcome.reason, message=outcome.message[:_TEXT_MAX])
        else:
            document = Reply(request_id=action.request_id, result=outcome.to_cbor())
        return sign_model(document, self._fleet_id, [self._key])

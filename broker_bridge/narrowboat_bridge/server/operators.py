"""The operator desk: bytes on a command topic become an authenticated request, a repeated reply, or a refusal.

Order of checks: size, encoding and shape; the operator whose name is in the topic, in the signed Operators
document; the signature by that operator's key; the name in the command; whether this request was seen; times;
role; arguments. Only after all of them does a request reach the core.

A command counts once. Its request id stays in the replay table until nothing could take it for fresh any
more: the same bytes again get the same reply, other bytes under the same id are refused. A command that only
looks is simply carried out again when it is repeated, so its reply, which may be large, is not kept. A
command whose reply is still being made (an upload that is being verified) is not begun a second time.

A refusal is answered too, even if the signature was wrong: the broker vouches for the name in the topic, so
the answer goes to whoever was let in under it, and a person whose key was replaced should read why nothing
happens. It is worth an entry in the audit log, which nobody can prune, only if it is the operator's own word, in
its time, and was not refused before; anybody who holds the broker can send the rest as often as they like.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256

from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import (
    LOOKS,
    ROLES,
    CampaignAbort,
    CampaignApprove,
    CampaignShow,
    CampaignStart,
    ClaimCreate,
    ClaimRevoke,
    Command,
    DeviceApprove,
    DeviceRegister,
    DeviceReject,
    DeviceResolve,
    DeviceRevoke,
    DeviceShow,
    Operator,
    Operators,
    Request,
    RoleName,
    Scope,
    UploadBegin,
    UploadFinish,
    Verb,
    open_signed,
)
from narrowboat_protocol.errors import PeerError, Reason, TrustError
from narrowboat_protocol.trust import Trust

from ..core.actions import Answer, Refusal
from .store import OperatorsTaken, Replay

LIFE_S_MAX = 600
SKEW_S = 120
_OUT_OF_TIME = (Reason.EXPIRED, Reason.STALE)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that shall be carried out."""

    operator: str
    kid: bytes
    scope: Scope | None
    request_id: bytes
    verb: Verb
    request: Request
    approval_over: int | None
    """The policy of the operators document."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """A request that was carried out before, and the reply to it; None while it is being made."""

    operator: str
    reply: bytes | None


@dataclass(frozen=True, slots=True)
class Refused:
    """A command that is not carried out. What it claims is proved only if it is noteworthy."""

    operator: str
    request_id: bytes
    verb: Verb
    refusal: Refusal
    noteworthy: bool
    """The operator said it lately, and it was not refused before."""


@dataclass(slots=True)
class _Seen:
    digest: bytes
    expires_at: int
    steers: bool
    reply: bytes | None


class OperatorDesk:
    """Judges commands, and remembers which were seen."""

    def __init__(
        self,
        trust: Trust,
        operators: bytes,
        taken: OperatorsTaken | None,
        replays: tuple[Replay, ...],
        replays_max: int,
    ) -> None:
        """Raises a `PeerError` if the operators document is not signed by the root's admin keys, or is older than the
        one that was taken before: whoever was revoked since would be back. Of two of one version the first counts.
        """
        self._trust = trust
        self._operators, self._taken = self._open(operators, taken)
        self._replays_max = replays_max
        self._refused: OrderedDict[bytes, None] = OrderedDict()
        self._seen = {
            (replay.operator, replay.request_id): _Seen(
                replay.digest, replay.expires_at, steers=True, reply=replay.reply
            )
            for replay in replays
        }

    def replace_operators(self, operators: bytes) -> None:
        """Take a newer operators document. Raises a `PeerError`, and keeps the old one, for what is not believed."""
        self._operators, self._taken = self._open(operators, self._taken)

    @property
    def taken(self) -> OperatorsTaken:
        """It must be stored before a command is carried out under it."""
        return self._taken

    def _open(self, operators: bytes, before: OperatorsTaken | None) -> tuple[Operators, OperatorsTaken]:
        document = self._trust.open_by_role(Operators, operators, RoleName.ADMIN)
        taken = OperatorsTaken(document.version, sha256(SignedDocument.decode(operators).content).digest())
        if before is not None and taken.version < before.version:
            raise TrustError(
                Reason.STALE, f"expected operators version {before.version} or newer, got {document.version}"
            )
        if before is not None and taken.version == before.version and taken.digest != before.digest:
            raise TrustError(
                Reason.CONFLICT,
                f"expected operators version {before.version} as it was taken first, got another;"
                " sign the next version",
            )
        return document, taken

    def judge(self, name: str, data: bytes, now_s: int) -> Accepted | Repeated | Refused:
        """Judge what came on the command topic of `name`. Raises a `PeerError` if it is not a command at all."""
        signed = SignedDocument.decode(data)
        command = Command.decode(signed.content)
        digest = sha256(signed.content).digest()
        authentic = False
        try:
            self._authenticate(name, signed)
            authentic = True
            return self._judge(name, command, digest, now_s)
        except PeerError as error:
            noteworthy = authentic and error.reason not in _OUT_OF_TIME and self._is_new_refusal(digest)
            return Refused(name, command.request_id, command.verb, Refusal(error.reason, str(error)), noteworthy)

    def answered(self, answer: Answer, reply: bytes) -> Replay | None:
        """Note the reply to an accepted request; return what must be stored of it, if anything."""
        key = (answer.operator, answer.request_id)
        seen = self._seen.get(key)
        if seen is None:
            return None
        if not seen.steers:
            del self._seen[key]
            return None
        seen.reply = reply
        return Replay(answer.operator, answer.request_id, seen.digest, seen.expires_at, reply)

    def _judge(self, name: str, command: Command, digest: bytes, now_s: int) -> Accepted | Repeated:
        """Judge what the operator said for certain."""
        if command.operator != name:
            raise TrustError(
                Reason.NOT_PERMITTED, f"expected a command of {name} on its topic, got one of another name"
            )
        key = (name, command.request_id)
        self._forget_expired(now_s)
        seen = self._seen.get(key)
        if seen is not None:
            if seen.digest != digest:
                raise TrustError(Reason.CONFLICT, "expected a new request id, got one that another command had")
            return Repeated(name, seen.reply)
        _require_fresh(command, now_s)
        operator = self._require_role(name, command.verb)
        request = command.request
        if len(self._seen) >= self._replays_max:
            raise TrustError(Reason.BUSY, f"expected at most {self._replays_max} commands in their time; wait a little")
        self._seen[key] = _Seen(digest, command.expires_at + SKEW_S, command.verb not in LOOKS, reply=None)
        return Accepted(
            name,
            operator.public_key.kid,
            operator.scope,
            command.request_id,
            command.verb,
            request,
            self._operators.approval_over,
        )

    def _is_new_refusal(self, digest: bytes) -> bool:
        if digest in self._refused:
            return False
        self._refused[digest] = None
        if len(self._refused) > self._replays_max:
            self._refused.popitem(last=False)
        return True

    def _authenticate(self, name: str, signed: SignedDocument) -> None:
        key = self._require_known(name).public_key
        open_signed(Command, signed, fleet_id=self._trust.fleet_id, keys={key.kid: key})

    def _require_known(self, name: str) -> Operator:
        operator = self._operators.find(name)
        if operator is None:
            raise TrustError(Reason.UNKNOWN_OPERATOR, f"expected an operator of this fleet, got {name}; add it first")
        return operator

    def _require_role(self, name: str, verb: Verb) -> Operator:
        operator = self._require_known(name)
        if operator.role not in ROLES[verb]:
            wanted = " or ".join(sorted(ROLES[verb]))
            raise TrustError(
                Reason.NOT_PERMITTED, f"expected the role {wanted} for {verb}, got {operator.role}; ask an admin for it"
            )
        return operator

    def _forget_expired(self, now_s: int) -> None:
        for key in [key for key, seen in self._seen.items() if seen.expires_at < now_s]:
            del self._seen[key]


def subject_of(request: Request) -> str:
    """What a request is about, for the audit log."""
    match request:
        case CampaignStart() | CampaignShow() | CampaignAbort() | CampaignApprove():
            return request.campaign
        case DeviceShow():
            return request.device
        case ClaimCreate() | ClaimRevoke():
            return request.claim
        case DeviceRegister() | DeviceRevoke() | DeviceResolve():
            return request.device
        case DeviceApprove() | DeviceReject():
            return request.kid.hex()
        case UploadBegin() | UploadFinish():
            return request.digest.hex()
        case _:
            return ""


def _require_fresh(command: Command, now_s: int) -> None:
    life_s = command.expires_at - command.issued_at
    if not 0 <= life_s <= LIFE_S_MAX:
        raise TrustError(Reason.EXPIRED, f"expected a command that lives up to {LIFE_S_MAX} s, got {life_s} s")
    if now_s > command.expires_at + SKEW_S:
        late_s = now_s - command.expires_at
        raise TrustError(Reason.EXPIRED, f"the command expired {late_s} s ago by this bridge's clock; issue it anew")
    if now_s < command.issued_at - SKEW_S:
        early_s = command.issued_at - now_s
        raise TrustError(
            Reason.STALE, f"the command comes from {early_s} s ahead of this bridge's clock; set the clocks"
        )

"""What the agent says of itself: hellos and reports, signed and numbered, and what of it is still unanswered.

Each document carries a pair (boot number, n): the boot number was raised durably before the agent said anything, n
counts in memory, so no pair is ever used twice and pairs order everything that this device says. A signed Ack names the
one statement that a bridge has stored; it says nothing of earlier ones, which may have been lost. Until its own Ack has
come, a terminal report stays in the outbox, and the hello and the newest report are sent again: when a link opens, and
while it stands as `Repeats` says. The broker's PUBACK proves nothing. Reports of progress, which come all the time,
neither put off that repetition nor bring it forward.

An Ack above all pairs of ours has two causes. A device that lost its state goes on above it. Such a device has no
challenge, since it takes its first one, durably, only from the Ack of its newest hello, and leaves old ones alone,
which a broker may have kept. One that has a challenge has lost nothing, so there are two with this key. It says so by
answering the challenge once from where it stands, which no honest device can, and then goes on in the same way: whom to
believe is for a person to decide.

A hello that was answered is said again only when somebody may have missed it: on a new link after a while, and when a
bridge publishes the root, which it does when it starts, or assigns by a counter or a nonce of the past. That bridge may
have lost its store and know nobody, or have an older copy of it. As the whole fleet hears it at once, each device waits
a random part of `root_answer_s_max` first; and as a bridge on a bad link does it often, longer if it has said one a
moment ago.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import Ack, Hello, Hold, Report, SlotInfo, sign_model
from narrowboat_protocol.errors import NarrowboatError, Reason, TrustError
from narrowboat_protocol.keys import Signer
from narrowboat_protocol.states import State
from narrowboat_protocol.topics import Channel

from .actions import Action, Publish
from .events import BootStatus, Now, earliest
from .memory import BOOT_NUMBER_MAX, LETTERS_MAX, Attempt, Letter, Memory
from .repeats import Repeats, draw_part
from .settings import Settings

NONCE_BYTES = 16
_DOCUMENT_FORMATS = (1,)
Pair = tuple[int, int]


class Voice:
    """Makes and repeats the device's documents."""

    def __init__(self, settings: Settings, signer: Signer, random: Callable[[int], bytes], memory: Memory) -> None:
        self._settings = settings
        self._signer = signer
        self._random = random
        self._memory = memory
        self._boot: BootStatus | None = None
        self._n = 0
        self._nonces: tuple[bytes, ...] = (random(NONCE_BYTES),)
        self._nonce_made_s: float | None = None
        self.nonce_made_at: int | None = None
        """When the newest nonce was made, by the wall clock."""
        self._newest_hello: tuple[Pair, bytes] | None = None
        self._hello_is_due = True
        self._is_behind = False
        self._newest_report: tuple[Pair, bytes] | None = None
        self._repeats = Repeats(settings.repeat_s_min, settings.repeat_s_max, random)
        self._hello_said_s: float | None = None
        self._hello_planned_s: float | None = None
        self.slots: tuple[SlotInfo, ...] = ()
        self.root_version = 1
        self.link_up = False

    def begin(self, boot: BootStatus, slots: tuple[SlotInfo, ...], now: Now) -> None:
        """The boot number of `memory` was raised for this start."""
        self._boot, self.slots = boot, slots
        self._nonce_made_s, self.nonce_made_at = now.monotonic_s, now.wall_s

    @property
    def running_slot(self) -> str:
        assert self._boot is not None
        return self._boot.running

    @property
    def has_room(self) -> bool:
        """Whether a new attempt may begin: its end, and that of the one it replaces, must find room in the outbox."""
        return len(self._memory.outbox.letters) + 2 <= LETTERS_MAX

    @property
    def nonces(self) -> tuple[bytes, ...]:
        """The last two nonces; an assignment must carry one of them."""
        return self._nonces

    @property
    def deadline_s(self) -> float | None:
        """When something is to be said again, or a nonce has become old."""
        renewal = None if self._nonce_made_s is None else self._nonce_made_s + self._settings.hello_interval_s
        repeat, planned = (self._repeats.due_s, self._hello_planned_s) if self.link_up else (None, None)
        return earliest(renewal, repeat, planned)

    def link_opened(self, now: Now) -> list[Action]:
        """Say what is unanswered: the hello first, since a bridge that never heard it believes nothing else."""
        self.link_up = True
        said_s, interval_s = self._hello_said_s, self._settings.hello_repeat_s
        self._hello_is_due = self._hello_is_due or said_s is None or now.monotonic_s >= said_s + interval_s
        return self._say_unanswered(now)

    def plan_hello(self, now: Now) -> None:
        """A bridge spoke that may lack the newest hello: plan one, unless one is planned. It listens, so what nobody
        has answered need not wait longer than at the beginning.
        """
        if self._unanswered:
            self._repeats.begin_earlier(now.monotonic_s)
        if self._hello_planned_s is None:
            rested_s = (self._hello_said_s or 0.0) + self._settings.hello_rest_s
            wait_s = draw_part(self._random) * self._settings.root_answer_s_max
            self._hello_planned_s = max(now.monotonic_s, rested_s) + wait_s

    def time_reached(self, now: Now) -> list[Action]:
        if self._nonce_made_s is not None and now.monotonic_s >= self._nonce_made_s + self._settings.hello_interval_s:
            self._nonces = (self._nonces[-1], self._random(NONCE_BYTES))
            self._nonce_made_s, self.nonce_made_at = now.monotonic_s, now.wall_s
            return self.say_hello(now)
        if self.link_up and self._hello_planned_s is not None and now.monotonic_s >= self._hello_planned_s:
            return self.say_hello(now)
        if not self.link_up or self._repeats.due_s is None or now.monotonic_s < self._repeats.due_s:
            return []
        self._repeats.go_on(now.monotonic_s)
        return self._publish_unanswered(now)

    def say_hello(self, now: Now) -> list[Action]:
        """Something in the hello changed: the old one is void."""
        self._hello_is_due = True
        return self._say_unanswered(now) if self.link_up else []

    def report(self, attempt: Attempt, hold: Hold | None, done_bytes: int, total_bytes: int, now: Now) -> list[Action]:
        """Report a step that is not an end. It is lost if no link stands; the newest is said again when one opens."""
        self._newest_report = self._make_report(attempt, hold, done_bytes, total_bytes, None)
        self._repeats.begin_if_none(now.monotonic_s)
        return self._publish(Channel.REPORT, self._newest_report[1])

    def report_end(self, attempt: Attempt, done_bytes: int, total_bytes: int, now: Now) -> list[Action]:
        """Put a terminal report into the outbox, then say it.

        A local installation whose end did not get into the journal ends again with each start, as nothing tells which
        letters are its own: `Memory.end_from_outbox`. But it began only where its end has room, so all that fill the
        outbox now are: of those the newest gives way.
        """
        pair, data = self._make_report(attempt, None, done_bytes, total_bytes, None)
        self._newest_report = None
        letters = (*self._memory.outbox.letters[: LETTERS_MAX - 1], Letter(pair=pair, report=data))
        self._repeats.begin(now.monotonic_s)
        return [self._memory.save_outbox(letters), *self._publish(Channel.REPORT, data)]

    def too_late(self, attempt: Attempt, parked: int, now: Now) -> list[Action]:
        """Answer an assignment that came after the point of no return."""
        self._newest_report = self._make_report(attempt, None, 0, 0, parked)
        self._repeats.begin(now.monotonic_s)
        return self._publish(Channel.REPORT, self._newest_report[1])

    @property
    def awaits_ack(self) -> bool:
        """Whether a report is to be said again anyway."""
        return self._newest_report is not None or bool(self._memory.outbox.letters)

    def acknowledged(self, ack: Ack, now: Now) -> list[Action]:
        """A bridge stored a statement. One above all of ours is none of ours, or one that this device has forgotten."""
        memory, pair, challenge = self._memory, ack.pair, ack.challenge
        if pair[0] >= BOOT_NUMBER_MAX:
            raise TrustError(Reason.BAD_DOCUMENT, f"expected a boot number below {BOOT_NUMBER_MAX}, got more")
        if pair > (memory.trust.boot_number, self._n):
            return self._go_ahead_of(pair, challenge, now)
        names_hello = _answers(ack, self._newest_hello)
        first = [memory.save_trust(challenge=challenge)] if names_hello and memory.trust.challenge is None else []
        if memory.trust.challenge is not None:
            memory.trust = memory.trust.model_copy(update={"challenge": challenge})
        answers_hello = self._hello_is_due and names_hello
        self._hello_is_due = self._hello_is_due and not answers_hello
        if _answers(ack, self._newest_report):
            self._newest_report = None
        rest = tuple(letter for letter in memory.outbox.letters if not _answers(ack, (letter.pair, letter.report)))
        answers_letter = rest != memory.outbox.letters
        if not (self._hello_is_due or self._newest_report or rest):
            self._repeats.end()
        elif answers_hello or answers_letter:
            self._repeats.begin(now.monotonic_s)
        return [*first, *([memory.save_outbox(rest)] if answers_letter else [])]

    def _go_ahead_of(self, pair: Pair, challenge: bytes, now: Now) -> list[Action]:
        """A higher pair was said under this name. Whoever has no challenge has lost its state. Whoever has one never
        said that: it answers once from where it stands, and forgets the challenge.
        """
        memory = self._memory
        if memory.trust.challenge is None:
            self._n = 0
            return [memory.save_trust(boot_number=pair[0] + 1), *self.say_hello(now)]
        memory.trust = memory.trust.model_copy(update={"challenge": challenge})
        self._is_behind = True
        return self.say_hello(now)

    @property
    def _unanswered(self) -> bool:
        return self._hello_is_due or self._newest_report is not None or bool(self._memory.outbox.letters)

    def _say_unanswered(self, now: Now) -> list[Action]:
        """Say it because there is a reason to think that somebody listens."""
        if self._unanswered:
            self._repeats.begin(now.monotonic_s)
        return self._publish_unanswered(now)

    def _publish_unanswered(self, now: Now) -> list[Action]:
        actions: list[Action] = []
        if self._hello_is_due:
            actions += self._publish(Channel.HELLO, self._make_hello())
            self._hello_said_s = now.monotonic_s
        for letter in self._memory.outbox.letters:
            actions += self._publish(Channel.REPORT, letter.report)
        if self._newest_report is not None:
            actions += self._publish(Channel.REPORT, self._newest_report[1])
        return actions

    def _publish(self, channel: Channel, data: bytes) -> list[Action]:
        return [Publish(channel, data, qos=1)] if self.link_up else []

    def _next_pair(self) -> Pair:
        self._n += 1
        return self._memory.trust.boot_number, self._n

    def _make_hello(self) -> bytes:
        assert self._boot is not None
        trust, attempt, settings = self._memory.trust, self._memory.journal.attempt, self._settings
        pair = self._next_pair()
        self._hello_planned_s = None
        hello = Hello(
            device=settings.device,
            pair=pair,
            nonce=self._nonces[-1],
            root_version=self.root_version,
            assignment_counter=trust.assignment_counter,
            certificate=settings.certificate,
            component=settings.component,
            vendor_id=settings.hardware.vendor_id.bytes,
            class_id=settings.hardware.class_id.bytes,
            slots=self.slots,
            running_slot=self._boot.running,
            boot_id=self._boot.boot_id,
            codecs=settings.codecs,
            formats=_DOCUMENT_FORMATS,
            agent_version=settings.agent_version,
            challenge=trust.challenge,
            state=attempt.state if attempt is not None else None,
            agreement_key=settings.agreement_key.public.to_cbor() if settings.agreement_key is not None else None,
        )
        if self._is_behind:
            self._is_behind = False
            self._memory.trust = trust.model_copy(update={"challenge": None})
        data = sign_model(hello, trust.fleet_id, [self._signer])
        self._newest_hello = (pair, data)
        return data

    def _make_report(
        self, attempt: Attempt, hold: Hold | None, done_bytes: int, total_bytes: int, parked: int | None
    ) -> tuple[Pair, bytes]:
        assert self._boot is not None
        pair = self._next_pair()
        report = Report(
            device=self._settings.device,
            pair=pair,
            attempt=attempt.attempt,
            component=attempt.component,
            release=attempt.release,
            state=attempt.state,
            hold=hold,
            slot=self._boot.running,
            boot_id=self._boot.boot_id,
            done_bytes=total_bytes if attempt.state is State.SUCCEEDED else done_bytes,
            total_bytes=total_bytes,
            wire_bytes=attempt.wire_bytes,
            reason=attempt.reason,
            detail=attempt.detail,
            parked=parked,
        )
        return pair, sign_model(report, self._memory.trust.fleet_id, [self._signer])


def _answers(ack: Ack, said: tuple[Pair, bytes] | None) -> bool:
    """Whether an Ack is for this statement, and not for one under the same pair before this device lost its state."""
    if said is None or said[0] != ack.pair:
        return False
    try:
        content = SignedDocument.decode(said[1]).content
    except NarrowboatError:
        return False
    return hashlib.sha256(content).digest() == ack.statement

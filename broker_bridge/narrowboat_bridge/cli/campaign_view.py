"""A campaign as it is watched: what changed, what to draw, whether it is over, and with what exit status.

The bridge's answer is the whole truth each time, so nothing is added up here that could be added up wrongly:
a view is made of one answer, and two views are compared to see what to say. That a campaign has ended is the
bridge's word. One for all devices of its hardware never ends by itself, as another device may come tomorrow;
it counts as over when no known device has anything left to do.
"""

from __future__ import annotations

from dataclasses import dataclass

from narrowboat_protocol.documents import AttemptSummary, CampaignStart, CampaignSummary, CampaignTerms
from narrowboat_protocol.documents.results import AWAITING_APPROVAL, WAITING
from narrowboat_protocol.states import State

from .exits import ExitCode
from .output import bar, human_bytes, iso_time, percent, table_lines
from .results import attempt_reason, attempt_state, counts_text, wire_text

_BAR_CELLS = 20
_STEPS = 10
"""A device's progress is worth a line of a log so many times."""
_UNDER_WAY = frozenset({AWAITING_APPROVAL, WAITING, *(state.value for state in State if not state.terminal)})
_HEADINGS = ("DEVICE", "STATE", "PROGRESS", "", "WIRE", "REASON")


@dataclass(frozen=True, slots=True)
class CampaignView:
    """One answer of the bridge about one campaign."""

    summary: CampaignSummary
    attempts: tuple[AttemptSummary, ...]
    terms: CampaignTerms

    @property
    def over(self) -> bool:
        if self.summary.ended is not None:
            return True
        standing_words = {word for word, count in self.summary.counts.items() if count}
        return self.summary.devices > 0 and standing_words.isdisjoint(_UNDER_WAY)

    @property
    def exit_code(self) -> ExitCode:
        """Of a campaign that is over."""
        return exit_code_of_ended(self.summary)

    def changed_since(self, earlier: CampaignView | None) -> list[AttemptSummary]:
        """The attempts of which there is something new to say in a log."""
        before = {attempt.device: _gist(attempt) for attempt in earlier.attempts} if earlier else {}
        return [attempt for attempt in self.attempts if before.get(attempt.device) != _gist(attempt)]

    def approval_changed_since(self, earlier: CampaignView | None) -> bool:
        """It waits for an approval, or did, and there is something new to say of that."""
        before = earlier.summary.approval_ends_at if earlier else None
        return self.summary.approval_ends_at != before

    def table(self) -> list[str]:
        warning = [f"warning: {self.summary.warning}"] if self.summary.warning is not None else []
        advice = [*self._terms_lines(), self._advice()] if self.summary.approval_ends_at is not None else []
        return [self.heading(), *table_lines(_HEADINGS, map(_row, self.attempts)), *warning, *advice]

    @property
    def is_what_the_digest_covers(self) -> bool:
        """Whether this view of a campaign that waits, with all of its devices, is what an approval would name."""
        devices = None if self.terms.everybody else tuple(attempt.device for attempt in self.attempts) or None
        asked = CampaignStart(
            campaign=self.summary.name,
            release=self.summary.release,
            devices=devices,
            reboot_windows=self.terms.reboot_windows,
            byte_budget=self.terms.byte_budget,
        )
        by_policy_or_wish = (asked, asked.model_copy(update={"approval": True}))
        return self.summary.content in [each.content for each in by_policy_or_wish]

    def _terms_lines(self) -> list[str]:
        """What an approval lets begin, beside what the table shows."""
        terms = self.terms
        windows = ", ".join(f"{_clock(begin)}-{_clock(end)} UTC" for begin, end in terms.reboot_windows)
        budget = "any number of" if terms.byte_budget is None else f"at most {terms.byte_budget}"
        return [
            f"release {self.summary.release.hex()}",
            "for all devices of its hardware, those that come later too" if terms.everybody else "for these devices",
            f"devices reboot at {windows or 'any time'}, and receive {budget} bytes each",
        ]

    def _advice(self) -> str:
        if self.is_what_the_digest_covers:
            return approval_advice(self.summary)
        return "do not approve it: its digest covers something else than what you see"

    def heading(self) -> str:
        """Where it stands as a whole, in a line."""
        ends_at = self.summary.approval_ends_at
        running = "running" if ends_at is None else f"{AWAITING_APPROVAL} until {iso_time(ends_at)}"
        word = self.summary.ended or ("all through, open for more devices" if self.over else running)
        return f"campaign {self.summary.name} ({self.summary.version}), {word}: {counts_text(self.summary)}"


def approval_advice(summary: CampaignSummary) -> str:
    """What another person types who agrees to it."""
    return f"to approve it as it is, another operator runs: campaign approve {summary.name} {summary.content.hex()}"


def exit_code_of_ended(summary: CampaignSummary) -> ExitCode:
    """Whether every device of a campaign that is over runs the release."""
    succeeded = summary.counts.get(State.SUCCEEDED.value, 0)
    return ExitCode.OK if succeeded == summary.devices > 0 else ExitCode.CAMPAIGN_FAILED


def attempt_line(attempt: AttemptSummary) -> str:
    """One attempt as a line of a log."""
    parts = [f"{attempt.device}: {attempt_state(attempt)}"]
    if attempt.total_bytes:
        done = f"{human_bytes(attempt.done_bytes)} of {human_bytes(attempt.total_bytes)}"
        parts.append(f"{percent(attempt.done_bytes, attempt.total_bytes).strip()}, {done}, wire {wire_text(attempt)}")
    return ", ".join(part for part in (*parts, attempt_reason(attempt)) if part)


def _clock(second_of_day: int) -> str:
    return f"{second_of_day // 3600:02}:{second_of_day // 60 % 60:02}"


def _gist(attempt: AttemptSummary) -> tuple[object, ...]:
    step = _STEPS * attempt.done_bytes // attempt.total_bytes if attempt.total_bytes else 0
    return (attempt.attempt, attempt.state, attempt.hold, attempt.reason, attempt.detail, step)


def _row(attempt: AttemptSummary) -> list[str]:
    done, total = attempt.done_bytes, attempt.total_bytes
    return [
        attempt.device,
        attempt_state(attempt),
        bar(done, total, _BAR_CELLS) if total else "",
        f"{percent(done, total)} of {human_bytes(total)}" if total else "",
        wire_text(attempt),
        attempt_reason(attempt),
    ]

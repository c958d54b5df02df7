"""`narrowboat campaign`: bring a release to devices and watch how it goes.

`watch`, and `start --wait` which is the two in one, draw a live table on a terminal and print a line for each
change otherwise. Events only say that it is worth asking: they travel without guarantee, so what is shown is
always the bridge's answer to a question, asked again after an event and now and then without one, and less
often the longer the answer takes.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from pathlib import Path

from narrowboat_protocol.documents import (
    CampaignAbort,
    CampaignApprove,
    CampaignDetail,
    CampaignList,
    CampaignPage,
    CampaignShow,
    CampaignStart,
    CampaignSummary,
)
from narrowboat_protocol.errors import Reason, UsageError

from .arguments import Subparsers, add_command, add_group, name, parse_digest, positive, size
from .arguments import digest as parsed_digest
from .campaign_view import CampaignView, approval_advice, attempt_line, exit_code_of_ended
from .client import OperatorClient, connect
from .exits import ExitCode, NoAnswerError
from .operator_toml import add_operator_arguments
from .output import LiveBlock, is_terminal, print_json, print_json_line, print_result, printable
from .release_io import open_release_file
from .results import CAMPAIGN_HEADINGS, as_json, campaign_row, print_listing, standing
from .typed import as_typed

_PAGE_ATTEMPTS = 200
_ASK_INTERVAL_S_MIN = 1.0
_ASK_INTERVAL_S_MAX = 10.0
_NAME_DIGITS = 8
_WINDOW = re.compile(r"(\d\d):([0-5]\d)-(\d\d):([0-5]\d)")
_MINUTES_A_DAY = 24 * 60


def add_parser(subparsers: Subparsers) -> None:
    commands = add_group(subparsers, "campaign", "Bring releases to devices.")
    _add_start(commands)
    for word, run, summary in (
        ("show", _show, "show where every device of a campaign stands"),
        ("watch", _watch, "follow a campaign to its end"),
        ("abort", _abort, "withdraw a campaign from the devices that have not begun to reboot"),
    ):
        command = add_command(commands, word, run, summary, _STATUS if word == "watch" else "")
        command.add_argument("campaign", metavar="CAMPAIGN", type=name, help="its name")
        if word == "watch":
            _add_deadline(command)
        add_operator_arguments(command)
    approve = add_command(
        commands,
        "approve",
        _approve,
        "let a campaign begin that another operator started",
        "Only what is named begins: look at it first, and give the digest that `campaign show` prints.",
    )
    approve.add_argument("campaign", metavar="CAMPAIGN", type=name, help="its name")
    approve.add_argument("content", metavar="DIGEST", type=parsed_digest, help="the digest of its content")
    add_operator_arguments(approve)
    add_operator_arguments(add_command(commands, "list", _list, "list campaigns, newest first"))


_STATUS = "Exit status 0 if every device runs the release in the end, 4 if not."


def _add_start(commands: Subparsers) -> None:
    start = add_command(
        commands,
        "start",
        _start,
        "start a campaign",
        "Repeating it changes nothing, and has exit status 4 if the campaign ended without every device. Without"
        " --device it is for all devices of the release's hardware classes, those that come later too.",
    )
    start.add_argument("release", metavar="RELEASE", help="a release file, or the 64 hex digits of a release")
    start.add_argument("--name", type=name, help="of the campaign (default: release- and its first digits)")
    start.add_argument("--device", metavar="NAME", type=name, action="append", help="only this device; may be repeated")
    start.add_argument(
        "--reboot-window",
        metavar="HH:MM-HH:MM",
        type=_window,
        action="append",
        default=[],
        help="UTC hours in which devices may reboot; may be repeated, may cross midnight (default: any time)",
    )
    start.add_argument(
        "--byte-budget", metavar="BYTES", type=size, help="the most that each device may receive for it, such as 50M"
    )
    start.add_argument(
        "--approval",
        action="store_true",
        help="wait until another operator approves it (default: only if the fleet's policy says so)",
    )
    start.add_argument("--wait", action="store_true", help=f"watch it to its end. {_STATUS}")
    _add_deadline(start)
    add_operator_arguments(start)


def _add_deadline(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--deadline",
        metavar="SECONDS",
        type=positive,
        help="stop watching after so long, with exit status 3; the campaign goes on (default: watch on)",
    )


def _start(arguments: argparse.Namespace) -> int:
    with connect(arguments) as client:
        digest = _release_of(arguments.release, client)
        with as_typed():
            request = CampaignStart(
                campaign=arguments.name or f"release-{digest.hex()[:_NAME_DIGITS]}",
                release=digest,
                devices=tuple(arguments.device) if arguments.device else None,
                reboot_windows=tuple(arguments.reboot_window),
                byte_budget=arguments.byte_budget,
                approval=arguments.approval,
            )
        summary = client.call(request, CampaignSummary)
        if summary.warning is not None:
            print(f"warning: {printable(summary.warning)}", file=sys.stderr)
        if summary.approval_ends_at is not None:
            print(f"campaign {summary.name} waits: {approval_advice(summary)}", file=sys.stderr)
        if arguments.wait:
            status = _follow(client, summary.name, arguments)
        else:
            _print_summary(summary, as_json_value=arguments.json)
            status = ExitCode.OK if summary.ended is None else exit_code_of_ended(summary)
    if summary.ended is not None and status is not ExitCode.OK:
        print(
            f"narrowboat: campaign {summary.name} has ended before, {summary.ended}, and starts no more;"
            " choose another --name",
            file=sys.stderr,
        )
    return status


def _show(arguments: argparse.Namespace) -> int:
    with connect(arguments) as client:
        view = ask(client, arguments.campaign)
    if arguments.json:
        print_json(
            {
                **as_json(view.summary),
                "terms": as_json(view.terms),
                "attempts": [as_json(attempt) for attempt in view.attempts],
            }
        )
    else:
        print("\n".join(view.table()))
    return ExitCode.OK


def _watch(arguments: argparse.Namespace) -> int:
    with connect(arguments) as client:
        return _follow(client, arguments.campaign, arguments)


def _list(arguments: argparse.Namespace) -> int:
    with connect(arguments) as client:
        page = client.call(CampaignList(), CampaignPage)
    print_listing(page.campaigns, CAMPAIGN_HEADINGS, campaign_row, as_array=arguments.json)
    return ExitCode.OK


def _abort(arguments: argparse.Namespace) -> int:
    with connect(arguments) as client:
        summary = client.call(CampaignAbort(campaign=arguments.campaign), CampaignSummary)
    _print_summary(summary, as_json_value=arguments.json)
    return ExitCode.OK


def _approve(arguments: argparse.Namespace) -> int:
    with connect(arguments) as client:
        request = CampaignApprove(campaign=arguments.campaign, content=arguments.content)
        summary = client.call(request, CampaignSummary)
    _print_summary(summary, as_json_value=arguments.json)
    return ExitCode.OK


def _print_summary(summary: CampaignSummary, *, as_json_value: bool) -> None:
    values = as_json(summary)
    if not as_json_value:
        values = {
            "campaign": summary.name,
            "release": summary.release.hex(),
            "version": summary.version,
            "standing": standing(summary),
            "content": summary.content.hex(),
        }
    print_result(values, as_json=as_json_value)


def ask(client: OperatorClient, campaign: str) -> CampaignView:
    """Everything that the bridge knows of a campaign, page by page."""
    after: str | None = None
    view: CampaignView | None = None
    while True:
        request = CampaignShow(campaign=campaign, after=after, limit=_PAGE_ATTEMPTS)
        page = client.call(request, CampaignDetail)
        view = CampaignView(page.summary, (view.attempts if view else ()) + page.attempts, page.terms)
        if not page.more or not page.attempts:
            return view
        after = page.attempts[-1].device


def _follow(client: OperatorClient, campaign: str, arguments: argparse.Namespace) -> ExitCode:
    """Show the campaign until it is over."""
    give_up_s = math.inf if arguments.deadline is None else time.monotonic() + arguments.deadline
    show = _JsonLines() if arguments.json else _LiveTable() if is_terminal(sys.stdout) else _PlainLines()
    while True:
        asked_s = time.monotonic()
        client.forget_events()
        view = ask(client, campaign)
        show.show(view)
        if view.over:
            show.end(view)
            return view.exit_code
        now_s = time.monotonic()
        if now_s >= give_up_s:
            raise NoAnswerError(f"expected campaign {campaign} to end within {arguments.deadline} s; it goes on")
        _wait_for_news(client, campaign, now_s - asked_s, give_up_s)


def _wait_for_news(client: OperatorClient, campaign: str, answer_s: float, give_up_s: float) -> None:
    """Return after an event of the campaign, but not before the bridge has had a rest, nor much later without one."""
    begin_s = time.monotonic()
    rested_s = begin_s + min(max(_ASK_INTERVAL_S_MIN, 4 * answer_s), _ASK_INTERVAL_S_MAX)
    until_s = min(begin_s + _ASK_INTERVAL_S_MAX, give_up_s)
    while (left_s := until_s - time.monotonic()) > 0:
        event = client.next_event(left_s)
        if event is not None and event.campaign == campaign:
            until_s = min(rested_s, give_up_s)


class _LiveTable:
    def __init__(self) -> None:
        self._block = LiveBlock()

    def show(self, view: CampaignView) -> None:
        self._block.show(view.table())

    def end(self, view: CampaignView) -> None:
        pass


class _PlainLines:
    def __init__(self) -> None:
        self._last: CampaignView | None = None

    def show(self, view: CampaignView) -> None:
        if view.approval_changed_since(self._last):
            print(printable(view.heading()), flush=True)
        for attempt in view.changed_since(self._last):
            print(printable(attempt_line(attempt)), flush=True)
        self._last = view

    def end(self, view: CampaignView) -> None:
        print(printable(view.heading()), flush=True)


class _JsonLines:
    """One attempt a line, as it changes, and the summary when it waits, begins and ends."""

    def __init__(self) -> None:
        self._last: CampaignView | None = None

    def show(self, view: CampaignView) -> None:
        if view.approval_changed_since(self._last):
            print_json_line(as_json(view.summary))
        for attempt in view.changed_since(self._last):
            print_json_line(as_json(attempt))
        self._last = view

    def end(self, view: CampaignView) -> None:
        print_json_line(as_json(view.summary))


def _release_of(argument: str, client: OperatorClient) -> bytes:
    """The digest of the release."""
    digest = parse_digest(argument)
    if digest is not None:
        return digest
    path = Path(argument)
    if not path.is_file():
        raise UsageError(
            Reason.BAD_USE, f"expected a release file or 64 hex digits, got {argument!r:.80}; push prints the digits"
        )
    with open_release_file(path) as file:
        return client.trust.open_release(file.envelope_data).digest


def _window(text: str) -> tuple[int, int]:
    """`22:00-04:30`, as seconds of the day in UTC."""
    match = _WINDOW.fullmatch(text)
    if match is not None:
        hours_from, minutes_from, hours_to, minutes_to = map(int, match.groups())
        begin, end = 60 * hours_from + minutes_from, 60 * hours_to + minutes_to
        if max(begin, end) <= _MINUTES_A_DAY and begin != end:
            return 60 * begin, 60 * end
    raise argparse.ArgumentTypeError(f"expected two different times like 22:00-04:30, got {text!r:.80}")

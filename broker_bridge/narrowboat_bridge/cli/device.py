"""`narrowboat device`: which devices there are, what they run, and what they did lately."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from narrowboat_protocol.documents import DeviceDetail, DeviceList, DevicePage, DeviceShow, DeviceSummary

from .admission import add_commands
from .arguments import Subparsers, add_command, add_group, name
from .campaign_view import attempt_line
from .client import OperatorClient, connect, every
from .exits import ExitCode
from .operator_toml import add_operator_arguments
from .output import iso_time, print_json, print_result
from .results import DEVICE_HEADINGS, as_json, device_row, print_listing

_PAGE_DEVICES = 200


def add_parser(subparsers: Subparsers) -> None:
    commands = add_group(subparsers, "device", "The devices of the fleet.")
    add_operator_arguments(add_command(commands, "list", _list, "list devices by name"))
    show = add_command(commands, "show", _show, "show one device and its newest attempts")
    show.add_argument("device", metavar="NAME", type=name, help="its name")
    add_operator_arguments(show)
    add_commands(commands)


def _list(arguments: argparse.Namespace) -> int:
    with connect(arguments) as client:
        devices = ask(client)
    print_listing(devices, DEVICE_HEADINGS, device_row, as_array=arguments.json)
    return ExitCode.OK


def _show(arguments: argparse.Namespace) -> int:
    with connect(arguments) as client:
        detail = client.call(DeviceShow(device=arguments.device), DeviceDetail)
    if arguments.json:
        print_json(as_json(detail))
        return ExitCode.OK
    summary = detail.summary
    print_result(
        {
            "device": summary.name,
            "last_seen": iso_time(summary.last_seen_at),
            "hardware": detail.hardware,
            "agent": detail.agent_version,
            "running_slot": summary.running_slot,
            "version": summary.version,
            "release": summary.release.hex() if summary.release else None,
            "campaign": summary.campaign,
            "attempts": {f"#{item.attempt}": attempt_line(item) for item in detail.attempts},
        },
        as_json=False,
    )
    return ExitCode.OK


def ask(client: OperatorClient) -> list[DeviceSummary]:
    """All devices, page by page."""

    def page_after(last: DeviceSummary | None) -> tuple[Sequence[DeviceSummary], bool]:
        page = client.call(DeviceList(after=last.name if last else None, limit=_PAGE_DEVICES), DevicePage)
        return page.devices, page.more

    return list(every(page_after))

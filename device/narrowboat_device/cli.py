"""The command line of a gateway, `narrowboat-device`: run, status, provision, enrol, verify-slot, install, import,
machine.

Exit status: 0 it is done; 1 it was refused or it failed, standard error says why; 2 the command or the configuration
is wrong; and from `run`, 100 the machine is to be rebooted now.

Each command imports what it needs: the agent runs for years on small machines, and need not hold the rest.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

from narrowboat_protocol.errors import NarrowboatError, Reason, SigningError, UsageError
from narrowboat_protocol.limits import DEFAULT_LIMITS

from . import __version__
from .config import load_config
from .disk import SystemDisk
from .inbox import Inbox
from .log import LEVELS, log_to_stderr

DEFAULT_CONFIG = Path("/etc/narrowboat/device.toml")
REBOOT_STATUS = 100
_OK, _REFUSED, _WRONG_USE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr does: a path need not be text
    log_to_stderr(options.log_level)
    try:
        status: int = options.command(options)
    except UsageError as error:
        print(f"narrowboat-device: {error}", file=sys.stderr)
        return _WRONG_USE
    except NarrowboatError as error:
        print(f"narrowboat-device: {error.reason}: {error}", file=sys.stderr)
        return _REFUSED
    except SigningError as error:
        print(f"narrowboat-device: {error}", file=sys.stderr)
        return _REFUSED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="narrowboat-device", description="Keeps this gateway up to date.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--log-level", choices=LEVELS, default="info")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, text: str, function: object) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="default: %(default)s")
        added.set_defaults(command=function)
        return added

    command("run", "run the agent", _run)
    status = command("status", "show where the agent stands", _status)
    status.add_argument("--json", action="store_true", help="as the status file has it, for programs")
    made = command("provision", "make this machine a gateway; may be repeated", _provision)
    made.add_argument("--csr-out", type=Path, metavar="FILE", help="write a certificate signing request")
    made.add_argument("--primary", metavar="SLOT", help="the slot that runs now; default: the first")
    made.add_argument("--release", type=Path, metavar="FILE", help="the release that the primary slot was made from")
    command("enrol", "get this gateway's certificate from the fleet; waits until an operator has decided", _enrol)
    verified = command("verify-slot", "prove a slot's bytes against the release beside it", _verify_slot)
    verified.add_argument("slot", metavar="SLOT")
    installed = command("install", "install a release file, without broker or bridge; the next boot tries it", _install)
    installed.add_argument("file", type=Path, metavar="FILE")
    imported = command("import", "take up newer roots from a file, a folder or a web server", _import)
    imported.add_argument("source", metavar="FILE|URL", help="one root, or where N.root files lie")
    command("machine", "simulate the machine around the agent: boot loader, reboots, watchdog", _machine)
    return parser


def _run(options: argparse.Namespace) -> int:
    from threading import Event as Flag

    from .assembly import open_gateway
    from .identity import ensure_certificate, start_renewal
    from .loop import Ending, Shell

    disk, written, stop = SystemDisk(), load_config(options.config), Flag()
    while True:
        again = Flag()
        with _on_signals(stop.set):
            config = ensure_certificate(disk, written, DEFAULT_LIMITS, stop)
        if config is None:
            return _OK
        with open_gateway(disk, config, DEFAULT_LIMITS, with_link=True) as gateway:
            inbox, ended = gateway.inbox, Flag()

            def renewed(again: Flag = again, inbox: Inbox = inbox) -> None:
                again.set()
                inbox.close()

            start_renewal(disk, config, DEFAULT_LIMITS, gateway.link, ended, renewed)
            with _stoppable(inbox):
                ending = Shell(gateway.agent, gateway.machine, inbox).run([gateway.started])
            ended.set()
        if ending is Ending.REBOOT:
            return REBOOT_STATUS
        if not again.is_set():
            return _OK


def _enrol(options: argparse.Namespace) -> int:
    from threading import Event as Flag

    from .identity import ensure_certificate

    written, stop = load_config(options.config), Flag()
    if written.enrolment is None:
        raise UsageError(Reason.BAD_CONFIG, f"{options.config}: expected an [enrolment] section, got none")
    with _on_signals(stop.set):
        config = ensure_certificate(SystemDisk(), written, DEFAULT_LIMITS, stop)
    if config is None:
        return _REFUSED
    print(f"this gateway is {config.gateway.name}")
    return _OK


def _status(options: argparse.Namespace) -> int:
    from .loop import wall_s
    from .status import read_status, status_path
    from .status_text import status_lines

    values = read_status(SystemDisk(), status_path(load_config(options.config).storage.data_dir))
    if options.json:
        print(json.dumps(values, indent=1))
        return _OK
    for line in status_lines(values, wall_s()):
        print(line)
    return _OK


def _provision(options: argparse.Namespace) -> int:
    from .files import write_durably
    from .provision import provision, record_release, signing_request

    disk, config = SystemDisk(), load_config(options.config)
    made = provision(disk, config, DEFAULT_LIMITS, options.primary)
    for line in made or ["nothing: all is there"]:
        print(f"made {line}")
    if options.csr_out is not None:
        write_durably(disk, options.csr_out, signing_request(disk, config))
        print(f"made certificate signing request {options.csr_out}")
    if options.release is not None:
        print(f"recorded the release beside slot {record_release(disk, config, DEFAULT_LIMITS, options.release)}")
    return _OK


def _verify_slot(options: argparse.Namespace) -> int:
    from .verify import verify_slot

    finding = verify_slot(SystemDisk(), load_config(options.config), DEFAULT_LIMITS, options.slot)
    print(f"slot {options.slot} {finding}")
    return _OK if finding.matches else _REFUSED


def _install(options: argparse.Namespace) -> int:
    from .install import install

    config = load_config(options.config)
    ready = install(
        SystemDisk(), config, DEFAULT_LIMITS, options.file, lambda line: print(line, flush=True), _stoppable
    )
    return _OK if ready else _REFUSED


def _import(options: argparse.Namespace) -> int:
    from .import_roots import import_roots

    config = load_config(options.config)
    version = import_roots(SystemDisk(), config, DEFAULT_LIMITS, options.source, lambda line: print(line, flush=True))
    print(f"trusted: root version {version}")
    return _OK


def _machine(options: argparse.Namespace) -> int:
    from .machine import SimulatedMachine, agent_command

    config = load_config(options.config)
    SimulatedMachine(SystemDisk(), config, agent_command(options.config, options.log_level), REBOOT_STATUS).run()
    return _OK


@contextmanager
def _stoppable(inbox: Inbox) -> Iterator[None]:
    """SIGTERM and SIGINT end the loop after the event at hand."""
    with _on_signals(inbox.close):
        yield


@contextmanager
def _on_signals(stop: Callable[[], None]) -> Iterator[None]:
    handlers = {number: signal.signal(number, lambda *_: stop()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)

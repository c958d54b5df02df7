"""A gateway whose machine runs in a thread of the test: the boot loader, and in each boot the agent as the product
assembles it, with its real slots, records, link and loop.

It starts in a fraction of the time of a process, and a test can look at what a process does not show: how often the
agent refused something, and what it logged. What it cannot do is lose power in the middle of anything; for that a test
takes `LiveFleet.switch_on` and `pull_the_plug`.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Self

from narrowboat_device.assembly import open_gateway, open_record
from narrowboat_device.boot.loader import power_on
from narrowboat_device.boot.state import BootState, read_state
from narrowboat_device.config import Config, load_config
from narrowboat_device.core import Agent
from narrowboat_device.core.actions import Record
from narrowboat_device.core.memory import Letter, Outbox, read_record
from narrowboat_device.disk import Disk, SystemDisk
from narrowboat_device.envelopes import EnvelopeFolder
from narrowboat_device.inbox import Inbox
from narrowboat_device.loop import Ending, Shell
from narrowboat_device.status import status_path
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.limits import DEFAULT_LIMITS
from narrowboat_protocol.states import State

DISK = SystemDisk()

_STOP_S = 30.0
_AGENT_LOGGER = "narrowboat_device.agent"


class AgentThread:
    """One machine, switched on inside the `with` block; `switch_off` and `switch_on` come as often as a test wants."""

    def __init__(self, config: Path, disk: Disk = DISK) -> None:
        self._disk = disk
        self.config: Config = load_config(config)
        self.name = self.config.gateway.name
        self.warnings: list[str] = []
        """What the agent logged as a warning, over all boots."""
        self.stay_down = False
        """The next reboot ends with the power off."""
        self._agent: Agent | None = None
        self._inbox: Inbox | None = None
        self._thread: Thread | None = None
        self._off = Event()
        self._handler = _Collector(f"machine {self.name}", self.warnings)

    def __enter__(self) -> Self:
        logging.getLogger(_AGENT_LOGGER).addHandler(self._handler)
        self.switch_on()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.switch_off()
        logging.getLogger(_AGENT_LOGGER).removeHandler(self._handler)

    def switch_on(self) -> None:
        self.wait_until_down()
        self._agent = self._inbox = None
        self._off.clear()
        self._thread = Thread(target=self._live, name=f"machine {self.name}", daemon=True)
        self._thread.start()

    def switch_off(self) -> None:
        """End the agent after the event at hand, and the machine with it."""
        self._off.set()
        if self._inbox is not None:
            self._inbox.close()
        self.wait_until_down()

    def wait_until_down(self) -> None:
        if self._thread is not None:
            self._thread.join(_STOP_S)
            assert not self._thread.is_alive(), f"expected the machine of {self.name} to end"

    @property
    def is_down(self) -> bool:
        return self._thread is None or not self._thread.is_alive()

    @property
    def state(self) -> State | None:
        """The state of the newest attempt, as the agent of this boot has it."""
        return self._agent.state if self._agent is not None else None

    @property
    def done_bytes(self) -> int:
        """How much of the image the agent says is synced."""
        path = status_path(self.config.storage.data_dir)
        return int(json.loads(path.read_text()).get("done_bytes") or 0) if path.exists() else 0

    @property
    def refusals(self) -> Counter[Reason]:
        """How often the agent of this boot refused something, by reason."""
        return Counter(self._agent.refusals) if self._agent is not None else Counter()

    @property
    def boot(self) -> BootState:
        """What the boot loader would read now."""
        state = read_state(DISK, self.config.boot.state_file)
        assert state is not None
        return state

    @property
    def outbox(self) -> tuple[Letter, ...]:
        """The terminal reports on disk that no Ack has covered."""
        with open_record(DISK, self.config, Record.OUTBOX, DEFAULT_LIMITS) as record:
            outbox = read_record(Outbox, record.load())
        return outbox.letters if outbox is not None else ()

    def slot(self, name: str) -> bytes:
        return next(slot.path for slot in self.config.slots if slot.name == name).read_bytes()

    def holds_envelope(self, slot: str) -> bool:
        """Whether a release lies beside a slot."""
        return EnvelopeFolder(DISK, self.config.storage.data_dir, DEFAULT_LIMITS).load(slot) is not None

    def _live(self) -> None:
        config = self.config
        ending = Ending.REBOOT
        while ending is Ending.REBOOT and not self._off.is_set():
            power_on(DISK, config.boot.state_file, config.boot.booted_path, config.slot_names)
            with ExitStack() as stack:
                gateway = stack.enter_context(open_gateway(self._disk, config, DEFAULT_LIMITS, with_link=True))
                self._agent, self._inbox = gateway.agent, gateway.inbox
                if self._off.is_set():
                    return
                ending = Shell(gateway.agent, gateway.machine, gateway.inbox).run([gateway.started])
            if self.stay_down:
                self.stay_down = False
                return


class _Collector(logging.Handler):
    """Keeps the warnings of one thread."""

    def __init__(self, thread_name: str, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._thread_name = thread_name
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        if record.threadName == self._thread_name:
            self._lines.append(record.getMessage())

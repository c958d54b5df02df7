"""Ways to break the bridge and the agent's words at run time, and the invariant that must notice each.

A mutation is a mistake that somebody could make. Each row says in which weather it shows; the seeds before the one that
shows it must hold, so that it is this invariant, and no other, that notices.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from narrowboat_bridge.core import devices as bridge_devices
from narrowboat_bridge.core.attempts import Verdict, judge_success, take_report
from narrowboat_bridge.core.campaigns import Campaigns
from narrowboat_bridge.core.pairs import Standing
from narrowboat_bridge.core.records import Campaign, Device
from narrowboat_bridge.server.performer import Performer
from narrowboat_bridge.server.uploads import Uploads
from narrowboat_device.core.memory import Memory
from narrowboat_device.core.roots import Roots
from narrowboat_device.core.voice import Voice
from narrowboat_protocol.states import State
from narrowboat_protocol.transfer import decode_block
from narrowboat_protocol.trust import NO_FLOOR, Trust

from .weather import Weather

_save_trust, _acknowledged = Memory.save_trust, Voice.acknowledged
_judge_release = Trust.judge_release


@dataclass(frozen=True, slots=True)
class Mutation:
    """One mistake."""

    breaks: Callable[[], AbstractContextManager[Any]]
    invariant: str
    weather: Weather


def _success_before_the_commit(attempt: Any, report: Any, received_at: int) -> Any:
    taken = take_report(attempt, report, received_at)
    return replace(taken, state=State.SUCCEEDED) if taken.state is State.ON_TRIAL else taken


def _said_before_the_commit(performer: Any, now: Any) -> None:
    for topic, payload, qos in performer._messages:  # noqa: SLF001
        performer._publisher.publish(topic, payload, qos=qos)  # noqa: SLF001
    performer._messages.clear()  # noqa: SLF001
    performer._store.commit(now.wall_s)  # noqa: SLF001
    for step in performer._after_commit:  # noqa: SLF001
        step()
    performer._after_commit.clear()  # noqa: SLF001


def _boot_number_in_memory_alone(memory: Any, **changes: Any) -> Any:
    return _save_trust(memory, **{name: value for name, value in changes.items() if name != "boot_number"})


def _release_files_are_unheard_of(attempt: Any, device: Any, release: bytes, _newest_counter: int, now_s: int) -> Any:
    return judge_success(attempt, device, release, -1, now_s)


def _blocks_follow_each_other_as_they_come(uploads: Any, operator: str, message: bytes) -> None:
    block = decode_block(message)
    upload = uploads._open.get((operator, block.digest_prefix))  # noqa: SLF001
    if upload is not None:
        with upload.path.open("ab") as file:
            file.write(block.data)
        upload.offset += len(block.data)


def _hello_is_never_answered(voice: Any, ack: Any, now: Any) -> Any:
    actions = _acknowledged(voice, ack, now)
    voice._hello_is_due = True  # noqa: SLF001
    voice._repeats.begin(now.monotonic_s)  # noqa: SLF001
    return actions


def _any_root_is_newer(trust: Any, data: bytes) -> bool:
    found = Trust(data, trust.fleet_id)
    trust._root, trust._data = found.root, data  # noqa: SLF001
    return True


def _judge_without_floor(trust: Any, release: Any, component: str, hardware: Any, _floor: Any) -> Any:
    return _judge_release(trust, release, component, hardware, NO_FLOOR)


MUTATIONS: dict[str, Mutation] = {
    "a trial is taken for a success": Mutation(
        lambda: patch.object(bridge_devices, "take_report", _success_before_the_commit), "success", Weather(unfit=0.5)
    ),
    "whatever comes is news": Mutation(
        lambda: patch.multiple(bridge_devices, standing=lambda *_: Standing.NEW, judge_report=lambda *_: Verdict.TAKEN),
        "once",
        Weather(duplication=0.5),
    ),
    "an Ack leaves before the commit": Mutation(
        lambda: patch.object(Performer, "flush", _said_before_the_commit), "delivered", Weather(bridge_kills=0.4)
    ),
    "a success is believed for ever": Mutation(
        lambda: patch.object(bridge_devices, "judge_success", lambda attempt, *_: attempt),
        "agreement",
        Weather(fallbacks_s=60.0),
    ),
    "what is installed from a file is not noticed": Mutation(
        lambda: patch.object(bridge_devices, "judge_success", _release_files_are_unheard_of),
        "agreement",
        Weather(installs_s=150.0, loss=0.1),
    ),
    "a trial of a release file fulfils a campaign": Mutation(
        lambda: patch.object(Device, "is_on_trial", False), "success", Weather(installs_s=60.0, unfit=0.5, loss=0.2)
    ),
    "boot numbers are not durable": Mutation(
        lambda: patch.object(Memory, "save_trust", _boot_number_in_memory_alone),
        "clones",
        Weather(agent_restarts_s=60.0),
    ),
    "nobody sends the roots that a gateway missed": Mutation(
        lambda: patch.object(Performer, "_send_roots", lambda *_: None),
        "convergence",
        Weather(roots_s=30.0, power_cuts_s=100.0),
    ),
    "a chain of roots is not walked": Mutation(
        lambda: patch.object(Roots, "chain_arrived", lambda *_, **__: []),
        "convergence",
        Weather(roots_s=30.0, power_cuts_s=100.0),
    ),
    "a release is taken whatever the floor": Mutation(
        lambda: patch.object(Trust, "judge_release", _judge_without_floor), "floor", Weather()
    ),
    "a root is taken whatever its version": Mutation(
        lambda: patch.object(Trust, "update_root", _any_root_is_newer),
        "root",
        Weather(roots_s=30.0, broker_restarts_s=60.0),
    ),
    "a campaign that waits is given out": Mutation(
        lambda: patch.object(Campaign, "waits", False), "approved", Weather()
    ),
    "a block is stored where the file ends": Mutation(
        lambda: patch.object(Uploads, "add_block", _blocks_follow_each_other_as_they_come),
        "uploads",
        Weather(uploads=1.0, loss=0.1),
    ),
    "every pair is remembered": Mutation(
        lambda: patch("narrowboat_bridge.core.pairs.RECENT_PAIRS", 1 << 20), "bounds", Weather()
    ),
    "the bridge never looks at a device again": Mutation(
        lambda: patch.object(Campaigns, "deadline", None), "convergence", Weather()
    ),
    "a hello is repeated though it was answered": Mutation(
        lambda: patch.object(Voice, "acknowledged", _hello_is_never_answered), "silence", Weather()
    ),
}

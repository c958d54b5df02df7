"""Workers: what takes long is done beside the loop, in the order of its slot, and comes back as an event."""

from __future__ import annotations

from pathlib import Path

import pytest

from narrowboat_device.core import actions as act
from narrowboat_device.core import events as ev
from narrowboat_device.core.actions import Hook
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.limits import Limits
from narrowboat_protocol.release_file import encode_header
from narrowboat_protocol.topics import Channel
from narrowboat_protocol.transfer import decode_block
from narrowboat_protocol.tree import TreeBuilder
from tests.device.shell_kit import LIMITS, LINK_OPENED, SLOT_BYTES, Rig


def test_workers_answer_in_the_order_of_their_slot(rig: Rig) -> None:
    image = bytes(range(100))
    builder = TreeBuilder(LIMITS)
    builder.update(image)
    built = builder.finish()
    core = rig.run(
        [
            act.WriteChunks("b", 0, image),
            act.SyncSlot("b", 7),
            act.HashSlot("b", built.tree, 1, 2),
            act.ReadBackSlot("b", built.tree),
        ],
        *[[]] * 3,
    )
    assert core.heard == [
        LINK_OPENED,
        ev.SlotSynced(7),
        ev.SlotHashed(1, built.leaves[32:96]),
        ev.SlotReadBack(built.layer, built.image_sha256),
    ]


def test_a_hook_answers_as_an_event(rig: Rig) -> None:
    core = rig.run([act.RunHook(Hook.DOWNLOAD, 7)], [])
    assert core.heard[1] == ev.HookFinished(Hook.DOWNLOAD, 7, ev.HookOutcome.NOT_NOW, "")


def test_a_worker_that_fails_tells_which_action(rig: Rig) -> None:
    builder = TreeBuilder(LIMITS)
    builder.update(bytes(SLOT_BYTES + 1))
    action = act.ReadBackSlot("b", builder.finish().tree)
    core = rig.run([action], [])
    failed = core.heard[1]
    assert isinstance(failed, ev.ActionFailed)
    assert (failed.action, failed.reason) == (action, Reason.MEDIUM_FAILED)


def test_a_mistake_of_ours_in_a_worker_ends_the_process(rig: Rig) -> None:
    with pytest.raises(KeyError):
        rig.run([act.SyncSlot("no such slot", 1)], [], [])


def test_a_release_file_answers_as_a_bridge_would(rig: Rig, tmp_path: Path) -> None:
    payload = bytes(range(250))
    path = tmp_path / "release.nbr"
    path.write_bytes(encode_header(len(payload), Limits()) + payload)
    core = rig.run(
        [act.Fetch(f"file:{path}", Channel.GET, b"digest 8" + bytes(24), ((10, 150), (200, 50)), 100)], [], [], []
    )
    blocks = [decode_block(heard.message) for heard in core.heard if isinstance(heard, ev.BlockArrived)]
    assert [(block.offset, bytes(block.data)) for block in blocks] == [
        (10, payload[10:110]),
        (110, payload[110:160]),
        (200, payload[200:250]),
    ]
    assert {bytes(block.digest_prefix) for block in blocks} == {b"digest 8"}


@pytest.mark.parametrize("content", [None, b"NBRELS1\n" + bytes(20)])
def test_a_release_file_that_went_away_is_told(rig: Rig, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "release.nbr"
    if content is not None:
        path.write_bytes(content)
    core = rig.run([act.Fetch(f"file:{path}", Channel.GET, bytes(32), ((0, 100),), 100)], [])
    failed = core.heard[1]
    assert isinstance(failed, ev.ActionFailed)
    assert failed.reason is Reason.NO_SOURCE

"""Commands: only an operator's own, fresh, permitted command is carried out, and it is carried out once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from narrowboat_bridge.server.assembly import open_workshop
from narrowboat_bridge.server.config import LimitsConfig
from narrowboat_bridge.server.crew import Crew
from narrowboat_bridge.server.metrics import Metrics
from narrowboat_bridge.server.operators import LIFE_S_MAX, SKEW_S
from narrowboat_bridge.server.store import Store
from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import (
    CampaignAbort,
    CampaignList,
    CampaignPage,
    CampaignStart,
    CampaignSummary,
    Command,
    DeviceList,
    OperatorRole,
    Reply,
    Request,
    Verb,
    sign_model,
)
from narrowboat_protocol.errors import Reason, UsageError
from tests.bridge.kit import BridgeKit, Wire, running_bridge
from tests.support.fleet import NOW, FleetKit, MadeRelease, OperatorKit


@dataclass
class Scene:
    """A bridge with a release, an operator and a viewer."""

    folder: Path
    fleet: FleetKit
    anna: OperatorKit
    eve: OperatorKit
    release: MadeRelease
    bridge: BridgeKit

    @property
    def start(self) -> CampaignStart:
        return CampaignStart(campaign="c1", release=self.release.digest)

    def send(self, data: bytes, topic_name: str = "anna") -> Reply | None:
        """Send a command; the reply to it, if there is one."""
        before = len(self.bridge.replies(topic_name))
        self.bridge.take(f"nb/o/{topic_name}/command", data)
        return next(iter(self.bridge.replies(topic_name)[before:]), None)

    def campaigns(self) -> list[str]:
        reply = self.send(self.anna.command(CampaignList(), request_id=self.bridge.request_id()))
        assert reply is not None
        return [campaign.name for campaign in CampaignPage.from_cbor(reply.result).campaigns]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    fleet = FleetKit.create()
    anna, eve = fleet.operator("anna"), fleet.operator("eve", OperatorRole.VIEWER)
    release = fleet.make_release(b"image" * 100)
    with running_bridge(tmp_path, fleet, anna, eve) as bridge:
        bridge.push(anna, release)
        yield Scene(tmp_path, fleet, anna, eve, release, bridge)


def command(signer: OperatorKit, request: Request, **changes: object) -> bytes:
    """A command with fields of one's choice."""
    made = Command.of(request, operator=signer.name, request_id=bytes([7]) * 16, issued_at=NOW, expires_at=NOW + 60)
    return sign_model(made.model_copy(update=changes), signer.fleet_id, [signer.key])


def test_a_command_is_carried_out_and_answered_under_its_request_id(scene: Scene) -> None:
    reply = scene.send(command(scene.anna, scene.start))
    assert reply is not None
    assert (reply.request_id, reply.reason) == (bytes([7]) * 16, None)
    assert CampaignSummary.from_cbor(reply.result).name == "c1"
    assert scene.campaigns() == ["c1"]


def altered(data: bytes) -> bytes:
    signed = SignedDocument.decode(data)
    content = signed.content.replace(b"c1", b"c2")
    assert content != signed.content
    return SignedDocument(signed.format, content, signed.signatures).encode()


def of_another_fleet(scene: Scene) -> bytes:
    elsewhere = OperatorKit("anna", scene.anna.key, scene.anna.role, bytes(32))
    return command(elsewhere, scene.start)


REFUSED: dict[str, tuple[Callable[[Scene], bytes], str, Reason]] = {
    "an operator whom the fleet does not know": (
        lambda scene: command(scene.fleet.operator("mallory"), scene.start), "mallory", Reason.UNKNOWN_OPERATOR,
    ),
    "a stranger under a known name": (
        lambda scene: command(scene.fleet.operator("anna"), scene.start), "anna", Reason.UNKNOWN_KEY,
    ),
    "another operator's command on one's own topic": (
        lambda scene: command(scene.anna, scene.start), "eve", Reason.UNKNOWN_KEY,
    ),
    "a command in another's name, signed by oneself": (
        lambda scene: command(scene.anna, scene.start, operator="eve"), "anna", Reason.NOT_PERMITTED,
    ),
    "an altered command": (lambda scene: altered(command(scene.anna, scene.start)), "anna", Reason.BAD_SIGNATURE),
    "a command of another fleet": (of_another_fleet, "anna", Reason.BAD_SIGNATURE),
    "a viewer who steers": (lambda scene: command(scene.eve, scene.start), "eve", Reason.NOT_PERMITTED),
    "an expired command": (
        lambda scene: command(scene.anna, scene.start, issued_at=NOW - 600, expires_at=NOW - SKEW_S - 1),
        "anna", Reason.EXPIRED,
    ),
    "a command from the future": (
        lambda scene: command(scene.anna, scene.start, issued_at=NOW + SKEW_S + 1, expires_at=NOW + SKEW_S + 9),
        "anna", Reason.STALE,
    ),
    "a command that lives too long": (
        lambda scene: command(scene.anna, scene.start, expires_at=NOW + LIFE_S_MAX + 1), "anna", Reason.EXPIRED,
    ),
    "a command that expires before it is issued": (
        lambda scene: command(scene.anna, scene.start, issued_at=NOW + 60, expires_at=NOW + 59), "anna", Reason.EXPIRED,
    ),
    "arguments that are not the verb's": (
        lambda scene: command(scene.anna, scene.start, arguments={1: 5}), "anna", Reason.BAD_DOCUMENT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_the_operator_s_own_fresh_and_permitted_command_is_refused_and_changes_nothing(
    scene: Scene, case: str
) -> None:
    make, topic_name, reason = REFUSED[case]
    reply = scene.send(make(scene), topic_name)
    assert reply is not None
    assert (reply.reason, reply.result) == (reason, None)
    assert scene.campaigns() == []


ACCEPTED = {
    "as old as the clocks may differ": {"issued_at": NOW - 600, "expires_at": NOW - SKEW_S},
    "as new as the clocks may differ": {"issued_at": NOW + SKEW_S, "expires_at": NOW + SKEW_S + 60},
    "as long as a command may live": {"issued_at": NOW, "expires_at": NOW + LIFE_S_MAX},
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_command_at_the_edge_of_its_time_is_carried_out(scene: Scene, case: str) -> None:
    reply = scene.send(command(scene.anna, scene.start, **ACCEPTED[case]))
    assert reply is not None
    assert reply.reason is None


def test_a_viewer_may_look(scene: Scene) -> None:
    reply = scene.send(command(scene.eve, DeviceList()), "eve")
    assert reply is not None
    assert reply.reason is None


MAY = {
    OperatorRole.VIEWER: {Verb.DEVICE_LIST, Verb.CAMPAIGN_SHOW, Verb.ENROLMENT_LIST},
    OperatorRole.APPROVER: {Verb.DEVICE_LIST, Verb.CAMPAIGN_SHOW, Verb.ENROLMENT_LIST, Verb.CAMPAIGN_APPROVE},
    OperatorRole.OPERATOR: {
        Verb.DEVICE_LIST, Verb.CAMPAIGN_SHOW, Verb.ENROLMENT_LIST, Verb.CAMPAIGN_START, Verb.CAMPAIGN_ABORT,
        Verb.UPLOAD_BEGIN, Verb.UPLOAD_FINISH,
    },
    OperatorRole.ADMIN: set(Verb),
}  # fmt: skip
DEMANDING = [
    Verb.DEVICE_LIST, Verb.CAMPAIGN_SHOW, Verb.ENROLMENT_LIST, Verb.CAMPAIGN_START, Verb.CAMPAIGN_ABORT,
    Verb.UPLOAD_BEGIN, Verb.UPLOAD_FINISH, Verb.CLAIM_CREATE, Verb.CLAIM_REVOKE, Verb.DEVICE_REGISTER,
    Verb.DEVICE_APPROVE, Verb.DEVICE_REJECT, Verb.DEVICE_REVOKE, Verb.DEVICE_RESOLVE,
    Verb.CAMPAIGN_APPROVE, Verb.AUDIT_LIST,
]  # fmt: skip


@pytest.mark.parametrize("role", MAY)
def test_a_role_may_do_what_it_is_for_and_is_refused_the_rest(tmp_path: Path, role: OperatorRole) -> None:
    fleet = FleetKit.create()
    who = fleet.operator("anna", role)
    with running_bridge(tmp_path, fleet, who) as bridge:
        for number, verb in enumerate(DEMANDING):
            bridge.take("nb/o/anna/command", command(who, DeviceList(), verb=verb, request_id=bytes([number]) * 16))
        refused = {
            verb
            for verb, reply in zip(DEMANDING, bridge.replies(), strict=True)
            if reply.reason is Reason.NOT_PERMITTED
        }
    assert refused == set(DEMANDING) - MAY[role]


def test_a_replayed_command_gets_the_reply_that_it_had_and_is_not_carried_out_again(scene: Scene) -> None:
    data = command(scene.anna, scene.start)
    first = scene.send(data)
    scene.send(scene.anna.command(CampaignAbort(campaign="c1"), request_id=scene.bridge.request_id()))
    assert scene.send(data) == first
    assert first is not None
    assert CampaignSummary.from_cbor(first.result).ended is None, "it tells what was true when it was carried out"


def test_a_replay_is_known_after_a_restart(tmp_path: Path) -> None:
    fleet = FleetKit.create()
    anna, release = fleet.operator("anna"), fleet.make_release(b"image" * 100)
    data = command(anna, CampaignStart(campaign="c1", release=release.digest))
    with running_bridge(tmp_path, fleet, anna) as bridge:
        bridge.push(anna, release)
        bridge.take("nb/o/anna/command", data)
        first = bridge.replies()[-1]
    with running_bridge(tmp_path, fleet, anna) as bridge:
        bridge.take("nb/o/anna/command", data)
        assert bridge.replies() == [first]
        assert not bridge.events()


def test_another_command_under_a_request_id_that_was_used_is_refused(scene: Scene) -> None:
    data = command(scene.anna, scene.start)
    first = scene.send(data)
    reply = scene.send(command(scene.anna, CampaignAbort(campaign="c1")))
    assert reply is not None
    assert reply.reason is Reason.CONFLICT
    assert scene.send(data) == first, "the refusal did not take the place of the reply"


def test_a_request_id_of_one_operator_takes_nothing_from_another(scene: Scene) -> None:
    scene.send(command(scene.anna, DeviceList()))
    reply = scene.send(command(scene.eve, DeviceList()), "eve")
    assert reply is not None
    assert reply.reason is None


def test_a_look_that_is_repeated_is_taken_anew(scene: Scene) -> None:
    data = command(scene.anna, CampaignList())
    scene.send(data)
    scene.send(scene.anna.command(scene.start, request_id=scene.bridge.request_id()))
    reply = scene.send(data)
    assert reply is not None
    assert [campaign.name for campaign in CampaignPage.from_cbor(reply.result).campaigns] == ["c1"]


def test_the_replay_table_is_bounded(tmp_path: Path) -> None:
    fleet = FleetKit.create()
    anna = fleet.operator("anna")
    with running_bridge(tmp_path, fleet, anna, limits=LimitsConfig(replays_max=100)) as bridge:
        for number in range(101):
            abort = anna.command(CampaignAbort(campaign="c1"), request_id=number.to_bytes(16, "big"))
            bridge.take("nb/o/anna/command", abort)
        assert bridge.replies()[-1].reason is Reason.BUSY
        bridge.sleep(60 + SKEW_S + 1)
        late = anna.command(
            CampaignAbort(campaign="c1"), request_id=bytes([9]) * 16, issued_at=NOW + 180, expires_at=NOW + 240
        )
        bridge.take("nb/o/anna/command", late)
        assert bridge.replies()[-1].reason is Reason.UNKNOWN_CAMPAIGN


def test_an_operator_who_commands_too_fast_is_not_even_looked_at(tmp_path: Path) -> None:
    fleet = FleetKit.create()
    anna = fleet.operator("anna")
    with running_bridge(tmp_path, fleet, anna, limits=LimitsConfig(operator_messages_per_s=1.0)) as bridge:
        for number in range(10):
            look = anna.command(DeviceList(), request_id=number.to_bytes(16, "big"))
            bridge.take("nb/o/anna/command", look)
        assert len(bridge.replies()) == 4
        assert bridge.metrics.value("limited.command") == 6


def test_a_newer_operators_document_is_taken_without_a_restart(scene: Scene) -> None:
    bert = scene.fleet.operator("bert")
    path = scene.bridge.config.trust.operators
    path.write_bytes(scene.fleet.operators(scene.anna, bert, version=2))
    scene.bridge.workshop.loop.reload()
    reply = scene.send(command(bert, scene.start), "bert")
    assert reply is not None
    assert reply.reason is None


@pytest.mark.parametrize("case", ["older", "another of the same version", "unsigned", "missing"])
def test_an_operators_document_that_is_not_believed_changes_nothing(scene: Scene, case: str) -> None:
    path = scene.bridge.config.trust.operators
    path.write_bytes(scene.fleet.operators(scene.anna, version=2))
    scene.bridge.workshop.loop.reload()
    scene.bridge.workshop.loop.turn()
    mallory = scene.fleet.operator("mallory")
    if case == "missing":
        path.unlink()
    else:
        signer = FleetKit.create() if case == "unsigned" else scene.fleet
        version = {"older": 1, "another of the same version": 2, "unsigned": 3}[case]
        path.write_bytes(signer.operators(mallory, version=version))
    scene.bridge.workshop.loop.reload()
    reply = scene.send(command(mallory, scene.start), "mallory")
    assert reply is not None
    assert reply.reason is Reason.UNKNOWN_OPERATOR
    assert scene.send(command(scene.anna, DeviceList())) is not None


def test_an_operator_who_was_revoked_does_not_come_back_with_an_older_document(scene: Scene, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    fleet, anna, eve = scene.fleet, scene.anna, scene.eve
    with running_bridge(folder, fleet, anna, eve) as bridge:
        path = bridge.config.trust.operators
        older = path.read_bytes()
        path.write_bytes(fleet.operators(anna, version=2))
        bridge.workshop.loop.reload()
        bridge.workshop.loop.turn()
    with closing(Store(bridge.config.store_path, fleet.fleet_id, 200)) as store:
        assert b"operators replaced" in store.audit_entries_after(0, 100)[-1].content
    path.write_bytes(older)
    with pytest.raises(UsageError, match="expected operators version 2 or newer, got 1"), open_again(bridge):
        pass
    path.write_bytes(fleet.operators(anna, eve, version=2))
    with pytest.raises(UsageError, match="expected operators version 2 as it was taken first"), open_again(bridge):
        pass
    path.write_bytes(fleet.operators(anna, version=2))
    with open_again(bridge):
        pass


def open_again(bridge: BridgeKit) -> AbstractContextManager[object]:
    """Another run of the same bridge, with its files as they are."""
    return open_workshop(bridge.config, Wire(), Wire(), Metrics(), Crew())

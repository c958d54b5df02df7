"""Who may command a fleet: commands as bytes on the broker, from terminals that the broker let in.

The command line makes no such commands, so these terminals sign and publish them themselves. A refusal is a signed
reply with its reason; it changes nothing. The audit log has it if it is the operator's own word in its time.
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pytest

from narrowboat_bridge.broker_home import Listener
from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import (
    CampaignApprove,
    CampaignStart,
    CampaignSummary,
    Command,
    OperatorRole,
    Reply,
    Request,
    UploadBegin,
)
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.keys import Algorithm, PrivateKey
from narrowboat_protocol.limits import MIB
from narrowboat_protocol.topics import Channel, operator_topic
from tests.bridge.cli_kit import run
from tests.broker.lab import OPERATOR, VIEWER, Lab
from tests.support.broker import Credentials
from tests.support.fleet import OperatorKit
from tests.support.images import small_image
from tests.support.mqtt_client import SUCCESS, MqttClient
from tests.support.processes import wait_for
from tests.support.rogue import PATIENCE_S

STRANGER = "mallory"
APPROVER, TWIN = "approver", "twin"


@dataclass(frozen=True, slots=True)
class Terminal:
    """One operator's certificate, signing key and connection."""

    lab: Lab
    operator: OperatorKit
    mqtt: MqttClient

    @property
    def topic(self) -> str:
        return operator_topic(self.operator.name, Channel.COMMAND)

    def send(self, command: bytes) -> bytes:
        """Publish a command; return the bridge's answer as it came. Other terminals of the operator hear it too."""
        assert self.mqtt.publish(self.topic, command) == SUCCESS
        request_id = Command.decode(SignedDocument.decode(command).content).request_id
        while True:
            topic, data = self.mqtt.next_message()
            assert topic == operator_topic(self.operator.name, Channel.REPLY)
            if self.lab.kit.trust().open_reply(data).request_id == request_id:
                return data

    def ask(self, command: bytes) -> Reply:
        return self.lab.kit.trust().open_reply(self.send(command))


def terminal(stack: ExitStack, lab: Lab, who: OperatorKit, credentials: Credentials) -> Terminal:
    mqtt = stack.enter_context(MqttClient(credentials.tls(), lab.fleet.ports.staff))
    assert mqtt.connect() == SUCCESS
    mqtt.subscribe(operator_topic(who.name, Channel.REPLY))
    return Terminal(lab, who, mqtt)


def issued_terminal(stack: ExitStack, lab: Lab, name: str, role: OperatorRole) -> Terminal:
    """The terminal of an operator for whom the command line made everything."""
    own = lab.fleet.path / "operators" / name
    key = PrivateKey.from_pem((own / "signing-key.pem").read_bytes())
    credentials = Credentials(name, own / "certificate.pem", own / "key.pem", own / "server-ca.pem")
    return terminal(stack, lab, OperatorKit(name, key, role, lab.kit.fleet_id), credentials)


@pytest.fixture(scope="module")
def terminals(lab: Lab) -> Iterator[dict[str, Terminal]]:
    """An operator, a viewer, and one with a certificate whom the operators document does not name."""
    with ExitStack() as stack:
        made = {
            OPERATOR: issued_terminal(stack, lab, OPERATOR, OperatorRole.ADMIN),
            VIEWER: issued_terminal(stack, lab, VIEWER, OperatorRole.VIEWER),
        }
        stranger = OperatorKit(
            STRANGER, PrivateKey.generate(Algorithm.ED25519), OperatorRole.OPERATOR, lab.kit.fleet_id
        )
        made[STRANGER] = terminal(stack, lab, stranger, lab.credentials(Listener.STAFF, STRANGER))
        yield made


@pytest.fixture(scope="module")
def second(lab: Lab) -> Iterator[dict[str, Terminal]]:
    """An approver, and the operator once more: under another name, with a certificate of that name and the same key."""
    issued = run("pki", "issue", "operator", APPROVER, "--role", "approver", "--fleet", lab.fleet.path)
    assert issued.status == 0, issued.err
    operators_key = PrivateKey.from_pem((lab.fleet.path / "operators" / OPERATOR / "signing-key.pem").read_bytes())
    twin = OperatorKit(TWIN, operators_key, OperatorRole.ADMIN, lab.kit.fleet_id)
    lab.let_command(twin)
    with ExitStack() as stack:
        yield {
            APPROVER: issued_terminal(stack, lab, APPROVER, OperatorRole.APPROVER),
            TWIN: terminal(stack, lab, twin, lab.credentials(Listener.STAFF, TWIN)),
        }


@pytest.fixture(scope="module")
def start(lab: Lab) -> CampaignStart:
    """A campaign that nobody has started."""
    pushed = lab.push(small_image(50, MIB), "5.0.0")
    return CampaignStart(campaign="coup", release=pushed.made.digest, devices=None)


def signed(who: OperatorKit, start: Request, *, issued_s: int = 0, life_s: int = 60, name: str | None = None) -> bytes:
    """A command, issued so many seconds from now."""
    at = int(time.time()) + issued_s
    request_id = secrets.token_bytes(16)
    return who.command(start, request_id=request_id, operator=name, issued_at=at, expires_at=at + life_s)


def altered(who: OperatorKit, start: CampaignStart) -> bytes:
    """Another campaign's name under the signature of the true command."""
    document = SignedDocument.decode(signed(who, start))
    return replace(document, content=document.content.replace(b"coup", b"raid")).encode()


def by_a_strangers_key(who: OperatorKit, start: CampaignStart) -> bytes:
    return signed(replace(who, key=PrivateKey.generate(Algorithm.ED25519)), start)


def for_another_fleet(who: OperatorKit, start: CampaignStart) -> bytes:
    return signed(replace(who, fleet_id=bytes(32)), start)


Make = Callable[[OperatorKit, CampaignStart], bytes]


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        (STRANGER, signed, Reason.UNKNOWN_OPERATOR),
        (VIEWER, signed, Reason.NOT_PERMITTED),
        (OPERATOR, by_a_strangers_key, Reason.UNKNOWN_KEY),
        (OPERATOR, for_another_fleet, Reason.BAD_SIGNATURE),
        (OPERATOR, altered, Reason.BAD_SIGNATURE),
        (OPERATOR, lambda who, start: signed(who, start, name=VIEWER), Reason.NOT_PERMITTED),
        (OPERATOR, lambda who, start: signed(who, start, issued_s=-600), Reason.EXPIRED),
        (OPERATOR, lambda who, start: signed(who, start, issued_s=600), Reason.STALE),
        (OPERATOR, lambda who, start: signed(who, start, life_s=3600), Reason.EXPIRED),
    ],
    ids=[
        "unknown operator",
        "viewer that steers",
        "strange key",
        "another fleet's",
        "altered",
        "in another's name",
        "expired",
        "from the future",
        "without an end",
    ],
)
def test_a_command_that_does_not_count_starts_nothing_and_is_on_record_if_its_sender_is_proved(
    lab: Lab, terminals: dict[str, Terminal], start: CampaignStart, name: str, make: Make, reason: Reason
) -> None:
    before = len(lab.audit())
    reply = terminals[name].ask(make(terminals[name].operator, start))
    assert (reply.reason, reply.result) == (reason, None)
    assert lab.type("campaign", "show", start.campaign).status == 1
    recorded = [entry for entry in lab.audit()[before:] if entry[0] == "command refused"]
    proved = [(name, reason.value)] if reason is Reason.NOT_PERMITTED else []
    assert [(who, facts["reason"]) for _, who, facts in recorded] == proved


def test_a_viewer_cannot_fill_the_bridges_disk(terminals: dict[str, Terminal]) -> None:
    viewer = terminals[VIEWER]
    now_s = int(time.time())
    begin = viewer.operator.command(
        UploadBegin(digest=bytes(32), size=MIB), request_id=bytes(16), issued_at=now_s, expires_at=now_s + 60
    )
    assert viewer.ask(begin).reason is Reason.NOT_PERMITTED


def test_a_captured_command_counts_once_whoever_says_it_again(
    lab: Lab, terminals: dict[str, Terminal], start: CampaignStart
) -> None:
    once = start.model_copy(update={"campaign": "once", "devices": ("gw-once",)})
    with lab.gateway("gw-once"):
        lab.wait_until_known("gw-once")
    owner, thief = terminals[OPERATOR], terminals[STRANGER]
    command = signed(owner.operator, once)
    first = owner.send(command)
    assert lab.kit.trust().open_reply(first).reason is None
    lab.abort("once")
    before = len(lab.audit())
    assert thief.ask(command).reason is Reason.UNKNOWN_OPERATOR
    assert thief.mqtt.publish(owner.topic, command) == "Not authorized"
    assert owner.send(command) == first, "the same bytes get the same reply, and nothing is carried out again"
    assert not lab.audit()[before:]
    summary = CampaignSummary.from_cbor(lab.kit.trust().open_reply(first).result)
    assert summary.name == "once"


def test_a_request_id_of_another_command_is_refused(
    lab: Lab, terminals: dict[str, Terminal], start: CampaignStart
) -> None:
    owner = terminals[OPERATOR]
    with lab.gateway("gw-twice"):
        lab.wait_until_known("gw-twice")
    now_s, request_id = int(time.time()), secrets.token_bytes(16)
    replies = [
        owner.ask(
            owner.operator.command(
                start.model_copy(update={"campaign": name, "devices": ("gw-twice",)}),
                request_id=request_id,
                issued_at=now_s,
                expires_at=now_s + 60,
            )
        )
        for name in ("first", "second")
    ]
    assert [reply.reason for reply in replies] == [None, Reason.CONFLICT]
    assert lab.type("campaign", "show", "second").status == 1


def waiting(owner: Terminal, start: CampaignStart, campaign: str, *devices: str) -> CampaignSummary:
    """A campaign that its starter wants a second person to approve."""
    request = start.model_copy(update={"campaign": campaign, "devices": devices, "approval": True})
    return CampaignSummary.from_cbor(owner.ask(signed(owner.operator, request)).result)


@pytest.mark.parametrize("name", [OPERATOR, TWIN], ids=["own name", "own key under another name"])
def test_an_insider_does_not_approve_what_they_started_and_no_gateway_hears_of_it(
    lab: Lab, terminals: dict[str, Terminal], second: dict[str, Terminal], start: CampaignStart, name: str
) -> None:
    device = campaign = f"gw-by-{name}"
    insider = {**terminals, **second}[name]
    with lab.gateway(device):
        lab.wait_until_known(device)
        summary = waiting(terminals[OPERATOR], start, campaign, device)
        assert summary.counts == {"awaiting_approval": 1}
        own = CampaignApprove(campaign=campaign, content=summary.content)
        assert insider.ask(signed(insider.operator, own)).reason is Reason.NOT_PERMITTED
        assert lab.attempt(campaign, device)["attempt"] == 0, "no assignment was made for it"
        approve = ("campaign", "approve", campaign, summary.content.hex())
        approved = run(*approve, "--config", lab.fleet.path / "operators" / APPROVER)
        assert approved.status == 0, approved.err
        assert lab.wait_for_end(campaign, device)["state"] == "succeeded"
    told = [(who, facts) for what, who, facts in lab.audit() if what == "campaign approved"]
    assert told[-1] == (APPROVER, {"campaign": campaign, "content": summary.content.hex()})


def test_an_approval_counts_for_the_campaign_that_it_names_and_for_no_other(
    lab: Lab, terminals: dict[str, Terminal], second: dict[str, Terminal], start: CampaignStart
) -> None:
    owner, approver = terminals[OPERATOR], second[APPROVER]
    with lab.gateway("gw-agreed"):
        lab.wait_until_known("gw-agreed")
    agreed, other = (waiting(owner, start, name, "gw-agreed") for name in ("agreed", "other"))
    approval = signed(approver.operator, CampaignApprove(campaign="agreed", content=agreed.content))
    first = approver.send(approval)
    assert lab.kit.trust().open_reply(first).reason is None
    assert approver.send(approval) == first, "the same bytes get the same reply, and nothing is carried out again"
    renamed = CampaignApprove(campaign="other", content=agreed.content)
    assert approver.ask(signed(approver.operator, renamed)).reason is Reason.CONFLICT
    forged = SignedDocument.decode(approval)
    moved = replace(forged, content=forged.content.replace(b"fagreed", b"eother")).encode()
    assert approver.ask(moved).reason is Reason.BAD_SIGNATURE
    shown = lab.type("campaign", "show", "other")
    assert shown.status == 0
    assert "awaiting_approval until" in shown.out
    assert other.content.hex() in shown.out
    lab.abort("other")


def lets_in(lab: Lab, credentials: Credentials) -> bool:
    with MqttClient(credentials.tls(), lab.fleet.ports.staff) as mqtt:
        return mqtt.connect() == SUCCESS


def test_a_revoked_operator_connects_no_more_by_any_certificate(lab: Lab) -> None:
    """Not to listen either. An older certificate of the same operator is as good as the newest."""
    own = lab.fleet.path / "operators" / "leaver"
    stolen = []
    for number in range(2):
        issued = run("pki", "issue", "operator", "leaver", "--fleet", lab.fleet.path)
        assert issued.status == 0, issued.err
        kept = lab.folder / f"stolen-{number}.pem"
        kept.write_bytes((own / "certificate.pem").read_bytes())
        stolen.append(Credentials("leaver", kept, own / "key.pem", own / "server-ca.pem"))
    assert all(lets_in(lab, each) for each in stolen)
    revoked = run("operator", "revoke", "leaver", "--fleet", lab.fleet.path)
    assert revoked.status == 0, revoked.err
    for process in (lab.broker, lab.bridge):
        os.kill(process.pid, signal.SIGHUP)
    wait_for(lambda: not any(lets_in(lab, each) for each in stolen), PATIENCE_S, "the broker to refuse them")
    assert lab.type("device", "list").status == 0

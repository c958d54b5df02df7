"""What comes from outside: believed documents become events, and everything else is counted and changes nothing."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from narrowboat_bridge.server.assembly import Router
from narrowboat_bridge.server.config import LimitsConfig
from narrowboat_bridge.server.inbox import LinkOpened
from narrowboat_bridge.server.metrics import Metrics
from narrowboat_protocol.cose import SignedDocument
from narrowboat_protocol.documents import CampaignList, DeviceList, DevicePage
from narrowboat_protocol.errors import Reason, TrustError
from narrowboat_protocol.limits import MIB
from narrowboat_protocol.states import State
from narrowboat_protocol.topics import WRITTEN_BY_OWNER, Party, parse_topic
from tests.bridge.kit import BridgeKit, running_bridge
from tests.support.fleet import CertificateAuthority, DeviceKit, FleetKit, OperatorKit, hello_document

FLEET = FleetKit.create()
TOPICS = [
    f"nb/{party}/{'anna' if party is Party.OPERATOR else 'gw-1'}/{channel}"
    for party in WRITTEN_BY_OWNER
    for channel in WRITTEN_BY_OWNER[party]
]


@dataclass
class Scene:
    """A bridge that knows gw-1."""

    device: DeviceKit
    anna: OperatorKit
    bridge: BridgeKit

    def devices(self) -> tuple[str, ...]:
        look = self.anna.command(DeviceList(), request_id=self.bridge.request_id())
        self.bridge.take("nb/o/anna/command", look)
        return tuple(device.name for device in DevicePage.from_cbor(self.bridge.replies()[-1].result).devices)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    device, anna = FLEET.device("gw-1"), FLEET.operator("anna")
    with running_bridge(tmp_path, FLEET, anna) as bridge:
        bridge.take("nb/d/gw-1/hello", device.hello())
        yield Scene(device, anna, bridge)


def counted(metrics: Metrics) -> dict[str, int]:
    pairs = (word.split("=") for word in metrics.line().split())
    return {name: int(count) for name, count in pairs}


def flipped(data: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[at % len(data)] ^= 1 << bit
    return bytes(changed)


HONEST = (
    FLEET.device("gw-1", ca=CertificateAuthority.create("another-ca")).hello(),
    FLEET.operator("anna").command(CampaignList(), request_id=bytes(16)),
    FLEET.assignment("gw-1"),
    FLEET.root_data,
    FLEET.make_release(b"image" * 100).envelope,
)


@given(
    st.sampled_from(TOPICS),
    st.one_of(
        st.binary(max_size=300),
        st.sampled_from(HONEST),
        st.builds(flipped, st.sampled_from(HONEST), st.integers(0), st.integers(0, 7)),
        st.builds(lambda data, length: data[: length % len(data)], st.sampled_from(HONEST), st.integers(0)),
    ),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hostile_bytes_on_any_topic_are_counted_and_change_nothing(scene: Scene, topic: str, data: bytes) -> None:
    """Nothing here is signed by a key that the bridge knows, so nothing may follow but an answer to an operator."""
    before = sum(counted(scene.bridge.metrics).values())
    said = [to for to, _ in scene.bridge.wire.messages if not to.startswith("nb/o/")]
    if topic.endswith(("/get", "/get-any")):
        scene.bridge.workshop.payloads.serve(parse_topic(topic), data)
    elif topic.endswith("/upload"):
        scene.bridge.put(topic, data)
    else:
        scene.bridge.take(topic, data)
    if not topic.endswith("/upload"):
        assert sum(counted(scene.bridge.metrics).values()) > before
    assert [to for to, _ in scene.bridge.wire.messages if not to.startswith("nb/o/")] == said
    assert scene.bridge.wire.blocks == []


def of_another_ca(scene: Scene) -> bytes:
    return FLEET.device("gw-2", ca=CertificateAuthority.create("device-ca")).hello()


def signed_by_another(scene: Scene) -> bytes:
    device, other = FLEET.device("gw-2"), FLEET.device("gw-2")
    return other.sign(hello_document(device))


def altered(scene: Scene) -> bytes:
    signed = SignedDocument.decode(FLEET.device("gw-2").hello())
    return SignedDocument(1, signed.content.replace(b"0.1.0", b"0.1.1"), signed.signatures).encode()


HELLOS: dict[str, tuple[Callable[[Scene], bytes], str, Reason]] = {
    "a certificate of another authority": (of_another_ca, "gw-2", Reason.UNKNOWN_KEY),
    "a signature by another key than the certificate's": (signed_by_another, "gw-2", Reason.UNKNOWN_KEY),
    "an altered hello": (altered, "gw-2", Reason.BAD_SIGNATURE),
    "another device's topic": (lambda scene: FLEET.device("gw-3").hello(), "gw-2", Reason.WRONG_DEVICE),
    "a certificate that is none": (
        lambda scene: FLEET.device("gw-2").hello(certificate=b"x" * 100), "gw-2", Reason.BAD_DOCUMENT,
    ),
    "a report in the place of a hello": (
        lambda scene: FLEET.device("gw-2").report(bytes(32), State.FAILED, attempt=0, pair=(1, 1)),
        "gw-2", Reason.BAD_DOCUMENT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HELLOS)
def test_a_hello_that_is_not_the_device_s_own_admits_nobody(scene: Scene, case: str) -> None:
    make, name, reason = HELLOS[case]
    scene.bridge.take(f"nb/d/{name}/hello", make(scene))
    assert counted(scene.bridge.metrics)[f"refused.hello.{reason}"] == 1
    assert scene.devices() == ("gw-1",)
    assert scene.bridge.acks(name) == []


def test_a_hello_named_unlike_its_certificate_is_refused(scene: Scene) -> None:
    device = FLEET.device("gw-2")
    scene.bridge.take("nb/d/gw-2/hello", device.sign(hello_document(device, device="gw-9")))
    assert counted(scene.bridge.metrics)["refused.hello.wrong_device"] == 1
    assert scene.devices() == ("gw-1",)


def test_another_fleet_s_signature_does_not_count(scene: Scene) -> None:
    device = FLEET.device("gw-2")
    elsewhere = DeviceKit("gw-2", device.key, device.certificate, bytes(32))
    scene.bridge.take("nb/d/gw-2/hello", elsewhere.hello())
    assert counted(scene.bridge.metrics)["refused.hello.bad_signature"] == 1


REPORTS: dict[str, tuple[Callable[[Scene], bytes], str, Reason]] = {
    "a device that never said hello": (
        lambda scene: FLEET.device("gw-2").report(bytes(32), State.FAILED, attempt=0, pair=(1, 2)),
        "gw-2", Reason.UNKNOWN_DEVICE,
    ),
    "another key than the pinned one": (
        lambda scene: FLEET.device("gw-1").report(bytes(32), State.FAILED, attempt=0, pair=(1, 2)),
        "gw-1", Reason.UNKNOWN_KEY,
    ),
    "a report in another's name": (
        lambda scene: scene.device.report(bytes(32), State.FAILED, attempt=0, pair=(1, 2), device="gw-2"),
        "gw-1", Reason.WRONG_DEVICE,
    ),
    "a hello in the place of a report": (lambda scene: scene.device.hello(pair=(1, 2)), "gw-1", Reason.BAD_SIGNATURE),
}  # fmt: skip


@pytest.mark.parametrize("case", REPORTS)
def test_a_report_that_is_not_the_device_s_own_is_not_acknowledged(scene: Scene, case: str) -> None:
    make, name, reason = REPORTS[case]
    acks = scene.bridge.acks()
    scene.bridge.take(f"nb/d/{name}/report", make(scene))
    assert counted(scene.bridge.metrics)[f"refused.report.{reason}"] == 1
    assert scene.bridge.acks() == acks
    assert scene.bridge.acks("gw-2") == []


def test_an_honest_device_is_admitted_and_its_reports_acknowledged(scene: Scene) -> None:
    report = scene.device.report(bytes(32), State.FAILED, attempt=0, pair=(1, 2))
    scene.bridge.take("nb/d/gw-1/report", report)
    assert [ack.pair for ack in scene.bridge.acks()] == [(1, 1), (1, 2)]
    challenges = {ack.challenge for ack in scene.bridge.acks()}
    assert len(challenges) == 2


def test_a_cause_is_logged_once_however_often_it_occurs(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            scene.bridge.put("nb/d/gw-1/hello", b"\xff")
        scene.bridge.workshop.loop.turn()
    assert counted(scene.bridge.metrics)["refused.hello.not_deterministic"] == 20
    assert len(caplog.records) == 1


def test_a_refusal_in_the_log_says_what_was_expected_and_not_what_came(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Metrics().refuse("hello", TrustError(Reason.WRONG_DEVICE, "expected one name"))
    assert caplog.messages == ["hello refused: wrong_device: expected one name; further ones are only counted"]


def test_a_device_that_speaks_too_fast_is_not_even_looked_at(tmp_path: Path) -> None:
    device, other = FLEET.device("gw-1"), FLEET.device("gw-2")
    with running_bridge(tmp_path, FLEET, limits=LimitsConfig(device_messages_per_s=0.5)) as bridge:
        for n in range(1, 10):
            bridge.put("nb/d/gw-1/hello", device.hello(pair=(1, n)))
        bridge.put("nb/d/gw-2/hello", other.hello())
        bridge.workshop.loop.turn()
        assert len(bridge.acks("gw-1")) == 5
        assert len(bridge.acks("gw-2")) == 1
        assert counted(bridge.metrics)["limited.hello"] == 4
        bridge.sleep(2)
        bridge.take("nb/d/gw-1/hello", device.hello(pair=(1, 20)))
        assert len(bridge.acks("gw-1")) == 6


def test_a_bridge_admits_a_bounded_number_of_devices(tmp_path: Path) -> None:
    with running_bridge(tmp_path, FLEET, limits=LimitsConfig(devices_max=1)) as bridge:
        first = FLEET.device("gw-1")
        bridge.take("nb/d/gw-1/hello", first.hello())
        bridge.take("nb/d/gw-2/hello", FLEET.device("gw-2").hello())
        bridge.take("nb/d/gw-1/hello", first.hello(pair=(1, 2)))
        assert counted(bridge.metrics)["refused.hello.busy"] == 1
        assert (len(bridge.acks("gw-1")), len(bridge.acks("gw-2"))) == (2, 0)


def test_a_bridge_that_cannot_keep_up_sheds_what_will_be_said_again_and_keeps_ends_and_commands(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device, anna = FLEET.device("gw-1"), FLEET.operator("anna")
    progress = device.report(bytes(32), State.DOWNLOADING, attempt=1, pair=(1, 2))
    end = device.report(bytes(32), State.FAILED, attempt=1, pair=(1, 3))
    command = anna.command(DeviceList(), request_id=bytes(16))
    offered = [
        ("nb/d/gw-1/hello", b"x", 50, {}),
        ("nb/d/gw-1/hello", b"x", 50, {"dropped.hello": 25}),
        ("nb/d/gw-1/report", progress, 10, {"dropped.report": 10}),
        ("nb/d/gw-1/report", b"no report at all", 1, {"dropped.report": 1}),
        ("nb/e/claim-1/request", b"x", 10, {"dropped.request": 10}),
        ("nb/d/gw-1/report", end, 10, {}),
        ("nb/o/anna/command", command, 15, {}),
        ("nb/d/gw-1/report", end, 2, {"dropped.report": 2}),
        ("nb/o/anna/command", command, 3, {"dropped.command": 3}),
    ]
    with running_bridge(tmp_path, FLEET, anna, limits=LimitsConfig(messages_queued_max=100)) as bridge:
        for topic, data, number, dropped in offered:
            before = counted(bridge.metrics)
            for _ in range(number):
                bridge.put(topic, data)
            assert Counter(counted(bridge.metrics)) - Counter(before) == Counter(dropped), topic
        bridge.workshop.loop.turn()
        assert len(bridge.replies()) == 15
        assert counted(bridge.metrics)["messages.report"] == 10
    assert caplog.text.count("dropped.hello: the limit three quarters of messages_queued_max is reached") == 1


def test_fetches_are_the_first_that_a_bridge_sheds(tmp_path: Path) -> None:
    with running_bridge(tmp_path, FLEET, limits=LimitsConfig(messages_queued_max=100)) as bridge:
        router = Router(bridge.workshop, bridge.metrics)
        for _ in range(50):
            assert "shed.get" not in counted(bridge.metrics)
            bridge.put("nb/d/gw-1/hello", b"x")
        router.take_request("nb/d/gw-1/get", b"x")
        assert counted(bridge.metrics)["shed.get"] == 1
        bridge.workshop.loop.turn()
        router.take_request("nb/d/gw-1/get", b"x")
        assert counted(bridge.metrics)["shed.get"] == 1


def test_the_inbox_holds_a_bounded_number_of_bytes_and_takes_more_when_some_were_handled(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running_bridge(tmp_path, FLEET, limits=LimitsConfig(messages_queued_bytes_max=MIB)) as bridge:
        for _ in range(2):
            for _ in range(9):
                bridge.put("nb/d/gw-1/report", bytes(100_000))
            for _ in range(5):
                bridge.put("nb/o/anna/command", bytes(100_000))
            bridge.workshop.loop.turn()
        counts = counted(bridge.metrics)
        assert (counts["dropped.report"], counts["messages.report"]) == (4, 14)
        assert (counts["dropped.command"], counts["messages.command"]) == (4, 6)
    assert caplog.text.count("messages_queued_bytes_max") == 2


def test_the_root_is_published_for_those_who_come_later(tmp_path: Path) -> None:
    with running_bridge(tmp_path, FLEET) as bridge:
        bridge.workshop.inbox.put(LinkOpened())
        bridge.workshop.loop.turn()
        assert bridge.wire.retained == {"nb/root": FLEET.root_data}

"""Text that a stranger chooses begins no line of its own and moves no terminal, wherever people or programs read it."""

from __future__ import annotations

import json
from contextlib import ExitStack

from narrowboat_bridge.broker_home import Listener
from narrowboat_protocol.errors import Reason
from narrowboat_protocol.limits import MIB
from narrowboat_protocol.states import State
from narrowboat_protocol.topics import Channel, device_subscriptions, device_topic
from tests.bridge.cli_kit import run
from tests.broker.enrolling import applicant, ask_once, kid_of
from tests.broker.lab import Lab
from tests.support.images import small_image
from tests.support.mqtt_client import SUCCESS, MqttClient

NAME = "gw-scribe"
FORGED = "FORGED"
STEERING = "\r\n\x1b[2K\x1b]0;title\x07\u202e\u2028\x9b31m\0"
INK = f"x{STEERING}{FORGED} level=error"


def is_clean(text: str) -> bool:
    """No line begins with the forger's words, and nothing in it steers a terminal."""
    lines = text.split("\n")
    return all(line.isprintable() and not line.startswith(FORGED) for line in lines)


def test_log_injection_begins_no_line_and_steers_no_terminal(lab: Lab) -> None:
    """A gateway that is admitted writes into each field that holds text, and so does one that wants to be."""
    kit, credentials = lab.impostor(NAME)
    pushed = lab.push(small_image(91, MIB), "9.1.0")
    with ExitStack() as stack:
        mqtt = stack.enter_context(MqttClient(credentials.tls(), lab.fleet.ports.device))
        assert mqtt.connect() == SUCCESS
        mqtt.subscribe(*device_subscriptions(NAME))
        assert mqtt.publish(device_topic(NAME, Channel.HELLO), kit.hello(agent_version=INK)) == SUCCESS
        lab.start(pushed, "scribe", NAME)
        attempt = lab.attempt("scribe", NAME)["attempt"]
        end = kit.report(
            pushed.made.digest, State.FAILED, attempt=attempt, pair=(1, 2), reason=Reason.BAD_FRAME, detail=INK
        )
        assert mqtt.publish(device_topic(NAME, Channel.REPORT), end) == SUCCESS
        assert lab.wait_for_end("scribe", NAME)["detail"] == INK
        junk = (device_topic(NAME, Channel.HELLO), INK.encode())
        assert mqtt.publish(*junk) == SUCCESS
    claim = lab.credentials(Listener.ENROL, "scribe-claim")
    assert lab.type("claim", "create", "scribe-claim", "--count", 1).status == 0
    config = applicant(lab, "scribe-applies", claim, f"serial = {json.dumps(INK)}\n")
    assert not ask_once(config)
    assert kid_of(config) in lab.type("device", "keys", "--json").out
    seen = {
        "device list": lab.type("device", "list"),
        "device show": lab.type("device", "show", NAME),
        "device keys": lab.type("device", "keys"),
        "campaign show": lab.type("campaign", "show", "scribe"),
        "campaign list": lab.type("campaign", "list"),
        "audit export": run("audit", "export", "--fleet", lab.fleet.path),
        "json": lab.type("campaign", "show", "scribe", "--json"),
    }
    for what, outcome in seen.items():
        assert outcome.status == 0, what
        assert is_clean(outcome.out), what
        assert is_clean(outcome.err), what
    assert FORGED in seen["campaign show"].out, "it is shown, and harmless"
    for line in seen["audit export"].out.splitlines():
        json.loads(line)
    assert is_clean(lab.bridge.log.read_text())


def test_what_would_steer_is_found() -> None:
    assert not is_clean(INK)
    assert not is_clean(f"a line\n{FORGED}")
    assert is_clean("a line\nanother\n")

"""The broker's home: the configuration that everybody reads is the one that runs, and it opens nothing by accident."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from narrowboat_bridge.broker_home import (
    CONF_NAME,
    BrokerCertificates,
    Listener,
    Ports,
    access_lists,
    render_conf,
    write_broker_home,
)
from narrowboat_protocol.topics import is_name
from tests.support.paths import REPOSITORY

PORTS = Ports(device=8884, enrol=8883, staff=20_003, bridge=20_004)
KEY = b"the server's key"
CERTIFICATES = BrokerCertificates(
    b"certificate",
    KEY,
    {listener: str(listener).encode() for listener in Listener},
    {Listener.DEVICE: b"crl", Listener.STAFF: b"crl"},
)
PATH_OPTIONS = {"cafile", "crlfile", "certfile", "keyfile", "acl_file", "persistence_location"}


def settings(text: str) -> list[tuple[str, str]]:
    """The options of a configuration and their values, in order."""
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.partition(" ") for line in lines if line and not line.startswith("#"))
    return [(option, value) for option, _, value in pairs]


def blocks(text: str) -> tuple[dict[str, str], dict[Listener, dict[str, str]]]:
    """What stands before the first listener, and what stands under each; an option stands once in each part."""
    parts: list[dict[str, str]] = [{}]
    for option, value in settings(text):
        if option == "listener":
            parts.append({})
        assert option not in parts[-1] or option == "log_type"
        parts[-1][option] = value
    return parts[0], dict(zip(Listener, parts[1:], strict=True))


def test_what_the_repository_shows_at_its_top_is_what_an_installed_package_writes() -> None:
    assert (REPOSITORY / CONF_NAME).read_text() == render_conf()


def test_only_the_ports_differ_from_the_reference_configuration() -> None:
    reference, rendered = render_conf().splitlines(), render_conf(PORTS).splitlines()
    changed = [(old, new) for old, new in zip(reference, rendered, strict=True) if old != new]
    assert changed == [
        ("listener 8883", "listener 8884"),
        ("listener 8884", "listener 8883"),
        ("listener 8885", "listener 20003"),
        ("listener 8886", "listener 20004"),
    ]


def test_a_broker_of_root_gets_its_user_and_nothing_else() -> None:
    assert render_conf(PORTS, "root") == render_conf(PORTS) + "\nuser root\n"
    assert "user" not in dict(settings(render_conf()))


def test_every_path_is_relative_so_that_a_home_can_be_moved() -> None:
    paths = [value for option, value in settings(render_conf()) if option in PATH_OPTIONS]
    assert len(paths) == 4 * 4 + 3
    assert not any(path.startswith(("/", "~")) or ".." in path for path in paths)


def test_security_is_decided_for_each_listener_and_before_anything_else_is_said() -> None:
    assert settings(render_conf())[0] == ("per_listener_settings", "true")


@pytest.mark.parametrize("listener", Listener)
def test_each_listener_has_an_authority_and_an_access_list_of_its_own_and_insists_on_certificates(
    listener: Listener,
) -> None:
    block = blocks(render_conf())[1][listener]
    assert block["cafile"] == f"tls/{listener}-ca.pem"
    assert block["acl_file"] == f"acl/{listener}.acl"
    assert block["require_certificate"] == "true"
    assert block["use_identity_as_username"] == "true"
    assert block["allow_anonymous"] == "false"


def test_the_user_name_is_the_client_id_on_the_device_listener_only() -> None:
    forced = {
        listener
        for listener, block in blocks(render_conf())[1].items()
        if block.get("use_username_as_clientid", "false") == "true"
    }
    assert forced == {Listener.DEVICE}


def test_no_id_that_a_client_may_send_is_the_name_of_a_gateway() -> None:
    general, listeners = blocks(render_conf())
    prefix = general["clientid_prefixes"]
    assert not is_name(prefix)
    assert all(block["auto_id_prefix"].startswith(prefix) for block in listeners.values())


def test_acknowledgements_do_not_wait_for_timers_and_packets_are_bounded() -> None:
    general = blocks(render_conf())[0]
    assert general["set_tcp_nodelay"] == "true"
    assert "max_packet_size" in general


@pytest.mark.parametrize("listener", Listener)
def test_each_listener_bounds_what_may_be_connected_to_it_and_what_a_connection_may_have_kept(
    listener: Listener,
) -> None:
    general, listeners = blocks(render_conf())
    assert int(listeners[listener]["max_connections"]) > 0
    assert listeners[listener]["max_qos"] == "1"
    assert listeners[listener]["max_topic_alias"] == "0"
    assert general.keys() >= {"max_queued_messages", "max_queued_bytes", "max_inflight_messages", "max_keepalive"}


@pytest.mark.parametrize("listener", Listener)
def test_an_access_list_knows_no_variable_that_a_client_can_choose(listener: Listener) -> None:
    text = access_lists()[listener]
    assert set(re.findall(r"%.", text)) <= {"%u"}
    for line in text.splitlines():
        assert re.fullmatch(r"pattern (read|write) nb(/[a-z%+-]+)+", line)
        # A wildcard is for those who serve everybody, and below a name that the client cannot choose.
        assert listener is Listener.BRIDGE or "+" not in line.partition("%u")[0]
        assert "#" not in line


def test_a_home_has_every_file_that_the_configuration_names(tmp_path: Path) -> None:
    write_broker_home(tmp_path, CERTIFICATES, PORTS)
    for option, value in settings((tmp_path / CONF_NAME).read_text()):
        assert option not in PATH_OPTIONS or (tmp_path / value).exists(), value
    for listener in Listener:
        assert (tmp_path / f"tls/{listener}-ca.pem").read_bytes() == str(listener).encode()


def test_the_servers_key_is_for_the_broker_alone_and_no_other_file_holds_it(tmp_path: Path) -> None:
    write_broker_home(tmp_path, CERTIFICATES)
    key = tmp_path / "tls/server-key.pem"
    assert key.stat().st_mode & 0o077 == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file() and KEY in path.read_bytes()] == [key]

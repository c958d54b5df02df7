"""Whom the link connects to: the configuration's broker, then the root's, and what happens when neither is trusted."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from narrowboat_device.core import actions as ac
from narrowboat_device.core import events as ev
from narrowboat_device.core.actions import UseBroker
from narrowboat_device.rendezvous import Endpoint, Papers, Rendezvous, rest_s
from narrowboat_protocol.documents import BrokerAddress, RootChain, sign_model
from narrowboat_protocol.limits import DEFAULT_LIMITS
from tests.support.fleet import FleetKit, root_version
from tests.support.gateway import Gateway
from tests.support.scripted_broker import PATIENCE_S, Authority
from tests.support.web import serving_folder

_UNTRUSTED, _NOT_YET_VALID = 20, 9


@dataclass
class Place:
    """A gateway's papers under the old CA of its broker, and the new CA."""

    old: Authority
    new: Authority
    now_s: float = 0.0
    waits: list[int] = field(default_factory=list)

    def rendezvous(self, *urls: str) -> Rendezvous:
        issued = self.old.issue("gw-1")
        papers = Papers(self.old.path, issued.certificate, issued.key)
        endpoint = Endpoint("configured", 8883, "gw-1", papers.context(), keepalive_s=30)
        return Rendezvous(endpoint, papers, urls, DEFAULT_LIMITS, lambda: self.now_s, self._wait_s)

    def _wait_s(self, looks: int) -> float:
        self.waits.append(looks)
        return 100.0

    @property
    def new_anchor(self) -> bytes:
        return x509.load_pem_x509_certificate(self.new.path.read_bytes()).public_bytes(Encoding.DER)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    return Place(Authority(tmp_path / "old", "old"), Authority(tmp_path / "new", "new"))


def untrusted(code: int = _UNTRUSTED) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code = code
    return error


def shelf(folder: Path, roots: list[bytes]) -> Path:
    folder.mkdir()
    for version, root in enumerate(roots, 2):
        (folder / f"{version}.root").write_bytes(root)
    return folder


def test_addresses_of_a_newer_root_are_tried_in_order_and_the_configured_one_last(place: Place) -> None:
    rendezvous = place.rendezvous()
    assert rendezvous.endpoint().host == "configured"
    rendezvous.use(UseBroker(2, addresses=(("first", 1), ("second", 2))))
    met = []
    for _ in range(4):
        met.append((rendezvous.endpoint().host, rendezvous.endpoint().port))
        rendezvous.failed(OSError())
    assert met == [("first", 1), ("second", 2), ("configured", 8883), ("first", 1)]


def handshake(context: ssl.SSLContext, authority: Authority) -> None:
    """A TLS handshake with a broker whose certificate is of this CA. Raises `ssl.SSLError`."""
    papers = authority.issue("broker")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(papers.certificate, papers.key)
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.settimeout(PATIENCE_S)

    def serve() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    thread = Thread(target=serve)
    thread.start()
    try:
        context.wrap_socket(ours, server_hostname="127.0.0.1").close()
    finally:
        ours.close()
        thread.join()


def test_an_anchor_that_a_newer_root_brings_is_trusted_and_one_that_it_drops_is_not(place: Place) -> None:
    rendezvous = place.rendezvous()
    handshake(rendezvous.endpoint().tls, place.old)
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        handshake(rendezvous.endpoint().tls, place.new)
    assert caught.value.verify_code in (19, 20)
    rendezvous.use(UseBroker(2, anchors=(place.new_anchor,)))
    handshake(rendezvous.endpoint().tls, place.new)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(rendezvous.endpoint().tls, place.old)


def test_anchors_that_are_no_certificates_leave_what_was_trusted(place: Place) -> None:
    rendezvous = place.rendezvous()
    rendezvous.use(UseBroker(2, anchors=(b"no certificate",)))
    handshake(rendezvous.endpoint().tls, place.old)


def test_roots_are_looked_for_only_when_the_broker_is_a_stranger_and_after_a_rest(place: Place, tmp_path: Path) -> None:
    roots = FleetKit.create().root_chain(7)
    with serving_folder(shelf(tmp_path / "roots", roots)) as url:
        rendezvous = place.rendezvous(url)
        assert rendezvous.failed(ConnectionRefusedError()) is None
        assert rendezvous.failed(untrusted(_NOT_YET_VALID)) is None
        assert place.waits == []
        assert rendezvous.failed(untrusted()) is None
        place.now_s = 100.0
        chain = rendezvous.failed(untrusted())
        assert chain is not None
        assert [root_version(root) for root in chain.roots] == [2, 3, 4, 5]
        rendezvous.use(UseBroker(5))
        assert rendezvous.failed(untrusted()) is None
        place.now_s = 200.0
        rest = rendezvous.failed(untrusted())
        assert rest is not None
        assert [root_version(root) for root in rest.roots] == [6, 7]
        rendezvous.use(UseBroker(7))
        place.now_s = 300.0
        assert rendezvous.failed(untrusted()) is None
        assert place.waits == [0, 0, 1, 2]


def test_rests_are_random_and_grow_to_hours() -> None:
    assert all(0 <= rest_s(0) <= 600 for _ in range(50))
    assert all(3 * 3600 <= rest_s(20) <= 6 * 3600 for _ in range(50))


def test_a_root_says_whom_to_connect_to_only_where_it_differs_from_the_first(gateway: Gateway, fleet: FleetKit) -> None:
    changes: list[dict[str, object]] = [
        {},
        {"broker_anchors": (b"anchor",), "root_urls": ("http://roots",)},
        {"broker_anchors": (b"anchor",), "broker_addresses": (BrokerAddress(host="new", port=1),)},
    ]
    roots = [
        sign_model(fleet.root.model_copy(update=change | {"version": version}), fleet.fleet_id, fleet.root_signers)
        for version, change in enumerate(changes, 2)
    ]
    gateway.give(ev.RootChainArrived(RootChain(roots=tuple(roots)).encode()))
    assert gateway.did(ac.UseBroker) == [
        UseBroker(1),
        UseBroker(2),
        UseBroker(3, anchors=(b"anchor",), root_urls=("http://roots",)),
        UseBroker(4, anchors=(b"anchor",), addresses=(("new", 1),)),
    ]

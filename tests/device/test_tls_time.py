"""A gateway whose clock is wrong connects to its own broker all the same, and to nobody else: over real TLS."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from narrowboat_device.core import events as ev
from narrowboat_device.core.actions import BelieveTime
from narrowboat_device.inbox import Inbox
from narrowboat_device.link import Link
from narrowboat_device.rendezvous import Endpoint, Rendezvous
from narrowboat_device.rendezvous import Papers as DevicePapers
from narrowboat_device.tls_time import TlsTime
from narrowboat_protocol.limits import DEFAULT_LIMITS, MIB
from tests.support.scripted_broker import PATIENCE_S, Authority, Dates, Papers, ScriptedBroker, until_closed


def at(year: int, month: int = 1) -> datetime:
    return datetime(year, month, 1, tzinfo=UTC)


def seconds(time: datetime) -> int:
    return int(time.timestamp())


BUILT, FLOOR, LATEST = at(2027), at(2029), at(2031)
KNOWN = BelieveTime(seconds(FLOOR), seconds(LATEST))
WRONG_CLOCKS = [at(1970), at(2090)]


@dataclass
class Street:
    """One gateway, whose clock a test sets, and the doors that it may knock at."""

    folder: Path
    authority: Authority
    device: Papers
    clock: datetime = FLOOR
    known: BelieveTime = KNOWN
    built: datetime = BUILT

    def connects_to(self, server: Papers, trusted: Authority | None = None) -> bool:
        """Whether the gateway lets itself in there; it knocks once."""
        inbox, waits = Inbox(MIB), list[bool]()
        broker = ScriptedBroker(self.authority, server, until_closed)
        papers = DevicePapers((trusted or self.authority).path, self.device.certificate, self.device.key)
        endpoint = Endpoint("127.0.0.1", broker.port, "gw-1", papers.context(), keepalive_s=60)
        monotonic_s = itertools.count(0.0, 0.5).__next__
        rendezvous = Rendezvous(endpoint, papers, (), DEFAULT_LIMITS, monotonic_s)
        tls_time = TlsTime(self.known, seconds(self.built), lambda: seconds(self.clock))

        def wait_s(_attempt: int, was_refused: bool) -> float:
            waits.append(was_refused)
            inbox.put(ev.LinkLost())
            return 600.0

        link = Link(rendezvous, tls_time, inbox, DEFAULT_LIMITS, monotonic_s, wait_s)
        link.start()
        try:
            while True:
                event = inbox.get(PATIENCE_S)
                assert event is not None
                if isinstance(event, ev.LinkOpened):
                    return True
                if isinstance(event, ev.LinkLost):
                    assert waits == [True], "a broker that is refused is not met with haste"
                    return False
        finally:
            link.close()
            with suppress(OSError):
                broker.check()


@pytest.fixture
def street(tmp_path: Path) -> Street:
    authority = Authority(tmp_path, "ca")
    return Street(tmp_path, authority, authority.issue("gw-1"))


@pytest.mark.parametrize("clock", WRONG_CLOCKS, ids=["1970", "2090"])
@pytest.mark.parametrize(
    "dates",
    [(at(2028), at(2030)), (at(2030), at(2032)), (at(2026), at(2028))],
    ids=["valid at the floor", "younger than the floor", "valid at the build time"],
)
def test_a_gateway_without_a_clock_connects(street: Street, clock: datetime, dates: Dates) -> None:
    street.clock = clock
    assert street.connects_to(street.authority.issue("broker", dates=dates))


@pytest.mark.parametrize("clock", WRONG_CLOCKS, ids=["1970", "2090"])
def test_a_certificate_that_had_ended_by_the_floor_is_refused(street: Street, clock: datetime) -> None:
    street.clock = clock
    assert not street.connects_to(street.authority.issue("broker", dates=(at(2027, 2), at(2028, 12))))


def test_a_clock_that_can_be_right_is_believed(street: Street) -> None:
    """Then OpenSSL judges, by the clock of this machine, though the floor and the build time would find all valid."""
    now, day = datetime.now(UTC), timedelta(days=1)
    street.clock = now
    street.known = BelieveTime(seconds(now - 4 * day), seconds(now + 4 * day))
    street.built = now - 9 * day
    assert street.connects_to(street.authority.issue("broker", dates=(now - day, now + day)))
    for wrong in ((now - 10 * day, now - day), (now + day, now + 10 * day)):
        assert not street.connects_to(street.authority.issue("broker", dates=wrong))


@pytest.mark.parametrize("clock", [at(2028), at(2033)], ids=["a lifted floor", "a long sleep"])
def test_a_clock_that_is_right_connects_though_it_is_not_believed(street: Street, clock: datetime) -> None:
    """A director that lied lifted the floor above it, or the gateway slept past the end of its own certificate."""
    street.clock = clock
    around = (clock.replace(month=1), clock.replace(month=3))
    assert street.connects_to(street.authority.issue("broker", dates=around))


def test_a_clock_below_the_build_time_proves_nothing(street: Street) -> None:
    """Else whoever sets it, by a forged time server, brings back a broker whose certificate ended long ago."""
    street.clock = at(2026)
    assert not street.connects_to(street.authority.issue("broker", dates=(at(2025, 6), at(2026, 6))))


def strangers_host(street: Street) -> tuple[Papers, Authority]:
    return street.authority.issue("broker", "127.0.0.9"), street.authority


def strangers_authority(street: Street) -> tuple[Papers, Authority]:
    return Authority(street.folder, "stranger").issue("broker"), street.authority


def a_devices_certificate(street: Street) -> tuple[Papers, Authority]:
    return street.authority.issue("gw-2", purpose=ExtendedKeyUsageOID.CLIENT_AUTH), street.authority


def an_authority_that_has_ended(street: Street) -> tuple[Papers, Authority]:
    ended = Authority(street.folder, "ended", (at(2024), at(2026)))
    return ended.issue("broker"), ended


def an_authority_that_ended_before_the_certificate_began(street: Street) -> tuple[Papers, Authority]:
    short = Authority(street.folder, "short", (at(2024), at(2031)))
    return short.issue("broker", dates=(at(2032), at(2034))), short


@pytest.mark.parametrize("clock", [*WRONG_CLOCKS, FLOOR], ids=["1970", "2090", "right"])
@pytest.mark.parametrize(
    "make",
    [
        strangers_host,
        strangers_authority,
        a_devices_certificate,
        an_authority_that_has_ended,
        an_authority_that_ended_before_the_certificate_began,
    ],
)
def test_no_clock_makes_a_stranger_the_broker(
    street: Street, clock: datetime, make: Callable[[Street], tuple[Papers, Authority]]
) -> None:
    street.clock = clock
    server, trusted = make(street)
    assert not street.connects_to(server, trusted)


def test_what_is_learned_counts_from_the_next_connection_on(street: Street) -> None:
    """And a clock that somebody sets right is believed again."""
    papers = DevicePapers(street.authority.path, street.device.certificate, street.device.key)
    context, clock = papers.context(), [seconds(at(1970))]
    strict = context.verify_flags
    tls_time = TlsTime(KNOWN, seconds(BUILT), lambda: clock[0])
    tls_time.prepare(context)
    assert context.verify_flags != strict
    clock[0] = seconds(at(2030))
    tls_time.prepare(context)
    assert context.verify_flags == strict
    tls_time.believe(BelieveTime(seconds(at(2030, 2)), seconds(LATEST)))
    tls_time.prepare(context)
    assert context.verify_flags != strict

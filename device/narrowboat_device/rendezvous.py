"""Whom the link connects to, and what it trusts there: the configuration's broker at first, then the root's.

What device.toml says of the broker belongs to the root that the gateway was provisioned with. Where a newer root says
something else, of trust anchors or of addresses, the root counts: the owner signed it, and nobody can reach the file.
The addresses are tried in order, and the configured one last. An anchor that the newest root has dropped is trusted no
more, so a broker CA whose key was stolen is of no use; a connection that stands is left alone, since it was believed
when it began.

A gateway that slept while the broker's CA was replaced finds a broker that it cannot trust, and no bridge behind it to
bring newer roots. Then, and only then, it looks for them on the web, at the addresses that its root and its
configuration name. They prove themselves, and the core walks through them as through any others. A whole fleet may be
in that state at once, so the first look comes after a random part of ten minutes, and further ones after longer rests.
"""

from __future__ import annotations

import logging
import random
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from narrowboat_protocol.documents import RootChain
from narrowboat_protocol.errors import NarrowboatError, Reason, UsageError
from narrowboat_protocol.limits import Limits

from .core.actions import UseBroker

_REST_S_FIRST = 600.0
_REST_S_MAX = 6 * 3600.0
# X509_V_ERR_* of OpenSSL: no issuer found, a chain that ends in a stranger, one certificate that nobody vouches for.
_UNTRUSTED = frozenset({2, 18, 19, 20, 21})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Whom to connect to, and as whom."""

    host: str
    port: int
    device: str
    tls: ssl.SSLContext
    keepalive_s: int


@dataclass(frozen=True, slots=True)
class Papers:
    """How this gateway proves who it is, and what it trusts as long as no newer root says otherwise."""

    server_ca: Path
    certificate: Path
    key: Path

    def context(self, anchors: Sequence[bytes] = ()) -> ssl.SSLContext:
        """Mutual TLS, 1.2 or newer, against these CAs (DER) or the configured one, and the host's name. Raises
        `UsageError`.
        """
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if anchors:
                context.load_verify_locations(cadata=b"".join(anchors))
            else:
                context.load_verify_locations(self.server_ca)
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                Reason.BAD_CONFIG,
                "[broker] server_ca, certificate, key: expected PEM files that fit together, and anchors in the root"
                f" that are certificates: {type(error).__name__}: {error.strerror}",
            ) from None
        return context


def rest_s(looks: int) -> float:
    """How long to wait before the next look for roots, after so many that found none."""
    longest = min(_REST_S_FIRST * 2**looks, _REST_S_MAX)
    return random.uniform(longest / 2 if looks else 0.0, longest)  # noqa: S311  # spreads load, decides nothing


class Rendezvous:
    """The endpoints of one gateway, one at a time. `use` may be called from any thread."""

    def __init__(
        self,
        configured: Endpoint,
        papers: Papers,
        root_urls: Sequence[str],
        limits: Limits,
        monotonic_s: Callable[[], float],
        wait_s: Callable[[int], float] = rest_s,
    ) -> None:
        self._configured = configured
        self._papers = papers
        self._configured_urls = tuple(root_urls)
        self._limits = limits
        self._monotonic_s = monotonic_s
        self._wait_s = wait_s
        self._broker = UseBroker(1)
        self._made: tuple[tuple[bytes, ...], ssl.SSLContext] = ((), configured.tls)
        self._turn = 0
        self._looks = 0
        self._look_s: float | None = None

    def use(self, broker: UseBroker) -> None:
        """A newer root is trusted: from the next connection on, this counts."""
        self._broker = broker

    def endpoint(self) -> Endpoint:
        """Whom to connect to now."""
        broker, own = self._broker, self._configured
        if broker.anchors != self._made[0]:
            self._make_context(broker.anchors)
        addresses = (*broker.addresses, (own.host, own.port))
        host, port = addresses[self._turn % len(addresses)]
        return Endpoint(host, port, own.device, self._made[1], own.keepalive_s)

    def connected(self) -> None:
        """The broker there is one that we trust."""
        self._looks, self._look_s = 0, None

    def failed(self, error: OSError) -> RootChain | None:
        """No connection came about there: the next address is due. The roots that were found instead, if it was time to
        look for them.
        """
        self._turn += 1
        if not (isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _UNTRUSTED):
            return None
        now_s = self._monotonic_s()
        if self._look_s is None:
            self._look_s = now_s + self._wait_s(0)
        if now_s < self._look_s:
            return None
        chain = self._look()
        self._looks = 0 if chain is not None else self._looks + 1
        # More may follow on a full chain, and the core has to walk through this one first.
        self._look_s = (
            None
            if chain is not None and len(chain.roots) == RootChain.ROOTS_MAX
            else (now_s + self._wait_s(self._looks + 1))
        )
        return chain

    def _look(self) -> RootChain | None:
        from .root_source import root_source

        broker = self._broker
        for url in (*broker.root_urls, *self._configured_urls):
            read = root_source(url, self._limits)
            roots: list[bytes] = []
            try:
                while len(roots) < RootChain.ROOTS_MAX and (data := read(broker.root_version + 1 + len(roots))):
                    roots.append(data)
            except NarrowboatError as error:
                _log.info("no roots: %s", error)
            if roots:
                _log.info("found %d newer roots at %s", len(roots), url)
                return RootChain.first_of(roots)
        return None

    def _make_context(self, anchors: tuple[bytes, ...]) -> None:
        """Trust these anchors from now on. If they are none, what was trusted before stays."""
        before = self._made[1]
        try:
            context = self._papers.context(anchors)
        except UsageError as error:
            _log.warning("%s; going on with the anchors before", error)
            context = before
        context.sslsocket_class = before.sslsocket_class
        self._made = (anchors, context)

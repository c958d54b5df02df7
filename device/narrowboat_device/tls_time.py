"""At which time the broker's certificate is judged: at what the machine's clock says, if that can be true.

A gateway without a battery starts in 1970, and one whose clock was set wrong may live in 2090. Both would find every
broker's certificate not yet valid or long expired, and never connect. So the clock is held against what is known: the
time floor, which has certainly passed if no director lied, and the latest believable time, the earlier of the root's
expiry and the end of the gateway's own certificate. Between the two the clock is believed, and OpenSSL judges by it as
for anybody else. Outside of them the clock is lifted to the floor, for this purpose alone: nothing here ever sets it.

OpenSSL could judge at another time (X509_VERIFY_PARAM_set_time), but Python's ssl has no way to say so. What it has is
the verification flag that leaves out the dates, and only them: chain, purpose and host are verified as ever. The dates
are then judged here, over the whole chain as it was verified (RFC 5280, section 4.1.2.5), before anything is sent
through the connection. As the true time may be any from the floor on, a chain counts that has not ended by then; when
it began says nothing, since a gateway that slept may meet a certificate younger than its floor.

The floor itself may be a lie, of a director whose clock was wrong. So a chain that had ended by the floor still counts
if it is valid at the build time of this agent, or at what the clock says, unless that is earlier. Whoever answers has
then proved less than usual of being today's broker. Nothing rests on that: what is believed is signed, and fresh by a
nonce (decision 0007). A broker that is not today's can keep things back, as any network can.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from .core.actions import BelieveTime

# X509_V_FLAG_NO_CHECK_TIME, for which ssl has no name. In OpenSSL since 1.1.0, where the numbers are part of the ABI.
_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
_HAS_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when a certificate is valid, in seconds since 1970."""

    begins_s: int
    ends_s: int

    def holds_at(self, time_s: int) -> bool:
        return self.begins_s <= time_s <= self.ends_s


class _VerifiedCertificate(Protocol):
    def get_info(self) -> Mapping[str, str]: ...


class _VerifiedSession(Protocol):
    def get_verified_chain(self) -> Iterable[_VerifiedCertificate]: ...


class TlsTime:
    """Decides for each connection of one link. `believe` may be called from any thread."""

    def __init__(self, known: BelieveTime, built_at_s: int, wall_s: Callable[[], int]) -> None:
        self._known = known
        self._built_at_s = built_at_s
        self._wall_s = wall_s
        self._doubted: tuple[BelieveTime, int] | None = None
        """What was known and what the clock said when the connection began, if the two do not fit together."""

    def believe(self, known: BelieveTime) -> None:
        """From the next connection on, this is what is known of the time."""
        self._known = known

    def prepare(self, context: ssl.SSLContext) -> None:
        """Before a connection: have OpenSSL look at the dates, or not."""
        known, clock_s = self._known, self._wall_s()
        was_doubted = self._doubted is not None
        self._doubted = None if known.floor_s <= clock_s <= known.latest_s else (known, clock_s)
        if self._doubted is None:
            context.verify_flags &= ~_NO_CHECK_TIME
            return
        context.verify_flags |= _NO_CHECK_TIME
        if not was_doubted:
            _log.warning(
                "the clock says %d s since 1970, which is not between %d and %d; the broker's certificate is judged"
                " by the first of these",
                clock_s,
                known.floor_s,
                known.latest_s,
            )

    def judge(self, sock: ssl.SSLSocket) -> None:
        """After a handshake: look at the dates, if OpenSSL did not. Raises `ssl.SSLCertVerificationError`."""
        if self._doubted is None:
            return
        known, clock_s = self._doubted
        if not is_believable(chain_validity(sock), known.floor_s, self._built_at_s, clock_s):
            error = ssl.SSLCertVerificationError(1, "the broker's certificate has ended before the time floor")
            error.verify_code, error.verify_message = _HAS_EXPIRED, "certificate has expired"
            error.reason = "CERTIFICATE_VERIFY_FAILED"
            raise error


def is_believable(chain: Validity, floor_s: int, built_at_s: int, clock_s: int) -> bool:
    """Whether a chain counts though the clock is not believed."""
    if chain.begins_s <= chain.ends_s and chain.ends_s >= floor_s:
        return True
    return chain.holds_at(built_at_s) or (clock_s >= built_at_s and chain.holds_at(clock_s))


def chain_validity(sock: ssl.SSLSocket) -> Validity:
    """When all certificates of the chain that was verified are valid, the anchor's among them.

    The chain has a public name only since Python 3.13, and there gives DER, for which cryptography's reader would have
    to be imported (2 MiB). The session under the socket has it read, in every Python that we run on.
    """
    session = cast("_VerifiedSession", getattr(sock, "_sslobj"))  # noqa: B009  # typeshed does not know it
    certificates = [certificate.get_info() for certificate in session.get_verified_chain()]
    return Validity(
        max(int(ssl.cert_time_to_seconds(info["notBefore"])) for info in certificates),
        min(int(ssl.cert_time_to_seconds(info["notAfter"])) for info in certificates),
    )

"""Token buckets: what one peer may take of us, whatever it sends.

A bucket fills at a rate up to a depth, and a message takes from it or is refused. Time is an argument. The
table keeps a bucket for each peer that was heard lately. It is bounded, since the names in topics are only as
few as the certificates that were issued; whoever falls out comes back with a full bucket, which is no more
than the rate of new names allows.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

_PEERS_MAX = 100_000


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_s: float


class Buckets:
    """One bucket for each peer, all of the same rate and depth."""

    def __init__(self, rate_per_s: float, depth: float, peers_max: int = _PEERS_MAX) -> None:
        self._rate_per_s = rate_per_s
        self._depth = depth
        self._peers_max = peers_max
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, peer: str, amount: float, now_s: float) -> bool:
        """Take `amount` from the peer's bucket; False, and nothing taken, if there is less in it."""
        bucket = self._buckets.get(peer)
        if bucket is None:
            bucket = self._buckets[peer] = _Bucket(self._depth, now_s)
            if len(self._buckets) > self._peers_max:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(peer)
        filled = bucket.tokens + max(0.0, now_s - bucket.filled_s) * self._rate_per_s
        bucket.tokens, bucket.filled_s = min(self._depth, filled), now_s
        if amount > bucket.tokens:
            return False
        bucket.tokens -= amount
        return True

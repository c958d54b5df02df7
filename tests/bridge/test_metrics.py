"""What a peer makes us count is seen in the counts and, the first time, in the log: a flood fills neither."""

from __future__ import annotations

import pytest

from narrowboat_bridge.server.metrics import Metrics
from narrowboat_protocol.errors import PeerError, Reason


def test_a_limit_and_a_refusal_are_told_once_and_counted_every_time(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    for _ in range(1000):
        metrics.limit("limited.hello", "device_messages_per_s")
        metrics.limit("limited.get_bytes", "device_bytes_per_s", by=7)
        metrics.refuse("hello", PeerError(Reason.TOO_LARGE, "expected less"))
    assert metrics.line() == "limited.get_bytes=7000 limited.hello=1000 refused.hello.too_large=1000"
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    assert "device_messages_per_s" in told[0]
    assert "device_bytes_per_s" in told[1]

"""The benchmark of small transactions runs to its end: its network, its contract, its clients."""

from __future__ import annotations

import pytest
from benchmarks import transactions
from examples.port_range import reserve_ports

_PORTS = 100


@pytest.mark.slow
def test_small_transactions_are_measured() -> None:
    result = transactions.measure(reserve_ports(_PORTS), one=3, many=transactions.CLIENTS)
    assert result.median_ms > result.bare_ms > 0
    assert result.per_second > 0

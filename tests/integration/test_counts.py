"""A round costs no more transactions, endorsements, reads, messages, bytes and waits for the disk than recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.counts import INSTITUTIONS, RECORDED, count, find_excess, find_least
from examples.port_range import reserve_ports

from support.federation_processes import PORTS


@pytest.mark.slow
async def test_a_round_costs_no_more_than_recorded(tmp_path: Path) -> None:
    rounds = await count(tmp_path, base_port=reserve_ports(PORTS))
    counted, recorded = find_least(rounds), json.loads(RECORDED.read_bytes())[str(INSTITUTIONS)]
    assert set(counted) == set(recorded)
    assert all(counted[name] > 0 for name in recorded if name != "invalid"), counted
    excess = find_excess(counted, recorded)
    assert not excess, f"make counts COUNTS=--record, if that is what it is worth: {excess}"

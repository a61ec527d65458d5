"""Whole rounds on real Fabric with a guard before every ordering node: nothing is refused, and nothing is lost."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import pytest
from examples.port_range import reserve_ports

from blockfl.network.description import Description
from blockfl.network.guard import guard_name
from blockfl.network.process import ProcessTable
from support.federation_processes import PORTS, FederationProcesses
from support.ledgers import LEDGERS

pytestmark = [pytest.mark.slow]

DIMENSION, ROUNDS = 2000, 2


def describe(base_port: int) -> Description:
    description = Description.load_default(base_port)
    guarded = [one.model_copy(update={"guard": one.orderer}) for one in description.organisations]
    return description.model_copy(update={"organisations": guarded})


def read_counts(address: str) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        found = re.findall(r'blockfl_guard_envelopes_total\{outcome="([^"]+)"\} (\S+)', answer.read().decode())
    return {outcome: float(count) for outcome, count in found}


def test_rounds_run_through_guards_one_of_which_is_killed(tmp_path: Path) -> None:
    if reason := LEDGERS["local"]():
        pytest.skip(reason)
    base_port = reserve_ports(PORTS)
    description = describe(base_port)
    federation = FederationProcesses(tmp_path, base_port, "local", description)
    try:
        federation.up()
        federation.start_aggregators()
        federation.create_task("guarded", dimension=DIMENSION, rounds=ROUNDS)
        federation.start_institutions("guarded", dimension=DIMENSION)
        federation.kill_node(guard_name("regulator"))
        federation.wait_for_institutions("guarded")
        assert federation.query("audit", "verify")["verified"] is True
        processes = ProcessTable(federation.network)
        for organisation in description.orderers:
            counts = read_counts(organisation.guard_operations_address)
            process = processes.find(guard_name(organisation.name))
            assert process is not None
            assert counts["taken"] > 0
            assert counts["refused"] == 0
            # What a guard costs, for the documentation.
            times, megabytes = process.cpu_times(), process.memory_info().rss / 2**20
            print(f"{organisation.name}: {counts}, {times.user + times.system:.1f} s, {megabytes:.0f} MB")
    finally:
        federation.down()

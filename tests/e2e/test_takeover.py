"""The aggregating organisation is gone for good, all of it: rounds go on without it."""

import asyncio
from collections.abc import Iterator

import pytest
from examples.port_range import reserve_ports

from blockfl.audit import views
from blockfl.ledger.client import Ledger
from blockfl.network.process import ProcessTable
from blockfl.protocol import catalogue
from support.federation_processes import COMMITTEE, PORTS, FederationProcesses

DIMENSION, ROUNDS = 2000, 2
WAIT_S = 120
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
GONE, LEFT = "coordinator", ("regulator", "university")


@pytest.fixture
def processes(tmp_path_factory: pytest.TempPathFactory, ledger_kind: str) -> Iterator[FederationProcesses]:
    """A consortium of its own for each test, whose members do not wait long for one another."""
    running = FederationProcesses(tmp_path_factory.mktemp("federation"), reserve_ports(PORTS), ledger_kind)
    try:
        running.up()
        running.start_aggregators(COMMITTEE, ["--takeover", "2", "--judge-patience", "1"])
        yield running
    finally:
        running.down()


def end_organisation(federation: FederationProcesses) -> list[str]:
    """End every process of the organisation; the network's keeper does not bring back what was stopped on purpose.

    An embedded node is everybody's peer and orderer: there the contract service and the aggregator go.
    """
    federation.kill(f"aggregator-{GONE}")
    table = ProcessTable(federation.network)
    return table.stop([name for name in table.names() if name.endswith(f"-{GONE}")], timeout_s=0)


async def wait_for_event(federation: FederationProcesses, task: str, name: str) -> None:
    """Wait for the task's first event of a name."""
    async with Ledger(federation.profile("university")) as ledger, asyncio.timeout(WAIT_S):
        async for event in ledger.events(start_block=0):
            if (event.name, event.notice.task) == (name, task):
                return


@pytest.mark.parametrize("point", ["UpdateSubmitted", "RoundClosed"])
async def test_rounds_are_completed_without_the_aggregating_organisation(
    processes: FederationProcesses, point: str
) -> None:
    task = "abandoned-by-its-aggregator"
    await asyncio.to_thread(processes.create_task, task, dimension=DIMENSION, rounds=ROUNDS)
    reached = asyncio.create_task(wait_for_event(processes, task, point))
    processes.start_institutions(task, dimension=DIMENSION)
    await reached
    ended = await asyncio.to_thread(end_organisation, processes)
    assert f"contract-{GONE}" in ended
    assert processes.ledger == "embedded" or {f"peer-{GONE}", f"orderer-{GONE}"} <= set(ended)
    await asyncio.to_thread(processes.wait_for_institutions, task, 300)
    async with Ledger(processes.profile("university")) as ledger:
        rounds = await views.list_rounds(ledger, task)
        models = await ledger.read_all(catalogue.MODELS.below(task))
    assert [round_["state"] for round_ in rounds] == ["published"] * ROUNDS
    assert rounds[-1]["summed_by"] in LEFT
    assert rounds[-1]["voted"] == list(LEFT)
    assert models[-1].voters == LEFT
    report = await asyncio.to_thread(lambda: processes.query("audit", "verify", organisation="university"))
    assert report["verified"] is True
    assert set(report["silent"]) <= {GONE}

"""kill -9 and renewed certificates in the middle of a round, of every kind of process: the round is completed."""

import asyncio
from collections.abc import Callable

import pytest

from blockfl.fabric.channel.block import header_hash
from blockfl.ledger.client import Ledger
from blockfl.protocol import catalogue
from support.federation_processes import INSTITUTIONS, FederationProcesses

DIMENSION, ROUNDS = 2000, 2
WAIT_S = 300

Act = Callable[[FederationProcesses, str], None]


def restart_aggregator(federation: FederationProcesses, task: str) -> None:
    federation.kill("aggregator-coordinator")
    federation.start_aggregators(["coordinator"])


def restart_institution(federation: FederationProcesses, task: str) -> None:
    federation.kill(f"institution-hungary-{task}")
    federation.start_institution("hungary", task, dimension=DIMENSION)


def kill_contract_service(federation: FederationProcesses, task: str) -> None:
    federation.kill_node("contract-regulator")


def kill_ordering_leader(federation: FederationProcesses, task: str) -> None:
    federation.kill_node("node" if federation.ledger == "embedded" else f"orderer-{federation.find_leader()}")


def kill_aggregators_peer(federation: FederationProcesses, task: str) -> None:
    federation.kill_node("peer-coordinator")


def kill_institutions_peer(federation: FederationProcesses, task: str) -> None:
    federation.kill_node("peer-hungary")


def renew_certificates(federation: FederationProcesses, task: str) -> None:
    """Every kind, the leading ordering node's among them, while agents and aggregators go on with what they have."""
    leader = "coordinator" if federation.ledger == "embedded" else federation.find_leader()
    names = ("peer-hungary", "peer-coordinator", "contract-regulator", "dialling-university", f"orderer-{leader}")
    users = ("admin-hungary", "agent-hungary", "agent-regulator")
    federation.blockfl("network", "renew", *users, *names, "--directory", str(federation.network))


# Nobody starts again what belongs to the network: its keeper does.
VICTIMS: dict[str, tuple[Act, tuple[str, ...]]] = {
    "aggregator": (restart_aggregator, ("UpdateSubmitted", "RoundClosed", "AggregateAttested")),
    "institution": (restart_institution, ("RoundOpened", "UpdateSubmitted", "ModelPublished")),
    "contract": (kill_contract_service, ("UpdateSubmitted", "UpdateJudged", "RoundClosed")),
    "leader": (kill_ordering_leader, ("RoundOpened", "UpdateJudged", "AggregateAttested")),
    "peer-aggregator": (kill_aggregators_peer, ("RoundClosed",)),
    "peer-member": (kill_institutions_peer, ("UpdateSubmitted",)),
    "certificates": (renew_certificates, ("RoundOpened", "UpdateJudged")),
}
PEERS = ("peer-aggregator", "peer-member")
CASES = [(victim, point) for victim, (_, points) in VICTIMS.items() for point in points]


async def wait_for_event(federation: FederationProcesses, task: str, name: str) -> tuple[int, bytes]:
    """Wait for the task's first event of a name; return the ledger's height and last hash at that moment."""
    async with Ledger(federation.profile("university")) as ledger:

        async def follow() -> None:
            async for event in ledger.events(start_block=0):
                if event.name == name and event.notice.task == task:
                    return

        await asyncio.wait_for(follow(), WAIT_S)
        height = await ledger.gateway.height()
        return height, await read_hash(ledger, height - 1)


async def read_hash(ledger: Ledger, number: int) -> bytes:
    async for block in ledger.gateway.blocks(number):
        return header_hash(block.header)
    raise AssertionError("no block")


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "point"), CASES)
async def test_a_killed_process_loses_neither_the_round_nor_anything_acknowledged(
    federation: FederationProcesses, victim: str, point: str
) -> None:
    if federation.ledger == "embedded" and victim in PEERS:
        pytest.skip("the embedded node is one process: it is killed as the leader")
    task = f"{victim}-{point.lower()}"
    act, _ = VICTIMS[victim]
    # An institution that loses an attempt which it had begun makes the others wait until the deadline.
    deadline = ["--submit-seconds", "60"] if victim == "institution" else []
    await asyncio.to_thread(federation.create_task, task, dimension=DIMENSION, rounds=ROUNDS, options=deadline)
    reached = asyncio.create_task(wait_for_event(federation, task, point))
    federation.start_institutions(task, dimension=DIMENSION)
    height, last_hash = await reached
    await asyncio.to_thread(act, federation, task)
    await asyncio.to_thread(federation.wait_for_institutions, task)
    async with Ledger(federation.profile("university")) as ledger:
        assert await read_hash(ledger, height - 1) == last_hash, "an acknowledged block is not what it was"
        rounds = await ledger.read_all(catalogue.ROUNDS.below(task))
        assert [round_.state for round_ in rounds] == ["published"] * ROUNDS
        # A killed institution may have lost an attempt that it had begun; nobody else may lose anything.
        spared = set(INSTITUTIONS) - ({"hungary"} if victim == "institution" else set())
        for round_ in rounds:
            assert spared <= set(round_.accepted)
        digests = {metrics.model_digest for metrics in await ledger.read_all(catalogue.REPORTS.below(task, ROUNDS))}
        assert digests == {(await ledger.read(catalogue.MODEL.key(task, ROUNDS))).digest}


@pytest.mark.slow
def test_after_all_that_the_whole_ledger_verifies(federation: FederationProcesses) -> None:
    report = federation.query("audit", "verify")
    assert report["verified"] is True
    tasks = {
        f"{victim}-{point.lower()}" for victim, point in CASES if federation.ledger != "embedded" or victim not in PEERS
    }
    assert {proof["task"] for proof in report["tasks"]} >= tasks

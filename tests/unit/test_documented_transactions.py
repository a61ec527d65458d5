"""What docs/protocol.md says of transactions and records is what they do when whole tasks are played."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from blockfl.contract.authority import compute_creator_digest
from blockfl.protocol import catalogue
from blockfl.protocol.change import CHANGE_INTERVAL_MS
from blockfl.protocol.task import TaskSpec
from support.assessed_task import AssessedTask, make_assessed_spec
from support.contract import make_registered_world
from support.documentation import list_quoted
from support.goal_task import LOSS, GoalTask, make_goal_spec
from support.paid_task import PaidTask, make_paid_spec
from support.protocol_page import READS, RECORDS, TRANSACTIONS, called, has_further
from support.scenario import Scenario
from support.strict_task import StrictTask, make_strict_spec
from support.world import Transaction, World


@dataclass
class Observed:
    """What the transactions of one kind did in a whole task."""

    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    events: set[str] = field(default_factory=set)
    needs: set[str] = field(default_factory=set)


class Watched(World):
    """A world that notes what each transaction reads and writes, and whose endorsement it needs."""

    def __init__(self) -> None:
        super().__init__()
        self.observed: dict[str, Observed] = defaultdict(Observed)

    async def endorse(
        self,
        creator: str,
        function: str,
        *arguments: str | bytes,
        transient: Mapping[str, bytes] | None = None,
        endorsers: Sequence[str] = (),
    ) -> Transaction:
        transaction = await super().endorse(creator, function, *arguments, transient=transient, endorsers=endorsers)
        simulation = transaction.simulation
        if simulation.writes:
            seen = self.observed[function]
            touched = {
                *simulation.reads,
                *simulation.private_reads,
                *(("", start) for start, _, _ in simulation.ranges),
            } - {("", catalogue.WITHDRAWAL.key(creator, compute_creator_digest(self.signers[creator].identity)))}
            seen.reads |= {kind_of(*place) for place in touched}
            seen.writes |= {kind_of(*place) for place in simulation.writes}
            seen.needs |= {self.need(*place) for place in simulation.writes}
            seen.events.add(transaction.event)
        return transaction

    def need(self, collection: str, key: str) -> str:
        if collection:
            return {"models": "members", "sealed": "committee"}[collection]
        return "committee" if self.policy(key) else "majority"


def kind_of(collection: str, key: str) -> str:
    return collection or key.partition("/")[0]


@pytest.fixture(scope="module")
def observed() -> Mapping[str, Observed]:
    """What every transaction did in a whole task."""
    return asyncio.run(play())


async def play() -> Mapping[str, Observed]:
    """A task with an honest round, a failed and a given up one, an equivocation, a second enrolment and consortium."""
    world = Watched()
    scenario = Scenario(world, world.consortium, world.signers, world.opening_keys)
    await scenario.prepare()
    await scenario.open()
    report = scenario.metrics("alpha", 0, scenario.initial_model)
    first, _ = await scenario.seal("alpha")
    await world.submit("alpha", "SubmitUpdate", scenario.sign(first).encode(), report.encode())
    await scenario.contribute()
    there, report = scenario.sealed[1, "beta"][0], scenario.metrics("beta", 0, scenario.initial_model)
    await world.submit("beta", "SubmitUpdate", there.encode(), report.encode())
    second, _ = await scenario.seal("delta", salt=1)
    await world.submit("delta", "SubmitUpdate", scenario.sign(second).encode())
    await scenario.close()
    model = await scenario.publish_whole(1, scenario.initial_model)
    await world.submit("alpha", "ReportMetrics", scenario.metrics("alpha", 1, model).encode())
    world.now_ms += CHANGE_INTERVAL_MS
    await world.submit("alpha", "Enrol", scenario.task, "150")
    await scenario.open(2)
    world.now_ms += 3_600_000
    assert (await scenario.close(2)).state == "failed"
    await scenario.open(3)
    await scenario.contribute(number=3)
    world.now_ms = (await scenario.close(3)).publish_deadline_ms + 1
    await world.submit("regulator", "AbandonRound", scenario.task, "3")
    await world.submit("university", "ClaimWrap", scenario.task, "1", "alpha")
    shown = {"ephemeral_key": scenario.ephemeral_key("alpha", "university")}
    await world.submit("regulator", "SettleWrap", scenario.task, "1", "alpha", "university", transient=shown)
    await world.submit("alpha", "RequestErasure", scenario.task)
    await world.submit("coordinator", "EndTask", scenario.task, "wrong columns")
    erased = (scenario.task, "1", "alpha")
    await world.submit("university", "EraseUpdate", *erased, endorsers=world.consortium.committee)
    await world.submit("alpha", "WithdrawCertificate", "ab" * 32)
    successor = world.consortium.model_copy(update={"sequence": 2})
    for organisation in world.signers:
        world.configure(organisation, successor)
    await world.submit("coordinator", "RegisterConsortium", successor.encode())
    await play_strictly(world)
    await play_for_credits(world)
    await play_on_rows(world)
    await play_for_a_goal(world)
    return world.observed


async def play_strictly(world: Watched) -> None:
    """A third task, with every norm rule and a stable set: the second round is compared with the first."""
    spec, initial_model = make_strict_spec("kidneys")
    stable = TaskSpec.model_validate({**dict(spec), "stable_set": True}), initial_model
    task = StrictTask(world, world.consortium, world.signers, world.opening_keys, stable)
    await task.create()
    await task.enrol()
    _, model = await task.play(1, task.initial_model, {})
    await task.play(2, model, {})


async def play_on_rows(world: Watched) -> None:
    """A fourth task, whose committee measures what updates do to its loss."""
    spec = make_assessed_spec(task="livers")
    task = AssessedTask(world, world.consortium, world.signers, world.opening_keys, spec)
    await task.create()
    await task.enrol()
    await task.open()
    await task.contribute()
    for name in spec[0].institutions:
        await task.assess(name, 0, 0, 0)
    await task.close()


async def play_for_a_goal(world: Watched) -> None:
    """A fifth task, which ends because its second version is no better than the first."""
    spec = make_goal_spec("eyes", LOSS.model_copy(update={"patience": 1}))
    task = GoalTask(world, world.consortium, world.signers, world.opening_keys, spec)
    await task.create()
    await task.enrol()
    model = await task.play(1, task.initial_model)
    for version, file in enumerate((task.initial_model, model)):
        await task.report(version, file, task.everybody(500_000))
        await task.appraise(version)
    assert (await task.progress()).ended is not None


async def play_for_credits(world: Watched) -> None:
    """A second task, which moves credits: a round that follows another, settled, and a stake taken back."""
    task = PaidTask(world, world.consortium, world.signers, world.opening_keys, make_paid_spec(task="lungs"))
    task.world, task.file = world, task.initial_model
    await task.create()
    await task.fund()
    await task.enrol()
    world.now_ms += CHANGE_INTERVAL_MS
    await world.submit("alpha", "Enrol", "lungs", "150")
    for number in (1, 2):
        await task.play(number)
        report = task.metrics("alpha", number, task.file)
        await world.submit("alpha", "ReportMetrics", report.encode())
        await task.settle(number)
    await task.play(3, "alpha", "beta", "delta")
    await task.settle(3)
    for voter in ("alpha", "beta", "coordinator", "delta"):
        await world.submit(voter, "OverturnPenalty", "lungs", "3", "gamma")
    world.now_ms += CHANGE_INTERVAL_MS
    await world.submit("alpha", "Enrol", "lungs", "160")
    await world.submit("alpha", "Transfer", "rent", "beta", "1")
    await world.submit("alpha", "Withdraw", "lungs")


def test_the_scenario_calls_every_transaction(observed: Mapping[str, Observed]) -> None:
    assert set(observed) == {called(row[0])[0] for row in TRANSACTIONS}


@pytest.mark.parametrize("row", TRANSACTIONS, ids=lambda row: row[0])
def test_a_transaction_reads_writes_and_announces_what_its_row_says(
    observed: Mapping[str, Observed], row: list[str]
) -> None:
    transaction, _, endorsed, reads, writes, events, _ = row
    seen = observed[called(transaction)[0]]
    assert set(list_quoted(reads)) == seen.reads
    assert set(list_quoted(writes)) == seen.writes
    assert set(list_quoted(events)) == seen.events
    assert {one.partition(",")[0] for one in endorsed.split("; with the sum ")} == seen.needs


async def test_the_contract_has_the_documented_transactions_and_reads_and_no_others() -> None:
    table = (await make_registered_world()).contracts["coordinator"].table
    documented = {called(row[0])[0]: called(row[0])[1] for row in TRANSACTIONS}
    for row in READS:
        documented |= dict(called(f"`{one}`") for one in list_quoted(row[0]))
    assert documented == {function: len(entry.arguments) for function, entry in table.items()}
    further = {called(row[0])[0] for row in TRANSACTIONS if has_further(row[0])}
    further |= {called(f"`{one}`")[0] for row in READS for one in list_quoted(row[0]) if has_further(f"`{one}`")}
    assert further == {function for function, entry in table.items() if entry.further}
    transient = {called(row[0])[0]: tuple(list_quoted(row[0])[1:]) for row in TRANSACTIONS}
    brings = {function: (*entry.transient, *entry.optional) for function, entry in table.items()}
    assert transient == {function: brings[function] for function in transient}


def test_every_kind_of_record_is_described_with_the_policy_that_it_has(observed: Mapping[str, Observed]) -> None:
    described = {list_quoted(key)[0].partition("/")[0]: needs for key, _, needs, *_ in RECORDS}
    written: set[str] = set().union(*(seen.writes for seen in observed.values()))
    assert set(described) == written - {"sealed", "models"}
    for kind in ("update", "commitment", "aggregate", "score"):
        assert described.pop(kind) == "committee"
    assert set(described.values()) == {"majority"}

"""The contract's reads: what they return, to whom, and what they refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from blockfl.protocol import catalogue, claims, economics, metrics, records
from blockfl.protocol.codes import Code
from blockfl.protocol.evidence import RoundEvidence
from blockfl.protocol.status import TaskStatus
from blockfl.protocol.task import Task
from support.contract import make_scenario, refused
from support.scenario import Scenario
from support.world import Invalid, World


@pytest.fixture
async def finished() -> tuple[Scenario, World]:
    """A task with one published and one open round."""
    scenario, world = await make_scenario()
    await scenario.open()
    await scenario.contribute("alpha", "beta", "delta")
    await scenario.submit("gamma")
    world.now_ms = (await scenario.round()).judge_deadline_ms
    await scenario.close()
    await scenario.attest()
    model = await scenario.publish(1, scenario.initial_model)
    await world.submit("alpha", "ReportMetrics", scenario.metrics("alpha", 1, model).encode())
    await scenario.open(2)
    return scenario, world


READS: list[tuple[str, list[str], type[Any], int | None]] = [
    ("ReadConsortium", [], records.Consortium, None),
    ("ReadTask", ["heart"], Task, None),
    ("ListProgress", [], records.Progress, 1),
    ("ReadProgress", ["heart"], records.Progress, None),
    ("ReadRound", ["heart", "1"], records.Round, None),
    ("ListRounds", ["heart"], records.Round, 2),
    ("ReadHeader", ["heart", "1", "alpha"], records.SignedHeader, None),
    ("ReadUpdate", ["heart", "1", "alpha"], records.Update, None),
    ("ReadStatus", ["heart"], TaskStatus, None),
    ("ListUpdates", ["heart", "1"], records.Update, 4),
    ("ListHeaders", ["heart", "1"], records.SignedHeader, 4),
    ("ListCommitments", ["heart", "1"], records.Commitment, 4),
    ("ReadEvidence", ["heart", "1"], RoundEvidence, None),
    ("ListEquivocations", ["heart", "1"], claims.Equivocation, 0),
    ("ReadAggregate", ["heart", "1"], records.Aggregate, None),
    ("ReadModel", ["heart", "1"], records.Model, None),
    ("ListModels", ["heart"], records.Model, 2),
    ("ListEnrolments", ["heart"], records.Enrolment, 4),
    ("ListCommitteeKeys", [], records.CommitteeKey, 3),
    ("ListMetrics", ["heart", "1"], metrics.Metrics, 1),
    ("ReadAccount", ["alpha"], economics.Account, None),
    ("ReadSupply", [], economics.Supply, None),
    ("ListAccounts", [], economics.Account, 0),
    ("ListStandings", ["heart"], economics.Standing, 0),
    ("ListSettlements", ["heart"], economics.Settlement, 0),
]


@pytest.mark.parametrize(("function", "arguments", "kind", "count"), READS)
async def test_every_read_returns_canonical_records_and_writes_nothing(
    finished: tuple[Scenario, World], function: str, arguments: list[str], kind: Any, count: int | None
) -> None:
    _, world = finished
    result = await world.simulate("beta", "beta", function, *arguments)
    assert (result.writes, result.event) == ({}, b"")
    if count is None:
        kind.decode(result.payload)
        return
    rows = json.loads(result.payload)
    assert len(rows) == count
    canonical = [json.dumps(row, separators=(",", ":"), ensure_ascii=False, sort_keys=True).encode() for row in rows]
    assert result.payload == b"[" + b",".join(canonical) + b"]"
    for row in canonical:
        kind.decode(row)


@pytest.mark.parametrize(
    ("function", "arguments", "code"),
    [
        ("ReadTask", ["lungs"], Code.TASK_UNKNOWN),
        ("ReadProgress", ["lungs"], Code.TASK_UNKNOWN),
        ("ReadStatus", ["lungs"], Code.TASK_UNKNOWN),
        ("ReadScore", ["heart", "1"], Code.RECORD_UNKNOWN),
        ("ReadRound", ["heart", "3"], Code.ROUND_UNKNOWN),
        ("ReadHeader", ["heart", "2", "alpha"], Code.UPDATE_UNKNOWN),
        ("ReadUpdate", ["heart", "1", "regulator"], Code.UPDATE_UNKNOWN),
        ("ReadUpload", ["heart", "2", "alpha"], Code.UPDATE_UNKNOWN),
        ("ReadEvidence", ["heart", "3"], Code.ROUND_UNKNOWN),
        ("ReadAggregate", ["heart", "2"], Code.RECORD_UNKNOWN),
        ("ReadModel", ["heart", "2"], Code.RECORD_UNKNOWN),
        ("ReadModelChunk", ["heart", "00" * 32], Code.MODEL_MISSING),
    ],
)
async def test_what_is_not_there_has_a_code(
    finished: tuple[Scenario, World], function: str, arguments: list[str], code: Code
) -> None:
    _, world = finished
    with refused(code):
        await world.evaluate("beta", function, *arguments)


async def test_lists_of_something_unknown_are_empty(finished: tuple[Scenario, World]) -> None:
    _, world = finished
    assert await world.evaluate("beta", "ListRounds", "lungs") == b"[]"
    # A task whose name begins like another's does not show the other's records.
    assert await world.evaluate("beta", "ListRounds", "hear") == b"[]"


async def test_where_a_task_stands_is_told_in_one_answer() -> None:
    scenario, world = await make_scenario()

    async def read() -> TaskStatus:
        return TaskStatus.decode(await world.evaluate("beta", "ReadStatus", "heart"))

    assert await read() == TaskStatus(
        progress=await scenario.progress(),
        model=records.Model.decode(await world.evaluate("beta", "ReadModel", "heart", "0")),
        round=None,
        updates=(),
        aggregate=None,
        votes=(),
    )
    await scenario.open()
    await scenario.submit("beta")
    await scenario.submit("alpha")
    status = await read()
    assert (status.progress, status.round) == (await scenario.progress(), await scenario.round())
    assert status.updates == (await scenario.update("alpha"), await scenario.update("beta"))
    assert (status.aggregate, status.votes) == (None, ())
    await scenario.contribute("delta", "gamma")
    for organisation in ("alpha", "beta"):
        await scenario.upload(organisation)
        await scenario.judge(organisation)
    await scenario.close()
    await scenario.attest()
    await scenario.vote("university", "f" * 64)
    await scenario.vote("regulator", "e" * 64)
    status = await read()
    assert status.aggregate == records.Aggregate.decode(await world.evaluate("beta", "ReadAggregate", "heart", "1"))
    assert [(one.organisation, one.digest[0]) for one in status.votes] == [("regulator", "e"), ("university", "f")]


async def test_uploads_are_told_chunk_by_chunk_to_everybody(finished: tuple[Scenario, World]) -> None:
    scenario, world = finished
    assert await world.evaluate("beta", "ReadUpload", "heart", "1", "alpha") == b"[1]"
    assert await world.evaluate("beta", "ReadUpload", "heart", "1", "gamma") == b"[0]"
    present = scenario.spec.initial_model
    absent = present.model_copy(update={"chunks": ("00" * 32,)})
    assert await world.evaluate("beta", "ReadModelUpload", "heart", present.encode()) == b"[1]"
    assert await world.evaluate("beta", "ReadModelUpload", "heart", absent.encode()) == b"[0]"


async def test_sealed_chunks_are_for_the_committee_only(finished: tuple[Scenario, World]) -> None:
    scenario, world = finished
    (chunk,) = scenario.sealed[1, "alpha"][1]
    for member in world.consortium.committee:
        assert await world.evaluate(member, "ReadChunk", "heart", "1", "alpha", "0") == chunk
    for other in ("alpha", "beta"):
        with refused(Code.NOT_COMMITTEE):
            await world.evaluate(other, "ReadChunk", "heart", "1", "alpha", "0", peer="regulator")


async def test_a_sealed_chunk_that_is_not_there_has_a_code(finished: tuple[Scenario, World]) -> None:
    _, world = finished
    with refused(Code.RECORD_UNKNOWN):
        await world.evaluate("regulator", "ReadChunk", "heart", "1", "alpha", "1")
    with refused(Code.UPLOAD_INCOMPLETE):
        await world.evaluate("regulator", "ReadChunk", "heart", "1", "gamma", "0")
    with refused(Code.CHUNK_UNAVAILABLE):
        await world.evaluate("regulator", "ReadChunk", "heart", "1", "alpha", "0", peer="alpha")
    world.lose("regulator", "sealed", catalogue.sealed_chunk_key("heart", 1, "alpha", 0))
    with refused(Code.CHUNK_UNAVAILABLE):
        await world.evaluate("regulator", "ReadChunk", "heart", "1", "alpha", "0")


async def test_models_are_for_members_only(finished: tuple[Scenario, World]) -> None:
    scenario, world = finished
    (digest,) = scenario.spec.initial_model.chunks
    world.add_organisation("outsider", 50)
    with refused(Code.NOT_MEMBER):
        await world.evaluate("outsider", "ReadModelChunk", "heart", digest, peer="alpha")
    world.lose("alpha", "models", catalogue.model_chunk_key("heart", digest))
    with refused(Code.CHUNK_UNAVAILABLE):
        await world.evaluate("alpha", "ReadModelChunk", "heart", digest)


async def test_a_read_submitted_as_a_transaction_needs_the_contracts_policy(finished: tuple[Scenario, World]) -> None:
    _, world = finished
    assert (await world.submit("beta", "ReadTask", "heart")).written == []
    with pytest.raises(Invalid):
        await world.submit("beta", "ReadTask", "heart", endorsers=["beta"])


async def test_the_evidence_of_a_sum_is_that_of_the_accepted_updates(finished: tuple[Scenario, World]) -> None:
    scenario, world = finished
    found = RoundEvidence.decode(await world.evaluate("beta", "ReadEvidence", "heart", "1"))
    accepted = (await scenario.round(1)).accepted
    assert accepted == ("alpha", "beta", "delta")
    assert tuple(one.header.organisation for one in found.headers) == accepted
    assert tuple(one.organisation for one in found.commitments) == accepted
    for name, signed, commitment in zip(accepted, found.headers, found.commitments, strict=True):
        read = await world.evaluate("beta", "ReadHeader", "heart", "1", name)
        assert signed.encode() == read
        assert commitment.encode() == await world.evaluate("beta", "ReadCommitment", "heart", "1", name)
    # Of a round that is open nothing is accepted yet.
    assert RoundEvidence.decode(await world.evaluate("beta", "ReadEvidence", "heart", "2")).headers == ()

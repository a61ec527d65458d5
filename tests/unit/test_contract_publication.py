"""Attesting sums, publishing models, reporting metrics: what they write, each code, each repetition."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blockfl.protocol.aggregation import Sum
from blockfl.protocol.blob import split_blob
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.codes import Code
from blockfl.protocol.place import model_chunk_key, sealed_chunk_key
from blockfl.protocol.records import Aggregate, Blob, Metrics, Model
from support.contract import make_scenario, not_endorsed, refused
from support.scenario import Scenario
from support.world import CONFLICT, POLICY_FAILURE, VALID, Transaction, World

DIGEST = "ab" * 32


class TestAttestAggregate:
    async def test_writes_the_aggregate_only_and_the_committee_is_enough(self) -> None:
        scenario, world = await closed()
        blob = await uploaded_sum(scenario)
        done = await attest(world, blob, endorsers=["regulator", "university"])
        assert done.written == ["aggregate/heart/000001"]
        assert done.simulation.policies == {}
        assert done.event == "AggregateAttested"
        aggregate = Aggregate.decode(done.payload)
        assert (aggregate.state, aggregate.sum, aggregate.attested_at_ms) == ("attested", blob, world.now_ms)

    async def test_again_is_a_success_without_opening_anything(self) -> None:
        scenario, world = await closed()
        blob = await scenario.attest()
        again = await world.endorse("regulator", "AttestAggregate", "heart", "1", blob.encode())
        assert (again.written, again.event) == ([], "")
        assert again.simulation.private_reads == set()
        await scenario.publish(1, scenario.initial_model)
        assert (await world.endorse("regulator", "AttestAggregate", "heart", "1", blob.encode())).written == []

    async def test_refuses_a_sum_that_leaves_one_out_or_counts_one_twice(self) -> None:
        scenario, world = await closed()
        accepted = (await scenario.round()).accepted
        for names in (accepted[1:], (*accepted, accepted[0])):
            total = Sum(scenario.spec.manifest.dimension)
            for name in names:
                total.add(scenario.values(name))
            blob = await scenario.upload_model("coordinator", total.encode())
            with refused(Code.SUM_MISMATCH):
                await attest(world, blob)
        assert (await scenario.aggregate()).state == "pending"

    async def test_refuses_the_right_digest_with_other_chunks_or_another_size(self) -> None:
        scenario, world = await closed()
        blob = await uploaded_sum(scenario)
        other = await scenario.upload_model("coordinator", b"other")
        with refused(Code.SUM_MISMATCH):
            await attest(world, blob.model_copy(update={"chunks": other.chunks}))
        with refused(Code.SUM_MISMATCH):
            await attest(world, blob.model_copy(update={"size_bytes": blob.size_bytes + 1}))

    async def test_refuses_a_sum_that_nobody_could_fetch(self) -> None:
        scenario, world = await closed()
        blob, _ = split_blob(await scenario.total())
        with refused(Code.MODEL_MISSING):
            await attest(world, blob)

    async def test_refuses_a_sum_whose_place_holds_other_bytes(self) -> None:
        scenario, world = await closed()
        blob, _ = split_blob(await scenario.total())
        world.force("models", model_chunk_key("heart", blob.chunks[0]), b"something else")
        with refused(Code.MODEL_MISSING):
            await attest(world, blob)

    async def test_refuses_when_an_accepted_update_has_been_purged(self) -> None:
        scenario, world = await closed()
        blob = await uploaded_sum(scenario)
        world.expire("sealed", sealed_chunk_key("heart", 1, "beta", 0))
        with refused(Code.CHUNK_UNAVAILABLE):
            await attest(world, blob)

    async def test_a_service_with_another_opening_key_refuses(self) -> None:
        scenario, world = await closed()
        blob = await uploaded_sum(scenario)
        world.configure("university", world.consortium, X25519PrivateKey.from_private_bytes(b"9" * 32))
        with refused(Code.OPENING_KEY):
            await world.simulate("university", "regulator", "AttestAggregate", "heart", "1", blob.encode())

    async def test_refuses_another_sum_than_the_attested_one(self) -> None:
        scenario, world = await closed()
        await scenario.attest()
        with refused(Code.ALREADY_SETTLED):
            await attest(world, split_blob(b"other")[0])

    async def test_an_institution_or_one_member_cannot_attest(self) -> None:
        scenario, world = await closed()
        blob = await uploaded_sum(scenario)
        with refused(Code.NOT_COMMITTEE):
            await world.submit("alpha", "AttestAggregate", "heart", "1", blob.encode())
        with not_endorsed():
            await attest(world, blob, endorsers=["coordinator"])
        honest = await world.endorse("coordinator", "AttestAggregate", "heart", "1", blob.encode())
        everybody_else = Transaction(honest.simulation, ("coordinator", "alpha", "beta", "delta", "gamma"))
        assert world.commit(everybody_else) == POLICY_FAILURE
        assert world.commit(honest) == VALID

    async def test_a_bent_service_finds_nobody_to_agree(self) -> None:
        scenario, world = await closed()
        blob = await uploaded_sum(scenario)
        honest = await world.endorse("coordinator", "AttestAggregate", "heart", "1", blob.encode())
        (at,) = honest.simulation.writes
        bent = Aggregate.decode(honest.payload).model_copy(update={"sum": split_blob(b"bent")[0]})
        simulation = dataclasses.replace(honest.simulation, writes={at: bent.encode()})
        assert world.commit(Transaction(simulation, ("university",))) == POLICY_FAILURE

    async def test_members_without_key_or_bytes_refuse(self) -> None:
        scenario, world = await closed()
        blob = await uploaded_sum(scenario)
        world.lose("university", "sealed", sealed_chunk_key("heart", 1, "beta", 0))
        with refused(Code.CHUNK_UNAVAILABLE, "beta"):
            await world.simulate("university", "regulator", "AttestAggregate", "heart", "1", blob.encode())
        with refused(Code.OPENING_KEY):
            await world.simulate("alpha", "regulator", "AttestAggregate", "heart", "1", blob.encode())
        await attest(world, blob, endorsers=["coordinator", "regulator"])

    async def test_refuses_open_failed_and_unknown_rounds(self) -> None:
        scenario, world = await make_scenario()
        blob = split_blob(b"sum")[0]
        with refused(Code.ROUND_UNKNOWN):
            await attest(world, blob)
        await scenario.open()
        with refused(Code.ROUND_NOT_CLOSED):
            await attest(world, blob)
        world.now_ms = (await scenario.round()).judge_deadline_ms
        await scenario.close()
        with refused(Code.TOO_FEW_ACCEPTED):
            await attest(world, blob)


class TestPublishModel:
    async def test_writes_version_progress_and_round(self) -> None:
        scenario, world = await attested()
        done = await world.submit("university", "PublishModel", "heart", "1", DIGEST)
        assert done.written == ["model/heart/000001", "progress/heart", "round/heart/000001"]
        assert done.event == "ModelPublished"
        model = Model.decode(done.payload)
        round_ = await scenario.round()
        assert (model.version, model.round, model.digest, model.published_by) == (1, 1, DIGEST, "university")
        assert (model.sum, model.accepted) == ((await scenario.aggregate()).sum, round_.accepted)
        assert (model.scale, model.total_weight) == (round_.scale, round_.total_weight)
        assert (round_.state, (await scenario.progress()).version) == ("published", 1)

    async def test_again_is_a_success_and_another_digest_is_refused_also_after_later_rounds(self) -> None:
        scenario, world = await attested()
        done = await world.submit("university", "PublishModel", "heart", "1", DIGEST)
        await scenario.open(2)
        again = await world.submit("coordinator", "PublishModel", "heart", "1", DIGEST)
        assert (again.written, again.payload) == ([], done.payload)
        with refused(Code.ALREADY_SETTLED):
            await world.submit("coordinator", "PublishModel", "heart", "1", "cd" * 32)

    async def test_refuses_before_the_sum_is_attested(self) -> None:
        _, world = await closed()
        with refused(Code.NOT_ATTESTED):
            await world.submit("university", "PublishModel", "heart", "1", DIGEST)

    async def test_refuses_open_failed_and_unknown_rounds(self) -> None:
        scenario, world = await make_scenario()
        with refused(Code.ROUND_UNKNOWN):
            await world.submit("university", "PublishModel", "heart", "1", DIGEST)
        await scenario.open()
        with refused(Code.ROUND_NOT_CLOSED):
            await world.submit("university", "PublishModel", "heart", "1", DIGEST)
        world.now_ms = (await scenario.round()).judge_deadline_ms
        await scenario.close()
        with refused(Code.TOO_FEW_ACCEPTED):
            await world.submit("university", "PublishModel", "heart", "1", DIGEST)

    async def test_an_institution_cannot_publish_and_the_committee_alone_is_not_enough(self) -> None:
        _, world = await attested()
        with refused(Code.NOT_COMMITTEE):
            await world.submit("alpha", "PublishModel", "heart", "1", DIGEST)
        with not_endorsed():
            await world.submit("university", "PublishModel", "heart", "1", DIGEST, endorsers=world.consortium.committee)

    async def test_of_two_publications_at_once_one_is_invalid(self) -> None:
        _, world = await attested()
        first = await world.endorse("university", "PublishModel", "heart", "1", DIGEST)
        second = await world.endorse("coordinator", "PublishModel", "heart", "1", "cd" * 32)
        assert [world.commit(first), world.commit(second)] == [VALID, CONFLICT]


class TestReportMetrics:
    async def test_writes_the_callers_report_with_the_transactions_time(self) -> None:
        scenario, world, model = await published()
        world.now_ms += 7
        done = await world.submit("alpha", "ReportMetrics", scenario.metrics("alpha", 1, model).encode())
        assert done.written == ["metrics/heart/000001/alpha"]
        assert done.event == "MetricsReported"
        assert Metrics.decode(done.payload).reported_at_ms == world.now_ms

    async def test_again_is_a_success_and_the_first_report_stands(self) -> None:
        scenario, world, model = await published()
        report = scenario.metrics("alpha", 1, model)
        done = await world.submit("alpha", "ReportMetrics", report.encode())
        world.now_ms += 1
        again = await world.submit("alpha", "ReportMetrics", report.encode())
        assert (again.written, again.payload) == ([], done.payload)
        with refused(Code.ALREADY_SETTLED):
            await world.submit("alpha", "ReportMetrics", report.model_copy(update={"loss_micro": 1}).encode())

    async def test_a_digest_that_differs_from_the_published_one_is_recorded_as_evidence(self) -> None:
        scenario, world, model = await published()
        await world.submit("alpha", "ReportMetrics", scenario.metrics("alpha", 1, model + b"x").encode())
        assert compute_digest(model + b"x").encode() in await world.evaluate("beta", "ListMetrics", "heart", "1")

    @pytest.mark.parametrize(
        ("changes", "code"),
        [
            ({"organisation": "beta"}, Code.CREATOR_MISMATCH),
            ({"reported_at_ms": 5}, Code.MALFORMED),
            ({"task": "another"}, Code.TASK_UNKNOWN),
            ({"version": 2}, Code.RECORD_UNKNOWN),
        ],
    )
    async def test_refuses_what_is_not_the_callers_report(self, changes: dict[str, object], code: Code) -> None:
        scenario, world, model = await published()
        with refused(code):
            report = scenario.metrics("alpha", 1, model).model_copy(update=changes)
            await world.submit("alpha", "ReportMetrics", report.encode())

    async def test_refuses_organisations_that_are_not_of_the_task(self) -> None:
        scenario, world, model = await published()
        with refused(Code.NOT_INSTITUTION):
            report = scenario.metrics("alpha", 1, model).model_copy(update={"organisation": "regulator"})
            await world.submit("regulator", "ReportMetrics", report.encode())


async def closed() -> tuple[Scenario, World]:
    scenario, world = await make_scenario()
    await scenario.open()
    await scenario.contribute()
    await scenario.close()
    return scenario, world


async def attested() -> tuple[Scenario, World]:
    scenario, world = await closed()
    await scenario.attest()
    return scenario, world


async def published() -> tuple[Scenario, World, bytes]:
    scenario, world = await attested()
    return scenario, world, await scenario.publish(1, scenario.initial_model)


async def uploaded_sum(scenario: Scenario) -> Blob:
    return await scenario.upload_model("coordinator", await scenario.total())


async def attest(world: World, blob: Blob, endorsers: list[str] | None = None) -> Transaction:
    return await world.submit("coordinator", "AttestAggregate", "heart", "1", blob.encode(), endorsers=endorsers or ())

"""Attesting sums, publishing models, reporting metrics: what they write, each code, each repetition."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blockfl.protocol.blob import split_blob
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.codes import Code
from blockfl.protocol.place import commitment_key, model_chunk_key, sealed_chunk_key
from blockfl.protocol.records import Aggregate, Blob, Commitment, Metrics, Model
from support.contract import make_scenario, not_endorsed, refused
from support.scenario import Scenario, make_spec
from support.world import CONFLICT, POLICY_FAILURE, VALID, Transaction, World

DIGEST = "ab" * 32
Check = Literal["commitment", "recompute"]


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
            total = await scenario.sum(1, names)
            blob = await scenario.upload_model("coordinator", total.encode())
            with refused(Code.SUM_MISMATCH):
                await attest(world, blob)
        assert (await scenario.aggregate()).state == "pending"

    @pytest.mark.parametrize(("check", "code"), [("commitment", Code.BLOB_MISMATCH), ("recompute", Code.SUM_MISMATCH)])
    async def test_refuses_the_right_digest_with_other_chunks_or_another_size(self, check: Check, code: Code) -> None:
        scenario, world = await closed(check)
        blob = await uploaded_sum(scenario)
        other = await scenario.upload_model("coordinator", b"other")
        with refused(code):
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

    async def test_refuses_when_an_accepted_update_has_been_purged_and_must_be_opened_again(self) -> None:
        scenario, world = await closed("recompute")
        blob = await uploaded_sum(scenario)
        world.expire("sealed", sealed_chunk_key("heart", 1, "beta", 0))
        with refused(Code.CHUNK_UNAVAILABLE):
            await attest(world, blob)

    async def test_with_commitments_nothing_is_opened_and_no_key_is_needed(self) -> None:
        scenario, world = await closed()
        blob = await uploaded_sum(scenario)
        world.expire("sealed", sealed_chunk_key("heart", 1, "beta", 0))
        world.configure("university", world.consortium, X25519PrivateKey.from_private_bytes(b"9" * 32))
        done = await attest(world, blob, endorsers=["regulator", "university"])
        assert {collection for collection, _ in done.simulation.private_reads} == {"models"}

    @pytest.mark.parametrize("place", ["first value", "last value", "randomness"])
    async def test_refuses_a_forged_sum(self, place: str) -> None:
        scenario, world = await closed()
        forged = forge(await scenario.total(), scenario, place)
        blob = await scenario.upload_model("coordinator", forged)
        with refused(Code.SUM_MISMATCH, "do not open"):
            await attest(world, blob)
        assert (await scenario.aggregate()).state == "pending"

    async def test_refuses_a_forged_sum_that_is_opened_with_unbounded_randomness(self) -> None:
        """Whoever may choose the randomness freely solves it; nothing over 32768 for each update is taken."""
        scenario, world = await closed()
        total = np.frombuffer(await scenario.total(), dtype="<i4").copy()
        total[-1] = 4 * 32768 + 1
        blob = await scenario.upload_model("coordinator", total.tobytes())
        with refused(Code.SUM_MISMATCH, "randomness of 4 updates within ±131072"):
            await attest(world, blob)

    async def test_refuses_a_sum_without_its_randomness_before_it_is_fetched(self) -> None:
        scenario, world = await closed()
        total = (await scenario.total())[: 4 * scenario.spec.manifest.dimension]
        blob = await scenario.upload_model("coordinator", total)
        with refused(Code.SUM_MISMATCH, "expected a sum of 16424 bytes, got one of 40"):
            await attest(world, blob)

    async def test_refuses_a_sum_when_a_commitment_was_replaced(self) -> None:
        """As organisations in sufficient number could: the signed header still tells."""
        scenario, world = await closed()
        blob = await uploaded_sum(scenario)
        key = commitment_key("heart", 1, "beta")
        other = Commitment.decode(world.get(commitment_key("heart", 1, "alpha")) or b"")
        world.force("", key, other.model_copy(update={"organisation": "beta"}).encode())
        with refused(Code.SUM_MISMATCH, "the commitment of beta in round 1 of heart is not the one that it signed"):
            await attest(world, blob)

    async def test_a_peer_without_the_sum_s_bytes_refuses_and_the_others_go_on(self) -> None:
        scenario, world = await closed()
        blob = await uploaded_sum(scenario)
        world.lose("university", "models", model_chunk_key("heart", blob.chunks[0]))
        with refused(Code.CHUNK_UNAVAILABLE):
            await world.simulate("university", "regulator", "AttestAggregate", "heart", "1", blob.encode())
        await attest(world, blob, endorsers=["coordinator", "regulator"])

    async def test_a_service_with_another_opening_key_refuses_to_open_again(self) -> None:
        scenario, world = await closed("recompute")
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

    async def test_members_without_key_or_bytes_refuse_to_open_again(self) -> None:
        scenario, world = await closed("recompute")
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

    async def test_every_organisation_refuses_a_forged_sum_that_the_committee_attested(self) -> None:
        scenario, world = await attested()
        blob = await scenario.upload_model("coordinator", forge(await scenario.total(), scenario, "first value"))
        lie = (await scenario.aggregate()).model_copy(update={"sum": blob})
        world.force("", "aggregate/heart/000001", lie.encode())
        for organisation in world.signers:
            with refused(Code.SUM_MISMATCH, "do not open"):
                await world.simulate(organisation, "university", "PublishModel", "heart", "1", DIGEST)

    async def test_where_the_committee_recomputes_its_word_is_taken(self) -> None:
        _, world = await attested("recompute")
        done = await world.submit("university", "PublishModel", "heart", "1", DIGEST)
        assert done.simulation.private_reads == set()

    async def test_an_organisation_whose_peer_lacks_the_sum_does_not_endorse(self) -> None:
        scenario, world = await attested()
        total = (await scenario.aggregate()).sum
        assert total is not None
        world.lose("alpha", "models", model_chunk_key("heart", total.chunks[0]))
        with refused(Code.CHUNK_UNAVAILABLE):
            await world.simulate("alpha", "university", "PublishModel", "heart", "1", DIGEST)

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


async def closed(check: Check = "commitment") -> tuple[Scenario, World]:
    scenario, world = await make_scenario(make_spec(check=check))
    await scenario.open()
    await scenario.contribute()
    await scenario.close()
    return scenario, world


async def attested(check: Check = "commitment") -> tuple[Scenario, World]:
    scenario, world = await closed(check)
    await scenario.attest()
    return scenario, world


async def published() -> tuple[Scenario, World, bytes]:
    scenario, world = await attested()
    return scenario, world, await scenario.publish(1, scenario.initial_model)


def forge(total: bytes, scenario: Scenario, place: str) -> bytes:
    """Return a sum that is off by one somewhere."""
    index = {"first value": 0, "last value": scenario.spec.manifest.dimension - 1, "randomness": -1}[place]
    numbers = np.frombuffer(total, dtype="<i4").copy()
    numbers[index] -= np.sign(numbers[index]) or 1
    return numbers.tobytes()


async def uploaded_sum(scenario: Scenario) -> Blob:
    return await scenario.upload_model("coordinator", await scenario.total())


async def attest(world: World, blob: Blob, endorsers: list[str] | None = None) -> Transaction:
    return await world.submit("coordinator", "AttestAggregate", "heart", "1", blob.encode(), endorsers=endorsers or ())

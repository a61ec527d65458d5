"""Attesting sums, publishing models, reporting metrics: what they write, each code, each repetition."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blockfl.protocol import catalogue
from blockfl.protocol.blob import split_blob
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.codes import Code
from blockfl.protocol.records import Aggregate, Blob, Commitment, Metrics, Round, Vote
from support.contract import make_scenario, not_endorsed, refused, upload_chunk
from support.scenario import Scenario, make_spec
from support.world import CONFLICT, POLICY_FAILURE, VALID, Transaction, World

DIGEST, OTHER = "ab" * 32, "cd" * 32
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
            blob = await scenario.upload_sum("coordinator", total.encode())
            with refused(Code.SUM_MISMATCH):
                await attest(world, blob)
        assert (await scenario.aggregate()).state == "pending"

    @pytest.mark.parametrize(("check", "code"), [("commitment", Code.BLOB_MISMATCH), ("recompute", Code.SUM_MISMATCH)])
    async def test_refuses_the_right_digest_with_other_chunks_or_another_size(self, check: Check, code: Code) -> None:
        scenario, world = await closed(check)
        blob = await uploaded_sum(scenario)
        other = await scenario.upload_sum("coordinator", b"other")
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
        world.force("sealed", catalogue.sum_chunk_key("heart", 1, blob.chunks[0]), b"something else")
        with refused(Code.MODEL_MISSING):
            await attest(world, blob)

    async def test_refuses_when_an_accepted_update_has_been_purged_and_must_be_opened_again(self) -> None:
        scenario, world = await closed("recompute")
        blob = await uploaded_sum(scenario)
        world.expire("sealed", catalogue.sealed_chunk_key("heart", 1, "beta", 0))
        with refused(Code.CHUNK_UNAVAILABLE):
            await attest(world, blob)

    async def test_with_commitments_nothing_is_opened_and_no_key_is_needed(self) -> None:
        scenario, world = await closed()
        blob = await uploaded_sum(scenario)
        world.expire("sealed", catalogue.sealed_chunk_key("heart", 1, "beta", 0))
        world.configure("university", world.consortium, X25519PrivateKey.from_private_bytes(b"9" * 32))
        done = await attest(world, blob, endorsers=["regulator", "university"])
        (read,) = done.simulation.private_reads
        assert read == ("sealed", catalogue.sum_chunk_key("heart", 1, blob.chunks[0]))

    @pytest.mark.parametrize("place", ["first value", "last value", "randomness"])
    async def test_refuses_a_forged_sum(self, place: str) -> None:
        scenario, world = await closed()
        forged = forge(await scenario.total(), scenario, place)
        blob = await scenario.upload_sum("coordinator", forged)
        with refused(Code.SUM_MISMATCH, "do not open"):
            await attest(world, blob)
        assert (await scenario.aggregate()).state == "pending"

    async def test_refuses_a_forged_sum_that_is_opened_with_unbounded_randomness(self) -> None:
        """Whoever may choose the randomness freely solves it; nothing over 32768 for each update is taken."""
        scenario, world = await closed()
        total = np.frombuffer(await scenario.total(), dtype="<i4").copy()
        total[-1] = 4 * 32768 + 1
        blob = await scenario.upload_sum("coordinator", total.tobytes())
        with refused(Code.SUM_MISMATCH, "randomness of 4 updates within ±131072"):
            await attest(world, blob)

    async def test_refuses_a_sum_without_its_randomness_before_it_is_fetched(self) -> None:
        scenario, world = await closed()
        total = (await scenario.total())[: 4 * scenario.spec.manifest.dimension]
        blob = await scenario.upload_sum("coordinator", total)
        with refused(Code.SUM_MISMATCH, "expected a sum of 16424 bytes, got one of 40"):
            await attest(world, blob)

    async def test_refuses_a_sum_when_a_commitment_was_replaced(self) -> None:
        """As organisations in sufficient number could: the signed header still tells."""
        scenario, world = await closed()
        blob = await uploaded_sum(scenario)
        key = catalogue.COMMITMENT.key("heart", 1, "beta")
        other = Commitment.decode(world.get(catalogue.COMMITMENT.key("heart", 1, "alpha")) or b"")
        world.force("", key, other.model_copy(update={"organisation": "beta"}).encode())
        with refused(Code.SUM_MISMATCH, "the commitment of beta in round 1 of heart is not the one that it signed"):
            await attest(world, blob)

    async def test_a_peer_without_the_sum_s_bytes_refuses_and_the_others_go_on(self) -> None:
        scenario, world = await closed()
        blob = await uploaded_sum(scenario)
        world.lose("university", "sealed", catalogue.sum_chunk_key("heart", 1, blob.chunks[0]))
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
        world.lose("university", "sealed", catalogue.sealed_chunk_key("heart", 1, "beta", 0))
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
    async def test_the_first_vote_is_recorded_and_nothing_else(self) -> None:
        scenario, world = await attested()
        done = await vote(world, "university")
        assert (done.written, done.event) == (["vote/heart/000001/university"], "ModelProposed")
        assert Round.decode(done.payload) == await scenario.round()
        assert ((await scenario.round()).state, (await scenario.progress()).version) == ("closed", 0)
        cast = Vote.decode(world.get("vote/heart/000001/university") or b"")
        assert (cast.digest, cast.voted_at_ms) == (DIGEST, world.now_ms)
        assert await world.evaluate("alpha", "ListVotes", "heart", "1") == b"[" + cast.encode() + b"]"

    async def test_once_all_may_read_the_sum_that_enough_members_agree_on_a_call_writes_version_progress_and_round(
        self,
    ) -> None:
        scenario, world = await attested()
        await vote(world, "university")
        done = await vote(world, "regulator")
        assert (done.written, done.event) == (["vote/heart/000001/regulator"], "ModelProposed")
        assert (await vote(world, "regulator")).written == []
        await scenario.upload_model("university", await scenario.total())
        assert ((await scenario.round()).state, (await scenario.progress()).version) == ("closed", 0)
        done = await vote(world, "regulator")
        assert done.written == ["model/heart/000001", "progress/heart", "round/heart/000001"]
        assert done.event == "ModelPublished"
        model, round_ = await scenario.model(1), await scenario.round()
        assert Round.decode(done.payload) == round_
        assert (model.version, model.round, model.digest) == (1, 1, DIGEST)
        assert (model.summed_by, model.voters) == ("coordinator", ("regulator", "university"))
        assert (model.sum, model.accepted) == ((await scenario.aggregate()).sum, round_.accepted)
        assert (model.scale, model.divisor) == (round_.scale, round_.divisor)
        assert (round_.state, (await scenario.progress()).version) == ("published", 1)

    @pytest.mark.parametrize("liar", ["coordinator", "regulator", "university"])
    async def test_one_member_that_lies_cannot_stop_the_other_two(self, liar: str) -> None:
        scenario, world = await attested()
        await vote(world, liar, OTHER)
        honest = sorted(set(world.consortium.committee) - {liar})
        for member in honest:
            await vote(world, member)
        await scenario.disclose(honest[0], DIGEST)
        model = await scenario.model(1)
        assert (model.digest, liar in model.voters) == (DIGEST, False)
        assert Vote.decode(world.get(f"vote/heart/000001/{liar}") or b"").digest == OTHER

    async def test_two_members_who_rewrite_the_sum_s_record_change_no_weight(self) -> None:
        scenario, world = await attested()
        aggregate = await scenario.aggregate()
        forged = aggregate.model_copy(update={"divisor": 1, "accepted": aggregate.accepted[:1]})
        world.force("", "aggregate/heart/000001", forged.encode())
        await scenario.publish(1, scenario.initial_model)
        model, round_ = await scenario.model(1), await scenario.round()
        assert (model.divisor, model.accepted) == (round_.divisor, round_.accepted)

    async def test_the_same_vote_again_writes_nothing_and_another_is_refused(self) -> None:
        scenario, world = await attested()
        await vote(world, "university")
        again = await vote(world, "university")
        assert (again.written, again.event, again.payload) == ([], "", (await scenario.round()).encode())
        with refused(Code.ALREADY_SETTLED, "a vote is never changed"):
            await vote(world, "university", OTHER)

    async def test_after_the_publication_its_digest_is_a_success_and_another_is_refused_also_later(self) -> None:
        scenario, world = await attested()
        for member in ("university", "regulator"):
            await vote(world, member)
        await scenario.disclose("coordinator", DIGEST)
        await scenario.open(2)
        for member in world.consortium.committee:
            assert (await vote(world, member)).written == []
            with refused(Code.ALREADY_SETTLED, "was published as"):
                await vote(world, member, OTHER)

    async def test_refuses_before_the_sum_is_attested(self) -> None:
        _, world = await closed()
        with refused(Code.NOT_ATTESTED):
            await vote(world, "university")

    async def test_refuses_open_failed_abandoned_and_unknown_rounds(self) -> None:
        scenario, world = await make_scenario()
        with refused(Code.ROUND_UNKNOWN):
            await vote(world, "university")
        await scenario.open()
        with refused(Code.ROUND_NOT_CLOSED):
            await vote(world, "university")
        world.now_ms = (await scenario.round()).judge_deadline_ms
        await scenario.close()
        with refused(Code.TOO_FEW_ACCEPTED):
            await vote(world, "university")
        scenario, world = await abandoned()
        with refused(Code.ROUND_ABANDONED):
            await vote(world, "university")

    async def test_an_institution_cannot_vote_and_the_committee_alone_is_not_enough(self) -> None:
        _, world = await attested()
        with refused(Code.NOT_COMMITTEE):
            await vote(world, "alpha")
        with not_endorsed():
            await world.submit("university", "PublishModel", "heart", "1", DIGEST, endorsers=world.consortium.committee)

    async def test_a_member_without_a_key_in_the_round_does_not_vote_and_the_others_suffice(self) -> None:
        scenario, world = await attested()
        round_ = await scenario.round()
        fewer = round_.model_copy(update={"committee": round_.committee[:2]})
        world.force("", "round/heart/000001", fewer.encode())
        with refused(Code.NOT_COMMITTEE, "round 1's committee (coordinator, regulator)"):
            await vote(world, "university")
        for member in ("coordinator", "regulator"):
            await vote(world, member)
        await scenario.disclose("coordinator", DIGEST)
        assert (await scenario.round()).state == "published"

    async def test_every_organisation_refuses_a_forged_sum_that_the_committee_attested(self) -> None:
        scenario, world = await attested()
        await agree(world)
        forged = forge(await scenario.total(), scenario, "first value")
        lie = (await scenario.aggregate()).model_copy(update={"sum": split_blob(forged)[0]})
        world.force("", "aggregate/heart/000001", lie.encode())
        await scenario.upload_model("coordinator", forged)
        for organisation in world.signers:
            with refused(Code.SUM_MISMATCH, "do not open"):
                await world.simulate(organisation, "university", "PublishModel", "heart", "1", DIGEST)

    async def test_where_the_committee_recomputes_its_word_is_taken(self) -> None:
        scenario, world = await attested("recompute")
        await agree(world)
        await scenario.upload_model("coordinator", await scenario.total())
        done = await vote(world, "university")
        assert (done.event, done.simulation.private_reads) == ("ModelPublished", set())

    async def test_an_organisation_whose_peer_lacks_the_sum_does_not_endorse_the_publication(self) -> None:
        scenario, world = await attested()
        await agree(world)
        await scenario.upload_model("coordinator", await scenario.total())
        total = (await scenario.aggregate()).sum
        assert total is not None
        world.lose("alpha", "models", catalogue.model_chunk_key("heart", total.chunks[0]))
        with refused(Code.CHUNK_UNAVAILABLE):
            await world.simulate("alpha", "university", "PublishModel", "heart", "1", DIGEST)

    @pytest.mark.parametrize("digests", [(DIGEST, DIGEST), (DIGEST, OTHER)])
    async def test_of_two_votes_at_once_one_is_invalid_so_that_none_misses_the_other(
        self, digests: tuple[str, str]
    ) -> None:
        _, world = await attested()
        first = await world.endorse("university", "PublishModel", "heart", "1", digests[0])
        second = await world.endorse("coordinator", "PublishModel", "heart", "1", digests[1])
        assert [world.commit(first), world.commit(second)] == [VALID, CONFLICT]
        assert (await vote(world, "coordinator", digests[1])).event == "ModelProposed"

    async def test_a_vote_and_an_abandonment_at_once_are_one_or_the_other(self) -> None:
        for order in (1, -1):
            scenario, world = await attested()
            await vote(world, "university")
            world.now_ms = (await scenario.round()).publish_deadline_ms + 1
            decisive = await world.endorse("regulator", "PublishModel", "heart", "1", DIGEST)
            giving_up = await world.endorse("coordinator", "AbandonRound", "heart", "1")
            assert [world.commit(one) for one in (decisive, giving_up)[::order]] == [VALID, CONFLICT]


class TestReadability:
    """No sum can be read before its round is certain to be published."""

    async def test_until_enough_members_agree_the_committee_alone_reads_the_sum(self) -> None:
        scenario, world = await attested()
        total = await scenario.total()
        digest = compute_digest(total)
        for member in world.consortium.committee:
            assert await world.evaluate(member, "ReadSumChunk", "heart", "1", digest) == total
        with refused(Code.NOT_COMMITTEE):
            await world.evaluate("alpha", "ReadSumChunk", "heart", "1", digest)
        with refused(Code.MODEL_MISSING):
            await world.evaluate("alpha", "ReadModelChunk", "heart", digest)
        for member, said in (("university", DIGEST), ("coordinator", OTHER)):
            await vote(world, member, said)
            with refused(Code.NOT_AGREED, "until 2 of its members name the same model"):
                await scenario.upload_model("coordinator", total)
        await vote(world, "regulator")
        await scenario.upload_model("coordinator", total)
        assert await world.evaluate("alpha", "ReadModelChunk", "heart", digest) == total

    async def test_nothing_but_the_attested_sum_is_laid_before_everybody(self) -> None:
        scenario, world = await closed()
        total = await scenario.total()
        with refused(Code.NOT_ATTESTED):
            await scenario.upload_model("coordinator", total)
        await scenario.attest()
        await agree(world)
        with refused(Code.CHUNK_MISMATCH, "is none of the sum of round 1 of heart"):
            await scenario.upload_model("coordinator", total[:-1] + b"x")

    async def test_a_round_that_enough_members_agree_on_is_never_given_up_but_published_however_late(self) -> None:
        scenario, world = await attested()
        await agree(world)
        world.now_ms = (await scenario.round()).publish_deadline_ms + 10**9
        with refused(Code.AGREED, f"the model {DIGEST} of round 1 of heart: publish it"):
            await world.submit("regulator", "AbandonRound", "heart", "1")
        await scenario.disclose("university", DIGEST)
        assert (await scenario.round()).state == "published"

    async def test_a_sum_brought_while_the_round_is_given_up_is_invalid(self) -> None:
        scenario, world = await attested()
        await vote(world, "university")
        world.now_ms = (await scenario.round()).publish_deadline_ms + 1
        giving_up = await world.endorse("coordinator", "AbandonRound", "heart", "1")
        await vote(world, "regulator")
        total = await scenario.total()
        shown = {"chunk": total}
        bringing = await world.endorse(
            "coordinator", "UploadModelChunk", "heart", compute_digest(total), transient=shown
        )
        assert [world.commit(one) for one in (giving_up, bringing)] == [CONFLICT, VALID]

    async def test_a_sum_for_the_committee_is_of_a_closed_round_and_from_a_member(self) -> None:
        scenario, world = await make_scenario()
        await scenario.open()
        with refused(Code.ROUND_NOT_CLOSED):
            await scenario.upload_sum("coordinator", b"sum")
        scenario, world = await closed()
        blob = await scenario.upload_sum("regulator", b"sum")
        call = ("coordinator", "UploadSumChunk", "heart", "1", blob.digest)
        assert (await world.endorse(*call, transient={"chunk": b"sum"})).written == []
        with refused(Code.NOT_COMMITTEE):
            await scenario.upload_sum("alpha", b"sum")
        with refused(Code.CHUNK_MISMATCH):
            await world.submit(
                "regulator", "UploadSumChunk", "heart", "1", DIGEST, transient={"chunk": b"sum"}, endorsers=()
            )
        scenario, world = await abandoned()
        with refused(Code.ROUND_ABANDONED):
            await scenario.upload_sum("coordinator", b"sum")


class TestAbandonRound:
    async def test_fails_the_round_and_the_next_opens_on_the_same_base_model(self) -> None:
        scenario, world = await attested()
        base, round_ = await scenario.progress(), await scenario.round()
        world.now_ms = round_.publish_deadline_ms + 1
        done = await world.submit("regulator", "AbandonRound", "heart", "1")
        assert (done.written, done.event) == (["round/heart/000001"], "RoundAbandoned")
        assert Round.decode(done.payload) == round_.model_copy(update={"state": "failed", "failure": "abandoned"})
        again = await world.submit("university", "AbandonRound", "heart", "1")
        assert (again.written, again.payload) == ([], done.payload)
        second = await scenario.open(2)
        assert (second.base_version, second.base_digest) == (base.version, base.model_digest)
        assert (await world.submit("university", "AbandonRound", "heart", "1")).payload == done.payload

    async def test_refuses_before_the_deadline_is_over(self) -> None:
        scenario, world = await attested()
        world.now_ms = (await scenario.round()).publish_deadline_ms
        with refused(Code.PUBLISH_PENDING):
            await world.submit("regulator", "AbandonRound", "heart", "1")

    async def test_refuses_open_failed_published_and_unknown_rounds_however_late(self) -> None:
        scenario, world = await make_scenario()
        with refused(Code.ROUND_UNKNOWN):
            await world.submit("regulator", "AbandonRound", "heart", "1")
        await scenario.open()
        world.now_ms += 10**9
        with refused(Code.ROUND_NOT_CLOSED):
            await world.submit("regulator", "AbandonRound", "heart", "1")
        await scenario.close()
        with refused(Code.TOO_FEW_ACCEPTED):
            await world.submit("regulator", "AbandonRound", "heart", "1")
        scenario, world, _ = await published()
        world.now_ms += 10**9
        with refused(Code.ALREADY_SETTLED):
            await world.submit("regulator", "AbandonRound", "heart", "1")

    async def test_only_the_committee_with_a_majority_gives_up(self) -> None:
        scenario, world = await attested()
        world.now_ms = (await scenario.round()).publish_deadline_ms + 1
        with refused(Code.NOT_COMMITTEE):
            await world.submit("alpha", "AbandonRound", "heart", "1")
        with not_endorsed():
            await world.submit("regulator", "AbandonRound", "heart", "1", endorsers=world.consortium.committee)

    async def test_an_abandoned_round_gets_no_sum_any_more(self) -> None:
        scenario, world = await closed()
        blob = await uploaded_sum(scenario)
        world.now_ms = (await scenario.round()).publish_deadline_ms + 1
        await world.submit("regulator", "AbandonRound", "heart", "1")
        with refused(Code.ROUND_ABANDONED):
            await attest(world, blob)


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
            await world.submit("alpha", "ReportMetrics", report.model_copy(update={"values": ()}).encode())

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


async def abandoned() -> tuple[Scenario, World]:
    scenario, world = await attested()
    world.now_ms = (await scenario.round()).publish_deadline_ms + 1
    await world.submit("regulator", "AbandonRound", "heart", "1")
    return scenario, world


async def vote(world: World, member: str, digest: str = DIGEST) -> Transaction:
    return await world.submit(member, "PublishModel", "heart", "1", digest)


async def agree(world: World) -> None:
    """Have two members vote for one model."""
    for member in ("regulator", "university"):
        await vote(world, member)


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
    return await scenario.upload_sum("coordinator", await scenario.total())


async def attest(world: World, blob: Blob, endorsers: list[str] | None = None) -> Transaction:
    return await world.submit("coordinator", "AttestAggregate", "heart", "1", blob.encode(), endorsers=endorsers or ())


async def test_a_member_attests_nothing_of_an_update_that_does_not_open_though_the_others_accepted_it() -> None:
    scenario, world = await make_scenario(make_spec(check="recompute"))
    await scenario.open()
    await scenario.contribute("alpha", "beta", "delta")
    header, chunks = await scenario.seal("gamma")
    broken = scenario.sign(header.model_copy(update={"key_commitment": "0" * 64}))
    await world.submit("gamma", "SubmitUpdate", broken.encode())
    await upload_chunk(world, "gamma", 1, 0, chunks[0])
    update = await scenario.update("gamma")
    world.force("", catalogue.UPDATE.key("heart", 1, "gamma"), update.model_copy(update={"state": "accepted"}).encode())
    assert (await scenario.close()).accepted == ("alpha", "beta", "delta", "gamma")
    blob = await scenario.upload_sum("coordinator", bytes(4 * scenario.spec.manifest.dimension))
    with refused(Code.KEY_COMMITMENT):
        await world.simulate("regulator", "regulator", "AttestAggregate", "heart", "1", blob.encode())

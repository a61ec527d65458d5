"""Publishing models, abandoning rounds, reporting metrics: what they write, each code, each repetition."""

from __future__ import annotations

import pytest

from blockfl.protocol import catalogue
from blockfl.protocol.blob import split_blob
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.codes import Code
from blockfl.protocol.metrics import Metrics
from blockfl.protocol.records import CHUNK_BYTES, Round, Vote
from support.closed_round import (
    DIGEST,
    OTHER,
    abandon,
    abandoned,
    agree,
    attest,
    attested,
    closed,
    forge,
    published,
    summed,
    vote,
)
from support.contract import make_scenario, not_endorsed, refused
from support.world import CONFLICT, VALID


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

    async def test_a_sum_of_one_chunk_comes_with_the_publication_once_enough_members_agree(self) -> None:
        scenario, world = await attested()
        total = await scenario.total()
        digest = compute_digest(total)
        publication = ("regulator", "PublishModel", "heart", "1", DIGEST)
        with refused(Code.NOT_AGREED):
            await world.submit(*publication, transient={"chunk": total})
        await vote(world, "university")
        with refused(Code.NOT_AGREED):  # what is decided with the call itself is not certain yet
            await world.submit(*publication, transient={"chunk": total})
        await vote(world, "regulator")
        with refused(Code.CHUNK_MISMATCH):
            await world.submit(*publication, transient={"chunk": forge(total, scenario, "last value")})
        done = await world.submit(*publication, transient={"chunk": total})
        assert done.written == [
            "model/heart/000001", f"models/chunk/heart/{digest}", "progress/heart", "round/heart/000001",
        ]  # fmt: skip
        assert done.event == "ModelPublished"
        assert await world.evaluate("alpha", "ReadModelChunk", "heart", digest) == total
        assert (await world.submit(*publication, transient={"chunk": total})).written == []

    async def test_a_part_of_a_sum_does_not_make_the_version(self) -> None:
        scenario, world = await attested("recompute")
        await agree(world)
        part, aggregate = await scenario.total(), await scenario.aggregate()
        assert aggregate.sum is not None
        size, chunks = CHUNK_BYTES + len(part), (compute_digest(part), OTHER)
        longer = aggregate.sum.model_copy(update={"digest": OTHER, "size_bytes": size, "chunks": chunks})
        world.force("", "aggregate/heart/000001", aggregate.model_copy(update={"sum": longer}).encode())
        with refused(Code.CHUNK_MISMATCH):
            await world.submit("regulator", "PublishModel", "heart", "1", DIGEST, transient={"chunk": part})
        assert (await scenario.round()).state == "closed"

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
            await abandon(world)
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
        done = await abandon(world)
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
            await abandon(world)

    async def test_refuses_open_failed_published_and_unknown_rounds_however_late(self) -> None:
        scenario, world = await make_scenario()
        with refused(Code.ROUND_UNKNOWN):
            await abandon(world)
        await scenario.open()
        world.now_ms += 10**9
        with refused(Code.ROUND_NOT_CLOSED):
            await abandon(world)
        await scenario.close()
        with refused(Code.TOO_FEW_ACCEPTED):
            await abandon(world)
        scenario, world, _ = await published()
        world.now_ms += 10**9
        with refused(Code.ALREADY_SETTLED):
            await abandon(world)

    async def test_only_the_committee_with_a_majority_gives_up(self) -> None:
        scenario, world = await attested()
        world.now_ms = (await scenario.round()).publish_deadline_ms + 1
        with refused(Code.NOT_COMMITTEE):
            await world.submit("alpha", "AbandonRound", "heart", "1")
        with not_endorsed():
            await world.submit("regulator", "AbandonRound", "heart", "1", endorsers=world.consortium.committee)

    async def test_an_abandoned_round_gets_no_sum_any_more(self) -> None:
        scenario, world, blob = await summed()
        world.now_ms = (await scenario.round()).publish_deadline_ms + 1
        await abandon(world)
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

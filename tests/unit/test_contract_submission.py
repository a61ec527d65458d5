"""Opening a round, submitting headers, uploading chunks: what they write, each code, each repetition."""

from __future__ import annotations

from typing import Any

import pytest

from blockfl.protocol.codes import Code
from blockfl.protocol.records import CHUNK_BYTES, Round, SignedHeader, Update
from blockfl.protocol.seal import encode_public_key
from support.contract import make_registered_world, make_scenario, refused, upload_chunk
from support.federation import make_certificate
from support.scenario import Scenario, make_spec
from support.world import CONFLICT, Invalid, World


class TestOpenRound:
    async def test_writes_the_round_and_the_progress(self) -> None:
        scenario, world = await make_scenario()
        done = await world.submit("regulator", "OpenRound", "heart", "1")
        assert done.written == ["progress/heart", "round/heart/000001"]
        assert done.event == "RoundOpened"
        round_ = Round.decode(done.payload)
        assert round_.base_digest == scenario.spec.initial_model.digest
        assert [one.organisation for one in round_.committee] == ["coordinator", "regulator", "university"]
        assert [(one.organisation, one.weight) for one in round_.participants] == [
            ("alpha", 3),
            ("beta", 3),
            ("delta", 1),
            ("gamma", 1),
        ]
        assert round_.submit_deadline_ms == world.now_ms + 60_000
        assert round_.judge_deadline_ms == world.now_ms + 90_000

    async def test_again_while_it_is_open_is_a_success_that_writes_nothing(self) -> None:
        _, world = await make_scenario()
        done = await world.submit("regulator", "OpenRound", "heart", "1")
        world.now_ms += 1
        again = await world.submit("coordinator", "OpenRound", "heart", "1")
        assert (again.written, again.payload) == ([], done.payload)

    async def test_refuses_anybody_outside_the_committee(self) -> None:
        _, world = await make_scenario()
        with refused(Code.NOT_COMMITTEE):
            await world.submit("alpha", "OpenRound", "heart", "1")

    @pytest.mark.parametrize("number", ["0", "2", "3"])
    async def test_refuses_a_round_whose_turn_it_is_not(self, number: str) -> None:
        _, world = await make_scenario()
        with refused(Code.ROUND_ORDER):
            await world.submit("regulator", "OpenRound", "heart", number)

    async def test_refuses_the_next_round_before_the_last_is_published_and_a_closed_one_again(self) -> None:
        scenario, world = await make_scenario()
        await scenario.open()
        with refused(Code.ROUND_NOT_CLOSED):
            await world.submit("regulator", "OpenRound", "heart", "2")
        await scenario.contribute()
        await scenario.close()
        with refused(Code.ROUND_NOT_CLOSED):
            await world.submit("regulator", "OpenRound", "heart", "2")
        with refused(Code.ROUND_ORDER):
            await world.submit("regulator", "OpenRound", "heart", "1")
        await scenario.attest()
        await scenario.publish(1, scenario.initial_model)
        assert (await scenario.open(2)).base_version == 1

    async def test_a_failed_round_is_followed_by_one_on_the_same_base(self) -> None:
        scenario, world = await make_scenario()
        first = await scenario.open()
        world.now_ms = first.judge_deadline_ms
        assert (await scenario.close()).state == "failed"
        second = await scenario.open(2)
        assert (second.base_version, second.base_digest) == (0, first.base_digest)

    async def test_refuses_more_rounds_than_the_task_has(self) -> None:
        scenario, world = await make_scenario(make_spec(rounds=1))
        world.now_ms = (await scenario.open()).judge_deadline_ms
        await scenario.close()
        with refused(Code.TASK_COMPLETE):
            await world.submit("regulator", "OpenRound", "heart", "2")

    async def test_refuses_while_too_few_have_enrolled(self) -> None:
        world, scenario = await prepared(keys=3, model=True)
        await scenario.enrol("alpha", "beta")
        with refused(Code.TOO_FEW_ENROLLED, "delta, gamma"):
            await world.submit("regulator", "OpenRound", "heart", "1")

    async def test_refuses_while_fewer_committee_keys_than_the_threshold_are_registered(self) -> None:
        world, scenario = await prepared(keys=1, model=True)
        await scenario.enrol()
        with refused(Code.KEYS_MISSING):
            await world.submit("regulator", "OpenRound", "heart", "1")

    async def test_opens_with_the_threshold_and_guards_updates_with_those_who_can_open_them(self) -> None:
        world, scenario = await prepared(keys=2, model=True)
        await scenario.enrol()
        await scenario.open()
        await scenario.submit("alpha")
        assert world.policy(scenario.update_key("alpha")) == (2, ("coordinator", "regulator"))

    async def test_refuses_while_the_initial_model_is_not_there(self) -> None:
        world, scenario = await prepared(keys=3, model=False)
        await scenario.enrol()
        with refused(Code.MODEL_MISSING, "chunk 0"):
            await world.submit("regulator", "OpenRound", "heart", "1")

    async def test_refuses_an_unknown_task(self) -> None:
        world = await make_registered_world()
        with refused(Code.TASK_UNKNOWN):
            await world.submit("regulator", "OpenRound", "heart", "1")

    async def test_an_enrolment_that_changes_meanwhile_makes_the_opening_invalid(self) -> None:
        _, world = await make_scenario()
        world.now_ms += 10_000
        opening = await world.endorse("regulator", "OpenRound", "heart", "1")
        await world.submit("alpha", "Enrol", "heart", "5")
        assert world.commit(opening) == CONFLICT


class TestSubmitUpdate:
    async def test_writes_header_update_and_room_for_the_commitment_and_hands_these_two_to_the_committee(self) -> None:
        scenario, world = await opened()
        header, _ = await scenario.seal("alpha")
        signed = scenario.sign(header)
        done = await world.submit("alpha", "SubmitUpdate", signed.encode())
        assert done.written == [f"{kind}/heart/000001/alpha" for kind in ("commitment", "header", "update")]
        assert done.event == "UpdateSubmitted"
        for kind in ("commitment", "update"):
            assert world.policy(f"{kind}/heart/000001/alpha") == (2, ("coordinator", "regulator", "university"))
        assert world.policy("header/heart/000001/alpha") is None
        update = Update.decode(done.payload)
        assert (update.state, update.header_digest) == ("submitted", header.record_digest)
        assert await world.evaluate("beta", "ReadHeader", "heart", "1", "alpha") == signed.encode()

    async def test_again_is_a_success_that_writes_nothing_even_after_the_close(self) -> None:
        scenario, world = await opened()
        signed = await scenario.submit("alpha")
        again = await world.submit("alpha", "SubmitUpdate", signed.encode())
        assert again.written == []
        world.now_ms = (await scenario.round()).judge_deadline_ms
        await scenario.close()
        assert (await world.submit("alpha", "SubmitUpdate", signed.encode())).written == []

    async def test_another_signature_of_the_same_header_is_no_equivocation(self) -> None:
        scenario, world = await opened()
        signed = await scenario.submit("alpha")
        other = scenario.sign(signed.header)
        assert other != signed
        done = await world.submit("alpha", "SubmitUpdate", other.encode())
        assert (done.written, done.event) == ([], "")

    async def test_takes_metrics_of_the_base_model_along(self) -> None:
        scenario, world = await opened()
        signed, report = scenario.sign((await scenario.seal("alpha"))[0]), scenario.metrics("alpha", 0, b"model")
        done = await world.submit("alpha", "SubmitUpdate", signed.encode(), report.encode())
        keys = [f"{kind}/heart/000001/alpha" for kind in ("commitment", "header", "update")]
        assert done.written == sorted([*keys, "metrics/heart/000000/alpha"])
        assert done.event == "UpdateSubmitted"
        recorded = report.model_copy(update={"reported_at_ms": world.now_ms})
        assert await world.evaluate("beta", "ListMetrics", "heart", "0") == b"[" + recorded.encode() + b"]"
        again = await world.submit("alpha", "SubmitUpdate", signed.encode(), report.encode())
        assert (again.written, again.event, again.payload) == ([], "", done.payload)

    async def test_takes_metrics_also_when_the_header_is_there(self) -> None:
        scenario, world = await opened()
        signed, report = await scenario.submit("alpha"), scenario.metrics("alpha", 0, b"model")
        done = await world.submit("alpha", "SubmitUpdate", signed.encode(), report.encode())
        assert (done.written, done.event) == (["metrics/heart/000000/alpha"], "MetricsReported")

    @pytest.mark.parametrize(
        ("fields", "code"),
        [
            ({"version": 1}, Code.MALFORMED),
            ({"task": "lungs"}, Code.MALFORMED),
            ({"reported_at_ms": 1}, Code.MALFORMED),
            ({"organisation": "beta"}, Code.CREATOR_MISMATCH),
            ({"model_digest": "ab" * 32}, Code.ALREADY_SETTLED),
        ],
        ids=["version", "task", "time", "organisation", "other"],
    )
    async def test_takes_neither_header_nor_metrics_where_the_metrics_are_refused(
        self, fields: dict[str, Any], code: Code
    ) -> None:
        scenario, world = await opened()
        report = scenario.metrics("alpha", 0, b"model")
        await world.submit("alpha", "ReportMetrics", report.encode())
        signed = scenario.sign((await scenario.seal("alpha"))[0])
        other = report.model_copy(update=fields)
        with refused(code):
            await world.submit("alpha", "SubmitUpdate", signed.encode(), other.encode())
        assert world.get("header/heart/000001/alpha") is None
        with refused(Code.ARGUMENTS, "expected 1 to 2 arguments, got 3"):
            await world.submit("alpha", "SubmitUpdate", signed.encode(), report.encode(), report.encode())
        await world.submit("alpha", "SubmitUpdate", signed.encode(), report.encode())

    async def test_a_second_header_is_recorded_once_and_the_update_stays(self) -> None:
        scenario, world = await opened()
        await scenario.submit("alpha")
        before = world.get("update/heart/000001/alpha")
        for salt in (1, 2):
            header, _ = await scenario.seal("alpha", salt=salt)
            done = await world.submit("alpha", "SubmitUpdate", scenario.sign(header).encode())
            assert done.written == (["equivocation/heart/000001/alpha"] if salt == 1 else [])
        assert world.get("update/heart/000001/alpha") == before
        assert b'"alpha"' in await world.evaluate("beta", "ListEquivocations", "heart", "1")

    async def test_a_second_header_with_a_wrong_signature_proves_nothing(self) -> None:
        scenario, world = await opened()
        await scenario.submit("alpha")
        header, _ = await scenario.seal("alpha", salt=1)
        forged = scenario.sign(header).model_copy(update={"signature": scenario.sealed[1, "alpha"][0].signature})
        with refused(Code.SIGNATURE):
            await world.submit("alpha", "SubmitUpdate", forged.encode())
        assert world.get("equivocation/heart/000001/alpha") is None

    @pytest.mark.parametrize(
        ("fields", "code"),
        [
            ({"network": "another"}, Code.HEADER_NETWORK),
            ({"channel": "another"}, Code.HEADER_NETWORK),
            ({"contract": "another"}, Code.HEADER_NETWORK),
            ({"task": "another"}, Code.TASK_UNKNOWN),
            ({"round": 2}, Code.ROUND_UNKNOWN),
            ({"organisation": "beta"}, Code.CREATOR_MISMATCH),
            ({"certificate_digest": "0" * 64}, Code.CERTIFICATE_MISMATCH),
            ({"base_digest": "0" * 64}, Code.HEADER_BASE),
            ({"manifest_digest": "0" * 64}, Code.HEADER_MANIFEST),
            ({"dimension": 11}, Code.HEADER_MANIFEST),
            ({"samples": 200}, Code.HEADER_TERMS),
            ({"weight": 2}, Code.HEADER_TERMS),
            ({"scale": 1}, Code.HEADER_TERMS),
            ({"bound_l2_squared": "1"}, Code.HEADER_TERMS),
            ({"wrapped_keys": ()}, Code.MALFORMED),
            ({"payload_bytes": 53}, Code.PAYLOAD_FORMAT),
        ],
    )
    async def test_refuses_a_header_that_is_not_one_for_this_round(self, fields: dict[str, Any], code: Code) -> None:
        scenario, world = await opened()
        header, _ = await scenario.seal("alpha")
        wrong = header.model_copy(update=fields)
        signed = SignedHeader.model_construct(
            header=wrong, signature=scenario.signers["alpha"].sign(b"BLOCKFL-UPDATE-V1\0" + wrong.encode()).hex()
        )
        with refused(code):
            await world.submit("alpha", "SubmitUpdate", signed.encode())

    async def test_refuses_wrapped_keys_for_others_than_the_committee(self) -> None:
        scenario, world = await opened()
        header, _ = await scenario.seal("alpha")
        wrong = header.model_copy(update={"wrapped_keys": header.wrapped_keys[:2]})
        with refused(Code.HEADER_RECIPIENTS):
            await world.submit("alpha", "SubmitUpdate", scenario.sign(wrong).encode())

    async def test_refuses_a_signature_over_other_bytes(self) -> None:
        scenario, world = await opened()
        header, _ = await scenario.seal("alpha")
        signed = scenario.sign(header.model_copy(update={"payload_digest": "0" * 64}))
        with refused(Code.SIGNATURE):
            await world.submit(
                "alpha", "SubmitUpdate", SignedHeader(header=header, signature=signed.signature).encode()
            )

    async def test_refuses_a_creator_whose_certificate_is_not_the_enrolled_one(self) -> None:
        scenario, world = await opened()
        header, _ = await scenario.seal("alpha")
        renewed = world.signers["alpha"].identity.__class__(
            msp_id="alpha",
            certificate_pem=make_certificate("alpha", world.signers["alpha"].private_key).encode(),  # type: ignore[arg-type]
        )
        with refused(Code.CERTIFICATE_MISMATCH):
            await world.simulate("alpha", "alpha", "SubmitUpdate", scenario.sign(header).encode(), identity=renewed)

    async def test_refuses_an_institution_that_has_not_enrolled(self) -> None:
        world, scenario = await prepared(keys=3, model=True)
        await scenario.enrol("alpha", "beta", "delta")
        await scenario.open()
        header, _ = await scenario.seal("alpha")
        with refused(Code.NOT_ENROLLED):
            await world.submit(
                "gamma", "SubmitUpdate", scenario.sign(header.model_copy(update={"organisation": "gamma"})).encode()
            )

    async def test_refuses_organisations_that_are_not_of_the_task(self) -> None:
        scenario, world = await opened()
        header, _ = await scenario.seal("alpha")
        with refused(Code.NOT_INSTITUTION):
            await world.submit(
                "regulator",
                "SubmitUpdate",
                scenario.sign(header.model_copy(update={"organisation": "regulator"})).encode(),
            )

    async def test_refuses_what_comes_after_the_deadline_and_takes_what_comes_on_it(self) -> None:
        scenario, world = await opened()
        deadline = (await scenario.round()).submit_deadline_ms
        world.now_ms = deadline + 1
        with refused(Code.ROUND_CLOSED, "next"):
            await scenario.submit("alpha")
        world.now_ms = deadline
        await scenario.submit("alpha")

    async def test_refuses_a_new_update_for_a_closed_round(self) -> None:
        scenario, world = await opened()
        header, _ = await scenario.seal("gamma")
        await scenario.contribute("alpha", "beta", "delta")
        now, world.now_ms = world.now_ms, (await scenario.round()).submit_deadline_ms
        await scenario.close()
        world.now_ms = now
        with refused(Code.ROUND_CLOSED, "closed"):
            await world.submit("gamma", "SubmitUpdate", scenario.sign(header).encode())

    async def test_a_submission_held_back_until_the_round_has_closed_is_invalid(self) -> None:
        scenario, world = await opened()
        header, _ = await scenario.seal("gamma")
        held_back = await world.endorse("gamma", "SubmitUpdate", scenario.sign(header).encode())
        world.now_ms = (await scenario.round()).judge_deadline_ms
        await scenario.close()
        assert world.commit(held_back) == CONFLICT


class TestUploadChunk:
    async def test_writes_the_chunk_for_the_committee_only(self) -> None:
        scenario, world = await submitted()
        chunk = scenario.sealed[1, "alpha"][1][0]
        done = await upload_chunk(world, "alpha", 1, 0, chunk)
        assert done.written == ["sealed/chunk/heart/000001/alpha/000000"]
        assert done.event == "ChunkUploaded"
        for name in world.signers:
            held = world.held(name, ("sealed", "chunk/heart/000001/alpha/000000"))
            assert (held is not None) == (name in world.consortium.committee)

    async def test_again_writes_nothing_even_after_the_deadline(self) -> None:
        scenario, world = await submitted()
        chunk = scenario.sealed[1, "alpha"][1][0]
        await upload_chunk(world, "alpha", 1, 0, chunk)
        world.now_ms = (await scenario.round()).submit_deadline_ms + 1
        again = await world.endorse("alpha", "UploadChunk", "heart", "1", "0", transient={"chunk": chunk})
        assert again.written == []

    async def test_repeated_with_the_committees_endorsements_alone_is_recorded_as_invalid(self) -> None:
        # Fabric holds a transaction that writes nothing to the contract's policy; clients read first.
        scenario, world = await submitted()
        chunk = scenario.sealed[1, "alpha"][1][0]
        await upload_chunk(world, "alpha", 1, 0, chunk)
        with pytest.raises(Invalid, match="ENDORSEMENT_POLICY_FAILURE"):
            await upload_chunk(world, "alpha", 1, 0, chunk)

    async def test_refuses_other_bytes_sizes_and_indices(self) -> None:
        scenario, world = await submitted()
        chunk = scenario.sealed[1, "alpha"][1][0]
        with refused(Code.CHUNK_MISMATCH):
            await upload_chunk(world, "alpha", 1, 0, chunk[:-1] + bytes([chunk[-1] ^ 1]))
        with refused(Code.CHUNK_MISMATCH, "announces 1 chunks"):
            await upload_chunk(world, "alpha", 1, 1, chunk)
        with refused(Code.CHUNK_SIZE):
            await upload_chunk(world, "alpha", 1, 0, b"")
        with refused(Code.CHUNK_SIZE):
            await upload_chunk(world, "alpha", 1, 0, bytes(CHUNK_BYTES + 1))

    async def test_refuses_chunks_without_a_header(self) -> None:
        scenario, world = await submitted()
        chunk = scenario.sealed[1, "alpha"][1][0]
        for stranger in ("beta", "regulator"):
            with refused(Code.UPDATE_UNKNOWN):
                await upload_chunk(world, stranger, 1, 0, chunk)
        with refused(Code.UPDATE_UNKNOWN):
            await upload_chunk(world, "alpha", 2, 0, chunk)

    async def test_refuses_what_comes_too_late(self) -> None:
        scenario, world = await submitted()
        chunk = scenario.sealed[1, "alpha"][1][0]
        round_ = await scenario.round()
        world.now_ms = round_.submit_deadline_ms + 1
        with refused(Code.ROUND_CLOSED):
            await upload_chunk(world, "alpha", 1, 0, chunk)
        world.now_ms = round_.judge_deadline_ms
        await scenario.close()
        world.now_ms = round_.opened_at_ms
        with refused(Code.ROUND_CLOSED):
            await upload_chunk(world, "alpha", 1, 0, chunk)


async def opened() -> tuple[Scenario, World]:
    scenario, world = await make_scenario()
    await scenario.open()
    return scenario, world


async def submitted() -> tuple[Scenario, World]:
    scenario, world = await opened()
    await scenario.submit("alpha")
    return scenario, world


async def prepared(*, keys: int, model: bool) -> tuple[World, Scenario]:
    world = await make_registered_world()
    scenario = Scenario(world, world.consortium, world.signers, world.opening_keys)
    await world.submit("coordinator", "CreateTask", scenario.spec.encode())
    if model:
        await scenario.upload_model("coordinator", scenario.initial_model)
    for name in world.consortium.committee[:keys]:
        await world.submit(name, "RegisterCommitteeKey", encode_public_key(world.opening_keys[name]))
    return world, scenario

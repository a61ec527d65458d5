"""Judging updates and closing rounds: what they write, each code, each repetition."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blockfl.ledger.answer import decode_list
from blockfl.protocol import catalogue
from blockfl.protocol.codes import Code
from blockfl.protocol.payload import SEED_BYTES
from blockfl.protocol.records import Commitment, Header, Notice, Update
from blockfl.protocol.seal import encode_public_key, seal
from blockfl.protocol.submission import compose_header, compose_place
from support.contract import make_scenario, not_endorsed, refused, upload_chunk
from support.scenario import Scenario, make_spec
from support.world import CONFLICT, POLICY_FAILURE, VALID, Transaction, World

RECORD = "update/heart/000001/alpha"
COMMITMENT = "commitment/heart/000001/alpha"


class TestJudgeUpdate:
    async def test_accepts_an_honest_update_and_writes_its_record_and_commitment_only(self) -> None:
        scenario, world = await uploaded()
        done = await world.submit("regulator", "JudgeUpdate", "heart", "1", "alpha")
        assert done.written == [COMMITMENT, RECORD]
        assert done.simulation.policies == {}
        assert done.event == "UpdateJudged"
        (update,) = decode_list(Update, done.payload)
        values = scenario.values("alpha").astype(np.int64)
        assert (update.state, update.code, update.reason) == ("accepted", "", "")
        assert update.norm_l2_squared_bits == int(values @ values).bit_length()
        assert update.norm_linf_bits == int(abs(values).max()).bit_length()
        assert update.judged_at_ms == world.now_ms

    async def test_the_commitment_on_the_ledger_is_the_one_that_was_signed(self) -> None:
        scenario, world = await uploaded()
        assert Commitment.decode(world.get(COMMITMENT) or b"").content == b""
        await scenario.judge("alpha")
        written = Commitment.decode(await world.evaluate("beta", "ReadCommitment", "heart", "1", "alpha"))
        header = scenario.sealed[1, "alpha"][0].header
        assert hashlib.sha256(written.content).hexdigest() == header.commitment_digest
        assert world.policy(COMMITMENT) == (2, ("coordinator", "regulator", "university"))

    async def test_an_update_with_another_commitment_is_rejected_and_none_is_written(self) -> None:
        scenario, world = await opened()
        header, chunks = await scenario.seal("alpha")
        update = await judged_as(scenario, world, header.model_copy(update={"commitment_digest": "0" * 64}), chunks)
        assert (update.state, update.code) == ("rejected", "BFL418")
        assert Commitment.decode(world.get(COMMITMENT) or b"").content == b""

    async def test_where_the_committee_recomputes_only_the_record_is_written(self) -> None:
        scenario, world = await make_scenario(make_spec(check="recompute"))
        await scenario.open()
        await scenario.submit("alpha")
        await scenario.upload("alpha")
        done = await world.submit("regulator", "JudgeUpdate", "heart", "1", "alpha")
        assert done.written == [RECORD]
        assert world.get(COMMITMENT) is None

    async def test_two_members_are_enough_and_one_is_not(self) -> None:
        _, world = await uploaded()
        judging = await world.endorse("regulator", "JudgeUpdate", "heart", "1", "alpha", endorsers=["regulator"])
        assert world.commit(judging) == POLICY_FAILURE
        others = ["alpha", "beta", "delta", "gamma"]
        assert world.policy(RECORD) == (2, ("coordinator", "regulator", "university"))
        judging = await world.endorse(
            "regulator", "JudgeUpdate", "heart", "1", "alpha", endorsers=["regulator", "university"]
        )
        assert world.commit(Transaction(judging.simulation, ("regulator", *others))) == POLICY_FAILURE
        assert world.commit(judging) == VALID

    async def test_again_is_a_success_without_a_private_read(self) -> None:
        _, world = await uploaded()
        done = await world.submit("regulator", "JudgeUpdate", "heart", "1", "alpha")
        world.now_ms += 1
        again = await world.endorse("university", "JudgeUpdate", "heart", "1", "alpha")
        assert (again.written, again.payload, again.event) == ([], done.payload, "")
        assert again.simulation.private_reads == set()
        assert not [at for at in again.simulation.reads if at[0]]

    async def test_again_after_the_close_is_a_success(self) -> None:
        scenario, world = await uploaded()
        done = await world.submit("regulator", "JudgeUpdate", "heart", "1", "alpha")
        world.now_ms = (await scenario.round()).judge_deadline_ms
        await scenario.close()
        assert (await world.endorse("regulator", "JudgeUpdate", "heart", "1", "alpha")).payload == done.payload

    async def test_several_are_judged_in_one_transaction_and_told_by_name(self) -> None:
        scenario, world = await opened()
        await scenario.contribute("beta")
        stands = world.get("update/heart/000001/beta")
        values = np.full(scenario.spec.manifest.dimension, 32767, dtype=np.int16)
        for name, content in (("alpha", None), ("gamma", values)):
            await scenario.submit(name, values=content)
            await scenario.upload(name)
        done = await world.submit("regulator", "JudgeUpdate", "heart", "1", "alpha", "beta", "gamma")
        assert done.written == [COMMITMENT, RECORD, "update/heart/000001/gamma"]
        judged = decode_list(Update, done.payload)
        assert [(one.organisation, one.state) for one in judged] == [
            ("alpha", "accepted"), ("beta", "accepted"), ("gamma", "rejected"),
        ]  # fmt: skip
        assert world.get("update/heart/000001/beta") == stands
        notice = Notice.decode(done.simulation.event.partition(b"\0")[2])
        assert notice.details == {"alpha": "accepted", "gamma": f"{judged[2].code} {judged[2].reason}".rstrip()}

    async def test_one_that_cannot_be_judged_keeps_all_that_are_named_with_it(self) -> None:
        scenario, world = await uploaded()
        await scenario.submit("beta")
        with refused(Code.UPLOAD_INCOMPLETE, "chunks of beta"):
            await world.submit("regulator", "JudgeUpdate", "heart", "1", "alpha", "beta")
        assert (await scenario.update("alpha")).state == "submitted"
        await world.submit("regulator", "JudgeUpdate", "heart", "1", "alpha")

    @pytest.mark.parametrize("names", [("beta", "alpha"), ("alpha", "alpha")], ids=["order", "twice"])
    async def test_several_are_named_in_ascending_order_each_once(self, names: tuple[str, ...]) -> None:
        _, world = await uploaded()
        with refused(Code.MALFORMED, "in ascending order"):
            await world.submit("regulator", "JudgeUpdate", "heart", "1", *names)

    @pytest.mark.parametrize(("value", "code"), [(32767, "BFL416"), (9000, "BFL416")])
    async def test_rejects_an_update_over_the_l2_bound_with_coarse_numbers(self, value: int, code: str) -> None:
        scenario, world = await opened()
        update = await judged(scenario, world, np.full(scenario.spec.manifest.dimension, value, dtype=np.int16))
        assert (update.state, update.code) == ("rejected", code)
        exact = scenario.spec.manifest.dimension * value**2
        assert str(exact) not in update.reason
        assert update.norm_l2_squared_bits == exact.bit_length()

    async def test_rejects_a_value_that_no_update_may_hold(self) -> None:
        scenario, world = await opened()
        payload = np.full(scenario.spec.manifest.dimension, -32768, dtype="<i2").tobytes()
        update = await judged_payload(scenario, world, payload)
        assert (update.state, update.code) == ("rejected", "BFL415")

    async def test_rejects_a_chunk_that_does_not_open(self) -> None:
        scenario, world = await opened()
        header, chunks = await scenario.seal("alpha")
        broken = chunks[0][:-1] + bytes([chunks[0][-1] ^ 1])
        update = await judged_as(scenario, world, header, (broken,))
        assert (update.state, update.code) == ("rejected", "BFL410")

    @pytest.mark.parametrize(("field", "code"), [("key_commitment", "BFL411"), ("payload_digest", "BFL413")])
    async def test_rejects_another_key_commitment_and_payload_digest(self, field: str, code: str) -> None:
        scenario, world = await opened()
        header, chunks = await scenario.seal("alpha")
        update = await judged_as(scenario, world, header.model_copy(update={field: "0" * 64}), chunks)
        assert (update.state, update.code) == ("rejected", code)

    async def test_a_wrong_wrap_for_one_member_is_rejected_by_all_with_the_same_verdict(self) -> None:
        scenario, world = await opened()
        header, chunks = await scenario.seal("alpha")
        spoilt = [
            one if one.organisation != "regulator" else one.model_copy(update={"ciphertext": "00" * 48})
            for one in header.wrapped_keys
        ]
        update = await judged_as(scenario, world, header.model_copy(update={"wrapped_keys": tuple(spoilt)}), chunks)
        assert (update.state, update.code) == ("rejected", "BFL412")

    async def test_an_update_sealed_for_another_institution_is_rejected(self) -> None:
        # beta takes alpha's sealed chunks and keys as its own.
        scenario, world = await uploaded()
        stolen = scenario.sealed[1, "alpha"][0].header
        own, _ = await scenario.seal("beta")
        header = own.model_copy(
            update={
                name: getattr(stolen, name)
                for name in ("chunk_digests", "wrapped_keys", "key_commitment", "payload_digest")
            }
        )
        update = await judged_as(scenario, world, header, scenario.sealed[1, "alpha"][1])
        assert (update.state, update.organisation) == ("rejected", "beta")

    async def test_waits_for_missing_chunks_until_the_deadline_and_rejects_after_it(self) -> None:
        scenario, world = await opened()
        await scenario.submit("alpha")
        round_ = await scenario.round()
        world.now_ms = round_.submit_deadline_ms
        with refused(Code.UPLOAD_INCOMPLETE, "1 of 1 chunks"):
            await world.submit("regulator", "JudgeUpdate", "heart", "1", "alpha")
        world.now_ms += 1
        update = await scenario.judge("alpha")
        assert (update.state, update.code) == ("rejected", "BFL409")

    async def test_a_chunk_that_arrives_meanwhile_makes_a_verdict_of_absence_invalid(self) -> None:
        scenario, world = await opened()
        await scenario.submit("alpha")
        late = (await scenario.round()).submit_deadline_ms + 1
        now, world.now_ms = world.now_ms, late
        judging = await world.endorse("regulator", "JudgeUpdate", "heart", "1", "alpha")
        world.now_ms = now
        await scenario.upload("alpha")
        assert world.commit(judging) == CONFLICT

    async def test_a_peer_without_the_bytes_refuses_and_the_others_judge(self) -> None:
        _, world = await uploaded()
        world.lose("university", "sealed", catalogue.sealed_chunk_key("heart", 1, "alpha", 0))
        with refused(Code.CHUNK_UNAVAILABLE):
            await world.simulate("university", "regulator", "JudgeUpdate", "heart", "1", "alpha")
        await world.submit("regulator", "JudgeUpdate", "heart", "1", "alpha", endorsers=["coordinator", "regulator"])

    async def test_other_bytes_in_a_chunks_place_count_as_missing_and_may_be_replaced(self) -> None:
        scenario, world = await opened()
        await scenario.submit("alpha")
        world.force("sealed", catalogue.sealed_chunk_key("heart", 1, "alpha", 0), b"something else")
        assert await world.evaluate("alpha", "ReadUpload", "heart", "1", "alpha") == b"[0]"
        with refused(Code.UPLOAD_INCOMPLETE):
            await world.submit("regulator", "JudgeUpdate", "heart", "1", "alpha")
        await scenario.upload("alpha")
        assert (await scenario.judge("alpha")).state == "accepted"

    async def test_a_service_with_another_opening_key_refuses_instead_of_judging(self) -> None:
        _, world = await uploaded()
        world.configure("university", world.consortium, X25519PrivateKey.from_private_bytes(b"9" * 32))
        with refused(Code.OPENING_KEY):
            await world.simulate("university", "regulator", "JudgeUpdate", "heart", "1", "alpha")

    async def test_a_service_outside_the_committee_refuses_instead_of_judging(self) -> None:
        _, world = await uploaded()
        with refused(Code.OPENING_KEY):
            await world.simulate("alpha", "regulator", "JudgeUpdate", "heart", "1", "alpha")

    async def test_a_member_that_registered_another_key_since_judges_with_the_frozen_one(self) -> None:
        scenario, world = await uploaded()
        renewed = X25519PrivateKey.from_private_bytes(b"9" * 32)
        world.now_ms += 10_000
        await world.submit("university", "RegisterCommitteeKey", encode_public_key(renewed))
        assert (await scenario.judge("alpha")).state == "accepted"

    async def test_refuses_callers_outside_the_committee_unknown_updates_and_closed_rounds(self) -> None:
        scenario, world = await uploaded()
        with refused(Code.NOT_COMMITTEE):
            await world.submit("alpha", "JudgeUpdate", "heart", "1", "alpha")
        with refused(Code.UPDATE_UNKNOWN):
            await world.submit("regulator", "JudgeUpdate", "heart", "1", "beta")
        world.now_ms = (await scenario.round()).judge_deadline_ms
        await scenario.close()
        with refused(Code.ROUND_CLOSED):
            await world.submit("regulator", "JudgeUpdate", "heart", "1", "alpha")

    async def test_a_member_whose_service_judges_differently_finds_nobody_to_agree(self) -> None:
        scenario, world = await uploaded()
        honest = await world.simulate("regulator", "regulator", "JudgeUpdate", "heart", "1", "alpha")
        verdict = Update.decode(honest.writes["", RECORD]).model_copy(update={"state": "rejected", "code": "BFL416"})
        bent = dataclasses.replace(honest, writes={("", RECORD): verdict.encode()})
        assert world.commit(Transaction(bent, ("university",))) == POLICY_FAILURE
        assert (await scenario.update("alpha")).state == "submitted"

    async def test_the_reason_is_public_but_no_value_of_the_update_is(self) -> None:
        scenario, world = await opened()
        values = np.zeros(scenario.spec.manifest.dimension, dtype=np.int16)
        values[3] = 31_337
        update = await judged(scenario, world, values)
        assert update.state == "rejected"
        assert "31337" not in update.encode().decode()
        assert str(31_337**2) not in update.encode().decode()


class TestCloseRound:
    async def test_freezes_who_was_accepted_and_creates_the_guarded_aggregate(self) -> None:
        scenario, world = await opened()
        await scenario.contribute()
        done = await world.submit("university", "CloseRound", "heart", "1")
        assert done.written == ["aggregate/heart/000001", "round/heart/000001"]
        assert done.event == "RoundClosed"
        assert world.policy("aggregate/heart/000001") == (2, ("coordinator", "regulator", "university"))
        assert world.policy("round/heart/000001") is None
        aggregate = await scenario.aggregate()
        assert (aggregate.state, aggregate.divisor, aggregate.sum) == ("pending", 8, None)

    async def test_again_is_a_success_that_writes_nothing(self) -> None:
        scenario, world = await opened()
        await scenario.contribute()
        done = await world.submit("university", "CloseRound", "heart", "1")
        world.now_ms += 1
        again = await world.submit("coordinator", "CloseRound", "heart", "1")
        assert (again.written, again.payload) == ([], done.payload)
        await scenario.attest()
        await scenario.publish(1, scenario.initial_model)
        assert (await world.submit("coordinator", "CloseRound", "heart", "1")).written == []

    async def test_too_few_accepted_fail_the_round_without_an_aggregate(self) -> None:
        scenario, world = await opened()
        await scenario.contribute("alpha", "beta")
        world.now_ms = (await scenario.round()).judge_deadline_ms
        done = await world.submit("university", "CloseRound", "heart", "1")
        assert (done.written, done.event) == (["round/heart/000001"], "RoundFailed")
        round_ = await scenario.round()
        assert (round_.accepted, round_.absent) == (("alpha", "beta"), ("delta", "gamma"))
        again = await world.submit("coordinator", "CloseRound", "heart", "1")
        assert again.written == []

    async def test_waits_for_submissions_and_for_verdicts_until_their_deadlines(self) -> None:
        scenario, world = await opened()
        await scenario.contribute("alpha", "beta", "delta")
        with refused(Code.ROUND_NOT_READY, "gamma"):
            await world.submit("university", "CloseRound", "heart", "1")
        await scenario.submit("gamma")
        await scenario.upload("gamma")
        round_ = await scenario.round()
        world.now_ms = round_.submit_deadline_ms
        with refused(Code.ROUND_NOT_READY, "gamma"):
            await world.submit("university", "CloseRound", "heart", "1")
        world.now_ms = round_.judge_deadline_ms
        closed = await scenario.close()
        assert (closed.state, closed.unjudged, closed.rejected) == ("closed", ("gamma",), ())

    async def test_equivocators_are_rejected_even_if_their_update_was_accepted(self) -> None:
        scenario, world = await opened()
        await scenario.contribute()
        header, _ = await scenario.seal("gamma", salt=1)
        await world.submit("gamma", "SubmitUpdate", scenario.sign(header).encode())
        closed = await scenario.close()
        assert (closed.accepted, closed.rejected) == (("alpha", "beta", "delta"), ("gamma",))
        total = await scenario.sum(1, closed.accepted)
        await scenario.attest()
        assert (await scenario.aggregate()).sum is not None
        assert hashlib.sha256(total.encode()).hexdigest() in (await scenario.aggregate()).encode().decode()

    async def test_a_verdict_or_an_equivocation_that_comes_meanwhile_makes_the_close_invalid(self) -> None:
        scenario, world = await opened()
        await scenario.contribute()
        closing = await world.endorse("university", "CloseRound", "heart", "1")
        header, _ = await scenario.seal("gamma", salt=1)
        await world.submit("gamma", "SubmitUpdate", scenario.sign(header).encode())
        assert world.commit(closing) == CONFLICT

    async def test_refuses_callers_outside_the_committee_and_unknown_rounds(self) -> None:
        scenario, world = await opened()
        await scenario.contribute()
        with refused(Code.NOT_COMMITTEE):
            await world.submit("alpha", "CloseRound", "heart", "1")
        with refused(Code.ROUND_UNKNOWN):
            await world.submit("university", "CloseRound", "heart", "2")

    async def test_the_committee_alone_cannot_close(self) -> None:
        scenario, world = await opened()
        await scenario.contribute()
        with not_endorsed():
            await world.submit("university", "CloseRound", "heart", "1", endorsers=world.consortium.committee)

    async def test_the_event_names_who_was_accepted(self) -> None:
        scenario, world = await opened()
        await scenario.contribute()
        done = await world.submit("university", "CloseRound", "heart", "1")
        notice = Notice.decode(done.simulation.event.partition(b"\0")[2])
        assert (notice.task, notice.round, notice.detail) == ("heart", 1, "accepted: alpha, beta, delta, gamma")


async def opened() -> tuple[Scenario, World]:
    scenario, world = await make_scenario()
    await scenario.open()
    return scenario, world


async def uploaded() -> tuple[Scenario, World]:
    scenario, world = await opened()
    await scenario.submit("alpha")
    await scenario.upload("alpha")
    return scenario, world


async def judged(scenario: Scenario, world: World, values: Any) -> Update:
    await scenario.submit("alpha", values=values)
    await scenario.upload("alpha")
    return await scenario.judge("alpha")


async def judged_payload(scenario: Scenario, world: World, content: bytes) -> Update:
    """Seal bytes that an honest agent could not make."""
    round_, task = await scenario.round(), await scenario.read_task()
    seed = bytes(range(SEED_BYTES))
    sealed = seal(content + seed, seed, compose_place(scenario.consortium, round_, "alpha"), round_.committee)
    header = compose_header(scenario.consortium, task, round_, "alpha", sealed, "0" * 64)
    return await judged_as(scenario, world, header, sealed.chunks)


async def judged_as(scenario: Scenario, world: World, header: Header, chunks: tuple[bytes, ...]) -> Update:
    """Submit and upload whatever this is, signed, and have it judged by all three."""
    digests = tuple(hashlib.sha256(chunk).hexdigest() for chunk in chunks)
    header = header.model_copy(update={"chunk_digests": digests})
    await world.submit(header.organisation, "SubmitUpdate", scenario.sign(header).encode())
    for index, chunk in enumerate(chunks):
        await upload_chunk(world, header.organisation, 1, index, chunk)
    return await scenario.judge(header.organisation)

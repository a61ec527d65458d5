"""Attesting the sum of a round: what it writes, each code, each repetition."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blockfl.protocol import catalogue
from blockfl.protocol.blob import split_blob
from blockfl.protocol.codes import Code
from blockfl.protocol.records import Aggregate, Commitment
from support.closed_round import Check, attest, closed, forge, summed
from support.contract import make_scenario, not_endorsed, refused, upload_chunk
from support.scenario import make_spec
from support.world import POLICY_FAILURE, VALID, Transaction


class TestAttestAggregate:
    async def test_writes_the_aggregate_only_and_the_committee_is_enough(self) -> None:
        _, world, blob = await summed()
        done = await attest(world, blob, endorsers=["regulator", "university"])
        assert done.written == ["aggregate/heart/000001"]
        assert done.simulation.policies == {}
        assert done.event == "AggregateAttested"
        aggregate = Aggregate.decode(done.payload)
        assert (aggregate.state, aggregate.sum, aggregate.attested_at_ms) == ("attested", blob, world.now_ms)

    @pytest.mark.parametrize("check", ["commitment", "recompute"])
    async def test_a_sum_of_one_chunk_may_come_along_and_is_kept_for_the_committee(self, check: Check) -> None:
        scenario, world = await closed(check)
        total = await scenario.total()
        blob, _ = split_blob(total)
        arguments = ("heart", "1", blob.encode())
        done = await world.submit("coordinator", "AttestAggregate", *arguments, transient={"chunk": total})
        assert done.written == ["aggregate/heart/000001", f"sealed/sum/heart/000001/{blob.digest}"]
        assert await world.evaluate("university", "ReadSumChunk", "heart", "1", blob.digest) == total
        again = await world.endorse("regulator", "AttestAggregate", *arguments, transient={"chunk": total})
        assert again.written == []

    async def test_refuses_what_comes_along_and_is_not_the_sum_that_is_named(self) -> None:
        scenario, world = await closed()
        total = await scenario.total()
        blob, _ = split_blob(total)
        wrong = forge(total, scenario, "first value")
        arguments = ("heart", "1", blob.encode())
        with refused(Code.CHUNK_MISMATCH):
            await world.submit("coordinator", "AttestAggregate", *arguments, transient={"chunk": wrong})
        with refused(Code.SUM_MISMATCH):
            other = ("heart", "1", split_blob(wrong)[0].encode())
            await world.submit("coordinator", "AttestAggregate", *other, transient={"chunk": wrong})
        with refused(Code.BLOB_MISMATCH):
            longer = blob.model_copy(update={"size_bytes": blob.size_bytes + 1})
            await world.submit(
                "coordinator", "AttestAggregate", "heart", "1", longer.encode(), transient={"chunk": total}
            )
        with refused(Code.ARGUMENTS, "transient fields"):
            await world.submit("coordinator", "AttestAggregate", *arguments, transient={"other": total})
        assert (await scenario.aggregate()).state == "pending"

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
        scenario, world, blob = await summed(check)
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
        _, world, blob = await summed("recompute")
        world.expire("sealed", catalogue.sealed_chunk_key("heart", 1, "beta", 0))
        with refused(Code.CHUNK_UNAVAILABLE):
            await attest(world, blob)

    async def test_with_commitments_nothing_is_opened_and_no_key_is_needed(self) -> None:
        _, world, blob = await summed()
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
        """A member that chooses the randomness freely solves it; nothing over 32768 for each update is taken."""
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
        _, world, blob = await summed()
        key = catalogue.COMMITMENT.key("heart", 1, "beta")
        other = Commitment.decode(world.get(catalogue.COMMITMENT.key("heart", 1, "alpha")) or b"")
        world.force("", key, other.model_copy(update={"organisation": "beta"}).encode())
        with refused(Code.SUM_MISMATCH, "the commitment of beta in round 1 of heart is not the one that it signed"):
            await attest(world, blob)

    async def test_a_peer_without_the_sum_s_bytes_refuses_and_the_others_go_on(self) -> None:
        _, world, blob = await summed()
        world.lose("university", "sealed", catalogue.sum_chunk_key("heart", 1, blob.chunks[0]))
        with refused(Code.CHUNK_UNAVAILABLE):
            await world.simulate("university", "regulator", "AttestAggregate", "heart", "1", blob.encode())
        await attest(world, blob, endorsers=["coordinator", "regulator"])

    async def test_a_service_with_another_opening_key_refuses_to_open_again(self) -> None:
        _, world, blob = await summed("recompute")
        world.configure("university", world.consortium, X25519PrivateKey.from_private_bytes(b"9" * 32))
        with refused(Code.OPENING_KEY):
            await world.simulate("university", "regulator", "AttestAggregate", "heart", "1", blob.encode())

    async def test_refuses_another_sum_than_the_attested_one(self) -> None:
        scenario, world = await closed()
        await scenario.attest()
        with refused(Code.ALREADY_SETTLED):
            await attest(world, split_blob(b"other")[0])

    async def test_an_institution_or_one_member_cannot_attest(self) -> None:
        _, world, blob = await summed()
        with refused(Code.NOT_COMMITTEE):
            await world.submit("alpha", "AttestAggregate", "heart", "1", blob.encode())
        with not_endorsed():
            await attest(world, blob, endorsers=["coordinator"])
        honest = await world.endorse("coordinator", "AttestAggregate", "heart", "1", blob.encode())
        everybody_else = Transaction(honest.simulation, ("coordinator", "alpha", "beta", "delta", "gamma"))
        assert world.commit(everybody_else) == POLICY_FAILURE
        assert world.commit(honest) == VALID

    async def test_a_bent_service_finds_nobody_to_agree(self) -> None:
        _, world, blob = await summed()
        honest = await world.endorse("coordinator", "AttestAggregate", "heart", "1", blob.encode())
        (at,) = honest.simulation.writes
        bent = Aggregate.decode(honest.payload).model_copy(update={"sum": split_blob(b"bent")[0]})
        simulation = dataclasses.replace(honest.simulation, writes={at: bent.encode()})
        assert world.commit(Transaction(simulation, ("university",))) == POLICY_FAILURE

    async def test_members_without_key_or_bytes_refuse_to_open_again(self) -> None:
        _, world, blob = await summed("recompute")
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

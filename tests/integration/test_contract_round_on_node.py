"""Whole rounds on a real node, with everybody at once: what the in-memory world cannot show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blockfl.audit.book import open_book
from blockfl.audit.queries import list_erasures
from blockfl.audit.verification import verify_bundles
from blockfl.contract.state import encode_list
from blockfl.fabric.client.gateway import Endorsed
from blockfl.protocol import catalogue
from blockfl.protocol.aggregation import TrimmedMean
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.codes import Code
from blockfl.protocol.optimiser import Yogi
from blockfl.protocol.records import Notice, Update
from blockfl.protocol.version import decode_version
from support.contract import refused
from support.contract_network import ClientOfNetwork, ContractNetwork, contract_network
from support.played_ledger import export
from support.scenario import Scenario, make_spec
from support.world import CONFLICT, Invalid

Running = tuple[Scenario, ContractNetwork]
INSTITUTIONS = ("alpha", "beta", "delta", "gamma")


@pytest.fixture
async def running(tmp_path: Path, ledger_kind: str) -> AsyncIterator[Running]:
    async with contract_network(tmp_path, ledger_kind) as (scenario, network):
        await scenario.prepare()
        yield scenario, network


async def patiently(call: Any, *arguments: Any, **options: Any) -> Any:
    """Repeat a transaction while it conflicts with somebody else's, as clients do."""
    while True:
        try:
            return await call(*arguments, **options)
        except Invalid as error:
            if error.code != CONFLICT:
                raise


async def all_of(*calls: Awaitable[Any]) -> list[Any]:
    return list(await asyncio.gather(*calls))


async def test_institutions_submit_upload_and_are_judged_all_at_once(running: Running) -> None:
    scenario, _ = running
    await scenario.open()

    async def contribute(name: str) -> str:
        await scenario.submit(name)
        await scenario.upload(name)
        update: Update = await patiently(scenario.judge, name)
        return update.state

    assert await all_of(*(contribute(name) for name in INSTITUTIONS)) == ["accepted"] * 4
    assert (await scenario.close()).accepted == INSTITUTIONS
    await scenario.attest()
    model = await scenario.publish(1, scenario.initial_model)
    assert (await scenario.model(1)).base_digest == scenario.spec.initial_model.digest
    await scenario.open(2)
    await scenario.contribute("alpha", "beta", "delta", number=2)
    await scenario.submit("gamma", 2, np.full(scenario.spec.manifest.dimension, 32767, dtype=np.int16))
    await scenario.upload("gamma", 2)
    assert (await scenario.judge("gamma", 2)).code == "BFL416"
    closed = await scenario.close(2)
    assert (closed.accepted, closed.rejected) == (("alpha", "beta", "delta"), ("gamma",))
    await scenario.attest(2)
    await scenario.publish(2, model)
    assert (await scenario.progress()).version == 2


async def test_an_institution_s_sealed_updates_are_erased_at_every_peer_and_everything_still_verifies(
    running: Running, tmp_path: Path
) -> None:
    scenario, network = running
    await scenario.open()
    await scenario.contribute()
    await scenario.close()
    await scenario.attest()
    await scenario.publish(1, scenario.initial_model)
    gone, kept = (catalogue.sealed_chunk_key("heart", 1, name, 0) for name in ("alpha", "beta"))
    committee = network.record.committee

    async def held(member: str, key: str) -> bool:
        return bool(await network.evaluate(member, "Peek", "sealed", key))

    assert all([await held(member, key) for member in committee for key in (gone, kept)])
    await network.submit("alpha", "RequestErasure", "heart")
    await network.submit("alpha", "EraseUpdate", "heart", "1", "alpha", endorsers=committee)
    assert not any([await held(member, gone) for member in committee])
    assert all([await held(member, kept) for member in committee])
    played = await export(network, tmp_path / "erased.bundle")
    report = await verify_bundles([played.bundle], played.genesis_hash, lambda _: None)
    assert (report.tasks[0].accepted, report.tasks[0].versions) == (4, 2)
    (row,) = list_erasures(open_book([played.bundle], played.genesis_hash, lambda _: None))
    assert (row["organisation"], row["purged_rounds"], row["kept_rounds"]) == ("alpha", [1], [])
    assert row["version_without"] == 0


async def test_a_robust_rule_with_an_optimiser_outvotes_an_institution_that_flips_the_sign(
    tmp_path: Path, ledger_kind: str
) -> None:
    """The committee's services recompute X through real peers; the model is that of a round without the attacker's."""
    yogi = Yogi(learning_rate_micro=100_000, beta1_micro=900_000, beta2_micro=990_000, tau_micro=1_000)
    spec = make_spec(minimum_accepted=4, aggregation=TrimmedMean(trim=1), optimiser=yogi)
    async with contract_network(tmp_path, ledger_kind, spec) as (scenario, network):
        await scenario.prepare()
        content, dimension = scenario.initial_model, scenario.spec.manifest.dimension
        for number in (1, 2):
            await scenario.open(number)
            for name in INSTITUTIONS:
                await scenario.submit(name, number, np.full(dimension, -3000 if name == "beta" else 1000, np.int16))
                await scenario.upload(name, number)
                assert (await scenario.judge(name, number)).state == "accepted"
            assert (await scenario.close(number)).divisor == 2
            plain = (await scenario.sum(number, INSTITUTIONS)).encode()
            forged = await scenario.upload_sum("regulator", plain, number)
            for member in network.record.committee:
                arguments = ("AttestAggregate", "heart", str(number), forged.encode())
                with refused(Code.SUM_MISMATCH):
                    await network.submit("regulator", *arguments, endorsers=(member,))
            assert set(np.frombuffer(await scenario.total(number), "<i4").tolist()) == {2000}
            await scenario.attest(number)
            content = await scenario.publish(number, content)
        before = decode_version(scenario.spec, scenario.initial_model)
        assert (decode_version(scenario.spec, content).model > before.model).all()
        assert (await scenario.model(2)).digest == compute_digest(content)


async def test_of_two_members_that_judge_at_once_one_writes_and_both_see_the_same_verdict(running: Running) -> None:
    scenario, network = running
    await scenario.open()
    await scenario.submit("alpha")
    await scenario.upload("alpha")

    async def judge(member: str) -> str:
        try:
            await network.submit(member, "JudgeUpdate", "heart", "1", "alpha", endorsers=network.record.committee)
        except Invalid as error:
            return error.code
        return "VALID"

    outcomes = await all_of(*(judge(member) for member in network.record.committee))
    assert outcomes.count("VALID") == 1
    assert (await scenario.update("alpha")).state == "accepted"


async def test_of_votes_that_are_endorsed_at_once_the_later_are_sent_again_and_none_misses_the_threshold(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario, network = running
    await scenario.open()
    await scenario.contribute()
    await scenario.close()
    await scenario.attest()
    members, endorsements = network.record.committee, list[str]()
    everybody_has_endorsed = asyncio.Barrier(len(members))
    for member in members:
        gateway = network.gateways[member]
        monkeypatch.setattr(gateway, "endorse", meet_after(gateway.endorse, everybody_has_endorsed, endorsements))
    ledgers = {member: ClientOfNetwork(network, member) for member in members}
    await all_of(*(ledger.publish_model("heart", 1, "ab" * 32) for ledger in ledgers.values()))
    assert len(endorsements) >= 2 * len(members) - 1, "all had read the same state: one vote counts, two come again"
    await scenario.disclose("coordinator", "ab" * 32)
    model = await scenario.model(1)
    assert (model.digest, model.voters) == ("ab" * 32, members)
    votes = await ledgers["regulator"].read_all(catalogue.VOTES.below("heart", 1))
    assert tuple(one.organisation for one in votes) == model.voters


def meet_after(
    endorse: Callable[..., Awaitable[Endorsed]], barrier: asyncio.Barrier, endorsements: list[str]
) -> Callable[..., Awaitable[Endorsed]]:
    """Return ``endorse``, which the first time returns only when all others have endorsed too."""
    has_met = False

    async def endorse_and_meet(*arguments: Any, **options: Any) -> Endorsed:
        nonlocal has_met
        result = await endorse(*arguments, **options)
        endorsements.append(result.transaction_id)
        if not has_met:
            has_met = True
            await barrier.wait()
        return result

    return endorse_and_meet


async def test_a_repeated_transaction_announces_nothing(running: Running) -> None:
    scenario, network = running
    await scenario.open()
    await scenario.contribute("alpha")
    gateway = network.gateways["regulator"]
    proposal = gateway.propose(network.name, "JudgeUpdate", "heart", "1", "alpha")
    endorsed = await gateway.endorse(proposal, network.record.committee)
    assert endorsed.event is None
    assert endorsed.payload == encode_list([(await scenario.update("alpha")).encode()])


async def test_events_tell_the_story_in_order(running: Running) -> None:
    scenario, network = running
    await scenario.open()
    await scenario.contribute()
    await scenario.close()
    await scenario.attest()
    await scenario.publish(1, scenario.initial_model)
    story = []
    async for event in network.gateways["beta"].events(network.name, start_block=0):
        notice = Notice.decode(event.payload)
        story.append((event.name, notice.round, notice.organisation))
        if event.name == "ModelPublished":
            break
    assert story[0] == ("ConsortiumRegistered", 0, "coordinator")
    assert [one for one in story if one[1]] == [
        ("RoundOpened", 1, "coordinator"),
        *(
            (name, 1, organisation)
            for organisation in INSTITUTIONS
            for name in ("UpdateSubmitted", "ChunkUploaded", "UpdateJudged")
        ),
        ("RoundClosed", 1, "university"),
        ("SumChunkUploaded", 1, "coordinator"),
        ("AggregateAttested", 1, "coordinator"),
        ("ModelProposed", 1, "coordinator"),
        ("ModelProposed", 1, "regulator"),
        ("ModelChunkUploaded", 1, "coordinator"),
        ("ModelPublished", 1, "coordinator"),
    ]


async def test_an_update_of_several_chunks_is_uploaded_in_any_order_and_judged(
    tmp_path: Path, ledger_kind: str
) -> None:
    async with contract_network(tmp_path, ledger_kind) as (told, network):
        scenario = Scenario(network, told.consortium, told.signers, told.opening_keys, make_spec(dimension=5_000_000))
        await scenario.prepare()
        await scenario.open()
        await scenario.submit("alpha")
        chunks = scenario.sealed[1, "alpha"][1]
        assert len(chunks) == 3
        await all_of(
            *(
                network.submit(
                    "alpha",
                    "UploadChunk",
                    "heart",
                    "1",
                    str(index),
                    transient={"chunk": chunks[index]},
                    endorsers=network.record.committee,
                )
                for index in (2, 0, 1)
            )
        )
        assert await network.evaluate("beta", "ReadUpload", "heart", "1", "alpha") == b"[1,1,1]"
        assert (await scenario.judge("alpha")).state == "accepted"
        read = await network.evaluate("university", "ReadChunk", "heart", "1", "alpha", "1")
        assert read == chunks[1]

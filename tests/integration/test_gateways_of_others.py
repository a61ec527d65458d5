"""An institution without a peer believes no gateway: each lie is found, told in a line, and the next one serves it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from fabric_protos.common import common_pb2
from fabric_protos.gateway import gateway_pb2
from fabric_protos.peer import proposal_pb2, proposal_response_pb2, transaction_pb2

from blockfl.fabric.channel.block import data_hash, decode_metadata, set_commit, sign_block
from blockfl.fabric.client.gateway import Timeouts
from blockfl.fabric.identity.signing import private_key_pem
from blockfl.ledger.errors import LedgerError, RefusedError
from blockfl.ledger.profile import ConnectionProfile, ForeignGateway
from blockfl.ledger.remote import RemoteLedger
from blockfl.ledger.transfer import fetch_blob
from blockfl.protocol.catalogue import HEADER, PROGRESS, ROUND
from blockfl.protocol.codes import Code
from support.contract_network import ContractNetwork, contract_network
from support.lying_gateway import LyingGateway, lying_gateway
from support.scenario import Scenario

HONEST, LIAR, GUEST = "university", "regulator", "gamma"
QUICK = Timeouts(commit_s=1.0)


@dataclass
class Stage:
    """A task, two gateways of which one lies, and the institution that uses them."""

    scenario: Scenario
    network: ContractNetwork
    liar: LyingGateway
    profile: ConnectionProfile
    said: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def ledger(self, silence_s: float = 10.0) -> AsyncIterator[RemoteLedger]:
        self.said.clear()
        opened = RemoteLedger(self.profile, timeouts=QUICK, tell=self.said.append, silence_s=silence_s)
        async with asyncio.timeout(60), opened as ledger:
            yield ledger

    def told(self, *words: str) -> list[str]:
        return [text for text in self.said if all(word in text for word in words)]


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with contract_network(tmp_path / "network") as (scenario, network):
        await scenario.prepare()
        await scenario.open()
        peer, organisation = network.network.endpoint(LIAR), network.network.organisations[LIAR]
        async with lying_gateway(peer, organisation) as (liar, endpoint):
            addresses = {LIAR: endpoint, HONEST: network.network.endpoint(HONEST)}
            for name, one in addresses.items():
                (tmp_path / f"{name}.pem").write_bytes(one.tls_roots_pem)
            signer = scenario.signers[GUEST]
            (tmp_path / "certificate.pem").write_bytes(signer.identity.certificate_pem)
            (tmp_path / "key.pem").write_bytes(private_key_pem(signer.private_key))
            profile = ConnectionProfile(
                network=scenario.consortium.network,
                channel=scenario.consortium.channel,
                contract=scenario.consortium.contract,
                organisation=GUEST,
                certificate=str(tmp_path / "certificate.pem"),
                private_key=str(tmp_path / "key.pem"),
                genesis=str(tmp_path / "network" / "genesis.block"),
                gateways=tuple(
                    ForeignGateway(organisation=name, endpoint=one.address, tls_roots=str(tmp_path / f"{name}.pem"))
                    for name, one in addresses.items()
                ),
            )
            yield Stage(scenario, network, liar, profile)


def flip_a_byte(block: Any) -> Any:
    block.data.data[0] = block.data.data[0][:-1] + bytes([block.data.data[0][-1] ^ 1])
    return block


def forge_the_header(block: Any) -> Any:
    flip_a_byte(block)
    block.header.data_hash = data_hash(block.data.data)
    return block


def flip_a_code(block: Any) -> Any:
    metadata = decode_metadata(block)
    code = transaction_pb2.MVCC_READ_CONFLICT if metadata.filter[0] == transaction_pb2.VALID else transaction_pb2.VALID
    set_commit(block, bytes([code]) + metadata.filter[1:], metadata.commit_hash)
    return block


def invent_a_hash(block: Any) -> Any:
    set_commit(block, decode_metadata(block).filter, bytes(32))
    return block


def drop_the_signatures(block: Any) -> Any:
    block.metadata.metadata[common_pb2.SIGNATURES] = b""
    return block


async def test_an_honest_gateway_serves_reads_transactions_and_events(stage: Stage) -> None:
    scenario = stage.scenario
    async with stage.ledger() as ledger:
        heard = ledger.events()
        waiting = asyncio.ensure_future(anext(heard))
        assert (await ledger.read(PROGRESS.key(scenario.task))).round == 1
        assert await ledger.read(ROUND.key(scenario.task, 1)) == await scenario.round()
        unsigned, chunks = await scenario.seal(GUEST)
        header = scenario.sign(unsigned)
        await ledger.submit_update(header)
        assert (await waiting).name == "UpdateSubmitted"
        assert await ledger.read(HEADER.key(scenario.task, 1, GUEST)) == header
        assert await ledger.read_upload(scenario.task, 1, GUEST) == (False,) * len(chunks)
        for index, chunk in enumerate(chunks):
            await ledger.upload_chunk(scenario.task, 1, index, chunk)
        assert await ledger.read_upload(scenario.task, 1, GUEST) == (True,) * len(chunks)
        again = await ledger.submit_update(header)
        assert again.transaction_id == ""
        with pytest.raises(RefusedError) as refused:
            await ledger.read(ROUND.key(scenario.task, 2))
        assert refused.value.code is Code.ROUND_UNKNOWN
    assert (await scenario.judge(GUEST)).state == "accepted"
    assert stage.said == []
    assert "Submit" in stage.liar.calls


async def test_a_block_that_was_altered_is_found_and_the_next_gateway_goes_on(stage: Stage) -> None:
    expected = await stage.scenario.round()
    for lie in (flip_a_byte, forge_the_header, flip_a_code, invent_a_hash, drop_the_signatures):

        def alter(block: Any, lie: Callable[[Any], Any] = lie) -> Any:
            return lie(block) if block.header.number == 3 else block

        stage.liar.alter_block = alter
        async with stage.ledger() as ledger:
            assert await ledger.read(ROUND.key(stage.scenario.task, 1)) == expected
        found = stage.told(
            "regulator", "is not believed any more", "block 3", "going on over the gateway of university"
        )
        assert found, f"{lie.__name__} was not found: {stage.said}"


async def test_a_block_that_others_signed_is_found(stage: Stage) -> None:
    stranger = stage.scenario.signers["alpha"]

    def forge(block: Any) -> Any:
        forge_the_header(block)
        sign_block(block, [stranger], last_config=0)
        return block

    stage.liar.alter_block = lambda block: forge(block) if block.header.number == 4 else block
    async with stage.ledger() as ledger:
        assert await ledger.read(ROUND.key(stage.scenario.task, 1)) == await stage.scenario.round()
    assert stage.told("regulator", "is not believed any more", "signature")


async def test_other_bytes_of_a_model_are_found_and_the_next_gateway_gives_the_right_ones(stage: Stage) -> None:
    def alter(answer: bytes) -> bytes:
        response = gateway_pb2.EvaluateResponse.FromString(answer)
        response.result.payload = bytes([response.result.payload[0] ^ 1]) + response.result.payload[1:]
        return bytes(response.SerializeToString())

    stage.liar.alter_answer["Evaluate"] = alter
    spec = stage.scenario.spec
    async with stage.ledger() as ledger:
        assert await fetch_blob(ledger, spec.task, spec.initial_model) == stage.scenario.initial_model
    assert stage.told("regulator", "is not believed any more", "other bytes", "going on over")


def rewrite_results(answer: bytes, change: Callable[[Any], None]) -> bytes:
    """Change what endorsers have signed: the action in an endorsed transaction."""
    response = gateway_pb2.EndorseResponse.FromString(answer)
    payload = common_pb2.Payload.FromString(response.prepared_transaction.payload)
    transaction = transaction_pb2.Transaction.FromString(payload.data)
    endorsed = transaction_pb2.ChaincodeActionPayload.FromString(transaction.actions[0].payload)
    signed = proposal_response_pb2.ProposalResponsePayload.FromString(endorsed.action.proposal_response_payload)
    action = proposal_pb2.ChaincodeAction.FromString(signed.extension)
    change(action)
    signed.extension = action.SerializeToString()
    endorsed.action.proposal_response_payload = signed.SerializeToString()
    transaction.actions[0].payload = endorsed.SerializeToString()
    payload.data = transaction.SerializeToString()
    response.prepared_transaction.payload = payload.SerializeToString()
    return bytes(response.SerializeToString())


def answer_nothing_new(action: Any) -> None:
    """As the contract does when all is on the ledger already: there is nothing to order."""
    action.results = b""


def answer_otherwise(action: Any) -> None:
    action.response.payload = b"another result"


@pytest.mark.parametrize("change", [answer_nothing_new, answer_otherwise])
async def test_an_endorsed_transaction_that_was_altered_is_not_signed(
    stage: Stage, change: Callable[[Any], None]
) -> None:
    stage.liar.alter_answer["Endorse"] = lambda answer: rewrite_results(answer, change)
    header = stage.scenario.sign((await stage.scenario.seal(GUEST))[0])
    async with stage.ledger() as ledger:
        committed = await ledger.submit_update(header)
        assert committed.transaction_id
        assert await ledger.read(HEADER.key(stage.scenario.task, 1, GUEST)) == header
    assert stage.told("regulator", "is not believed any more", "going on over")
    assert "Submit" not in stage.liar.calls


async def test_a_refusal_that_the_contract_never_gave_does_not_count(stage: Stage) -> None:
    async def refuse(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        del request
        await context.abort(grpc.StatusCode.ABORTED, "chaincode response 500, BFL104 round 1 is closed")
        return b""

    stage.liar.handle["Endorse"] = refuse
    unsigned, chunks = await stage.scenario.seal(GUEST)
    header = stage.scenario.sign(unsigned)
    async with stage.ledger() as ledger:
        await ledger.submit_update(header)
        assert await ledger.read(HEADER.key(stage.scenario.task, 1, GUEST)) == header
        assert stage.said == []
        await ledger.upload_chunk(stage.scenario.task, 1, 0, chunks[0])
        with pytest.raises(RefusedError) as refused:
            await ledger.open_round(stage.scenario.task, 2)
    assert refused.value.code is Code.NOT_COMMITTEE
    assert stage.told("it refuses what the gateway of university")


async def test_a_transaction_that_a_gateway_only_says_to_have_sent_goes_over_the_next(stage: Stage) -> None:
    async def swallow(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        del request, context
        return b""

    stage.liar.handle["Submit"] = swallow
    header = stage.scenario.sign((await stage.scenario.seal(GUEST))[0])
    async with stage.ledger() as ledger:
        committed = await ledger.submit_update(header)
        assert committed.block_number > 0
    assert stage.told("regulator", "does not do", "not on the ledger")
    assert stage.liar.calls.count("Submit") == 1


async def test_a_gateway_that_holds_blocks_back_is_left_for_one_that_has_more(stage: Stage) -> None:
    stage.liar.alter_block = lambda block: None if block.header.number > 3 else block
    async with stage.ledger(silence_s=0.4) as ledger:
        while (await ledger.read(PROGRESS.key(stage.scenario.task))).round < 1:
            await asyncio.sleep(0.05)
    assert stage.told("regulator", "does not do")


async def test_with_nobody_left_reads_fail_with_the_reason_and_go_on_later(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockfl.ledger.follower._PATIENCE_S", 2.0)
    stage.liar.alter_block = lambda block: flip_a_byte(block) if block.header.number == 1 else block
    gateways = (stage.profile.gateways[0], stage.profile.gateways[1].model_copy(update={"endpoint": "127.0.0.1:9"}))
    stage.profile = stage.profile.model_copy(update={"gateways": gateways})
    async with stage.ledger() as ledger:
        with pytest.raises(LedgerError, match="no gateway gives the ledger"):
            await ledger.read(PROGRESS.key(stage.scenario.task))
        stage.liar.alter_block = None
        while True:
            try:
                assert (await ledger.read(PROGRESS.key(stage.scenario.task))).round == 1
                break
            except LedgerError:
                await asyncio.sleep(0.1)

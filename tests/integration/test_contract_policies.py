"""Who can write what, on a real node with real policies.

The task stands in the middle of its second round, so that every kind of record is there. For each of them: who calls
in a wrong role is refused with a code; and whatever services endorse, bent ones included, the ledger takes it from
nobody but those whose record it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blockfl.protocol.codes import Code
from blockfl.protocol.seal import encode_public_key
from support.contract import not_endorsed, refused
from support.contract_network import ContractNetwork, contract_network
from support.scenario import Scenario
from support.world import Refused

pytestmark = pytest.mark.asyncio(loop_scope="module")

INSTITUTIONS = ("alpha", "beta", "delta", "gamma")
COMMITTEE = ("coordinator", "regulator", "university")
Running = tuple[Scenario, ContractNetwork]

MAJORITY_RECORDS = [
    "consortium",
    "committee-key/regulator",
    "task/heart",
    "progress/heart",
    "enrolment/heart/alpha",
    "round/heart/000001",
    "header/heart/000001/alpha",
    "equivocation/heart/000002/delta",
    "model/heart/000001",
    "metrics/heart/000001/alpha",
    "vote/heart/000001/regulator",
    # Records that do not exist yet: whoever could make them first would decide what they say.
    "round/heart/000003",
    "update/heart/000002/gamma",
    "commitment/heart/000002/gamma",
    "aggregate/heart/000002",
    "model/heart/000002",
    "vote/heart/000002/university",
]
COMMITTEE_RECORDS = [
    "update/heart/000001/alpha",
    "update/heart/000002/alpha",
    "commitment/heart/000001/alpha",
    "commitment/heart/000002/alpha",
    "aggregate/heart/000001",
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory, ledger_kind: str) -> AsyncIterator[Running]:
    async with contract_network(tmp_path_factory.mktemp("network"), ledger_kind) as (scenario, network):
        await scenario.prepare()
        await scenario.open()
        await scenario.contribute()
        await scenario.close()
        await scenario.attest()
        model = await scenario.publish(1, scenario.initial_model)
        await network.submit("alpha", "ReportMetrics", scenario.metrics("alpha", 1, model).encode())
        await scenario.open(2)
        for name in ("alpha", "delta"):
            await scenario.submit(name, 2)
            await scenario.upload(name, 2)
        header, _ = await scenario.seal("delta", 2, salt=1)
        await network.submit("delta", "SubmitUpdate", scenario.sign(header).encode())
        yield scenario, network


async def bend(
    network: ContractNetwork, key: str, endorsers: tuple[str, ...], *, collection: str = "", action: str = "write"
) -> Any:
    return await network.submit(
        "alpha", "Bend", action, collection, key, transient={"value": b"bent"}, endorsers=endorsers
    )


async def read(network: ContractNetwork, function: str, *arguments: str) -> bytes:
    return await network.evaluate("regulator", function, *arguments)


class TestRecordsOfTheMajority:
    @pytest.mark.parametrize("key", MAJORITY_RECORDS)
    @pytest.mark.parametrize("endorsers", [("alpha",), ("alpha", "beta", "delta"), COMMITTEE])
    async def test_less_than_a_majority_writes_nothing(
        self, running: Running, key: str, endorsers: tuple[str, ...]
    ) -> None:
        with not_endorsed():
            await bend(running[1], key, endorsers)

    @pytest.mark.parametrize("key", ["task/heart", "round/heart/000001", "model/heart/000001"])
    @pytest.mark.parametrize("action", ["delete", "policy"])
    async def test_less_than_a_majority_neither_deletes_nor_hands_over(
        self, running: Running, key: str, action: str
    ) -> None:
        with not_endorsed():
            await bend(running[1], key, ("alpha", "beta", "delta"), action=action)

    async def test_a_majority_that_agrees_on_something_else_could_write(self, running: Running) -> None:
        # The limit of what policies can do, and the proof that the tests above fail for want of endorsers only.
        await bend(running[1], "elsewhere/record", ("alpha", "beta", "delta", "gamma"))


class TestRecordsOfTheCommittee:
    @pytest.mark.parametrize("key", COMMITTEE_RECORDS)
    @pytest.mark.parametrize(
        "endorsers", [INSTITUTIONS, (*INSTITUTIONS, "regulator"), ("regulator",), ("alpha", "coordinator")]
    )
    @pytest.mark.parametrize("action", ["write", "delete", "policy"])
    async def test_nobody_writes_without_two_of_the_committee(
        self, running: Running, key: str, endorsers: tuple[str, ...], action: str
    ) -> None:
        with not_endorsed():
            await bend(running[1], key, endorsers, action=action)

    async def test_two_of_the_committee_judge_alone(self, running: Running) -> None:
        _, network = running
        await network.submit("regulator", "JudgeUpdate", "heart", "2", "alpha", endorsers=("regulator", "university"))
        assert b'"state":"accepted"' in await read(network, "ReadUpdate", "heart", "2", "alpha")

    async def test_the_gateway_finds_the_committee_by_itself(self, running: Running) -> None:
        _, network = running
        await network.submit("regulator", "JudgeUpdate", "heart", "2", "delta")
        assert b'"state":"accepted"' in await read(network, "ReadUpdate", "heart", "2", "delta")

    async def test_a_service_outside_the_committee_does_not_judge(self, running: Running) -> None:
        scenario, network = running
        await scenario.submit("beta", 2)
        await scenario.upload("beta", 2)
        with refused(Code.OPENING_KEY):
            await network.submit("regulator", "JudgeUpdate", "heart", "2", "beta", endorsers=("alpha",))
        with not_endorsed():
            await network.submit("regulator", "JudgeUpdate", "heart", "2", "beta", endorsers=("regulator",))
        assert b'"state":"submitted"' in await read(network, "ReadUpdate", "heart", "2", "beta")


class TestSealedUpdates:
    KEY = "chunk/heart/000002/gamma/000000"

    @pytest.mark.parametrize("endorsers", [INSTITUTIONS, ("alpha", "regulator"), (*INSTITUTIONS, "university")])
    async def test_nobody_writes_without_two_of_the_committee(
        self, running: Running, endorsers: tuple[str, ...]
    ) -> None:
        with not_endorsed():
            await bend(running[1], self.KEY, endorsers, collection="sealed")

    async def test_members_read_through_the_contract_and_others_are_refused(self, running: Running) -> None:
        scenario, network = running
        (chunk,) = scenario.sealed[1, "beta"][1]
        for member in COMMITTEE:
            assert await network.evaluate(member, "ReadChunk", "heart", "1", "beta", "0") == chunk
        for other in INSTITUTIONS:
            for peer in (other, "regulator"):
                with refused(Code.NOT_COMMITTEE):
                    await network.evaluate(other, "ReadChunk", "heart", "1", "beta", "0", peer=peer)

    async def test_the_node_refuses_others_even_where_the_contract_does_not_ask(self, running: Running) -> None:
        scenario, network = running
        key = "chunk/heart/000001/beta/000000"
        assert await network.evaluate("regulator", "Peek", "sealed", key) == scenario.sealed[1, "beta"][1][0]
        for peer in ("alpha", "regulator"):
            with pytest.raises(Refused, match="does not have read access"):
                await network.evaluate("alpha", "Peek", "sealed", key, peer=peer)

    async def test_a_non_members_peer_does_not_hold_them(self, running: Running) -> None:
        _, network = running
        with pytest.raises(Refused):
            await network.evaluate("regulator", "Peek", "sealed", "chunk/heart/000001/beta/000000", peer="alpha")


class TestModels:
    @pytest.mark.parametrize("endorsers", [("alpha",), COMMITTEE])
    async def test_less_than_a_majority_writes_nothing(self, running: Running, endorsers: tuple[str, ...]) -> None:
        with not_endorsed():
            await bend(running[1], "chunk/heart/" + "00" * 32, endorsers, collection="models")

    async def test_every_member_reads_them_from_its_own_peer(self, running: Running) -> None:
        scenario, network = running
        (digest,) = scenario.spec.initial_model.chunks
        for name in (*INSTITUTIONS, *COMMITTEE):
            assert await network.evaluate(name, "ReadModelChunk", "heart", digest) == scenario.initial_model


class TestRoles:
    @pytest.mark.parametrize(
        ("creator", "function", "arguments", "code"),
        [
            ("alpha", "RegisterCommitteeKey", ["09" + "00" * 31], Code.NOT_COMMITTEE),
            ("regulator", "CreateTask", ["spec"], Code.NOT_COORDINATOR),
            ("alpha", "CreateTask", ["spec"], Code.NOT_COORDINATOR),
            ("regulator", "Enrol", ["heart", "5"], Code.NOT_INSTITUTION),
            ("alpha", "OpenRound", ["heart", "3"], Code.NOT_COMMITTEE),
            ("beta", "SubmitUpdate", ["header of alpha"], Code.CREATOR_MISMATCH),
            ("regulator", "SubmitUpdate", ["header of alpha"], Code.CREATOR_MISMATCH),
            ("alpha", "JudgeUpdate", ["heart", "2", "alpha"], Code.NOT_COMMITTEE),
            ("alpha", "CloseRound", ["heart", "2"], Code.NOT_COMMITTEE),
            ("alpha", "AttestAggregate", ["heart", "1", "sum"], Code.NOT_COMMITTEE),
            ("alpha", "PublishModel", ["heart", "1", "ab" * 32], Code.NOT_COMMITTEE),
            ("alpha", "AbandonRound", ["heart", "2"], Code.NOT_COMMITTEE),
            ("beta", "ReportMetrics", ["metrics of alpha"], Code.CREATOR_MISMATCH),
        ],
    )
    async def test_a_wrong_role_is_refused_with_its_code(
        self, running: Running, creator: str, function: str, arguments: list[str], code: Code
    ) -> None:
        scenario, network = running
        records: dict[str, bytes] = {
            "spec": scenario.spec.model_copy(update={"task": "lungs"}).encode(),
            "header of alpha": scenario.sealed[2, "alpha"][0].encode(),
            "sum": scenario.spec.initial_model.encode(),
            "metrics of alpha": scenario.metrics("alpha", 0, b"model").encode(),
        }
        with refused(code):
            await network.submit(creator, function, *(records.get(one, one) for one in arguments))

    async def test_chunks_of_another_institutions_update_and_models_of_institutions_are_refused(
        self, running: Running
    ) -> None:
        scenario, network = running
        chunk = {"chunk": scenario.sealed[2, "alpha"][1][0]}
        with refused(Code.UPDATE_UNKNOWN):
            await network.submit(
                "gamma", "UploadChunk", "heart", "2", "0", transient=chunk, endorsers=("regulator", "university")
            )
        (digest,) = scenario.spec.initial_model.chunks
        with refused(Code.NOT_COMMITTEE):
            await network.submit(
                "alpha", "UploadModelChunk", "heart", digest, transient={"chunk": scenario.initial_model}
            )

    async def test_the_committee_alone_cannot_use_the_contracts_own_transactions(self, running: Running) -> None:
        _, network = running
        key = encode_public_key(X25519PrivateKey.from_private_bytes(b"7" * 32))
        with not_endorsed(), network.clock("university", 28):
            await network.submit("university", "RegisterCommitteeKey", key, endorsers=COMMITTEE)

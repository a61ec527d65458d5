"""The simulator against what real peers endorsed for the recorded calls of two shims."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from typing import Any

import pytest
from fabric_protos.common import policies_pb2
from fabric_protos.ledger.queryresult import kv_query_result_pb2
from fabric_protos.ledger.rwset import rwset_pb2
from fabric_protos.msp import msp_principal_pb2
from fabric_protos.peer import chaincode_shim_pb2, proposal_response_pb2

from blockfl.fabric.embedded.endorsing.operations import Operations
from blockfl.fabric.embedded.endorsing.simulator import SimulationError, Simulator
from support.recorded_state import RecordedState, recorded_calls

Message = chaincode_shim_pb2.ChaincodeMessage
ORGANISATIONS = ("HospitalAMSP", "HospitalBMSP", "HospitalCMSP", "AggregatorMSP", "HospitalDMSP")


@cache
def state() -> RecordedState:
    return RecordedState()


def simulator(organisation: str = "HospitalAMSP", is_member: Callable[[Any], bool] = lambda policy: True) -> Simulator:
    return Simulator(
        state(), organisation=organisation, channel="fed", organisations=ORGANISATIONS, is_member=is_member
    )


class ScriptedContract:
    """Performs a recorded list of operations through the shim's protocol, as both recorded shims did."""

    def __init__(self, call: dict[str, Any], target: Simulator, namespace: str) -> None:
        self._call = call
        self._simulator = target
        self._operations = Operations(target, namespace, self._invoke)
        self._transient = {name: bytes.fromhex(value) for name, value in call["transient"].items()}

    async def run(self, steps: list[list[Any]]) -> bytes:
        return json.dumps(
            [await self._step(*step) for step in steps], separators=(",", ":"), ensure_ascii=False
        ).encode()

    async def _ask(self, kind: int, request: Any) -> bytes:
        return await self._operations.serve(kind, memoryview(request.SerializeToString()))

    async def _invoke(self, name: str, request: Any) -> bytes:
        self._simulator.sequence(name)
        function, *arguments = [argument.decode() for argument in request.args]
        assert function == "Put", "the recording invokes only this"
        steps = [["put", arguments[0], arguments[1].encode().hex()]]
        payload = await ScriptedContract(self._call, self._simulator, name).run(steps)
        response = proposal_response_pb2.Response(status=200, payload=payload)
        return bytes(Message(type=Message.COMPLETED, payload=response.SerializeToString()).SerializeToString())

    async def _step(self, operation: str, *arguments: Any) -> Any:
        return await getattr(self, "_" + operation)(*arguments)

    async def _get(self, key: str, collection: str = "") -> str:
        return (await self._ask(Message.GET_STATE, chaincode_shim_pb2.GetState(key=key, collection=collection))).hex()

    async def _put(self, key: str, value: str) -> None:
        await self._ask(Message.PUT_STATE, chaincode_shim_pb2.PutState(key=key, value=bytes.fromhex(value)))

    async def _del(self, key: str, collection: str = "") -> None:
        await self._ask(Message.DEL_STATE, chaincode_shim_pb2.DelState(key=key, collection=collection))

    async def _open(self, start: str, end: str, **more: Any) -> Any:
        request = chaincode_shim_pb2.GetStateByRange(startKey=start or "\x01", endKey=end, **more)
        return chaincode_shim_pb2.QueryResponse.FromString(await self._ask(Message.GET_STATE_BY_RANGE, request))

    async def _range(self, start: str, end: str, collection: str = "") -> int:
        answer = await self._open(start, end, collection=collection)
        count = len(answer.results)
        while answer.has_more:
            request = chaincode_shim_pb2.QueryStateNext(id=answer.id)
            answer = chaincode_shim_pb2.QueryResponse.FromString(await self._ask(Message.QUERY_STATE_NEXT, request))
            count += len(answer.results)
        return count

    async def _first(self, start: str, end: str, count: int) -> int:
        answer = await self._open(start, end)
        await self._ask(Message.QUERY_STATE_CLOSE, chaincode_shim_pb2.QueryStateClose(id=answer.id))
        return min(count, len(answer.results))

    async def _page(self, start: str, end: str, size: int, bookmark: str) -> list[Any]:
        page = chaincode_shim_pb2.QueryMetadata(pageSize=size, bookmark=bookmark)
        answer = await self._open(start, end, metadata=page.SerializeToString())
        metadata = chaincode_shim_pb2.QueryResponseMetadata.FromString(answer.metadata)
        assert metadata.fetched_records_count == len(answer.results)
        return [len(answer.results), metadata.bookmark]

    async def _policy(self, key: str, msp_ids: list[str], collection: str = "") -> None:
        entry = chaincode_shim_pb2.StateMetadata(metakey="VALIDATION_PARAMETER", value=self._key_policy(msp_ids))
        request = chaincode_shim_pb2.PutStateMetadata(key=key, collection=collection, metadata=entry)
        await self._ask(Message.PUT_STATE_METADATA, request)

    async def _getpolicy(self, key: str) -> list[str]:
        answer = await self._ask(Message.GET_STATE_METADATA, chaincode_shim_pb2.GetStateMetadata(key=key))
        return [entry.value.hex() for entry in chaincode_shim_pb2.StateMetadataResult.FromString(answer).entries]

    async def _pget(self, collection: str, key: str) -> str:
        return await self._get(key, collection)

    async def _pput(self, collection: str, key: str, name: str) -> None:
        request = chaincode_shim_pb2.PutState(key=key, value=self._transient[name], collection=collection)
        await self._ask(Message.PUT_STATE, request)

    async def _pdel(self, collection: str, key: str) -> None:
        await self._del(key, collection)

    async def _ppurge(self, collection: str, key: str) -> None:
        await self._ask(
            Message.PURGE_PRIVATE_DATA, chaincode_shim_pb2.PurgePrivateState(key=key, collection=collection)
        )

    async def _phash(self, collection: str, key: str) -> str:
        request = chaincode_shim_pb2.GetState(key=key, collection=collection)
        return (await self._ask(Message.GET_PRIVATE_DATA_HASH, request)).hex()

    async def _prange(self, collection: str, start: str, end: str) -> int:
        return await self._range(start, end, collection)

    async def _ppolicy(self, collection: str, key: str, msp_ids: list[str]) -> None:
        await self._policy(key, msp_ids, collection)

    async def _event(self, name: str, payload: str) -> None:
        pass

    def _key_policy(self, msp_ids: list[str]) -> bytes:
        if not msp_ids:
            return b""
        rule = policies_pb2.SignaturePolicy
        rules = [rule(signed_by=index) for index in range(len(msp_ids))]
        roles = [msp_principal_pb2.MSPRole(msp_identifier=m, role=msp_principal_pb2.MSPRole.PEER) for m in msp_ids]
        kind = msp_principal_pb2.MSPPrincipal
        principals = [kind(principal_classification=kind.ROLE, principal=r.SerializeToString()) for r in roles]
        envelope = policies_pb2.SignaturePolicyEnvelope(
            version=0, rule=rule(n_out_of=rule.NOutOf(n=len(rules), rules=rules)), identities=principals
        )
        return bytes(envelope.SerializeToString())


def describe(call: dict[str, Any]) -> str:
    return f"{call['shim']}-{call['function']}-{','.join(call['args'])}"[:70]


@pytest.mark.parametrize("call", recorded_calls(), ids=describe)
async def test_a_recorded_call_gives_the_recorded_read_write_set(call: dict[str, Any]) -> None:
    target = simulator()
    target.sequence(call["chaincode"])
    payload = await ScriptedContract(call, target, call["chaincode"]).run(call["operations"])
    result = target.result()
    assert payload.hex() == call["payload"]
    assert result.public.hex() == call["results"]


def test_private_writes_hash_to_what_the_public_set_says() -> None:
    target = simulator()
    target.put_private("app", "sealed", "k", b"v" * 5_000_000)
    target.put_private("app", "notes", "k", b"w")
    result = target.result()
    public = rwset_pb2.TxReadWriteSet.FromString(result.public)
    private = rwset_pb2.TxPvtReadWriteSet.FromString(result.private_rwset)
    stated = {
        (ns.namespace, c.collection_name): c.pvt_rwset_hash
        for ns in public.ns_rwset
        for c in ns.collection_hashed_rwset
    }
    stored = {
        (ns.namespace, c.collection_name): sha256(c.rwset).digest()
        for ns in private.ns_pvt_rwset
        for c in ns.collection_pvt_rwset
    }
    assert stated == stored
    assert set(stored) == {("app", "sealed"), ("app", "notes")}


def test_a_member_only_collection_is_closed_to_others() -> None:
    target = simulator(is_member=lambda policy: False)
    with pytest.raises(SimulationError, match="does not have read access permission"):
        target.check_may_read("app", "sealed")
    target.check_may_write("app", "sealed")
    target.check_may_read("app", "_implicit_org_HospitalBMSP")


def test_a_member_that_does_not_hold_a_private_value_says_so() -> None:
    with pytest.raises(SimulationError, match="private data matching public hash version is not available"):
        simulator("HospitalCMSP").get_private("app", "sealed", "s1")


def test_an_unknown_collection_is_refused_by_name() -> None:
    target = simulator()
    with pytest.raises(SimulationError, match="collection fed/app/nothing could not be found"):
        target.check_may_read("app", "nothing")
    with pytest.raises(SimulationError, match=r"collection \[nothing\] not defined"):
        target.put_private("app", "nothing", "k", b"v")


def test_implicit_collections_exist_for_organisations_of_the_channel_only() -> None:
    target = simulator()
    target.put_private("app", "_implicit_org_HospitalAMSP", "k", b"v")
    with pytest.raises(SimulationError, match="not defined"):
        target.put_private("app", "_implicit_org_StrangerMSP", "k", b"v")


@pytest.mark.parametrize("kind", ["page", "private"])
def test_queries_that_are_not_recorded_exclude_writes(kind: str) -> None:
    def query(target: Simulator) -> None:
        if kind == "page":
            target.scan("app", "a", "b", page_size=3)
        else:
            target.scan_private("app", "sealed", "a", "b")

    target = simulator()
    query(target)
    with pytest.raises(SimulationError, match="must not write"):
        target.put_state("app", "k", b"v")
    target = simulator()
    target.put_state("app", "k", b"v")
    with pytest.raises(SimulationError, match="writes nothing"):
        query(target)


@pytest.mark.parametrize("kind", [kind for kind in Message.Type.values() if kind not in (4, 5)])
async def test_a_malformed_request_is_refused_and_nothing_breaks(kind: int) -> None:
    async def invoke(name: str, request: Any) -> bytes:
        return b""

    operations = Operations(simulator(), "app", invoke)
    with pytest.raises(SimulationError):
        await operations.serve(kind, memoryview(b"\x0a\xff\xff\xff"))


async def test_results_of_long_ranges_arrive_in_batches_of_a_hundred() -> None:
    async def invoke(name: str, request: Any) -> bytes:
        return b""

    operations = Operations(simulator(), "app", invoke)
    request = chaincode_shim_pb2.GetStateByRange(startKey="q000", endKey="r").SerializeToString()
    answer = await operations.serve(Message.GET_STATE_BY_RANGE, memoryview(request))
    first = chaincode_shim_pb2.QueryResponse.FromString(answer)
    assert (len(first.results), first.has_more) == (100, True)
    assert kv_query_result_pb2.KV.FromString(first.results[0].resultBytes).key == "q000"
    request = chaincode_shim_pb2.QueryStateNext(id=first.id).SerializeToString()
    answer = await operations.serve(Message.QUERY_STATE_NEXT, memoryview(request))
    second = chaincode_shim_pb2.QueryResponse.FromString(answer)
    assert (len(second.results), second.has_more) == (30, False)
    with pytest.raises(SimulationError, match="query iterator not found"):
        await operations.serve(Message.QUERY_STATE_NEXT, memoryview(request))


def test_an_invocation_needs_the_policies_of_what_it_touched() -> None:
    target = simulator()
    target.sequence("app")
    target.put_private("app", "sealed", "new", b"v")
    target.result()
    assert target.interest.namespaces == {"app": False}
    assert target.interest.collections == {("app", "sealed"): True}
    target = simulator()
    target.put_state("app", "we", b"v")
    target.result()
    assert target.interest.namespaces == {"app": False}
    assert len(target.interest.key_policies["app"]) == 1

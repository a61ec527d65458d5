"""Decoders of what contract services, peers and clients tell each other in a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from typing import Any

from fabric_protos.gateway import gateway_pb2
from fabric_protos.ledger.queryresult import kv_query_result_pb2
from fabric_protos.peer import chaincode_pb2, chaincode_shim_pb2, proposal_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.embedded.endorsing import contract_stream, proposal
from blockfl.fabric.embedded.endorsing.operations import Operations
from blockfl.fabric.embedded.endorsing.simulator import SimulationError, Simulator
from blockfl.fabric.embedded.services import gateway_service
from blockfl.fabric.embedded.services.rpc import RpcError
from blockfl.fabric.errors import ShimError
from blockfl.fabric.shim import messages, requests
from blockfl.fabric.transaction import rwset
from support.decoders import Decoder, of
from support.fabric_decoders import BLOCK, proposals
from support.recorded_state import RecordedState


def decode_shim_message(content: bytes) -> None:
    """What we scan by hand is what the official decoder reads."""
    found = messages.decode_message(content)
    official = chaincode_shim_pb2.ChaincodeMessage
    try:
        said = official.FromString(content)
    except DecodeError:
        return
    assert found.payload == said.payload
    assert (found.tx_id, found.channel) == (said.txid, said.channel_id)


def decode_call(content: bytes) -> None:
    found = messages.decode_invocation(messages.decode_message(content))
    assert all(isinstance(one, bytes) for one in found.args)


@cache
def calls() -> Sequence[bytes]:
    signed = proposals()[0]
    message = chaincode_shim_pb2.ChaincodeMessage(
        type=messages.MessageType.TRANSACTION,
        payload=chaincode_pb2.ChaincodeInput(args=[b"Put", b"k", b"v"]).SerializeToString(),
        txid="ab" * 32,
        channel_id="fed",
        proposal=proposal_pb2.SignedProposal.FromString(signed),
    )
    ready = chaincode_shim_pb2.ChaincodeMessage(type=messages.MessageType.READY, payload=b"\x08\x01\x10\x0a")
    return bytes(message.SerializeToString()), bytes(ready.SerializeToString())


def decode_limits(content: bytes) -> None:
    limits = messages.decode_limits(memoryview(content))
    assert limits.reads >= 0
    assert limits.writes >= 0


def decode_answer(content: bytes) -> None:
    found = requests.decode(chaincode_shim_pb2.QueryResponse, content)
    for one in found.results:
        requests.decode_entry(one)


def answers() -> Sequence[bytes]:
    entry = kv_query_result_pb2.KV(namespace="n", key="k", value=b"v").SerializeToString()
    result = chaincode_shim_pb2.QueryResultBytes(resultBytes=entry)
    response = chaincode_shim_pb2.QueryResponse(results=[result, result], has_more=True, id="1")
    return (bytes(response.SerializeToString()),)


def decode_request(content: bytes) -> None:
    gateway_service._read_proposal(content)


def requests_of_clients() -> Sequence[bytes]:
    signed = proposal_pb2.SignedProposal.FromString(proposals()[0])
    request = gateway_pb2.EndorseRequest(
        transaction_id="a", channel_id="fed", proposed_transaction=signed, endorsing_organizations=["alpha"]
    )
    return (bytes(request.SerializeToString()),)


def decode_signed_proposal(content: bytes) -> None:
    found = proposal.SignedProposal.parse(content)
    found.check_form()
    assert len(found.proposal_hash) == 32


def operate(content: bytes) -> None:
    """Anything that a contract asks of the node: served or refused, and the simulation still gives a read/write set."""

    async def invoke(name: str, contract_input: Any) -> bytes:
        return b""

    simulator = Simulator(
        recorded_state(),
        organisation="HospitalAMSP",
        channel="fed",
        organisations=("HospitalAMSP",),
        is_member=lambda policy: True,
    )
    kinds = chaincode_shim_pb2.ChaincodeMessage.Type.values()
    kind = kinds[content[0] % len(kinds)] if content else 0
    try:
        asyncio.run(Operations(simulator, "app", invoke).serve(kind, memoryview(content)[1:]))
    finally:
        rwset.decode_read_write_set(simulator.result().public)


@cache
def recorded_state() -> RecordedState:
    return RecordedState()


def operations() -> Sequence[bytes]:
    shim = chaincode_shim_pb2
    kinds = shim.ChaincodeMessage.Type
    said = {
        kinds.GET_STATE: shim.GetState(key="k000", collection="sealed"),
        kinds.PUT_STATE: shim.PutState(key="k", value=b"v", collection="notes"),
        kinds.GET_STATE_BY_RANGE: shim.GetStateByRange(startKey="a", endKey="z", metadata=b"\x08\x05"),
        kinds.PUT_STATE_METADATA: shim.PutStateMetadata(
            key="k000", metadata=shim.StateMetadata(metakey="VALIDATION_PARAMETER", value=b"x")
        ),
        kinds.GET_STATE_MULTIPLE: shim.GetStateMultiple(keys=["k000", "k001"]),
        kinds.WRITE_BATCH_STATE: shim.WriteBatchState(
            rec=[shim.WriteRecord(key="k", value=b"v", type=kinds.PUT_STATE)]
        ),
        kinds.GET_PRIVATE_DATA_HASH: shim.GetState(key="s1", collection="sealed"),
    }
    places = kinds.values()
    return tuple(bytes([places.index(kind)]) + message.SerializeToString() for kind, message in said.items())


DECODERS: tuple[Decoder, ...] = (
    of("contract service's message", decode_shim_message, (ShimError,), calls),
    of("contract call", decode_call, (ShimError,), calls),
    of("peer's limits", decode_limits, (ShimError,), lambda: (b"\x08\x01\x10\x0a\x18\x01\x20\x05",)),
    of("peer's answer", decode_answer, (ShimError,), answers),
    of("node: contract's message", lambda content: contract_stream._scan_message(content), (ValueError,), calls),
    of("node: contract's operation", operate, (SimulationError,), operations),
    of("node: request of a client", decode_request, (RpcError,), requests_of_clients),
    of("node: signed proposal", decode_signed_proposal, BLOCK, proposals),
)

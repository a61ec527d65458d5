"""A peer for tests of the Gateway client alone: real protos over real TLS, a ledger of its own, faults on demand.

It endorses everything, orders each transaction into a block of its own and keeps the rules of the real services:
signatures are verified, `after_transaction_id` is honoured, a repeated id is invalid.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from fabric_protos.common import common_pb2
from fabric_protos.gateway import gateway_pb2, gateway_pb2_grpc
from fabric_protos.orderer import ab_pb2
from fabric_protos.peer import chaincode_event_pb2, events_pb2, events_pb2_grpc, transaction_pb2
from google.protobuf.any_pb2 import Any as AnyMessage

from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.encoding import wire
from blockfl.fabric.identity.signing import Identity, create_private_key, private_key_pem, verify_signature
from blockfl.fabric.transaction.envelope import (
    AnnouncedEvent,
    Proposal,
    assemble_payload,
    encode_response_payload,
    endorse,
    parse_proposal,
)
from blockfl.fabric.transaction.reading import read_tx_id
from support.organisation import Organisation, make_organisation


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A call that fails: before the peer does anything, or after it has done everything but answer."""

    code: grpc.StatusCode
    message: str = "injected"
    details: tuple[tuple[str, str, str], ...] = ()
    after: bool = False


@dataclass(kw_only=True)
class LedgerBlock:
    number: int
    tx_id: str
    code: int
    events: list[tuple[str, str, bytes]] = field(default_factory=list)


class ScriptedPeer:
    """The services of one peer and the ledger behind them, which outlives a restart."""

    def __init__(self, organisation: Organisation) -> None:
        self.organisation = organisation
        self.signer = organisation.signer("peer0", "peer")
        self.blocks: list[LedgerBlock] = [LedgerBlock(number=0, tx_id="genesis", code=0)]
        self.changed = asyncio.Condition()
        self.faults: dict[str, deque[Fault]] = {}
        self.calls: list[str] = []
        self.envelopes: list[bytes] = []
        self.proposals: list[Proposal] = []
        self.endorsers_asked: list[tuple[str, ...]] = []
        self.next_code = int(transaction_pb2.VALID)
        self.event: tuple[str, bytes] | None = None
        self.tamper: Callable[[Any], None] = lambda _: None
        self.silent = False
        key = create_private_key()
        certificate = organisation.tls.issue(
            key.public_key(), common_name="peer0", unit=None, hosts=("127.0.0.1",), tls=True
        )
        self._credentials = grpc.ssl_server_credentials([(private_key_pem(key), certificate)])
        self._server: grpc.aio.Server | None = None
        self.port = 0

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(address=f"127.0.0.1:{self.port}", tls_roots_pem=self.organisation.tls.certificate_pem)

    async def start(self) -> None:
        server = grpc.aio.server(options=(("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)))
        gateway_pb2_grpc.add_GatewayServicer_to_server(_GatewayService(self), server)
        events_pb2_grpc.add_DeliverServicer_to_server(_DeliverService(self), server)
        self.port = server.add_secure_port(f"127.0.0.1:{self.port}", self._credentials)
        await server.start()
        self._server = server

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    def fail(self, method: str, *faults: Fault) -> None:
        self.faults.setdefault(method, deque()).extend(faults)

    async def append(self, block: LedgerBlock) -> None:
        async with self.changed:
            self.blocks.append(block)
            self.changed.notify_all()

    async def emit(self, *names: str, chaincode: str = "app") -> None:
        """Appends a block in which as many transactions each announce an event."""
        number = len(self.blocks)
        events = [(f"tx{number}-{index}", name, name.encode()) for index, name in enumerate(names)]
        await self.append(LedgerBlock(number=number, tx_id=f"tx{number}", code=0, events=events))

    async def block(self, number: int) -> LedgerBlock:
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.blocks) > number)
            return self.blocks[number]

    async def begin(self, method: str, context: Any) -> Fault | None:
        """Fails the call, or returns the fault that is to hit when all is done."""
        self.calls.append(method)
        pending = self.faults.get(method)
        fault = pending.popleft() if pending else None
        if fault is not None and not fault.after:
            await self.abort(fault, context)
        return fault

    @staticmethod
    async def abort(fault: Fault, context: Any) -> None:
        if fault.details:
            context.set_trailing_metadata((("grpc-status-details-bin", encode_status(fault)),))
        await context.abort(fault.code, fault.message)


class _GatewayService(gateway_pb2_grpc.GatewayServicer):  # type: ignore[misc]
    def __init__(self, peer: ScriptedPeer) -> None:
        self._peer = peer

    async def Evaluate(self, request: Any, context: Any) -> Any:
        await self._peer.begin("Evaluate", context)
        proposal = self._verified(request.proposed_transaction)
        self._peer.endorsers_asked.append(tuple(request.target_organizations))
        response = gateway_pb2.EvaluateResponse()
        response.result.status = 200
        response.result.payload = b"|".join((*proposal.args, *proposal.transient.values()))
        return response

    async def Endorse(self, request: Any, context: Any) -> Any:
        await self._peer.begin("Endorse", context)
        proposal = self._verified(request.proposed_transaction)
        assert (request.transaction_id, request.channel_id) == (proposal.tx_id, proposal.channel)
        self._peer.endorsers_asked.append(tuple(request.endorsing_organizations))
        event = self._peer.event
        response_payload = encode_response_payload(
            proposal,
            results=b"results",
            version="1",
            payload=b"result of " + proposal.args[0],
            event=event
            and AnnouncedEvent(chaincode=proposal.chaincode, tx_id=proposal.tx_id, name=event[0], payload=event[1]),
        )
        payload = assemble_payload(proposal, response_payload, [endorse(response_payload, self._peer.signer)])
        answer = gateway_pb2.EndorseResponse(prepared_transaction=common_pb2.Envelope(payload=payload))
        self._peer.tamper(answer)
        return answer

    async def Submit(self, request: Any, context: Any) -> Any:
        peer = self._peer
        fault = await peer.begin("Submit", context)
        envelope = request.prepared_transaction
        tx_id = read_tx_id(envelope.SerializeToString())
        assert tx_id is not None
        assert request.transaction_id == tx_id
        verify_signature(_public_key(peer.proposals[-1]), envelope.signature, envelope.payload)
        peer.envelopes.append(envelope.SerializeToString())
        known = any(block.tx_id == tx_id for block in peer.blocks)
        code = int(transaction_pb2.DUPLICATE_TXID) if known else peer.next_code
        events = [(tx_id, *peer.event)] if peer.event and code == 0 else []
        await peer.append(LedgerBlock(number=len(peer.blocks), tx_id=tx_id, code=code, events=events))
        if fault is not None:
            await peer.abort(fault, context)
        return gateway_pb2.SubmitResponse()

    async def CommitStatus(self, request: Any, context: Any) -> Any:
        peer = self._peer
        fault = await peer.begin("CommitStatus", context)
        asked = gateway_pb2.CommitStatusRequest.FromString(request.request)
        verify_signature(Identity.parse(asked.identity).public_key, request.signature, request.request)
        async with peer.changed:
            await peer.changed.wait_for(lambda: any(b.tx_id == asked.transaction_id for b in peer.blocks))
        if fault is not None:
            await peer.abort(fault, context)
        block = next(block for block in peer.blocks if block.tx_id == asked.transaction_id)
        return gateway_pb2.CommitStatusResponse(result=block.code, block_number=block.number)

    async def ChaincodeEvents(self, request: Any, context: Any) -> AsyncIterator[Any]:
        peer = self._peer
        await peer.begin("ChaincodeEvents", context)
        asked = gateway_pb2.ChaincodeEventsRequest.FromString(request.request)
        verify_signature(Identity.parse(asked.identity).public_key, request.signature, request.request)
        number = asked.start_position.specified.number
        skipping = asked.after_transaction_id
        while True:
            block = await peer.block(number)
            response = gateway_pb2.ChaincodeEventsResponse(block_number=number)
            for tx_id, name, payload in block.events:
                if skipping:
                    skipping = "" if tx_id == skipping else skipping
                    continue
                response.events.append(
                    chaincode_event_pb2.ChaincodeEvent(
                        chaincode_id=asked.chaincode_id, tx_id=tx_id, event_name=name, payload=payload
                    )
                )
            if response.events:
                yield response
            number += 1

    def _verified(self, signed: Any) -> Proposal:
        proposal = parse_proposal(signed.proposal_bytes, signed.signature)
        verify_signature(_public_key(proposal), signed.signature, signed.proposal_bytes)
        self._peer.proposals.append(proposal)
        return proposal


class _DeliverService(events_pb2_grpc.DeliverServicer):  # type: ignore[misc]
    def __init__(self, peer: ScriptedPeer) -> None:
        self._peer = peer

    async def Deliver(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        peer = self._peer
        await peer.begin("Deliver", context)
        async for envelope in requests:
            payload = common_pb2.Payload.FromString(envelope.payload)
            creator = common_pb2.SignatureHeader.FromString(payload.header.signature_header).creator
            identity = Identity.parse(creator)
            verify_signature(identity.public_key, envelope.signature, envelope.payload)
            if identity.msp_id != peer.organisation.name:
                yield events_pb2.DeliverResponse(status=common_pb2.FORBIDDEN)
                continue
            seek = ab_pb2.SeekInfo.FromString(payload.data)
            newest = seek.start.WhichOneof("Type") == "newest"
            number = len(peer.blocks) - 1 if newest else seek.start.specified.number
            while not newest or number < len(peer.blocks):
                await peer.block(number)
                header = common_pb2.BlockHeader(number=number)
                yield events_pb2.DeliverResponse(block=common_pb2.Block(header=header))
                number += 1
            yield events_pb2.DeliverResponse(status=common_pb2.SUCCESS)


def encode_status(fault: Fault) -> bytes:
    """A google.rpc.Status with one gateway.ErrorDetail per detail."""
    details = b""
    for address, msp_id, message in fault.details:
        packed = AnyMessage()
        packed.Pack(gateway_pb2.ErrorDetail(address=address, msp_id=msp_id, message=message))
        details += wire.encode_bytes(3, packed.SerializeToString())
    return wire.encode_integer(1, fault.code.value[0]) + wire.encode_bytes(2, fault.message.encode()) + details


def _public_key(proposal: Proposal) -> Any:
    return Identity.parse(proposal.creator).public_key


@asynccontextmanager
async def scripted_peer(names: Sequence[str] = ("alpha",)) -> AsyncIterator[ScriptedPeer]:
    peer = ScriptedPeer(make_organisation(names[0]))
    await peer.start()
    try:
        yield peer
    finally:
        await peer.stop()

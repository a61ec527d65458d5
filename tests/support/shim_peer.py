"""The peer's side of the shim protocol over real TLS, with a ledger that is a dictionary: for tests of the shim alone.

Speaks through the official bindings only, so that it disagrees with a service that encodes something wrongly.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fabric_protos.common import common_pb2
from fabric_protos.ledger.queryresult import kv_query_result_pb2
from fabric_protos.peer import (
    chaincode_event_pb2,
    chaincode_pb2,
    chaincode_shim_pb2,
    chaincode_shim_pb2_grpc,
    proposal_pb2,
    proposal_response_pb2,
)

from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.signing import Identity, create_private_key, private_key_pem
from blockfl.fabric.shim import Context, ContractServer, ServerTls

Message = chaincode_shim_pb2.ChaincodeMessage
BATCH = 3
PACKAGE = "demo:" + "0" * 64
Operation = Callable[[Context], Awaitable[bytes]]


class ShimTls:
    """Two TLS authorities: one for the service, one for the peers that may dial it."""

    def __init__(self) -> None:
        self.services = Authority.create("tls.services", "alpha")
        self.peers = Authority.create("tls.peers", "alpha")

    def server(self, hosts: Sequence[str] = ("127.0.0.1",)) -> ServerTls:
        certificate, key = issue_tls(self.services, "contract", hosts)
        return ServerTls(certificate=certificate, private_key=key, client_roots=self.peers.certificate_pem)

    def endpoint(self, address: str, authority: Authority | None = None) -> Endpoint:
        certificate, key = issue_tls(authority or self.peers, "peer", ())
        return Endpoint(
            address=address,
            tls_roots_pem=self.services.certificate_pem,
            client_certificate=certificate,
            client_key=key,
        )


def issue_tls(authority: Authority, name: str, hosts: Sequence[str]) -> tuple[bytes, bytes]:
    key = create_private_key()
    certificate = authority.issue(key.public_key(), common_name=name, unit=None, hosts=hosts, tls=True)
    return certificate, private_key_pem(key)


class ShimPeer:
    """One stream to a contract service."""

    def __init__(self, stream: Any, ready_payload: bytes) -> None:
        self._stream = stream
        self._ready_payload = ready_payload
        self._turn = asyncio.Lock()
        self._calls: dict[str, asyncio.Future[Any]] = {}
        self._queries: dict[str, list[bytes]] = {}
        self.registered_as = ""
        self.state: dict[tuple[str, str], bytes] = {}
        self.metadata: dict[tuple[str, str], dict[str, bytes]] = {}
        self.operations: list[tuple[str, ...]] = []
        self.refused_keys: set[str] = set()

    async def register(self) -> None:
        hello = await self._stream.read()
        assert hello.type == Message.REGISTER
        self.registered_as = chaincode_pb2.ChaincodeID.FromString(hello.payload).name
        await self._stream.write(Message(type=Message.REGISTERED))
        await self._stream.write(Message(type=Message.READY, payload=self._ready_payload))

    async def serve(self) -> None:
        while (message := await self._stream.read()) and isinstance(message, Message):
            if message.type in (Message.COMPLETED, Message.ERROR):
                self._calls.pop(message.txid).set_result(message)
            elif message.type == Message.KEEPALIVE:
                self._calls.pop("keepalive").set_result(message)
            else:
                await self._write(self._answer(message))
        for call in self._calls.values():
            call.cancel()

    async def call(self, *args: bytes | str, tx_id: str = "t1", **proposal: Any) -> tuple[Any, Any]:
        """Returns the response, and the event (None without one)."""
        payload = chaincode_pb2.ChaincodeInput(args=[a.encode() if isinstance(a, str) else a for a in args])
        message = Message(
            type=Message.TRANSACTION,
            payload=payload.SerializeToString(),
            txid=tx_id,
            channel_id="fed",
            proposal=make_proposal(**proposal),
        )
        answer = await self.ask(message)
        assert answer.type == Message.COMPLETED, answer.payload
        response = proposal_response_pb2.Response.FromString(answer.payload)
        return response, answer.chaincode_event if answer.HasField("chaincode_event") else None

    async def ask(self, message: Any) -> Any:
        future = asyncio.get_running_loop().create_future()
        self._calls["keepalive" if message.type == Message.KEEPALIVE else message.txid] = future
        await self._write(message)
        return await future

    async def _write(self, message: Any) -> None:
        async with self._turn:
            await self._stream.write(message)

    def _answer(self, message: Any) -> Any:
        name = Message.Type.Name(message.type)
        answer = Message(type=Message.RESPONSE, txid=message.txid, channel_id=message.channel_id)
        try:
            answer.payload = getattr(self, f"_{name.lower()}")(message.payload)
        except PermissionError as error:
            answer.type, answer.payload = Message.ERROR, f"{name} failed: {error}".encode()
        return answer

    def _at(self, operation: str, request: Any) -> tuple[str, str]:
        self.operations.append((operation, request.collection, request.key))
        if request.key in self.refused_keys:
            raise PermissionError("tx creator does not have read access permission")
        return request.collection, request.key

    def _get_state(self, payload: bytes) -> bytes:
        return self.state.get(self._at("get", chaincode_shim_pb2.GetState.FromString(payload)), b"")

    def _get_state_multiple(self, payload: bytes) -> bytes:
        request = chaincode_shim_pb2.GetStateMultiple.FromString(payload)
        self.operations.append(("get multiple", request.collection, *request.keys))
        values = [self.state.get((request.collection, key), b"") for key in request.keys]
        return bytes(chaincode_shim_pb2.GetStateMultipleResult(values=values).SerializeToString())

    def _get_private_data_hash(self, payload: bytes) -> bytes:
        value = self.state.get(self._at("hash", chaincode_shim_pb2.GetState.FromString(payload)))
        return b"" if value is None else hashlib.sha256(value).digest()

    def _put_state(self, payload: bytes) -> bytes:
        request = chaincode_shim_pb2.PutState.FromString(payload)
        self.state[self._at("put", request)] = request.value
        return b""

    def _del_state(self, payload: bytes) -> bytes:
        self.state.pop(self._at("delete", chaincode_shim_pb2.DelState.FromString(payload)), None)
        return b""

    def _purge_private_data(self, payload: bytes) -> bytes:
        self.state.pop(self._at("purge", chaincode_shim_pb2.PurgePrivateState.FromString(payload)), None)
        return b""

    def _put_state_metadata(self, payload: bytes) -> bytes:
        request = chaincode_shim_pb2.PutStateMetadata.FromString(payload)
        self.metadata[self._at("policy", request)] = {request.metadata.metakey: request.metadata.value}
        return b""

    def _get_state_metadata(self, payload: bytes) -> bytes:
        entries = self.metadata.get(self._at("get policy", chaincode_shim_pb2.GetStateMetadata.FromString(payload)), {})
        result = chaincode_shim_pb2.StateMetadataResult()
        for name, value in entries.items():
            result.entries.add(metakey=name, value=value)
        return bytes(result.SerializeToString())

    def _get_state_by_range(self, payload: bytes) -> bytes:
        request = chaincode_shim_pb2.GetStateByRange.FromString(payload)
        self.operations.append(("range", request.collection, request.startKey, request.endKey))
        keys = sorted(
            key
            for collection, key in self.state
            if collection == request.collection
            and request.startKey <= key
            and (key < request.endKey or not request.endKey)
        )
        entries = [
            kv_query_result_pb2.KV(key=key, value=self.state[request.collection, key]).SerializeToString()
            for key in keys
        ]
        if not request.metadata:
            self._queries["q1"] = entries
            return self._next_batch("q1")
        page = chaincode_shim_pb2.QueryMetadata.FromString(request.metadata)
        first = keys.index(page.bookmark) if page.bookmark else 0
        response = chaincode_shim_pb2.QueryResponse()
        for entry in entries[first : first + page.pageSize]:
            response.results.add(resultBytes=entry)
        following = keys[first + page.pageSize : first + page.pageSize + 1]
        described = chaincode_shim_pb2.QueryResponseMetadata(
            fetched_records_count=len(response.results), bookmark=following[0] if following else ""
        )
        response.metadata = described.SerializeToString()
        return bytes(response.SerializeToString())

    def _query_state_next(self, payload: bytes) -> bytes:
        self.operations.append(("next",))
        return self._next_batch(chaincode_shim_pb2.QueryStateNext.FromString(payload).id)

    def _query_state_close(self, payload: bytes) -> bytes:
        query = chaincode_shim_pb2.QueryStateClose.FromString(payload).id
        self.operations.append(("close",))
        del self._queries[query]
        return bytes(chaincode_shim_pb2.QueryResponse(id=query).SerializeToString())

    def _next_batch(self, query: str) -> bytes:
        entries = self._queries[query]
        batch, self._queries[query] = entries[:BATCH], entries[BATCH:]
        response = chaincode_shim_pb2.QueryResponse(has_more=bool(self._queries[query]), id=query)
        for entry in batch:
            response.results.add(resultBytes=entry)
        return bytes(response.SerializeToString())

    def _invoke_chaincode(self, payload: bytes) -> bytes:
        spec = chaincode_pb2.ChaincodeSpec.FromString(payload)
        self.operations.append(("invoke", spec.chaincode_id.name, *(a.decode() for a in spec.input.args)))
        known = spec.chaincode_id.name == "other"
        response = proposal_response_pb2.Response(
            status=200 if known else 500,
            message="" if known else "no such chaincode",
            payload=b"pong" if known else b"",
        )
        answer = Message(type=Message.COMPLETED if known else Message.ERROR, payload=response.SerializeToString())
        return bytes(answer.SerializeToString())

    def _write_batch_state(self, payload: bytes) -> bytes:
        records = chaincode_shim_pb2.WriteBatchState.FromString(payload).rec
        self.operations.append(("batch", str(len(records))))
        for record in records:
            where = self._at(chaincode_shim_pb2.WriteRecord.Type.Name(record.type), record)
            if record.type == chaincode_shim_pb2.WriteRecord.PUT_STATE:
                self.state[where] = record.value
            elif record.type == chaincode_shim_pb2.WriteRecord.PUT_STATE_METADATA:
                self.metadata[where] = {record.metadata.metakey: record.metadata.value}
            else:
                self.state.pop(where, None)
        return b""


def make_proposal(
    *,
    creator: Identity | None = None,
    transient: Mapping[str, bytes] | None = None,
    seconds: int = 0,
    nanos: int = 0,
) -> Any:
    """A signed proposal with what a contract can read from it (the signature is for peers, a contract has no use)."""
    channel_header = common_pb2.ChannelHeader(channel_id="fed")
    channel_header.timestamp.seconds, channel_header.timestamp.nanos = seconds, nanos
    signature_header = common_pb2.SignatureHeader(creator=creator.serialized if creator else b"", nonce=b"n" * 24)
    header = common_pb2.Header(
        channel_header=channel_header.SerializeToString(), signature_header=signature_header.SerializeToString()
    )
    payload = proposal_pb2.ChaincodeProposalPayload(input=b"input", TransientMap=dict(transient or {}))
    proposal = proposal_pb2.Proposal(header=header.SerializeToString(), payload=payload.SerializeToString())
    return proposal_pb2.SignedProposal(proposal_bytes=proposal.SerializeToString(), signature=b"signature")


def event_of(message: Any) -> tuple[str, bytes]:
    assert isinstance(message, chaincode_event_pb2.ChaincodeEvent)
    return message.event_name, message.payload


@asynccontextmanager
async def dial(endpoint: Endpoint, *, ready_payload: bytes = b"") -> AsyncIterator[ShimPeer]:
    """Dials a contract service as a peer does."""
    async with endpoint.open_channel() as channel:
        stream = chaincode_shim_pb2_grpc.ChaincodeStub(channel).Connect()
        peer = ShimPeer(stream, ready_payload)
        await peer.register()
        serving = asyncio.create_task(peer.serve())
        try:
            yield peer
        finally:
            stream.cancel()
            await asyncio.gather(serving, return_exceptions=True)


async def idle(context: Context) -> bytes:
    return b""


@asynccontextmanager
async def running(operation: Operation, tls: ShimTls) -> AsyncIterator[ContractServer]:
    server = ContractServer(operation, PACKAGE, "127.0.0.1:0", tls.server())
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def serving(operation: Operation, *, ready_payload: bytes = b"") -> AsyncIterator[ShimPeer]:
    tls = ShimTls()
    async with (
        running(operation, tls) as server,
        dial(tls.endpoint(server.address), ready_payload=ready_payload) as peer,
    ):
        yield peer

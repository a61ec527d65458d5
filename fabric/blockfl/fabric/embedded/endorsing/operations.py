"""The ledger operations that a contract asks for during one transaction, answered as a peer's handler answers them.

Owns decoding of the shim's requests, the batches of range queries and the read and write permissions of
collections. Refuses rich queries and key histories, which the embedded node does not keep.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from fabric_protos.ledger.queryresult import kv_query_result_pb2
from fabric_protos.peer import chaincode_pb2, chaincode_shim_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.embedded.endorsing.simulator import PrivateScan, Scan, SimulationError, Simulator
from blockfl.fabric.encoding.wire import scan_fields

_Message = chaincode_shim_pb2.ChaincodeMessage
_BATCH = 100
_QUERY_LIMIT = 100_000

InvokeChaincode = Callable[[str, Any], Awaitable[bytes]]
"""Runs another chaincode in the same transaction: (name, ChaincodeInput) -> serialised ChaincodeMessage."""


@dataclass(slots=True)
class _Write:
    """The fields of PutState and WriteRecord, which have the same numbers; the value may be megabytes."""

    key: str = ""
    value: bytes = b""
    collection: str = ""
    metadata: bytes = b""
    kind: int = 0


class _Query:
    """An open range query and the results fetched but not yet sent."""

    def __init__(self, rows: Scan | PrivateScan, *, paged: bool) -> None:
        self.rows = rows
        self.paged = paged
        self.pending: list[tuple[str, bytes]] = []
        self.returned = 0


class Operations:
    """Serves the requests of one transaction of one chaincode.

    Args:
        simulator: Where reads and writes go.
        namespace: The chaincode's name.
        invoke: Runs another chaincode in the same transaction.
        is_init: Whether this is the chaincode's initialisation, which may not touch private data.
    """

    def __init__(self, simulator: Simulator, namespace: str, invoke: InvokeChaincode, *, is_init: bool = False) -> None:
        self._simulator = simulator
        self._namespace = namespace
        self._invoke = invoke
        self._is_init = is_init
        self._queries: dict[str, _Query] = {}

    async def serve(self, kind: int, payload: memoryview) -> bytes:
        """Answers one request.

        Args:
            kind: ChaincodeMessage.Type.
            payload: The request's body.

        Returns:
            Body of the RESPONSE.

        Raises:
            SimulationError: The request is malformed or refused.
        """
        try:
            if kind == _Message.INVOKE_CHAINCODE:
                return await self._invoke_chaincode(bytes(payload))
            operation = _OPERATIONS.get(kind)
            if operation is None:
                raise SimulationError(f"the embedded node does not serve {_kind_name(kind)}")
            return operation(self, payload)
        except (DecodeError, ValueError) as error:
            raise SimulationError(f"unmarshal failed: {error}") from error

    async def _invoke_chaincode(self, payload: bytes) -> bytes:
        spec = chaincode_pb2.ChaincodeSpec.FromString(payload)
        name, _, channel = spec.chaincode_id.name.partition("/")
        name = name.partition(":")[0]
        if channel not in ("", self._simulator.channel):
            raise SimulationError(f"failed to find ledger for channel: {channel}")
        return await self._invoke(name, spec.input)

    # --- reads

    def _get_state(self, payload: memoryview) -> bytes:
        request = chaincode_shim_pb2.GetState.FromString(bytes(payload))
        if not request.collection:
            return self._simulator.get_state(self._namespace, request.key)
        self._check_read(request.collection)
        return self._simulator.get_private(self._namespace, request.collection, request.key)

    def _get_states(self, payload: memoryview) -> bytes:
        request = chaincode_shim_pb2.GetStateMultiple.FromString(bytes(payload))
        if request.collection:
            self._check_read(request.collection)
            values = [self._simulator.get_private(self._namespace, request.collection, key) for key in request.keys]
        else:
            values = [self._simulator.get_state(self._namespace, key) for key in request.keys]
        return _serialize(chaincode_shim_pb2.GetStateMultipleResult(values=values))

    def _get_private_hash(self, payload: memoryview) -> bytes:
        request = chaincode_shim_pb2.GetState.FromString(bytes(payload))
        self._check_no_init()
        return self._simulator.get_private_hash(self._namespace, request.collection, request.key)

    def _get_metadata(self, payload: memoryview) -> bytes:
        request = chaincode_shim_pb2.GetStateMetadata.FromString(bytes(payload))
        if request.collection:
            self._check_read(request.collection)
            found = self._simulator.get_private_metadata(self._namespace, request.collection, request.key)
        else:
            found = self._simulator.get_metadata(self._namespace, request.key)
        entries = [chaincode_shim_pb2.StateMetadata(metakey=name, value=value) for name, value in found.items()]
        return _serialize(chaincode_shim_pb2.StateMetadataResult(entries=entries))

    # --- range queries

    def _open_range(self, payload: memoryview) -> bytes:
        request = chaincode_shim_pb2.GetStateByRange.FromString(bytes(payload))
        page = chaincode_shim_pb2.QueryMetadata.FromString(request.metadata)
        rows: Scan | PrivateScan
        paged = False
        if request.collection:
            self._check_read(request.collection)
            rows = self._simulator.scan_private(self._namespace, request.collection, request.startKey, request.endKey)
        elif page.pageSize or page.bookmark:
            paged = True
            start = page.bookmark or request.startKey
            rows = self._simulator.scan(self._namespace, start, request.endKey, page_size=page.pageSize)
        else:
            rows = self._simulator.scan(self._namespace, request.startKey, request.endKey)
        identifier = uuid4().hex
        self._queries[identifier] = _Query(rows, paged=paged)
        return self._next_batch(identifier, page.pageSize)

    def _query_next(self, payload: memoryview) -> bytes:
        identifier = chaincode_shim_pb2.QueryStateNext.FromString(bytes(payload)).id
        if identifier not in self._queries:
            raise SimulationError("query iterator not found")
        return self._next_batch(identifier, 0)

    def _query_close(self, payload: memoryview) -> bytes:
        identifier = chaincode_shim_pb2.QueryStateClose.FromString(bytes(payload)).id
        self._queries.pop(identifier, None)
        return _serialize(chaincode_shim_pb2.QueryResponse(id=identifier))

    def _next_batch(self, identifier: str, page_size: int) -> bytes:
        """Fills a batch; knowing that there is more takes reading (and recording) the first row of the next one."""
        query = self._queries[identifier]
        limit = page_size if 0 < page_size < _QUERY_LIMIT else _QUERY_LIMIT
        while query.returned < limit:
            row = query.rows.next()
            if row is None:
                break
            query.returned += 1
            if not query.paged and len(query.pending) == _BATCH:
                batch, query.pending = query.pending, [row]
                return self._encode_batch(identifier, batch, has_more=True)
            query.pending.append(row)
        del self._queries[identifier]
        metadata = b""
        if query.paged:
            metadata = _serialize(
                chaincode_shim_pb2.QueryResponseMetadata(
                    fetched_records_count=query.returned, bookmark=query.rows.bookmark()
                )
            )
        return self._encode_batch(identifier, query.pending, metadata=metadata)

    def _encode_batch(
        self, identifier: str, rows: list[tuple[str, bytes]], *, has_more: bool = False, metadata: bytes = b""
    ) -> bytes:
        results = [
            chaincode_shim_pb2.QueryResultBytes(
                resultBytes=kv_query_result_pb2.KV(namespace=self._namespace, key=key, value=value).SerializeToString()
            )
            for key, value in rows
        ]
        return _serialize(
            chaincode_shim_pb2.QueryResponse(results=results, has_more=has_more, id=identifier, metadata=metadata)
        )

    # --- writes

    def _put_state(self, payload: memoryview) -> bytes:
        write = _scan_write(payload)
        self._put(write.collection, write.key, write.value)
        return b""

    def _del_state(self, payload: memoryview) -> bytes:
        request = chaincode_shim_pb2.DelState.FromString(bytes(payload))
        self._put(request.collection, request.key, b"")
        return b""

    def _put_metadata(self, payload: memoryview) -> bytes:
        request = chaincode_shim_pb2.PutStateMetadata.FromString(bytes(payload))
        self._replace_metadata(request.collection, request.key, request.metadata)
        return b""

    def _purge(self, payload: memoryview) -> bytes:
        request = chaincode_shim_pb2.PurgePrivateState.FromString(bytes(payload))
        self._purge_private(request.collection, request.key)
        return b""

    def _write_batch(self, payload: memoryview) -> bytes:
        kinds = chaincode_shim_pb2.WriteRecord
        for number, content in scan_fields(payload):
            if number != 1 or isinstance(content, int):
                continue
            write = _scan_write(content)
            if write.kind == kinds.PUT_STATE:
                self._put(write.collection, write.key, write.value)
            elif write.kind == kinds.DEL_STATE:
                self._put(write.collection, write.key, b"")
            elif write.kind == kinds.PURGE_PRIVATE_DATA:
                self._purge_private(write.collection, write.key)
            elif write.kind == kinds.PUT_STATE_METADATA:
                metadata = chaincode_shim_pb2.StateMetadata.FromString(write.metadata)
                self._replace_metadata(write.collection, write.key, metadata)
            else:
                raise SimulationError("unknown operation type")
        return b""

    def _put(self, collection: str, key: str, value: bytes) -> None:
        if collection:
            self._check_write(collection)
            self._simulator.put_private(self._namespace, collection, key, value)
        else:
            self._simulator.put_state(self._namespace, key, value)

    def _replace_metadata(self, collection: str, key: str, metadata: Any) -> None:
        entries: Mapping[str, bytes] = {metadata.metakey: metadata.value}
        if collection:
            self._check_write(collection)
            self._simulator.put_private_metadata(self._namespace, collection, key, entries)
        else:
            self._simulator.put_metadata(self._namespace, key, entries)

    def _purge_private(self, collection: str, key: str) -> None:
        if not collection:
            raise SimulationError("only applicable for private data")
        self._check_write(collection)
        self._simulator.put_private(self._namespace, collection, key, b"", purge=True)

    # --- permissions

    def _check_no_init(self) -> None:
        if self._is_init:
            raise SimulationError("private data APIs are not allowed in chaincode Init()")

    def _check_read(self, collection: str) -> None:
        self._check_no_init()
        self._simulator.check_may_read(self._namespace, collection)

    def _check_write(self, collection: str) -> None:
        self._check_no_init()
        self._simulator.check_may_write(self._namespace, collection)


_OPERATIONS: dict[int, Callable[[Operations, memoryview], bytes]] = {
    _Message.GET_STATE: Operations._get_state,
    _Message.GET_STATE_MULTIPLE: Operations._get_states,
    _Message.GET_PRIVATE_DATA_HASH: Operations._get_private_hash,
    _Message.GET_STATE_METADATA: Operations._get_metadata,
    _Message.GET_STATE_BY_RANGE: Operations._open_range,
    _Message.QUERY_STATE_NEXT: Operations._query_next,
    _Message.QUERY_STATE_CLOSE: Operations._query_close,
    _Message.PUT_STATE: Operations._put_state,
    _Message.DEL_STATE: Operations._del_state,
    _Message.PUT_STATE_METADATA: Operations._put_metadata,
    _Message.PURGE_PRIVATE_DATA: Operations._purge,
    _Message.WRITE_BATCH_STATE: Operations._write_batch,
}


def is_operation(kind: int) -> bool:
    """Tells whether a message of this type is a request that a peer answers."""
    return kind in _OPERATIONS or kind in _ANSWERED


_ANSWERED = {_Message.INVOKE_CHAINCODE, _Message.GET_QUERY_RESULT, _Message.GET_HISTORY_FOR_KEY}


def _kind_name(kind: int) -> str:
    return str(_Message.Type.Name(kind)) if kind in _Message.Type.values() else str(kind)


def _serialize(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _scan_write(message: memoryview) -> _Write:
    write = _Write()
    for number, content in scan_fields(message):
        if isinstance(content, int):
            write.kind = content if number == 5 else write.kind
        elif number == 1:
            write.key = str(content, "utf-8")
        elif number == 2:
            write.value = bytes(content)
        elif number == 3:
            write.collection = str(content, "utf-8")
        elif number == 4:
            write.metadata = bytes(content)
    return write

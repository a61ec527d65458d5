"""What the node's gRPC services share: raw bytes in and out, and errors with details.

Handlers get bytes and parse them themselves, so that malformed protobuf is answered with INVALID_ARGUMENT and its
reason, and messages of megabytes are not taken apart twice.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
from fabric_protos.gateway import gateway_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.encoding.wire import encode_bytes, encode_integer, encode_prefix
from blockfl.fabric.errors import ErrorDetail

_LOG = logging.getLogger(__name__)

Call = grpc.aio.ServicerContext
Unary = Callable[[bytes], Awaitable[bytes]]
Stream = Callable[[bytes], AsyncIterator[bytes]]
Bidirectional = Callable[[AsyncIterator[bytes], Any], AsyncIterator[bytes]]

_DETAILS_TRAILER: Final = "grpc-status-details-bin"
_DETAIL_TYPE: Final = b"type.googleapis.com/gateway.ErrorDetail"
# Clients refuse trailers beyond 8 KiB as a whole, so details are cut before.
_MAX_DETAILS_BYTES: Final = 5_000


class RpcError(Exception):
    """Ends a call with a status, a message and what each organisation answered."""

    def __init__(self, code: grpc.StatusCode, message: str, details: Sequence[ErrorDetail] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.details = tuple(details)


def parse(kind: Any, data: bytes | memoryview, what: str) -> Any:
    """Parses a request.

    Raises:
        RpcError: INVALID_ARGUMENT, when the bytes are none.
    """
    try:
        return kind.FromString(bytes(data))
    except DecodeError as error:
        raise RpcError(
            grpc.StatusCode.INVALID_ARGUMENT, f"expected {what}, got {len(data)} bytes that do not parse: {error}"
        ) from error


def service(
    name: str,
    *,
    unary: Mapping[str, Unary] | None = None,
    stream: Mapping[str, Stream] | None = None,
    bidirectional: Mapping[str, Bidirectional] | None = None,
) -> Any:
    """Makes a generic gRPC handler of one service's methods; errors become statuses."""
    methods: dict[str, Any] = {}
    for method, unary_call in (unary or {}).items():
        methods[method] = grpc.unary_unary_rpc_method_handler(_guard_unary(unary_call))
    for method, stream_call in (stream or {}).items():
        methods[method] = grpc.unary_stream_rpc_method_handler(
            _guard_stream(lambda request, _, handle=stream_call: handle(request))
        )
    for method, both_call in (bidirectional or {}).items():
        methods[method] = grpc.stream_stream_rpc_method_handler(_guard_stream(both_call))
    return grpc.method_handlers_generic_handler(name, methods)


def _guard_unary(handler: Unary) -> Callable[[bytes, Any], Awaitable[bytes]]:
    async def guarded(request: bytes, call: Any) -> bytes:
        try:
            return await handler(request)
        except RpcError as error:
            await _abort(call, error)
        except Exception:
            await _abort_internal(call)

    return guarded


def _guard_stream(handler: Any) -> Any:
    async def guarded(request: Any, call: Any) -> AsyncIterator[bytes]:
        try:
            async for message in handler(request, call):
                yield message
        except RpcError as error:
            await _abort(call, error)
        except grpc.aio.AbortError:
            raise
        except Exception:
            await _abort_internal(call)

    return guarded


async def _abort(call: Any, error: RpcError) -> NoReturn:
    trailer: tuple[tuple[str, bytes], ...] = ()
    if error.details:
        trailer = ((_DETAILS_TRAILER, _encode_status(error)),)
    await call.abort(error.code, str(error), trailer)
    raise AssertionError("abort always raises")


async def _abort_internal(call: Any) -> NoReturn:
    _LOG.exception("a request failed unexpectedly")
    await call.abort(grpc.StatusCode.INTERNAL, "internal error of the node: see its log")
    raise AssertionError("abort always raises")


def _encode_status(error: RpcError) -> bytes:
    """Serialises a google.rpc.Status, which is not among Fabric's bindings."""
    share = _MAX_DETAILS_BYTES // len(error.details)
    details = []
    for detail in error.details:
        text = detail.message.encode()[:share].decode(errors="ignore")
        message = gateway_pb2.ErrorDetail(address=detail.address, msp_id=detail.msp_id, message=text)
        packed = encode_bytes(1, _DETAIL_TYPE) + encode_bytes(2, message.SerializeToString())
        details.append(encode_prefix(3, len(packed)) + packed)
    text = str(error).encode()[:_MAX_DETAILS_BYTES].decode(errors="ignore")
    return encode_integer(1, error.code.value[0]) + encode_bytes(2, text.encode()) + b"".join(details)

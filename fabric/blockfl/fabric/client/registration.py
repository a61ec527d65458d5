"""Which package a contract service runs, asked as its peer asks: the first that it says to a caller it admits."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio
from fabric_protos.peer import chaincode_pb2, chaincode_shim_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.status import explain_failure
from blockfl.fabric.errors import ShimError

_METHOD = "/protos.Chaincode/Connect"


async def read_package_id(endpoint: Endpoint, timeout_s: float = 3.0) -> str:
    """Return the id of the package under which a contract service registers.

    Args:
        endpoint: The service, with the certificate with which its peer dials it.
        timeout_s: How long it may take.

    Raises:
        ShimError: It cannot be reached, does not let us in, or is no contract service.
    """
    try:
        async with endpoint.open_channel() as channel, asyncio.timeout(timeout_s):
            call: Any = channel.stream_stream(_METHOD)()  # type: ignore[call-arg]
            first = await call.read()
            call.cancel()
    except TimeoutError as error:
        raise ShimError(f"{endpoint.address}: expected a contract service to say what it runs, got nothing") from error
    except grpc.aio.AioRpcError as error:
        raise ShimError(f"{endpoint.address} cannot be asked what it runs: {explain_failure(error)}") from error
    try:
        message = chaincode_shim_pb2.ChaincodeMessage.FromString(first)
        if message.type == chaincode_shim_pb2.ChaincodeMessage.REGISTER:
            return str(chaincode_pb2.ChaincodeID.FromString(message.payload).name)
    except (DecodeError, TypeError):
        pass
    raise ShimError(f"{endpoint.address}: expected a contract service, got another kind of answer")

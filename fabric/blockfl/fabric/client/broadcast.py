"""Envelopes for ordering nodes, sent through their own service: configuration updates, which no gateway takes.

await broadcast([endpoint, ...], build_update_envelope(update, signatures, client))
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import grpc
import grpc.aio
from fabric_protos.common import common_pb2
from fabric_protos.orderer import ab_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.status import explain_failure
from blockfl.fabric.errors import ErrorDetail, SubmitError

BROADCAST: Final = "/orderer.AtomicBroadcast/Broadcast"


async def broadcast(endpoints: Sequence[Endpoint], envelope: bytes, *, timeout_s: float = 30.0) -> None:
    """Send an envelope to all ordering nodes at once; under BFT one alone would have to wait for the leader's.

    An answer means that a node takes the envelope, not that it is on the ledger: wait for its block, or for the
    configuration (`deliver.read_config`). Once one node has ordered an update, others may refuse it as outdated.

    Args:
        endpoints: the ordering nodes.
        envelope: a serialised common.Envelope.
        timeout_s: how long to wait for each node's answer.

    Raises:
        SubmitError: no node takes it; the text says what each one answered.
    """
    if not endpoints:
        raise SubmitError("expected at least one ordering node, got none", status=grpc.StatusCode.INVALID_ARGUMENT)
    answers = await asyncio.gather(*(_send(endpoint, envelope, timeout_s) for endpoint in endpoints))
    refusals = [answer for answer in answers if answer is not None]
    if len(refusals) == len(endpoints):
        raise SubmitError(
            "no ordering node takes the envelope",
            status=grpc.StatusCode.ABORTED,
            details=tuple(refusals),
        )


async def _send(endpoint: Endpoint, envelope: bytes, timeout_s: float) -> ErrorDetail | None:
    """One node's refusal, or None when it takes the envelope."""
    async with endpoint.open_channel() as channel:
        # Untyped: the type stubs want serialisers, and without them gRPC hands over the bytes.
        untyped: Any = channel
        call = untyped.stream_stream(BROADCAST)(timeout=timeout_s)
        try:
            await call.write(envelope)
            answer = await call.read()
        except grpc.aio.AioRpcError as error:
            return _refusal(endpoint, f"{error.code().name}: {explain_failure(error)}")
        finally:
            call.cancel()
    if not isinstance(answer, bytes):
        return _refusal(endpoint, "it hung up without an answer")
    return _read_answer(endpoint, answer)


def _read_answer(endpoint: Endpoint, answer: bytes) -> ErrorDetail | None:
    try:
        response = ab_pb2.BroadcastResponse.FromString(answer)
    except DecodeError:
        return _refusal(endpoint, "its answer does not parse; is this an ordering node of Fabric?")
    if response.status == common_pb2.SUCCESS:
        return None
    known = response.status in common_pb2.Status.values()
    name = common_pb2.Status.Name(response.status) if known else response.status
    return _refusal(endpoint, f"{name}: {response.info}")


def _refusal(endpoint: Endpoint, message: str) -> ErrorDetail:
    return ErrorDetail(address=endpoint.address, msp_id="", message=message)

"""Failed gRPC calls as errors of this package, with what each node answered.

A gateway puts the useful text into the trailer `grpc-status-details-bin`: a google.rpc.Status whose details are
gateway.ErrorDetail messages. google.rpc.Status is not among Fabric's bindings, so its three fields are read here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
from fabric_protos.gateway import gateway_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.encoding.wire import scan_fields
from blockfl.fabric.errors import ErrorDetail, GatewayError

_TRAILER: Final = "grpc-status-details-bin"
_DETAIL_TYPE: Final = "type.googleapis.com/gateway.ErrorDetail"

# What may still have reached the orderers: asking again is right, repeating is safe, giving up is not.
_UNKNOWN_OUTCOMES: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.ABORTED,
    }
)

_ABSENT: Final = re.compile(
    r"failed to find any endorsing peers for org\(s\): (.*?)(?: \(UNAVAILABLE\))?$", re.MULTILINE
)

_NOT_VERIFIED: Final = "CERTIFICATE_VERIFY_FAILED"
_DIALLED: Final = re.compile(r"ipv[46]:([^ ]+?):? ")

Kind = TypeVar("Kind", bound=GatewayError)


def gateway_error(kind: type[Kind], what: str, error: grpc.aio.AioRpcError, transaction_id: str = "") -> Kind:
    """Make an error of ours from a failed call.

    Args:
        kind: the class of the stage that failed.
        what: the stage in words, e.g. "cannot endorse Put of app".
        error: what gRPC raised.
        transaction_id: the transaction that it was about.
    """
    code = error.code()
    return kind(
        f"{what}: {explain_failure(error)} ({code.name})",
        status=code,
        details=tuple(decode_details(error)),
        transaction_id=transaction_id,
    )


def explain_failure(error: grpc.aio.AioRpcError) -> str:
    """Return why a call failed, in words where gRPC has only those of its TLS library."""
    said = error.details() or "no reason given"
    if _NOT_VERIFIED not in said:
        return said
    node = found[1] if (found := _DIALLED.search(said)) else "the node"
    return (
        f"the TLS certificate of {node} is not valid here: it has ended, or is of an authority that is not among the "
        "TLS roots, or names another host, or this machine's clock is wrong; on the node's machine `blockfl network "
        "certificates` tells when it ends"
    )


def malformed_answer(
    kind: type[Kind], what: str, expected: str, status: grpc.StatusCode, transaction_id: str = ""
) -> Kind:
    """Make an error of ours from an answer that does not parse.

    Args:
        kind: the class of the stage that failed.
        what: the stage in words.
        expected: which service should have answered.
        status: INTERNAL where asking again may help, DATA_LOSS where a stream ends for good.
        transaction_id: the transaction that it was about.
    """
    return kind(f"{what}: the answer does not parse; is this {expected}?", status=status, transaction_id=transaction_id)


def decode_details(error: grpc.aio.AioRpcError) -> Iterator[ErrorDetail]:
    """Read what the single nodes answered; a trailer that does not parse is as good as none."""
    trailer: Any = error.trailing_metadata() or ()
    for name, value in trailer:
        if name == _TRAILER and isinstance(value, bytes):
            try:
                yield from _decode_status(value)
            except (ValueError, DecodeError):
                return


def absent_organisations(error: GatewayError) -> frozenset[str]:
    """Return the MSP ids for which the gateway knows no peer; the text of its error is the only place that names them.

    Source: Hyperledger Fabric 3.1, internal/pkg/gateway/registry.go, `planForOrgs`.
    """
    if error.status != grpc.StatusCode.UNAVAILABLE:
        return frozenset()
    return frozenset(name for listed in _ABSENT.findall(str(error)) for name in listed.split(", "))


def has_unknown_outcome(error: GatewayError) -> bool:
    """Whether a transaction may have been ordered although the call that sent it failed."""
    return error.status in _UNKNOWN_OUTCOMES


def _decode_status(status: bytes) -> Iterator[ErrorDetail]:
    for number, value in scan_fields(memoryview(status)):
        if number == 3 and isinstance(value, memoryview):
            fields = {n: v for n, v in scan_fields(value) if isinstance(v, memoryview)}
            if bytes(fields.get(1, b"")) == _DETAIL_TYPE.encode():
                detail = gateway_pb2.ErrorDetail.FromString(bytes(fields.get(2, b"")))
                yield ErrorDetail(address=detail.address, msp_id=detail.msp_id, message=detail.message)

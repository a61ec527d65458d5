"""The calls of a transaction's stages, over one connection: requests encoded, answers checked.

Owns what a gateway's answer must be before anything of it is used or signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from fabric_protos.gateway import gateway_pb2
from fabric_protos.orderer import ab_pb2
from fabric_protos.peer import transaction_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.client.connection import Connection
from blockfl.fabric.client.events import ChaincodeEvent, Position
from blockfl.fabric.client.stages import Status
from blockfl.fabric.client.status import malformed_answer
from blockfl.fabric.encoding.wire import encode_bytes, encode_prefix, scan_fields
from blockfl.fabric.errors import (
    BlockError,
    CommitStatusError,
    EndorseError,
    EvaluateError,
    GatewayError,
    SubmitError,
)
from blockfl.fabric.transaction.envelope import Proposal, Transaction
from blockfl.fabric.transaction.reading import decode_transaction


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An endorsed transaction that its creator has still to sign.

    Attributes:
        payload: the bytes to sign (common.Payload).
        transaction: the same taken apart.
    """

    payload: bytes
    transaction: Transaction


async def evaluate(
    connection: Connection, proposal: Proposal, organisations: Sequence[str], timeout_s: float, retries: int
) -> bytes:
    """Have a signed proposal evaluated.

    Raises:
        EvaluateError: the contract or the peer refuses, or nobody answers in time.
    """
    what = f"cannot evaluate {_function(proposal)} of {proposal.chaincode}"
    request = _proposal_request(proposal, organisations)
    answer = await connection.try_again(
        lambda limit_s: connection.call(EvaluateError, what, "Evaluate", request, limit_s, proposal.tx_id),
        timeout_s,
        retries,
    )
    try:
        return _read_result(answer)
    except ValueError as error:
        raise malformed(EvaluateError, what, proposal.tx_id) from error


async def endorse(
    connection: Connection, proposal: Proposal, organisations: Sequence[str], timeout_s: float, retries: int
) -> Prepared:
    """Have a signed proposal endorsed; the transaction that comes back is the one that was proposed.

    Raises:
        EndorseError: the contract refuses, endorsers disagree, or not enough of them answer.
    """
    what = f"cannot endorse {_function(proposal)} of {proposal.chaincode}"
    request = _proposal_request(proposal, organisations)
    answer = await connection.try_again(
        lambda limit_s: connection.call(EndorseError, what, "Endorse", request, limit_s, proposal.tx_id),
        timeout_s,
        retries,
    )
    try:
        prepared = gateway_pb2.EndorseResponse.FromString(answer).prepared_transaction
        transaction = decode_transaction(prepared.SerializeToString())
    except (DecodeError, BlockError) as error:
        raise malformed(EndorseError, what, proposal.tx_id) from error
    if (transaction.tx_id, transaction.creator, transaction.chaincode, transaction.args) != (
        proposal.tx_id,
        proposal.creator,
        proposal.chaincode,
        proposal.args,
    ):
        raise EndorseError(
            f"{what}: the gateway returned another transaction than the one proposed ({proposal.tx_id}), "
            "nothing was signed; do not trust this gateway",
            status=grpc.StatusCode.DATA_LOSS,
            transaction_id=proposal.tx_id,
        )
    return Prepared(payload=prepared.payload, transaction=transaction)


async def send(connection: Connection, channel: str, transaction_id: str, envelope: bytes, timeout_s: float) -> None:
    """Send a signed transaction to the orderers.

    Raises:
        SubmitError: the orderers did not acknowledge it (`has_unknown_outcome` tells whether they may have it).
    """
    request = b"".join(
        (encode_bytes(1, transaction_id.encode()), encode_bytes(2, channel.encode()), encode_bytes(3, envelope))
    )
    what = f"cannot submit transaction {transaction_id}"
    await connection.wait_for_place(
        lambda limit_s: connection.call(SubmitError, what, "Submit", request, limit_s, transaction_id), timeout_s
    )


def build_status_request(connection: Connection, channel: str, transaction_id: str) -> bytes:
    """Make a request for a transaction's outcome (gateway.CommitStatusRequest) that is still to be signed."""
    return bytes(
        gateway_pb2.CommitStatusRequest(
            transaction_id=transaction_id, channel_id=channel, identity=connection.identity.serialized
        ).SerializeToString()
    )


async def read_status(
    connection: Connection, request: bytes, signature: bytes, transaction_id: str, timeout_s: float
) -> Status:
    """Wait until a transaction is on the ledger and tell whether it is valid.

    Raises:
        CommitStatusError: not known in time.
    """
    signed = gateway_pb2.SignedCommitStatusRequest(request=request, signature=signature).SerializeToString()
    what = f"the outcome of transaction {transaction_id} is unknown, submitting the same one again is safe"
    answer = await connection.wait_for_place(
        lambda limit_s: connection.call(CommitStatusError, what, "CommitStatus", signed, limit_s, transaction_id),
        timeout_s,
    )
    try:
        response = gateway_pb2.CommitStatusResponse.FromString(answer)
    except DecodeError as error:
        raise malformed(CommitStatusError, what, transaction_id) from error
    names = transaction_pb2.TxValidationCode
    known = response.result in names.values()
    return Status(
        transaction_id=transaction_id,
        code=response.result,
        code_name=names.Name(response.result) if known else "UNKNOWN",
        block_number=response.block_number,
    )


def announced_event(transaction: Transaction) -> ChaincodeEvent | None:
    """What a transaction will announce when it turns out valid; the block's number is not known yet (-1)."""
    event = transaction.event
    if event is None or not event.name:
        return None
    return ChaincodeEvent(
        chaincode=event.chaincode,
        name=event.name,
        payload=event.payload,
        transaction_id=event.tx_id,
        block_number=-1,
    )


def malformed(kind: type[GatewayError], what: str, transaction_id: str) -> GatewayError:
    """The error of an answer that does not parse."""
    service = "the Gateway service of a Fabric peer"
    return malformed_answer(kind, what, service, grpc.StatusCode.INTERNAL, transaction_id)


def _proposal_request(proposal: Proposal, organisations: Sequence[str]) -> bytes:
    """EvaluateRequest and EndorseRequest, which have the same fields; proposals of megabytes are joined once."""
    signature = encode_bytes(2, proposal.signature)
    prefix = encode_prefix(1, len(proposal.proposal_bytes))
    return b"".join(
        (
            encode_bytes(1, proposal.tx_id.encode()),
            encode_bytes(2, proposal.channel.encode()),
            encode_prefix(3, len(prefix) + len(proposal.proposal_bytes) + len(signature)),
            prefix,
            proposal.proposal_bytes,
            signature,
            *(encode_bytes(4, msp_id.encode()) for msp_id in organisations),
        )
    )


def _read_result(answer: bytes) -> bytes:
    """The payload of an EvaluateResponse's result, copied once."""
    return bytes(_last_field(_last_field(memoryview(answer), 1), 3))


def _last_field(message: memoryview, wanted: int) -> memoryview:
    found = memoryview(b"")
    for number, value in scan_fields(message):
        if number == wanted and isinstance(value, memoryview):
            found = value
    return found


def _function(proposal: Proposal) -> str:
    return proposal.args[0].decode(errors="replace") if proposal.args else "a call"


def as_proposal_message(proposal: Proposal, organisations: Sequence[str]) -> Any:
    """A proposal as the official clients pass it on (gateway.ProposedTransaction)."""
    return gateway_pb2.ProposedTransaction(
        transaction_id=proposal.tx_id,
        proposal=proposal.signed_proposal,
        endorsing_organizations=list(organisations),
    )


def build_events_request(connection: Connection, channel: str, chaincode: str, position: Position | None) -> bytes:
    """Make a request for events after a place, or from now on (gateway.ChaincodeEventsRequest); still to be signed."""
    start = ab_pb2.SeekPosition(next_commit=ab_pb2.SeekNextCommit())
    if position is not None:
        start = ab_pb2.SeekPosition(specified=ab_pb2.SeekSpecified(number=position.block_number))
    request = gateway_pb2.ChaincodeEventsRequest(
        channel_id=channel,
        chaincode_id=chaincode,
        identity=connection.identity.serialized,
        start_position=start,
        after_transaction_id=position.transaction_id if position else "",
    )
    return bytes(request.SerializeToString())

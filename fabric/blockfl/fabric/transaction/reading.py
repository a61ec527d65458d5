"""Transactions taken apart again, by Go's rules: what an envelope holds, and under which id the ledger lists it."""

from __future__ import annotations

from typing import Any

from fabric_protos.common import common_pb2
from fabric_protos.peer import (
    chaincode_event_pb2,
    chaincode_pb2,
    proposal_pb2,
    proposal_response_pb2,
    transaction_pb2,
)

from blockfl.fabric.errors import BlockError
from blockfl.fabric.transaction.envelope import (
    ENDORSER_TRANSACTION,
    Endorsement,
    Event,
    Transaction,
    compute_tx_id,
    parse_part,
    read_timestamp_ms,
)


def decode_transaction(envelope: bytes) -> Transaction:
    """Take a transaction apart, valid or not.

    Raises:
        BlockError: some part of it does not parse; the text says which.
    """
    outer = parse_part(common_pb2.Envelope, envelope)
    payload = parse_part(common_pb2.Payload, outer.payload)
    channel_header = parse_part(common_pb2.ChannelHeader, payload.header.channel_header)
    signature_header = parse_part(common_pb2.SignatureHeader, payload.header.signature_header)
    inner: dict[str, Any] = {}
    if channel_header.type == ENDORSER_TRANSACTION:
        inner = _decode_action(payload.data)
    return Transaction(
        tx_id=channel_header.tx_id,
        channel_id=channel_header.channel_id,
        type=channel_header.type,
        creator=signature_header.creator,
        nonce=signature_header.nonce,
        timestamp_ms=read_timestamp_ms(channel_header),
        data=payload.data,
        payload=outer.payload,
        signature=outer.signature,
        **inner,
    )


def read_tx_id(envelope: bytes) -> str | None:
    """The transaction id under which a ledger lists an envelope: the stated one, else that of nonce and creator.

    Returns:
        None when there are no headers or they do not parse.
    """
    try:
        payload = parse_part(common_pb2.Payload, parse_part(common_pb2.Envelope, envelope).payload)
        if not payload.HasField("header"):
            return None
        channel_header = parse_part(common_pb2.ChannelHeader, payload.header.channel_header)
        if channel_header.tx_id:
            return str(channel_header.tx_id)
        signature_header = parse_part(common_pb2.SignatureHeader, payload.header.signature_header)
    except BlockError:
        return None
    return compute_tx_id(signature_header.nonce, signature_header.creator)


def _decode_action(data: bytes) -> dict[str, Any]:
    actions = parse_part(transaction_pb2.Transaction, data).actions
    if len(actions) != 1:
        raise BlockError(f"expected a transaction with one action, got {len(actions)}")
    endorsed = parse_part(transaction_pb2.ChaincodeActionPayload, actions[0].payload)
    signed_response = endorsed.action.proposal_response_payload
    response = parse_part(proposal_response_pb2.ProposalResponsePayload, signed_response)
    action = parse_part(proposal_pb2.ChaincodeAction, response.extension)
    proposal = parse_part(proposal_pb2.ChaincodeProposalPayload, endorsed.chaincode_proposal_payload)
    invocation = parse_part(chaincode_pb2.ChaincodeInvocationSpec, proposal.input)
    event: Event | None = None
    if action.events:
        message = parse_part(chaincode_event_pb2.ChaincodeEvent, action.events)
        event = Event(
            chaincode=message.chaincode_id,
            tx_id=message.tx_id,
            name=message.event_name,
            payload=message.payload,
        )
    return {
        "chaincode": action.chaincode_id.name,
        "chaincode_version": action.chaincode_id.version,
        "args": tuple(invocation.chaincode_spec.input.args),
        "response_status": action.response.status,
        "response_message": action.response.message,
        "response_payload": action.response.payload,
        "event": event,
        "results": action.results,
        "endorsements": tuple(
            Endorsement(endorser=e.endorser, signature=e.signature) for e in endorsed.action.endorsements
        ),
        "proposal_hash": response.proposal_hash,
        "signed_response": signed_response,
    }

"""Transactions taken apart again, by Go's rules: what an envelope holds, and under which id the ledger lists it.

A `Reading` parses each part of an envelope once, when it is asked for. Who validates a block, replays it and notes what
was in it hands one reading on:

    reading = Reading(envelope)
    check_envelope(reading, config, state, signatures)
    decode_transaction(reading).tx_id
"""

from __future__ import annotations

from functools import cached_property
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
    AnnouncedEvent,
    Endorsement,
    Transaction,
    compute_tx_id,
    parse_part,
    read_timestamp_ms,
)


class Reading:
    """An envelope, and its parts as far as somebody has asked for them; nothing is judged.

    Each attribute raises `BlockError` when its part does not parse, or is in one that does not.

    Attributes:
        encoded: the serialised `common.Envelope`.
        action_header: the `common.SignatureHeader` of the only action.
        endorsed: the `protos.ChaincodeActionPayload` of the only action.
        response: what its endorsers signed, a `protos.ProposalResponsePayload`.
        action: what the chaincode answered, a `protos.ChaincodeAction`.
        input: the `protos.ChaincodeInput` that it was called with.
        event: the `protos.ChaincodeEvent`; None when nothing was announced.
    """

    def __init__(self, encoded: bytes) -> None:
        self.encoded = encoded

    @classmethod
    def of(cls, envelope: bytes | Reading) -> Reading:
        """Return the reading of an envelope, a new one for bytes."""
        return envelope if isinstance(envelope, Reading) else cls(envelope)

    @cached_property
    def envelope(self) -> Any:
        """The `common.Envelope`."""
        return parse_part(common_pb2.Envelope, self.encoded)

    @cached_property
    def signed(self) -> bytes:
        """The serialised payload, which the creator signed."""
        return bytes(self.envelope.payload)

    @cached_property
    def payload(self) -> Any:
        """The `common.Payload`."""
        return parse_part(common_pb2.Payload, self.signed)

    @cached_property
    def channel_header(self) -> Any:
        """The `common.ChannelHeader`."""
        return parse_part(common_pb2.ChannelHeader, self.payload.header.channel_header)

    @cached_property
    def signature_header(self) -> Any:
        """The `common.SignatureHeader`."""
        return parse_part(common_pb2.SignatureHeader, self.payload.header.signature_header)

    @cached_property
    def extension(self) -> Any:
        """The channel header's `protos.ChaincodeHeaderExtension`."""
        return parse_part(proposal_pb2.ChaincodeHeaderExtension, self.channel_header.extension)

    @cached_property
    def _only_action(self) -> Any:
        actions = parse_part(transaction_pb2.Transaction, self.payload.data).actions
        if len(actions) != 1:
            raise BlockError(f"expected a transaction with one action, got {len(actions)}")
        return actions[0]

    @cached_property
    def action_header(self) -> Any:  # noqa: D102
        return parse_part(common_pb2.SignatureHeader, self._only_action.header)

    @property
    def proposal_header(self) -> Any:
        """The `common.Header` that the proposal had, which endorsers have signed."""
        return common_pb2.Header(
            channel_header=self.payload.header.channel_header, signature_header=self._only_action.header
        )

    @cached_property
    def endorsed(self) -> Any:  # noqa: D102
        return parse_part(transaction_pb2.ChaincodeActionPayload, self._only_action.payload)

    @cached_property
    def signed_response(self) -> bytes:
        """The serialised response, which the endorsers signed, before each one's own identity."""
        return bytes(self.endorsed.action.proposal_response_payload)

    @cached_property
    def endorsements(self) -> tuple[Endorsement, ...]:
        """The endorsements, as they are stated."""
        return tuple(
            [Endorsement(endorser=e.endorser, signature=e.signature) for e in self.endorsed.action.endorsements]
        )

    @cached_property
    def response(self) -> Any:  # noqa: D102
        return parse_part(proposal_response_pb2.ProposalResponsePayload, self.signed_response)

    @cached_property
    def action(self) -> Any:  # noqa: D102
        return parse_part(proposal_pb2.ChaincodeAction, self.response.extension)

    @cached_property
    def event(self) -> Any | None:  # noqa: D102
        events = self.action.events
        return parse_part(chaincode_event_pb2.ChaincodeEvent, events) if events else None

    @cached_property
    def input(self) -> Any:  # noqa: D102
        proposal = parse_part(proposal_pb2.ChaincodeProposalPayload, self.endorsed.chaincode_proposal_payload)
        return parse_part(chaincode_pb2.ChaincodeInvocationSpec, proposal.input).chaincode_spec.input


def decode_transaction(envelope: bytes | Reading) -> Transaction:
    """Take a transaction apart, valid or not.

    Raises:
        BlockError: some part of it does not parse; the text says which.
    """
    reading = Reading.of(envelope)
    channel_header, signature_header = reading.channel_header, reading.signature_header
    inner: dict[str, Any] = {}
    if channel_header.type == ENDORSER_TRANSACTION:
        inner = _decode_action(reading)
    return Transaction(
        tx_id=channel_header.tx_id,
        channel_id=channel_header.channel_id,
        type=channel_header.type,
        creator=signature_header.creator,
        nonce=signature_header.nonce,
        timestamp_ms=read_timestamp_ms(channel_header),
        data=reading.payload.data,
        payload=reading.signed,
        signature=reading.envelope.signature,
        **inner,
    )


def read_tx_id(envelope: bytes | Reading) -> str | None:
    """The transaction id under which a ledger lists an envelope: the stated one, else that of nonce and creator.

    Returns:
        None when there are no headers or they do not parse.
    """
    reading = Reading.of(envelope)
    try:
        if not reading.payload.HasField("header"):
            return None
        if reading.channel_header.tx_id:
            return str(reading.channel_header.tx_id)
        signature_header = reading.signature_header
    except BlockError:
        return None
    return compute_tx_id(signature_header.nonce, signature_header.creator)


def _decode_action(reading: Reading) -> dict[str, Any]:
    response, action, event = reading.response, reading.action, reading.event
    return {
        "chaincode": action.chaincode_id.name,
        "chaincode_version": action.chaincode_id.version,
        "args": tuple(reading.input.args),
        "response_status": action.response.status,
        "response_message": action.response.message,
        "response_payload": action.response.payload,
        "event": None
        if event is None
        else AnnouncedEvent(
            chaincode=event.chaincode_id, tx_id=event.tx_id, name=event.event_name, payload=event.payload
        ),
        "results": action.results,
        "endorsements": reading.endorsements,
        "proposal_hash": response.proposal_hash,
        "signed_response": reading.signed_response,
    }

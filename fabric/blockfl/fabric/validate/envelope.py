"""The first half of validation: a transaction's form, its creator, and what binds it to its proposal.

The order of the checks is that of a peer, since the first one that fails gives the code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fabric_protos.common import common_pb2
from fabric_protos.peer import (
    chaincode_event_pb2,
    proposal_pb2,
    proposal_response_pb2,
    transaction_pb2,
)
from google.protobuf.message import DecodeError

from blockfl.fabric.encoding.protobuf import parse
from blockfl.fabric.errors import BlockError, IdentityError
from blockfl.fabric.transaction.envelope import CONFIG, ENDORSER_TRANSACTION, Endorsement, compute_tx_id, hash_proposal
from blockfl.fabric.transaction.rwset import ReadWriteSet, decode_read_write_set

if TYPE_CHECKING:
    from blockfl.fabric.channel.config import ChannelConfig
    from blockfl.fabric.validate.signatures import SignatureCache
    from blockfl.fabric.validate.state import StateView

_NOTHING: Final = ReadWriteSet()
_CONFIG_UPDATE: Final = int(common_pb2.CONFIG_UPDATE)


class InvalidTransaction(Exception):
    """A check that a transaction does not pass."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A transaction whose form, creator and proposal are in order.

    Attributes:
        tx_id: as the header states it.
        is_config: whether it carries a configuration instead of an endorsed action.
        data: the payload's data: a `common.ConfigEnvelope` when `is_config`.
        chaincode: name of the chaincode that was called.
        signed_response: what endorsers signed, before their own identity.
    """

    tx_id: str
    is_config: bool
    data: bytes
    chaincode: str = ""
    readwrites: ReadWriteSet = _NOTHING
    signed_response: bytes = b""
    endorsements: tuple[Endorsement, ...] = ()


def check_envelope(encoded: bytes, config: ChannelConfig, state: StateView, signatures: SignatureCache) -> Candidate:
    """Check everything about a transaction but its endorsements and its reads.

    1. envelope, payload and headers parse; type, epoch, nonce and creator are set as they must be;
    2. the creator is a valid identity of the channel and signed the payload;
    3. the transaction id is that of nonce and creator;
    4. there is one action, and it hashes to the proposal that was endorsed;
    5. no transaction on the ledger has this id;
    6. header and action name one chaincode; the read/write set parses; the event belongs to the chaincode.

    Raises:
        InvalidTransaction: the first check that fails.
    """
    envelope = _parse(common_pb2.Envelope, encoded, transaction_pb2.INVALID_OTHER_REASON)
    payload = _parse(common_pb2.Payload, envelope.payload, transaction_pb2.BAD_PAYLOAD)
    channel_header, signature_header = _check_headers(payload)
    _check_creator(envelope, channel_header, signature_header, config, signatures)
    if channel_header.type == CONFIG:
        if not payload.data:
            raise InvalidTransaction(transaction_pb2.INVALID_CONFIG_TRANSACTION, "it holds no configuration")
        return Candidate(tx_id=channel_header.tx_id, is_config=True, data=payload.data)
    if channel_header.type != ENDORSER_TRANSACTION:
        raise InvalidTransaction(
            transaction_pb2.UNSUPPORTED_TX_PAYLOAD, f"type {channel_header.type} does not belong into a block"
        )
    expected = compute_tx_id(signature_header.nonce, signature_header.creator)
    if channel_header.tx_id != expected:
        raise InvalidTransaction(
            transaction_pb2.BAD_PROPOSAL_TXID,
            f"expected transaction id {expected} (SHA-256 of nonce and creator), got {channel_header.tx_id!r}",
        )
    endorsed, response = _check_action(payload)
    if state.has_transaction(channel_header.tx_id):
        raise InvalidTransaction(
            transaction_pb2.DUPLICATE_TXID, f"transaction id {channel_header.tx_id} is on the ledger already"
        )
    return _check_response(payload, channel_header, endorsed, response)


def read_candidate(encoded: bytes) -> Candidate:
    """Read what a transaction would change, without judging it.

    Raises:
        BlockError: it cannot be read.
    """
    code = transaction_pb2.INVALID_OTHER_REASON
    try:
        payload = _parse(common_pb2.Payload, _parse(common_pb2.Envelope, encoded, code).payload, code)
        header = _parse(common_pb2.ChannelHeader, payload.header.channel_header, code)
        if header.type == CONFIG:
            return Candidate(tx_id=header.tx_id, is_config=True, data=payload.data)
        actions = _parse(transaction_pb2.Transaction, payload.data, code).actions
        if len(actions) != 1:
            raise InvalidTransaction(code, f"expected one action, got {len(actions)}")
        endorsed = _parse(transaction_pb2.ChaincodeActionPayload, actions[0].payload, code)
        signed_response = endorsed.action.proposal_response_payload
        response = _parse(proposal_response_pb2.ProposalResponsePayload, signed_response, code)
        action = _parse(proposal_pb2.ChaincodeAction, response.extension, code)
    except InvalidTransaction as reason:
        raise BlockError(f"what the transaction changes cannot be read: {reason}") from reason
    return Candidate(
        tx_id=header.tx_id,
        is_config=False,
        data=payload.data,
        chaincode=action.chaincode_id.name,
        readwrites=decode_read_write_set(action.results),
        signed_response=signed_response,
        endorsements=tuple(
            [Endorsement(endorser=e.endorser, signature=e.signature) for e in endorsed.action.endorsements]
        ),
    )


def _check_headers(payload: Any) -> tuple[Any, Any]:
    code = transaction_pb2.BAD_COMMON_HEADER
    if not payload.HasField("header"):
        raise InvalidTransaction(code, "the payload has no header")
    channel_header = _parse(common_pb2.ChannelHeader, payload.header.channel_header, code)
    signature_header = _parse(common_pb2.SignatureHeader, payload.header.signature_header, code)
    if channel_header.type not in (ENDORSER_TRANSACTION, _CONFIG_UPDATE, CONFIG):
        raise InvalidTransaction(code, f"unknown transaction type {channel_header.type}")
    if channel_header.epoch:
        raise InvalidTransaction(code, f"expected epoch 0, got {channel_header.epoch}")
    _check_signature_header(signature_header, code)
    return channel_header, signature_header


def _check_signature_header(header: Any, code: int) -> None:
    if not header.nonce or not header.creator:
        raise InvalidTransaction(code, "expected nonce and creator in the signature header, got an empty one")


def _check_creator(
    envelope: Any, channel_header: Any, signature_header: Any, config: ChannelConfig, signatures: SignatureCache
) -> None:
    code = transaction_pb2.BAD_CREATOR_SIGNATURE
    # A peer looks for the creator among the organisations of the channel that the header names.
    if channel_header.channel_id != config.channel_id:
        raise InvalidTransaction(code, f"expected channel {config.channel_id!r}, got {channel_header.channel_id!r}")
    try:
        creator = config.msps.parse_and_validate(signature_header.creator)
        signatures.verify(creator, envelope.signature, envelope.payload)
    except IdentityError as error:
        raise InvalidTransaction(code, f"the creator: {error}") from error


def _check_action(payload: Any) -> tuple[Any, Any]:
    code = transaction_pb2.INVALID_ENDORSER_TRANSACTION
    actions = _parse(transaction_pb2.Transaction, payload.data, code).actions
    if len(actions) != 1:
        raise InvalidTransaction(code, f"expected one action, got {len(actions)}")
    action = actions[0]
    _check_signature_header(_parse(common_pb2.SignatureHeader, action.header, code), code)
    endorsed = _parse(transaction_pb2.ChaincodeActionPayload, action.payload, code)
    response = _parse(proposal_response_pb2.ProposalResponsePayload, endorsed.action.proposal_response_payload, code)
    if not endorsed.chaincode_proposal_payload:
        raise InvalidTransaction(code, "the proposal's payload is missing")
    header = common_pb2.Header(channel_header=payload.header.channel_header, signature_header=action.header)
    if hash_proposal(header, endorsed.chaincode_proposal_payload) != response.proposal_hash:
        raise InvalidTransaction(code, "what was endorsed is not this proposal: the hashes differ")
    return endorsed, response


def _check_response(payload: Any, channel_header: Any, endorsed: Any, response: Any) -> Candidate:
    extension = _parse(
        proposal_pb2.ChaincodeHeaderExtension, channel_header.extension, transaction_pb2.BAD_HEADER_EXTENSION
    )
    if not response.extension:
        raise InvalidTransaction(transaction_pb2.BAD_RESPONSE_PAYLOAD, "the response holds no chaincode action")
    action = _parse(proposal_pb2.ChaincodeAction, response.extension, transaction_pb2.BAD_RESPONSE_PAYLOAD)
    try:
        readwrites = decode_read_write_set(action.results)
    except BlockError as error:
        raise InvalidTransaction(transaction_pb2.BAD_RWSET, str(error)) from error
    _check_chaincode(extension, action)
    name = extension.chaincode_id.name
    if action.events:
        event = _parse(chaincode_event_pb2.ChaincodeEvent, action.events, transaction_pb2.INVALID_OTHER_REASON)
        if event.chaincode_id != name:
            raise InvalidTransaction(
                transaction_pb2.INVALID_OTHER_REASON,
                f"expected an event of chaincode {name!r}, got one of {event.chaincode_id!r}",
            )
    namespaces = [namespace.namespace for namespace in readwrites.namespaces]
    if len(set(namespaces)) != len(namespaces):
        raise InvalidTransaction(transaction_pb2.ILLEGAL_WRITESET, f"a namespace is there twice: {namespaces}")
    return Candidate(
        tx_id=channel_header.tx_id,
        is_config=False,
        data=payload.data,
        chaincode=name,
        readwrites=readwrites,
        signed_response=endorsed.action.proposal_response_payload,
        endorsements=tuple(
            [Endorsement(endorser=e.endorser, signature=e.signature) for e in endorsed.action.endorsements]
        ),
    )


def _check_chaincode(extension: Any, action: Any) -> None:
    if not extension.HasField("chaincode_id") or not action.HasField("chaincode_id"):
        raise InvalidTransaction(
            transaction_pb2.INVALID_OTHER_REASON, "header extension or action does not name a chaincode"
        )
    name = extension.chaincode_id.name
    if not name or name != action.chaincode_id.name:
        raise InvalidTransaction(
            transaction_pb2.INVALID_CHAINCODE,
            f"expected one chaincode in header and action, got {name!r} and {action.chaincode_id.name!r}",
        )
    if not action.chaincode_id.version:
        raise InvalidTransaction(transaction_pb2.INVALID_CHAINCODE, "the action names no chaincode version")


def _parse(message_type: Any, encoded: bytes, code: int) -> Any:
    try:
        return parse(message_type, encoded)
    except DecodeError as error:
        raise InvalidTransaction(
            code,
            f"expected {message_type.DESCRIPTOR.full_name}, got {len(encoded)} bytes that do not parse",
        ) from error

"""The first half of validation: a transaction's form, its creator, and what binds it to its proposal.

The order of the checks is that of a peer, since the first one that fails gives the code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fabric_protos.common import common_pb2
from fabric_protos.peer import transaction_pb2

from blockfl.fabric.errors import BlockError, IdentityError
from blockfl.fabric.transaction.envelope import (
    CONFIG,
    ENDORSER_TRANSACTION,
    Endorsement,
    compute_tx_id,
    hash_proposal,
)
from blockfl.fabric.transaction.reading import Reading
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
class CheckedTransaction:
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


def check_envelope(
    envelope: bytes | Reading, config: ChannelConfig, state: StateView, signatures: SignatureCache
) -> CheckedTransaction:
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
    reading = Reading.of(envelope)
    _take(reading, "envelope", transaction_pb2.INVALID_OTHER_REASON)
    payload = _take(reading, "payload", transaction_pb2.BAD_PAYLOAD)
    channel_header, signature_header = _check_headers(reading)
    _check_creator(reading, config, signatures)
    if channel_header.type == CONFIG:
        if not payload.data:
            raise InvalidTransaction(transaction_pb2.INVALID_CONFIG_TRANSACTION, "it holds no configuration")
        return CheckedTransaction(tx_id=channel_header.tx_id, is_config=True, data=payload.data)
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
    _check_action(reading)
    if state.has_transaction(channel_header.tx_id):
        raise InvalidTransaction(
            transaction_pb2.DUPLICATE_TXID, f"transaction id {channel_header.tx_id} is on the ledger already"
        )
    return _check_response(reading)


def read_candidate(envelope: bytes | Reading) -> CheckedTransaction:
    """Read what a transaction would change, without judging it.

    Raises:
        BlockError: it cannot be read.
    """
    reading = Reading.of(envelope)
    try:
        header = reading.channel_header
        if header.type == CONFIG:
            return CheckedTransaction(tx_id=header.tx_id, is_config=True, data=reading.payload.data)
        action = reading.action
    except BlockError as reason:
        raise BlockError(f"what the transaction changes cannot be read: {reason}") from reason
    return _make_candidate(reading, action.chaincode_id.name, decode_read_write_set(action.results))


def _make_candidate(reading: Reading, chaincode: str, readwrites: ReadWriteSet) -> CheckedTransaction:
    return CheckedTransaction(
        tx_id=reading.channel_header.tx_id,
        is_config=False,
        data=reading.payload.data,
        chaincode=chaincode,
        readwrites=readwrites,
        signed_response=reading.signed_response,
        endorsements=reading.endorsements,
    )


def _check_headers(reading: Reading) -> tuple[Any, Any]:
    code = transaction_pb2.BAD_COMMON_HEADER
    if not reading.payload.HasField("header"):
        raise InvalidTransaction(code, "the payload has no header")
    channel_header = _take(reading, "channel_header", code)
    signature_header = _take(reading, "signature_header", code)
    if channel_header.type not in (ENDORSER_TRANSACTION, _CONFIG_UPDATE, CONFIG):
        raise InvalidTransaction(code, f"unknown transaction type {channel_header.type}")
    if channel_header.epoch:
        raise InvalidTransaction(code, f"expected epoch 0, got {channel_header.epoch}")
    _check_signature_header(signature_header, code)
    return channel_header, signature_header


def _check_signature_header(header: Any, code: int) -> None:
    if not header.nonce or not header.creator:
        raise InvalidTransaction(code, "expected nonce and creator in the signature header, got an empty one")


def _check_creator(reading: Reading, config: ChannelConfig, signatures: SignatureCache) -> None:
    code = transaction_pb2.BAD_CREATOR_SIGNATURE
    channel = reading.channel_header.channel_id
    # A peer looks for the creator among the organisations of the channel that the header names.
    if channel != config.channel_id:
        raise InvalidTransaction(code, f"expected channel {config.channel_id!r}, got {channel!r}")
    try:
        creator = config.msps.parse_and_validate(reading.signature_header.creator)
        signatures.verify(creator, reading.envelope.signature, reading.signed)
    except IdentityError as error:
        raise InvalidTransaction(code, f"the creator: {error}") from error


def _check_action(reading: Reading) -> None:
    code = transaction_pb2.INVALID_ENDORSER_TRANSACTION
    _check_signature_header(_take(reading, "action_header", code), code)
    proposal = _take(reading, "endorsed", code).chaincode_proposal_payload
    response = _take(reading, "response", code)
    if not proposal:
        raise InvalidTransaction(code, "the proposal's payload is missing")
    if hash_proposal(reading.proposal_header, proposal) != response.proposal_hash:
        raise InvalidTransaction(code, "what was endorsed is not this proposal: the hashes differ")


def _check_response(reading: Reading) -> CheckedTransaction:
    extension = _take(reading, "extension", transaction_pb2.BAD_HEADER_EXTENSION)
    if not reading.response.extension:
        raise InvalidTransaction(transaction_pb2.BAD_RESPONSE_PAYLOAD, "the response holds no chaincode action")
    action = _take(reading, "action", transaction_pb2.BAD_RESPONSE_PAYLOAD)
    try:
        readwrites = decode_read_write_set(action.results)
    except BlockError as error:
        raise InvalidTransaction(transaction_pb2.BAD_RWSET, str(error)) from error
    _check_chaincode(extension, action)
    name = extension.chaincode_id.name
    event = _take(reading, "event", transaction_pb2.INVALID_OTHER_REASON)
    if event is not None and event.chaincode_id != name:
        raise InvalidTransaction(
            transaction_pb2.INVALID_OTHER_REASON,
            f"expected an event of chaincode {name!r}, got one of {event.chaincode_id!r}",
        )
    namespaces = [namespace.namespace for namespace in readwrites.namespaces]
    if len(set(namespaces)) != len(namespaces):
        raise InvalidTransaction(transaction_pb2.ILLEGAL_WRITESET, f"a namespace is there twice: {namespaces}")
    return _make_candidate(reading, name, readwrites)


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


def _take(reading: Reading, part: str, code: int) -> Any:
    """Return a part of a transaction that must parse."""
    try:
        return getattr(reading, part)
    except BlockError as error:
        raise InvalidTransaction(code, str(error)) from error

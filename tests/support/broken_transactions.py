"""Transactions that are broken in exactly one place each, with the code that peers give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric import utils
from fabric_protos.common import common_pb2

from blockfl.fabric.identity.signing import parse_ecdsa_signature
from support.scratch_ledger import event, serialized

UNPARSEABLE = b"\xff\xff\xff"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def unparseable(part: Any) -> bytes:
    return UNPARSEABLE


def setting(name: str, value: Any) -> Callable[[Any], None]:
    return lambda message: setattr(message, name, value)


def clearing(name: str) -> Callable[[Any], None]:
    return lambda message: message.ClearField(name)


def high_s(envelope: Any) -> None:
    r, s = parse_ecdsa_signature(envelope.signature)
    envelope.signature = utils.encode_dss_signature(r, P256_ORDER - s)


def second_action(transaction: Any) -> None:
    transaction.actions.add().CopyFrom(transaction.actions[0])


def other_nonce(header: bytes) -> bytes:
    message = common_pb2.SignatureHeader.FromString(header)
    message.nonce = b"another"
    return serialized(message)


def without_creator(header: bytes) -> bytes:
    message = common_pb2.SignatureHeader.FromString(header)
    message.ClearField("creator")
    return serialized(message)


def other_proposal(endorsed: Any) -> None:
    endorsed.chaincode_proposal_payload = b"\x0a\x01x"


BROKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "the envelope does not parse": ("INVALID_OTHER_REASON", {"envelope": unparseable}),
    "the payload does not parse": ("BAD_PAYLOAD", {"payload": unparseable}),
    "the payload has no header": ("BAD_COMMON_HEADER", {"payload": clearing("header")}),
    "the channel header does not parse": ("BAD_COMMON_HEADER", {"channel_header": unparseable}),
    "the signature header does not parse": ("BAD_COMMON_HEADER", {"signature_header": unparseable}),
    "the type is unknown": ("BAD_COMMON_HEADER", {"channel_header": setting("type", 77)}),
    "the epoch is not zero": ("BAD_COMMON_HEADER", {"channel_header": setting("epoch", 1)}),
    "there is no nonce": ("BAD_COMMON_HEADER", {"signature_header": clearing("nonce")}),
    "there is no creator": ("BAD_COMMON_HEADER", {"signature_header": clearing("creator")}),
    "the channel is another one": ("BAD_CREATOR_SIGNATURE", {"channel_header": setting("channel_id", "other")}),
    "the channel is not named": ("BAD_CREATOR_SIGNATURE", {"channel_header": clearing("channel_id")}),
    "the creator is no identity": ("BAD_CREATOR_SIGNATURE", {"signature_header": setting("creator", UNPARSEABLE)}),
    "the envelope is not signed": ("BAD_CREATOR_SIGNATURE", {"envelope": clearing("signature")}),
    "the signature is no signature": ("BAD_CREATOR_SIGNATURE", {"envelope": setting("signature", b"none")}),
    "the signature has a high S": ("BAD_CREATOR_SIGNATURE", {"envelope": high_s}),
    "it is a configuration update": ("UNSUPPORTED_TX_PAYLOAD", {"channel_header": setting("type", 2)}),
    "the transaction id is not the hash": ("BAD_PROPOSAL_TXID", {"channel_header": setting("tx_id", "ab" * 32)}),
    "the transaction id is in upper case": (
        "BAD_PROPOSAL_TXID",
        {"channel_header": lambda header: setattr(header, "tx_id", header.tx_id.upper())},
    ),
    "the transaction does not parse": ("INVALID_ENDORSER_TRANSACTION", {"transaction": unparseable}),
    "there is no action": ("INVALID_ENDORSER_TRANSACTION", {"transaction": clearing("actions")}),
    "there are two actions": ("INVALID_ENDORSER_TRANSACTION", {"transaction": second_action}),
    "the action's header does not parse": ("INVALID_ENDORSER_TRANSACTION", {"action_header": unparseable}),
    "the action's header has no creator": ("INVALID_ENDORSER_TRANSACTION", {"action_header": without_creator}),
    "the action's header is another one": ("INVALID_ENDORSER_TRANSACTION", {"action_header": other_nonce}),
    "the action's payload does not parse": ("INVALID_ENDORSER_TRANSACTION", {"endorsed": unparseable}),
    "the action holds no endorsed action": ("INVALID_ENDORSER_TRANSACTION", {"endorsed": clearing("action")}),
    "the response does not parse": ("INVALID_ENDORSER_TRANSACTION", {"signed_response": unparseable}),
    "the proposal's payload is missing": ("INVALID_ENDORSER_TRANSACTION", {"proposal_payload": lambda _: b""}),
    "the proposal is another one": ("INVALID_ENDORSER_TRANSACTION", {"endorsed": other_proposal}),
    "the proposal hash is wrong": ("INVALID_ENDORSER_TRANSACTION", {"response": setting("proposal_hash", b"x" * 32)}),
    "the header extension does not parse": ("BAD_HEADER_EXTENSION", {"extension": unparseable}),
    "the response holds no action": ("BAD_RESPONSE_PAYLOAD", {"response": clearing("extension")}),
    "the chaincode action does not parse": ("BAD_RESPONSE_PAYLOAD", {"action": unparseable}),
    "the read/write set does not parse": ("BAD_RWSET", {"results": unparseable}),
    "the extension names no chaincode": ("INVALID_OTHER_REASON", {"extension": clearing("chaincode_id")}),
    "the action names no chaincode": ("INVALID_OTHER_REASON", {"action": clearing("chaincode_id")}),
    "the chaincode's name is empty": (
        "INVALID_CHAINCODE",
        {"extension": lambda extension: setattr(extension.chaincode_id, "name", "")},
    ),
    "header and action name different chaincodes": (
        "INVALID_CHAINCODE",
        {"action": lambda action: setattr(action.chaincode_id, "name", "other")},
    ),
    "the chaincode's version is empty": (
        "INVALID_CHAINCODE",
        {"action": lambda action: setattr(action.chaincode_id, "version", "")},
    ),
    "the event does not parse": ("INVALID_OTHER_REASON", {"event": UNPARSEABLE}),
    "the event is another chaincode's": ("INVALID_OTHER_REASON", {"event": event("other")}),
}

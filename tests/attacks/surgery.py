"""Endorsed transactions taken apart, changed, and put together and signed again by their creator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fabric_protos.common import common_pb2
from fabric_protos.peer import transaction_pb2

from blockfl.fabric.client.gateway import Endorsed
from blockfl.fabric.identity.signing import Signer
from blockfl.fabric.transaction.envelope import sign_envelope


def read_action(endorsed: Endorsed) -> Any:
    """Return what was endorsed, with the endorsements (protos.ChaincodeEndorsedAction)."""
    return _read_payload(_read_transaction(_read_envelope(endorsed.envelope))).action


def change_action(endorsed: Endorsed, change: Callable[[Any], None], signer: Signer) -> Endorsed:
    """Return a transaction with another endorsed action, signed again; its id stays."""
    envelope = _read_envelope(endorsed.envelope)
    transaction = _read_transaction(envelope)
    payload = _read_payload(transaction)
    change(payload.action)
    transaction.actions[0].payload = payload.SerializeToString()
    envelope.data = transaction.SerializeToString()
    return resign(endorsed, signer, envelope.SerializeToString())


def resign(endorsed: Endorsed, signer: Signer, payload: bytes | None = None) -> Endorsed:
    """Return a transaction under another signature, perhaps with another payload."""
    signed = payload or common_pb2.Envelope.FromString(endorsed.envelope).payload
    return Endorsed(
        transaction_id=endorsed.transaction_id, payload=endorsed.payload, envelope=sign_envelope(signed, signer)
    )


def _read_envelope(envelope: bytes) -> Any:
    return common_pb2.Payload.FromString(common_pb2.Envelope.FromString(envelope).payload)


def _read_transaction(payload: Any) -> Any:
    return transaction_pb2.Transaction.FromString(payload.data)


def _read_payload(transaction: Any) -> Any:
    (action,) = transaction.actions
    return transaction_pb2.ChaincodeActionPayload.FromString(action.payload)

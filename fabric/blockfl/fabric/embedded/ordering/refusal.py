"""What must not be ordered: envelopes that would stop real peers or that no peer could ever judge.

An orderer does not look inside. This one does, because it is a peer as well, and refuses what no block should hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fabric_protos.common import common_pb2, policies_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.embedded.ordering.private_plan import SetReference
from blockfl.fabric.embedded.storage.definition import read_collection
from blockfl.fabric.errors import BlockError
from blockfl.fabric.transaction.envelope import Transaction
from blockfl.fabric.transaction.reading import decode_transaction
from blockfl.fabric.transaction.rwset import VALIDATION_PARAMETER, Entries, decode_read_write_set
from blockfl.fabric.validate import StateView

_ENDORSED: Final = int(common_pb2.ENDORSER_TRANSACTION)
_CONFIG_UPDATE: Final = int(common_pb2.CONFIG_UPDATE)


@dataclass(frozen=True, kw_only=True)
class Orderable:
    """A transaction that may be ordered; whether it is valid is a matter for later.

    Attributes:
        transaction_id: under which the ledger will list it; empty for a configuration update.
        references: the private sets that it writes.
        is_update: whether it is a configuration update, which `reconfiguration` judges when its turn comes.
    """

    transaction_id: str
    references: tuple[SetReference, ...]
    is_update: bool = False


def verify_orderable(
    encoded: bytes, config: ChannelConfig, state: StateView, holds: Callable[[bytes], bool]
) -> Orderable:
    """Refuse an envelope that must not be ordered.

    1. the envelope is canonically encoded and has payload and signature: peers refuse the whole block otherwise;
    2. it is small enough for a block;
    3. every part of it parses;
    4. it is an endorsed transaction of this channel, or a configuration update;
    5. every private collection that it writes exists;
    6. every policy that it gives to a key parses;
    7. some organisation holds the private data that it writes, so that they cannot be lost.

    Args:
        encoded: a serialised common.Envelope.
        config: the channel's configuration.
        state: the ledger's state.
        holds: tells whether some organisation has the private set with a digest.

    Returns:
        The transaction's id, and which private sets it writes.

    Raises:
        BlockError: the first check that fails.
    """
    _verify_envelope(encoded)
    if len(encoded) > config.batch.absolute_max_bytes:
        raise _refused(f"expected at most {config.batch.absolute_max_bytes} bytes, got {len(encoded)}")
    try:
        transaction = decode_transaction(encoded)
    except BlockError as error:
        raise _refused(f"a part of it does not parse: {error}") from error
    if transaction.type not in (_ENDORSED, _CONFIG_UPDATE):
        raise _refused(
            f"expected an endorsed transaction (type {_ENDORSED}) or a configuration update (type {_CONFIG_UPDATE}), "
            f"got type {transaction.type}"
        )
    if transaction.channel_id != config.channel_id:
        raise _refused(f"expected channel {config.channel_id!r}, got {transaction.channel_id!r}")
    if transaction.type == _CONFIG_UPDATE:
        return Orderable(transaction_id="", references=(), is_update=True)
    references = _verify_results(transaction, config, state, holds)
    return Orderable(transaction_id=transaction.tx_id, references=tuple(references))


def _verify_envelope(encoded: bytes) -> None:
    try:
        envelope = common_pb2.Envelope.FromString(encoded)
    except DecodeError as error:
        raise _refused(f"expected an envelope, got {len(encoded)} bytes that do not parse") from error
    if not envelope.payload or not envelope.signature:
        raise _refused("the envelope lacks payload or signature")
    plain = common_pb2.Envelope(payload=envelope.payload, signature=envelope.signature)
    if plain.SerializeToString() != encoded:
        raise _refused("the envelope is not canonically encoded: serialise it with the official protobuf library")


def _verify_results(
    transaction: Transaction, config: ChannelConfig, state: StateView, holds: Callable[[bytes], bool]
) -> list[SetReference]:
    try:
        readwrites = decode_read_write_set(transaction.results)
    except BlockError as error:
        raise _refused(f"its read/write set does not parse: {error}") from error
    references: list[SetReference] = []
    organisations = frozenset(config.application_msp_ids)
    for namespace in readwrites.namespaces:
        for metadata in namespace.metadata_writes:
            _verify_policy(f"key {metadata.key!r}", metadata.entries)
        for collection in namespace.collections:
            for hashed in collection.metadata_writes:
                _verify_policy(f"a private key of collection {collection.collection!r}", hashed.entries)
            if read_collection(state, namespace.namespace, collection.collection, organisations) is None:
                raise _refused(
                    f"there is no collection {collection.collection!r} of chaincode {namespace.namespace!r}: "
                    "commit a definition that has it first"
                )
            digest = collection.private_hash
            # What is on the ledger already becomes a duplicate, whatever is still held.
            if digest and not holds(digest) and not state.has_transaction(transaction.tx_id):
                raise _refused(
                    f"no organisation holds its private data for collection {collection.collection!r} any more: "
                    "have it endorsed again"
                )
            if digest:
                name = collection.collection
                references.append(SetReference(namespace=namespace.namespace, collection=name, digest=digest))
    return references


def _verify_policy(what: str, entries: Entries) -> None:
    for name, value in entries:
        if name != VALIDATION_PARAMETER:
            continue
        try:
            policies_pb2.SignaturePolicyEnvelope.FromString(value)
        except DecodeError as error:
            raise _refused(
                f"expected a signature policy as {VALIDATION_PARAMETER} of {what}, got {len(value)} bytes that do not "
                "parse: set the policy as a serialised SignaturePolicyEnvelope"
            ) from error


def _refused(reason: str) -> BlockError:
    return BlockError(f"the transaction was not ordered: {reason}")

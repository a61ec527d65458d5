"""What must not be ordered: envelopes that real peers do not survive, or do not get past.

Ordering nodes do not look inside. What they order has to be committed by every peer, so it is looked at before: by the
embedded node, which is both, and by the guard before an ordering node. The rule is here, once.

    orderable = read_orderable(envelope, config, signatures)
    require_collections(orderable, has_collection)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from fabric_protos.common import common_pb2, policies_pb2
from fabric_protos.peer import transaction_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.errors import BlockError
from blockfl.fabric.transaction.envelope import Transaction, parse_part
from blockfl.fabric.transaction.reading import decode_transaction
from blockfl.fabric.transaction.rwset import (
    VALIDATION_PARAMETER,
    CollectionReadWriteSet,
    Entries,
    NamespaceReadWriteSet,
    ReadWriteSet,
    decode_read_write_set,
)
from blockfl.fabric.validate.envelope import InvalidTransaction, check_envelope
from blockfl.fabric.validate.memory_state import MemoryState
from blockfl.fabric.validate.signatures import SignatureCache

_ENDORSED: Final = int(common_pb2.ENDORSER_TRANSACTION)
_CONFIG_UPDATE: Final = int(common_pb2.CONFIG_UPDATE)


@dataclass(frozen=True, kw_only=True)
class SetReference:
    """A private set that a transaction's public read/write set names."""

    namespace: str
    collection: str
    digest: bytes


@dataclass(frozen=True, kw_only=True)
class Orderable:
    """A transaction that may be ordered as far as it shows by itself; whether it is valid is a matter for later.

    Attributes:
        transaction_id: under which the ledger will list it; empty for a configuration update.
        collections: chaincodes and private collections that it names: each must exist.
        references: the private sets that it writes.
        changes_policies: whether it changes keys' policies: then it must not be on the ledger already.
        leans: what of it rests on other transactions of its block, in words; empty when nothing does.
        is_update: whether it is a configuration update, which is judged when its turn comes.
    """

    transaction_id: str = ""
    collections: tuple[tuple[str, str], ...] = ()
    references: tuple[SetReference, ...] = ()
    changes_policies: bool = False
    leans: str = ""
    is_update: bool = False


class UnknownCollection(BlockError):
    """A transaction names a private collection that does not exist, or not yet."""


def read_orderable(encoded: bytes, config: ChannelConfig, signatures: SignatureCache) -> Orderable:
    """Refuse an envelope that must not be ordered, as far as that shows without the ledger's state.

    1. the envelope is canonically encoded and has payload and signature: peers refuse the whole block otherwise;
    2. it is small enough for a block;
    3. every part of it is there and parses;
    4. it is an endorsed transaction of this channel, or a configuration update;
    5. every policy that it gives to a key parses;
    6. one that changes keys' policies comes as far as being judged by them: peers wait for that with all that follows.

    Args:
        encoded: a serialised common.Envelope.
        config: the channel's configuration.
        signatures: good signatures known already.

    Returns:
        What is to be looked up in the ledger's state.

    Raises:
        BlockError: the first check that fails.
    """
    _verify_envelope(encoded)
    if len(encoded) > config.batch.absolute_max_bytes:
        raise refuse(f"expected at most {config.batch.absolute_max_bytes} bytes, got {len(encoded)}")
    try:
        transaction = decode_transaction(encoded)
    except BlockError as error:
        raise refuse(f"a part of it does not parse: {error}") from error
    if transaction.type not in (_ENDORSED, _CONFIG_UPDATE):
        raise refuse(
            f"expected an endorsed transaction (type {_ENDORSED}) or a configuration update (type {_CONFIG_UPDATE}), "
            f"got type {transaction.type}"
        )
    if transaction.channel_id != config.channel_id:
        raise refuse(f"expected channel {config.channel_id!r}, got {transaction.channel_id!r}")
    if transaction.type == _CONFIG_UPDATE:
        return Orderable(is_update=True)
    _verify_action(transaction)
    try:
        readwrites = decode_read_write_set(transaction.results)
    except BlockError as error:
        raise refuse(f"its read/write set does not parse: {error}") from error
    changes_policies = _verify_policies(readwrites)
    if changes_policies:
        _verify_judged(encoded, transaction, readwrites, config, signatures)
    parts = [(one.namespace, part) for one in readwrites.namespaces for part in one.collections]
    return Orderable(
        transaction_id=transaction.tx_id,
        collections=tuple((namespace, part.collection) for namespace, part in parts),
        references=tuple(
            SetReference(namespace=namespace, collection=part.collection, digest=part.private_hash)
            for namespace, part in parts
            if part.private_hash
        ),
        changes_policies=changes_policies,
        leans=next(filter(None, (_find_leaning(part) for _, part in parts)), ""),
    )


def require_collections(orderable: Orderable, has_collection: Callable[[str, str], bool]) -> None:
    """Refuse a transaction that names a private collection that does not exist.

    Args:
        orderable: the transaction.
        has_collection: tells whether a chaincode has a collection.

    Raises:
        UnknownCollection: naming the first one.
    """
    for namespace, collection in orderable.collections:
        if not has_collection(namespace, collection):
            raise UnknownCollection(
                f"the transaction was not ordered: there is no collection {collection!r} of chaincode {namespace!r}: "
                "commit a definition that has it first"
            )


def require_new(orderable: Orderable, is_on_ledger: bool) -> None:
    """Refuse a transaction that changes keys' policies and is on the ledger already, in the ordering nodes' own words.

    Raises:
        BlockError: it is.
    """
    if orderable.changes_policies and is_on_ledger:
        raise refuse(f"request already processed: {orderable.transaction_id} is on the ledger, ask for its status")


def require_independent(orderable: Orderable) -> None:
    """Refuse a transaction that changes private keys so that peers stop if another one of its block deletes them.

    Raises:
        BlockError: it does.
    """
    if orderable.leans:
        raise refuse(orderable.leans)


def refuse(reason: str) -> BlockError:
    """Return the error that says why a transaction was not ordered."""
    return BlockError(f"the transaction was not ordered: {reason}")


def _verify_envelope(encoded: bytes) -> None:
    try:
        envelope = common_pb2.Envelope.FromString(encoded)
    except DecodeError as error:
        raise refuse(f"expected an envelope, got {len(encoded)} bytes that do not parse") from error
    if not envelope.payload or not envelope.signature:
        raise refuse("the envelope lacks payload or signature")
    plain = common_pb2.Envelope(payload=envelope.payload, signature=envelope.signature)
    if plain.SerializeToString() != encoded:
        raise refuse("the envelope is not canonically encoded: serialise it with the official protobuf library")


def _verify_action(transaction: Transaction) -> None:
    (action,) = parse_part(transaction_pb2.Transaction, transaction.data).actions
    if not parse_part(transaction_pb2.ChaincodeActionPayload, action.payload).HasField("action"):
        raise refuse("it holds no endorsed action")


def _verify_policies(readwrites: ReadWriteSet) -> bool:
    """Check every policy that is given to a key; return whether there is any change of a key's policy or metadata."""
    changes = False
    for namespace in readwrites.namespaces:
        for metadata in namespace.metadata_writes:
            changes = True
            _verify_policy(f"key {metadata.key!r}", metadata.entries)
        for collection in namespace.collections:
            for hashed in collection.metadata_writes:
                changes = True
                _verify_policy(f"a private key of collection {collection.collection!r}", hashed.entries)
    return changes


def _verify_policy(what: str, entries: Entries) -> None:
    for name, value in entries:
        if name != VALIDATION_PARAMETER:
            continue
        try:
            policies_pb2.SignaturePolicyEnvelope.FromString(value)
        except DecodeError as error:
            raise refuse(
                f"expected a signature policy as {VALIDATION_PARAMETER} of {what}, got {len(value)} bytes that do not "
                "parse: set the policy as a serialised SignaturePolicyEnvelope"
            ) from error


def _find_leaning(collection: CollectionReadWriteSet) -> str:
    """A member alone rules its own collection, so nothing there may rest on another transaction; return what does."""
    where = f"collection {collection.collection!r}"
    writes = Counter(one.key_hash for one in collection.writes)
    rules = Counter(one.key_hash for one in collection.metadata_writes)
    if max((*writes.values(), *rules.values()), default=0) > 1:
        return f"it changes a private key of {where} more than once: contracts leave the last change only"
    if rules.keys() - {one.key_hash for one in collection.writes if not one.deletes}:
        return f"it changes the policy of a private key of {where} without its value: write the value with it"
    return ""


def _verify_judged(
    encoded: bytes,
    transaction: Transaction,
    readwrites: ReadWriteSet,
    config: ChannelConfig,
    signatures: SignatureCache,
) -> None:
    try:
        check_envelope(encoded, config, MemoryState(), signatures)
    except InvalidTransaction as error:
        raise refuse(f"it changes keys' policies and is not in order: {error.reason}") from error
    others = sorted({one.namespace for one in _written(readwrites)} - {transaction.chaincode})
    if others:
        raise refuse(
            f"it changes keys' policies and writes to other chaincodes ({', '.join(map(repr, others))}) than "
            f"{transaction.chaincode!r}, which was called: change them in a transaction of their own"
        )


def _written(readwrites: ReadWriteSet) -> Iterator[NamespaceReadWriteSet]:
    return (one for one in readwrites.namespaces if one.writes_anything)

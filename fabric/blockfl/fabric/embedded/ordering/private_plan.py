"""What one block changes in each organisation's private data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from blockfl.fabric.embedded.storage.database import storable
from blockfl.fabric.embedded.storage.definition import read_collection
from blockfl.fabric.embedded.storage.private_set import CommittedSet, CommittedWrite, PrivateCommit
from blockfl.fabric.embedded.storage.private_store import PrivateStore
from blockfl.fabric.transaction.collection import Collection
from blockfl.fabric.transaction.envelope import VALID
from blockfl.fabric.transaction.reading import decode_transaction
from blockfl.fabric.transaction.rwset import decode_read_write_set
from blockfl.fabric.validate import BlockValidation, HashedUpdate, StateView
from blockfl.fabric.validate.orderable import SetReference


def private_sets(envelope: bytes) -> tuple[SetReference, ...]:
    """Read which private sets an endorsed transaction writes.

    Raises:
        BlockError: the transaction does not parse.
    """
    transaction = decode_transaction(envelope)
    if not transaction.results:
        return ()
    return tuple(
        SetReference(namespace=namespace.namespace, collection=part.collection, digest=part.private_hash)
        for namespace in decode_read_write_set(transaction.results).namespaces
        for part in namespace.collections
        if part.private_hash
    )


class PrivatePlan:
    """The changes of one block, told apart by collection members."""

    def __init__(self, view: StateView, validation: BlockValidation, organisations: Sequence[str]) -> None:
        """Plan for a validated block.

        Args:
            view: the state before the block.
            validation: its outcome.
            organisations: MSP ids of the channel's application organisations.
        """
        self._view = view
        self._validation = validation
        self._organisations = frozenset(organisations)
        self._collections: dict[tuple[str, str], Collection | None] = {}

    def commits(
        self, references: Sequence[Sequence[SetReference]], stores: Mapping[str, PrivateStore]
    ) -> dict[str, PrivateCommit]:
        """Compute the changes of every organisation that has any.

        Args:
            references: the private sets of each transaction of the block.
            stores: the organisations' private data.
        """
        number = self._validation.number
        sets: dict[str, list[CommittedSet]] = {name: [] for name in stores}
        writes: dict[str, list[CommittedWrite]] = {name: [] for name in stores}
        for part in self._sets(references):
            for name in self._members(part.namespace, part.collection, stores):
                sets[name].append(part)
        for update in self._validation.updates.hashed:
            for name in self._members(update.namespace, update.collection, stores):
                writes[name].append(_write(update))
        return {
            name: PrivateCommit(number=number, sets=tuple(sets[name]), writes=tuple(writes[name]))
            for name, store in stores.items()
            if sets[name] or writes[name] or store.has_expired(number)
        }

    def _sets(self, references: Sequence[Sequence[SetReference]]) -> Iterator[CommittedSet]:
        for index, code in enumerate(self._validation.codes):
            for reference in references[index] if code == VALID else ():
                collection = self._collection(reference.namespace, reference.collection)
                yield CommittedSet(
                    tx_index=index,
                    namespace=reference.namespace,
                    collection=reference.collection,
                    digest=reference.digest,
                    expires=storable(collection.expires(self._validation.number) if collection else None),
                )

    def _collection(self, namespace: str, name: str) -> Collection | None:
        place = (namespace, name)
        if place not in self._collections:
            self._collections[place] = read_collection(self._view, namespace, name, self._organisations)
        return self._collections[place]

    def _members(self, namespace: str, collection: str, stores: Mapping[str, PrivateStore]) -> list[str]:
        found = self._collection(namespace, collection)
        return sorted(found.organisations & stores.keys()) if found else []


def _write(update: HashedUpdate) -> CommittedWrite:
    return CommittedWrite(
        tx_index=update.version.tx,
        namespace=update.namespace,
        collection=update.collection,
        key_hash=update.key_hash,
        value_hash=update.value_hash,
        purged_at=update.purged_at,
        expires=storable(update.expires),
    )

"""A consistent view of the ledger at one height: the state, and the private data of some organisations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Self

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.embedded.storage.private_set import PrivateValue
from blockfl.fabric.embedded.storage.private_view import PrivateView
from blockfl.fabric.embedded.storage.store import Savepoint, StoredStateView
from blockfl.fabric.errors import NodeError
from blockfl.fabric.transaction.rwset import hash_key
from blockfl.fabric.validate import HashedValue, StateValue


class Snapshot:
    """The state at one height, read consistently whatever is committed meanwhile; a `validate.StateView`.

    Use it as a context manager and not for long: an open snapshot keeps old pages on disk. One thread at a time.

    Attributes:
        height: how many blocks are in it.
        config: the channel's configuration at that height.
        organisations: whose private data can be read.
    """

    def __init__(
        self,
        state: StoredStateView,
        private: Mapping[str, PrivateView],
        committed: Savepoint,
        config: ChannelConfig,
    ) -> None:
        """Put the parts together; they are closed with the snapshot."""
        self._state = state
        self._private = private
        self._closed = False
        self.height = committed.height
        self.config = config
        self.organisations = tuple(private)

    def get(self, namespace: str, key: str) -> StateValue | None:
        """Read a public value."""
        return self._state.get(namespace, key)

    def range(self, namespace: str, start: str, end: str) -> Iterator[tuple[str, StateValue]]:
        """Iterate public keys in order, `start` included, `end` excluded; an empty `end` has no bound."""
        return self._state.range(namespace, start, end)

    def get_hash(self, namespace: str, collection: str, key_hash: bytes) -> HashedValue | None:
        """Read the hash of a private value."""
        return self._state.get_hash(namespace, collection, key_hash)

    def has_transaction(self, tx_id: str) -> bool:
        """Tell whether a transaction with this id, valid or not, is on the ledger."""
        return self._state.has_transaction(tx_id)

    def private_get(self, organisation: str, namespace: str, collection: str, key: str) -> PrivateValue | None:
        """Read a private value as an organisation of this snapshot holds it.

        Raises:
            NodeError: the ledger knows the value's hash, but this organisation does not hold the value, or what
                it holds is damaged.
        """
        hashed = self._state.get_hash(namespace, collection, hash_key(key))
        if hashed is None:
            return None
        found = self._view(organisation).get(namespace, collection, key)
        return self._verified(organisation, namespace, collection, hashed, found)

    def private_range(
        self, organisation: str, namespace: str, collection: str, start: str, end: str
    ) -> Iterator[tuple[str, PrivateValue]]:
        """Iterate the private keys that the organisation holds, in order.

        Raises:
            NodeError: what it holds is damaged.
        """
        for key, found in self._view(organisation).range(namespace, collection, start, end):
            hashed = self._state.get_hash(namespace, collection, hash_key(key))
            if hashed is not None:
                yield key, self._verified(organisation, namespace, collection, hashed, found)

    def close(self) -> None:
        """Give the read transactions back; a second time does nothing."""
        if not self._closed:
            self._closed = True
            self._state.close()
            for view in self._private.values():
                view.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _view(self, organisation: str) -> PrivateView:
        if organisation not in self._private:
            names = ", ".join(self._private) or "none"
            raise NodeError(f"expected an organisation of this snapshot ({names}), got {organisation!r}")
        return self._private[organisation]

    def _verified(
        self,
        organisation: str,
        namespace: str,
        collection: str,
        hashed: HashedValue,
        found: PrivateValue | None,
    ) -> PrivateValue:
        what = f"the private value in collection {collection!r} of {namespace!r}"
        if found is None or found.version != hashed.version:
            raise NodeError(f"{organisation} does not hold {what} that the ledger names: ask another member")
        if sha256(found.value).digest() != hashed.value_hash:
            raise NodeError(
                f"{what} that {organisation} holds does not have its hash on the ledger: its files are damaged: "
                "restore the organisation's directory from a copy"
            )
        return found

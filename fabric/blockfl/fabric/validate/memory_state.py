"""A ledger's state in memory, for auditors and tests."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from blockfl.fabric.validate import HashedValue, StateUpdates, StateValue


class MemoryState:
    """The state of a ledger that is replayed block by block; a `validate.StateView`.

    validation = validate_block(block, config, state)
    state.apply(validation.updates, validation.tx_ids)
    """

    def __init__(self) -> None:
        self._public: dict[str, dict[str, StateValue]] = {}
        self._order: dict[str, list[str]] = {}
        self._hashed: dict[tuple[str, str], dict[bytes, HashedValue]] = {}
        self._expiring: dict[int, set[tuple[str, str, bytes]]] = {}
        self._tx_ids: set[str] = set()

    def get(self, namespace: str, key: str) -> StateValue | None:
        """The public value of a key."""
        return self._public.get(namespace, {}).get(key)

    def range(self, namespace: str, start: str, end: str) -> Iterator[tuple[str, StateValue]]:
        """Public keys in order, `start` included, `end` not; an empty one means unbounded."""
        values, order = self._public.get(namespace, {}), self._order.get(namespace, [])
        last = bisect_left(order, end) if end else len(order)
        for key in order[bisect_left(order, start) : last]:
            yield key, values[key]

    def get_hash(self, namespace: str, collection: str, key_hash: bytes) -> HashedValue | None:
        """The hash of a private value."""
        return self._hashed.get((namespace, collection), {}).get(key_hash)

    def has_transaction(self, tx_id: str) -> bool:
        """Whether a transaction that states this id is on the ledger."""
        return tx_id in self._tx_ids

    def namespaces(self) -> list[str]:
        """The namespaces that hold public values."""
        return sorted(namespace for namespace, values in self._public.items() if values)

    def collections(self) -> list[tuple[str, str]]:
        """The namespaces and collections that hold hashes of private values."""
        return sorted(place for place, values in self._hashed.items() if values)

    def hashes(self, namespace: str, collection: str) -> Iterator[tuple[bytes, HashedValue]]:
        """The hashed keys of a collection and what is known of them, in order."""
        yield from sorted(self._hashed.get((namespace, collection), {}).items(), key=lambda item: item[0])

    def apply(self, updates: StateUpdates, tx_ids: Iterable[str | None]) -> None:
        """Take over what a block changes, and its transaction ids."""
        for namespace, collection, key_hash in self._expiring.pop(updates.number, ()):
            self._hashed[namespace, collection].pop(key_hash, None)
        for update in updates.public:
            self._set(
                update.namespace,
                update.key,
                None
                if update.value is None
                else StateValue(value=update.value, version=update.version, metadata=update.metadata),
            )
        for hashed in updates.hashed:
            place = (hashed.namespace, hashed.collection, hashed.key_hash)
            for places in self._expiring.values():
                places.discard(place)
            if hashed.expires is not None:
                self._expiring.setdefault(hashed.expires, set()).add(place)
            values = self._hashed.setdefault((hashed.namespace, hashed.collection), {})
            if hashed.value_hash is None:
                values.pop(hashed.key_hash, None)
            else:
                values[hashed.key_hash] = HashedValue(
                    value_hash=hashed.value_hash, version=hashed.version, metadata=hashed.metadata
                )
        self._tx_ids.update(tx_id for tx_id in tx_ids if tx_id is not None)

    def _set(self, namespace: str, key: str, value: StateValue | None) -> None:
        values, order = self._public.setdefault(namespace, {}), self._order.setdefault(namespace, [])
        if value is None:
            if values.pop(key, None) is not None:
                del order[bisect_left(order, key)]
            return
        if key not in values:
            insort(order, key)
        values[key] = value

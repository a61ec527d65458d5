"""What the valid transactions of a block change, put together one after the other.

The rules for what several operations on one key amount to are those of real peers, surprises included: operations
are added up as numbers, so that the same key written twice in one transaction counts as a change of metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from blockfl.fabric.transaction.rwset import (
    Entries,
    NamespaceReadWriteSet,
    ReadWriteSet,
    Version,
    encode_metadata,
)
from blockfl.fabric.validate.state import CONFIG_KEY, CONFIG_NAMESPACE, HashedUpdate, PublicUpdate, StateUpdates

if TYPE_CHECKING:
    from blockfl.fabric.validate.state import StateView

_UPSERT: Final = 1
_METADATA_UPDATE: Final = 2
_METADATA_DELETE: Final = 4
_DELETE: Final = 8
_FLAGS_MASK: Final = 0xFF

PublicPlace = tuple[str, str]
HashedPlace = tuple[str, str, bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A key's state after the transactions so far; no value means that it is gone."""

    value: bytes | None
    version: Version
    metadata: bytes = b""


@dataclass(slots=True)
class _Operation:
    """What one transaction does to one key."""

    flags: int = 0
    value: bytes = b""
    metadata: bytes = b""

    def write(self, value: bytes | None) -> None:
        self._add(_DELETE if value is None else _UPSERT)
        if value is not None:
            self.value = value

    def write_metadata(self, entries: Entries) -> None:
        self._add(_METADATA_UPDATE if entries else _METADATA_DELETE)
        if entries:
            self.metadata = encode_metadata(entries)

    def _add(self, flag: int) -> None:
        self.flags = (self.flags + flag) & _FLAGS_MASK

    @property
    def deletes(self) -> bool:
        return bool(self.flags & _DELETE)

    @property
    def replaces_all(self) -> bool:
        return bool(self.flags & _UPSERT and self.flags & (_METADATA_UPDATE | _METADATA_DELETE))

    @property
    def keeps_metadata(self) -> bool:
        return self.flags | _UPSERT == _UPSERT


class UpdateBatch:
    """The changes of the valid transactions of one block so far, on top of the ledger's state."""

    def __init__(self, state: StateView) -> None:
        self._state = state
        self._public: dict[PublicPlace, Change] = {}
        self._hashed: dict[HashedPlace, Change] = {}
        self._purged: dict[HashedPlace, Version] = {}

    def changes_public(self, namespace: str, key: str) -> bool:
        """Whether a transaction of this block has written or deleted a public key."""
        return (namespace, key) in self._public

    def changes_hashed(self, namespace: str, collection: str, key_hash: bytes) -> bool:
        """Whether a transaction of this block has written or deleted a private key."""
        return (namespace, collection, key_hash) in self._hashed

    def public_change(self, namespace: str, key: str) -> Change | None:
        """What the transactions of this block have made of a public key; None when nothing."""
        return self._public.get((namespace, key))

    def public_changes(self, namespace: str, start: str, end: str) -> list[tuple[str, Change]]:
        """The changed public keys of a range, in ascending order; an empty end means unbounded."""
        return sorted(
            (key, change)
            for (changed, key), change in self._public.items()
            if changed == namespace and start <= key and (not end or key < end)
        )

    def apply(self, readwrites: ReadWriteSet, version: Version) -> None:
        """Add the changes of a valid transaction."""
        public: dict[PublicPlace, _Operation] = {}
        hashed: dict[HashedPlace, _Operation] = {}
        for namespace in readwrites.namespaces:
            _collect(namespace, public, hashed)
            for collection in namespace.collections:
                for write in collection.writes:
                    if write.is_purge:
                        place = (namespace.namespace, collection.collection, write.key_hash)
                        self._purged[place] = version
        # All is resolved against what was before this transaction, only then applied.
        public_changes = list(self._resolve_public(public, version))
        hashed_changes = list(self._resolve_hashed(hashed, version))
        self._public.update(public_changes)
        self._hashed.update(hashed_changes)

    def apply_config(self, envelope: bytes, version: Version) -> None:
        """Add a new configuration, which the state keeps under a key of its own."""
        self._public[CONFIG_NAMESPACE, CONFIG_KEY] = Change(value=envelope, version=version)

    def finish(self, number: int, expires: Callable[[str, str], int | None]) -> StateUpdates:
        """All changes, in order.

        Args:
            number: the block's number.
            expires: for namespace and collection, the number of the block that removes what this one writes.
        """
        return StateUpdates(
            number=number,
            public=tuple(
                PublicUpdate(
                    namespace=namespace,
                    key=key,
                    value=change.value,
                    version=change.version,
                    metadata=change.metadata,
                )
                for (namespace, key), change in sorted(self._public.items())
            ),
            hashed=tuple(
                HashedUpdate(
                    namespace=place[0],
                    collection=place[1],
                    key_hash=place[2],
                    value_hash=change.value,
                    version=change.version,
                    metadata=change.metadata,
                    expires=None if change.value is None else expires(place[0], place[1]),
                    purged_at=self._purged.get(place),
                )
                for place, change in sorted(self._hashed.items())
            ),
        )

    def _resolve_public(
        self, operations: dict[PublicPlace, _Operation], version: Version
    ) -> Iterator[tuple[PublicPlace, Change]]:
        for place, operation in operations.items():
            before = self._public.get(place)
            if before is None and not (operation.deletes or operation.replaces_all):
                stored = self._state.get(*place)
                if stored is not None:
                    before = Change(value=stored.value, version=stored.version, metadata=stored.metadata)
            change = _resolve(operation, before, version)
            if change is not None:
                yield place, change

    def _resolve_hashed(
        self, operations: dict[HashedPlace, _Operation], version: Version
    ) -> Iterator[tuple[HashedPlace, Change]]:
        for place, operation in operations.items():
            before = self._hashed.get(place)
            if before is None and not (operation.deletes or operation.replaces_all):
                stored = self._state.get_hash(*place)
                if stored is not None:
                    before = Change(value=stored.value_hash, version=stored.version, metadata=stored.metadata)
            change = _resolve(operation, before, version)
            if change is not None:
                yield place, change


def _resolve(operation: _Operation, before: Change | None, version: Version) -> Change | None:
    if operation.deletes:
        return Change(value=None, version=version)
    if operation.replaces_all:
        return Change(value=operation.value, version=version, metadata=operation.metadata)
    if operation.keeps_metadata:
        metadata = b"" if before is None else before.metadata
        return Change(value=operation.value, version=version, metadata=metadata)
    # Only metadata: on a key that does not exist nothing is kept.
    if before is None or before.value is None:
        return None
    return Change(value=before.value, version=version, metadata=operation.metadata)


def _collect(
    readwrites: NamespaceReadWriteSet,
    public: dict[PublicPlace, _Operation],
    hashed: dict[HashedPlace, _Operation],
) -> None:
    name = readwrites.namespace
    for write in readwrites.writes:
        public.setdefault((name, write.key), _Operation()).write(None if write.deletes else write.value)
    for metadata_write in readwrites.metadata_writes:
        public.setdefault((name, metadata_write.key), _Operation()).write_metadata(metadata_write.entries)
    for collection in readwrites.collections:
        for hashed_write in collection.writes:
            place = (name, collection.collection, hashed_write.key_hash)
            value_hash = None if hashed_write.deletes else hashed_write.value_hash
            hashed.setdefault(place, _Operation()).write(value_hash)
        for hashed_metadata in collection.metadata_writes:
            place = (name, collection.collection, hashed_metadata.key_hash)
            hashed.setdefault(place, _Operation()).write_metadata(hashed_metadata.entries)

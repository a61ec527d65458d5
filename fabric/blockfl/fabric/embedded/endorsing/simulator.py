"""Simulates one transaction of one organisation on a snapshot of the ledger.

Owns what a transaction may read and write, and records it: reads see the snapshot, never the transaction's own
writes. Refuses private data to callers that a collection's rules exclude, writes after paginated or private
queries, and unknown collections. The result is byte for byte what a real peer endorses.

Example:
    simulator = Simulator(snapshot, organisation="alpha", channel="fed", organisations=("alpha", "beta"),
                          is_member=lambda policy: True)
    simulator.put_state("app", "key", b"value")
    simulator.result().public
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from blockfl.fabric.embedded.endorsing.rwset_builder import Digest, RangeRecord, RwsetBuilder, SimulationResult
from blockfl.fabric.embedded.ordering.ledger import PrivateValue
from blockfl.fabric.embedded.storage.definition import (
    LEGACY_LIFECYCLE,
    LIFECYCLE,
    StoredDefinition,
    read_definition,
    read_sequence,
)
from blockfl.fabric.errors import FabricError, NodeError
from blockfl.fabric.transaction.collection import IMPLICIT_PREFIX, Collection, implicit_collection
from blockfl.fabric.transaction.rwset import VALIDATION_PARAMETER, Version, decode_metadata, hash_key
from blockfl.fabric.validate import HashedValue, StateValue


class SimulationError(FabricError):
    """A ledger operation of a contract was refused; the contract gets the text."""


class SimulationState(Protocol):
    """A consistent view of the ledger, with the private data of the organisations that simulate."""

    def get(self, namespace: str, key: str) -> StateValue | None:
        """Read a public value."""

    def range(self, namespace: str, start: str, end: str) -> Iterator[tuple[str, StateValue]]:
        """Iterate public keys, `start` included, `end` not; empty means unbounded."""

    def get_hash(self, namespace: str, collection: str, key_hash: bytes) -> HashedValue | None:
        """Read the hash of a private value."""

    def private_get(self, organisation: str, namespace: str, collection: str, key: str) -> PrivateValue | None:
        """Read a private value as an organisation holds it."""

    def private_range(
        self, organisation: str, namespace: str, collection: str, start: str, end: str
    ) -> Iterator[tuple[str, PrivateValue]]:
        """Iterate the private keys that an organisation holds."""


@dataclass(slots=True)
class Interest:
    """Which policies the endorsements of a transaction have to satisfy.

    Attributes:
        namespaces: Per chaincode, whether its own policy is needed.
        collections: Per (chaincode, collection) written or read.
        key_policies: Per chaincode, the key-level policies of what it wrote.
        private_reads: (chaincode, collection) whose values were read.
    """

    namespaces: dict[str, bool] = field(default_factory=dict)
    collections: dict[tuple[str, str], bool] = field(default_factory=dict)
    key_policies: dict[str, dict[bytes, None]] = field(default_factory=dict)
    private_reads: set[tuple[str, str]] = field(default_factory=set)

    def add_write(self, namespace: str, collection: str, policy: bytes) -> None:
        """Notes a write: the key's own policy says who decides, otherwise that of the collection or chaincode."""
        self.namespaces.setdefault(namespace, False)
        if policy:
            self.key_policies.setdefault(namespace, {})[policy] = None
        elif collection:
            self.collections[namespace, collection] = True
        else:
            self.namespaces[namespace] = True


class Scan:
    """A public range query in progress."""

    def __init__(self, namespace: str, record: RangeRecord, rows: Iterator[tuple[str, StateValue]], page_size: int):
        self.namespace = namespace
        self.record = record
        self._rows = rows
        self._page_size = page_size
        self._returned = 0

    def next(self) -> tuple[str, bytes] | None:
        """Returns the next key and value and records the read; `None` at the end."""
        row = None if 0 < self._page_size <= self._returned else next(self._rows, None)
        if row is None:
            self.record.finish()
            return None
        key, found = row
        self._returned += 1
        self.record.add(key, found.version)
        return key, found.value

    def bookmark(self) -> str:
        """Returns the key at which the next page begins, without recording a read."""
        row = next(self._rows, None)
        return row[0] if row else ""


class PrivateScan:
    """A range query over private data in progress: not recorded, so only for read-only transactions."""

    def __init__(self, rows: Iterator[tuple[str, PrivateValue]]):
        self._rows = rows

    def next(self) -> tuple[str, bytes] | None:
        """Returns the next key and value; `None` at the end."""
        row = next(self._rows, None)
        return (row[0], row[1].value) if row else None

    def bookmark(self) -> str:
        """Private queries have no pages."""
        return ""


class Simulator:
    """Reads and writes of one transaction, as the peer of one organisation sees them.

    Args:
        state: Snapshot to read from.
        organisation: MSP id of the organisation whose private data may be read.
        channel: Channel's name, for messages.
        organisations: MSP ids of the channel's application organisations.
        is_member: Tells whether the transaction's creator satisfies a collection's member policy.
        digest: SHA-256 of large values, remembered where several simulators see the same ones.
    """

    def __init__(
        self,
        state: SimulationState,
        *,
        organisation: str,
        channel: str,
        organisations: tuple[str, ...],
        is_member: Callable[[Any], bool],
        digest: Digest | None = None,
    ) -> None:
        self.organisation = organisation
        self.channel = channel
        self.organisations = organisations
        self.interest = Interest()
        self._state = state
        self._is_member = is_member
        self._builder = RwsetBuilder(digest)
        self._scans: list[Scan] = []
        self._known_collections: dict[str, set[str]] = {}
        self._permissions: dict[tuple[str, str], tuple[bool, bool]] = {}
        self._wrote = self._paged = self._queried_private = False

    # --- public state

    def get_state(self, namespace: str, key: str) -> bytes:
        """Reads a public value; empty when there is none."""
        found = self._read(namespace, key)
        return found.value if found else b""

    def get_metadata(self, namespace: str, key: str) -> Mapping[str, bytes]:
        """Reads a public key's metadata, its key-level policy."""
        found = self._read(namespace, key)
        return decode_metadata(found.metadata) if found and found.metadata else {}

    def put_state(self, namespace: str, key: str, value: bytes) -> None:
        """Writes a public value; an empty one deletes the key."""
        self._check_write()
        self._builder.add_write(namespace, key, value)
        self._note_write(namespace, key)

    def put_metadata(self, namespace: str, key: str, entries: Mapping[str, bytes]) -> None:
        """Replaces a public key's metadata."""
        self._check_write()
        self._builder.add_metadata(namespace, key, entries)
        self._note_write(namespace, key)

    def scan(self, namespace: str, start: str, end: str, *, page_size: int = 0) -> Scan:
        """Opens a range query; with a page size the transaction may not write."""
        if page_size:
            if self._wrote:
                raise SimulationError(
                    "paginated queries are only allowed in a transaction that writes nothing, this one has written: "
                    "query in a transaction of its own"
                )
            self._paged = True
        scan = Scan(namespace, RangeRecord(start, end), iter(self._state.range(namespace, start, end)), page_size)
        self._scans.append(scan)
        return scan

    # --- private data

    def get_private(self, namespace: str, collection: str, key: str) -> bytes:
        """Reads a private value; empty when there is none.

        Raises:
            SimulationError: The organisation does not hold the value that the ledger knows.
        """
        self._check_collection(namespace, collection)
        known = self._state.get_hash(namespace, collection, hash_key(key))
        try:
            found = self._state.private_get(self.organisation, namespace, collection, key)
        except NodeError:
            found = None  # known to the ledger, but not held here: said below in Fabric's words
        held, public = found.version if found else None, known.version if known else None
        if held != public:
            raise SimulationError(
                "private data matching public hash version is not available. "
                f"Public hash version = {_format_version(public)}, Private data version = {_format_version(held)}"
            )
        self._builder.add_hashed_read(namespace, collection, key, public)
        self.interest.private_reads.add((namespace, collection))
        return found.value if found else b""

    def get_private_hash(self, namespace: str, collection: str, key: str) -> bytes:
        """Reads the hash of a private value; empty when there is none. Anybody may."""
        found = self._read_hash(namespace, collection, key)
        return found.value_hash if found else b""

    def get_private_metadata(self, namespace: str, collection: str, key: str) -> Mapping[str, bytes]:
        """Reads a private key's metadata, its key-level policy."""
        found = self._read_hash(namespace, collection, key)
        return decode_metadata(found.metadata) if found and found.metadata else {}

    def put_private(self, namespace: str, collection: str, key: str, value: bytes, *, purge: bool = False) -> None:
        """Writes a private value; an empty one deletes the key, `purge` its history too."""
        self._check_collection(namespace, collection)
        self._check_write()
        self._builder.add_private_write(namespace, collection, key, value, purge=purge)
        self._note_private_write(namespace, collection, key)

    def put_private_metadata(self, namespace: str, collection: str, key: str, entries: Mapping[str, bytes]) -> None:
        """Replaces a private key's metadata."""
        self._check_collection(namespace, collection)
        self._check_write()
        self._builder.add_private_metadata(namespace, collection, key, entries)
        self._note_private_write(namespace, collection, key)

    def scan_private(self, namespace: str, collection: str, start: str, end: str) -> PrivateScan:
        """Opens a range query over private data; the transaction may not write."""
        if self._wrote:
            raise SimulationError(
                "queries on private data are only allowed in a transaction that writes nothing, this one has written: "
                "query in a transaction of its own"
            )
        self._queried_private = True
        self._check_collection(namespace, collection)
        rows = self._state.private_range(self.organisation, namespace, collection, start, end)
        return PrivateScan(iter(rows))

    # --- definitions and permissions

    def sequence(self, chaincode: str) -> int:
        """Reads a chaincode's sequence number; 0 when it is not defined."""
        return read_sequence(self.get_state, chaincode)

    def definition(self, chaincode: str) -> StoredDefinition | None:
        """Reads a chaincode's definition."""
        return read_definition(self.get_state, chaincode)

    def check_may_read(self, namespace: str, collection: str) -> None:
        """Refuses a creator who is no member of a collection with `memberOnlyRead`.

        Raises:
            SimulationError: The creator may not read, or the collection does not exist.
        """
        if not self._permission(namespace, collection)[0]:
            raise SimulationError(
                "tx creator does not have read access permission on privatedata in "
                f"chaincodeName:{namespace} collectionName: {collection}"
            )

    def check_may_write(self, namespace: str, collection: str) -> None:
        """Refuses a creator who is no member of a collection with `memberOnlyWrite`.

        Raises:
            SimulationError: The creator may not write, or the collection does not exist.
        """
        if not self._permission(namespace, collection)[1]:
            raise SimulationError(
                "tx creator does not have write access permission on privatedata in "
                f"chaincodeName:{namespace} collectionName: {collection}"
            )

    def result(self) -> SimulationResult:
        """Serialises what was read and written; to be called once."""
        for scan in self._scans:
            self._builder.add_range(scan.namespace, scan.record)
        self._scans.clear()
        for namespace in self._builder.namespaces():
            if namespace not in (LIFECYCLE, LEGACY_LIFECYCLE):
                self.interest.namespaces.setdefault(namespace, True)
        for read in self.interest.private_reads:
            self.interest.collections[read] = True
        return self._builder.build()

    # --- inside

    def _read(self, namespace: str, key: str) -> StateValue | None:
        found = self._state.get(namespace, key)
        self._builder.add_read(namespace, key, found.version if found else None)
        return found

    def _read_hash(self, namespace: str, collection: str, key: str) -> HashedValue | None:
        self._check_collection(namespace, collection)
        found = self._state.get_hash(namespace, collection, hash_key(key))
        self._builder.add_hashed_read(namespace, collection, key, found.version if found else None)
        return found

    def _note_write(self, namespace: str, key: str) -> None:
        found = self._state.get(namespace, key)
        self.interest.add_write(namespace, "", _key_policy(found))

    def _note_private_write(self, namespace: str, collection: str, key: str) -> None:
        found = self._state.get_hash(namespace, collection, hash_key(key))
        self.interest.add_write(namespace, collection, _key_policy(found))

    def _check_write(self) -> None:
        if self._queried_private or self._paged:
            kind = "a query on private data" if self._queried_private else "a paginated query"
            raise SimulationError(f"the transaction has made {kind}, so it must not write: write in another one")
        self._wrote = True

    def _check_collection(self, namespace: str, collection: str) -> None:
        known = self._known_collections.get(namespace)
        if known is None:
            known = {IMPLICIT_PREFIX + msp_id for msp_id in self.organisations}
            if namespace not in (LIFECYCLE, LEGACY_LIFECYCLE):
                definition = self.definition(namespace)
                known |= set(definition.collections) if definition else set()
            self._known_collections[namespace] = known
        if collection not in known:
            raise SimulationError(
                f"collection [{collection}] not defined in the collection config for chaincode [{namespace}]"
            )

    def _permission(self, namespace: str, collection: str) -> tuple[bool, bool]:
        place = namespace, collection
        if place not in self._permissions:
            found = self._find_collection(namespace, collection)
            if not (found.member_only_read or found.member_only_write) or self._is_member(found.members):
                self._permissions[place] = True, True
            else:
                self._permissions[place] = not found.member_only_read, not found.member_only_write
        return self._permissions[place]

    def _find_collection(self, namespace: str, collection: str) -> Collection:
        definition = None if namespace == LIFECYCLE else self.definition(namespace)
        if collection.startswith(IMPLICIT_PREFIX):
            return implicit_collection(collection.removeprefix(IMPLICIT_PREFIX))
        found = definition.collections.get(collection) if definition else None
        if found is None:
            raise SimulationError(f"collection {self.channel}/{namespace}/{collection} could not be found")
        return found


def _key_policy(found: StateValue | HashedValue | None) -> bytes:
    if found is None or not found.metadata:
        return b""
    return decode_metadata(found.metadata).get(VALIDATION_PARAMETER, b"")


def _format_version(version: Version | None) -> str:
    return f"{{BlockNum: {version[0]}, TxNum: {version[1]}}}" if version else "<nil>"

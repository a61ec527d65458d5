"""What each organisation can run: definitions on the ledger, its own approval, its package.

Owns a cache that lasts until a block changes definitions, approvals or the configuration: between those, looking a
chaincode up costs nothing, although every transaction asks for it at every organisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from blockfl.fabric.embedded.endorsing.lifecycle_state import NAMESPACES, SOURCES, Parameters, encode_metadata
from blockfl.fabric.embedded.ordering.ledger import ChannelLedger, Snapshot
from blockfl.fabric.embedded.storage.definition import (
    LIFECYCLE,
    StoredDefinition,
    decode_state_data,
    read_definition,
)
from blockfl.fabric.errors import NodeError
from blockfl.fabric.transaction.collection import IMPLICIT_PREFIX
from blockfl.fabric.transaction.rwset import hash_key

_PARAMETERS = "ChaincodeParameters"


@dataclass(frozen=True, kw_only=True)
class ChaincodeView:
    """A chaincode as one organisation sees it.

    Attributes:
        definition: What is committed.
        package_id: The package that the organisation approved; empty when it approved none.
        approved: Whether it approved exactly what is committed.
    """

    definition: StoredDefinition
    package_id: str
    approved: bool


class Approvals:
    """Looks chaincodes up for one organisation.

    Args:
        organisation: Its MSP id.
        ledger: Tells when definitions last changed.
    """

    def __init__(self, organisation: str, ledger: ChannelLedger) -> None:
        self._organisation = organisation
        self._ledger = ledger
        self._known: dict[str, ChaincodeView | None] = {}
        self._known_at = 0

    def find(self, chaincode: str, snapshot: Snapshot) -> ChaincodeView | None:
        """Looks a chaincode up; None when it is not defined."""
        changed_at = self._ledger.definitions_height
        if snapshot.height < changed_at:
            return self._read(chaincode, snapshot)  # a view from before the change: nothing to remember
        if self._known_at < changed_at:
            self._known.clear()
            self._known_at = changed_at
        if chaincode not in self._known:
            self._known[chaincode] = self._read(chaincode, snapshot)
        return self._known[chaincode]

    def all(self, snapshot: Snapshot) -> list[ChaincodeView]:
        """Lists every chaincode that is defined."""
        prefix = f"{NAMESPACES}/metadata/"
        rows = snapshot.range(LIFECYCLE, prefix, prefix + "\x7f")
        found = [self._read(key.removeprefix(prefix), snapshot) for key, _ in rows]
        return [approval for approval in found if approval is not None]

    def _read(self, chaincode: str, snapshot: Snapshot) -> ChaincodeView | None:
        reader = _PublicReader(snapshot)
        definition = read_definition(lambda _, key: reader.get(key), chaincode)
        if definition is None:
            return None
        return ChaincodeView(
            definition=definition,
            package_id=self._read_package_id(definition, snapshot),
            approved=self._has_approved(definition, snapshot, reader),
        )

    def _read_package_id(self, definition: StoredDefinition, snapshot: Snapshot) -> str:
        if self._organisation not in snapshot.organisations:
            # Calls open the private data of those alone whom they ask; a later approval of this sequence counts, too.
            with self._ledger.snapshot(self._organisation) as own:
                return self._read_package_id(definition, own)
        key = f"{SOURCES}/fields/{definition.name}#{definition.sequence}/PackageID"
        try:
            found = snapshot.private_get(self._organisation, LIFECYCLE, IMPLICIT_PREFIX + self._organisation, key)
        except NodeError:
            return ""
        return str(decode_state_data(found.value).String) if found else ""

    def _has_approved(self, definition: StoredDefinition, snapshot: Snapshot, reader: _PublicReader) -> bool:
        name = f"{definition.name}#{definition.sequence}"
        fields = Parameters.read(definition.name, reader).fields()
        expected = {f"{NAMESPACES}/metadata/{name}": encode_metadata(_PARAMETERS, fields)}
        expected |= {f"{NAMESPACES}/fields/{name}/{f}": value for f, value in fields.items()}
        for key, value in expected.items():
            found = snapshot.get_hash(LIFECYCLE, IMPLICIT_PREFIX + self._organisation, hash_key(key))
            if found is None or found.value_hash != sha256(value).digest():
                return False
        return True


class _PublicReader:
    """Reads the public lifecycle state; nothing is recorded."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def get(self, key: str) -> bytes:
        found = self._snapshot.get(LIFECYCLE, key)
        return found.value if found else b""

    def put(self, key: str, value: bytes) -> None:
        raise NotImplementedError("this view of the lifecycle's state is only for reading")

"""How the lifecycle lays out definitions on the ledger: one key per field, so that upgrades write what changed.

Owns the layout (`namespaces/metadata/<name>`, `namespaces/fields/<name>/<field>`) and its comparison by hashes,
by which one organisation's peer sees whether another has approved the same definition.

Source: Fabric's core/chaincode/lifecycle/serializer.go; checked against the recorded ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol

from fabric_protos.peer import collection_pb2
from fabric_protos.peer.lifecycle import chaincode_definition_pb2, db_pb2

from blockfl.fabric.embedded.endorsing.simulator import Simulator
from blockfl.fabric.embedded.storage.definition import LIFECYCLE, decode_state_data, decode_stored
from blockfl.fabric.transaction.collection import IMPLICIT_PREFIX

NAMESPACES = "namespaces"
SOURCES = "chaincode-sources"

Fields = Mapping[str, bytes]
"""Field name to serialised StateData, in the order of the structure."""


class StructurePlace(Protocol):
    """Where a structure is laid out."""

    def get(self, key: str) -> bytes:
        """Read a value; empty when there is none."""

    def put(self, key: str, value: bytes) -> None:
        """Write a value; an empty one deletes."""


class PublicState:
    """The channel's public lifecycle state."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def get(self, key: str) -> bytes:
        """Read a value; empty when there is none."""
        return self._simulator.get_state(LIFECYCLE, key)

    def put(self, key: str, value: bytes) -> None:
        """Write a value; an empty one deletes."""
        self._simulator.put_state(LIFECYCLE, key, value)


class OrganisationState:
    """One organisation's private lifecycle state; the others see hashes."""

    def __init__(self, simulator: Simulator, msp_id: str) -> None:
        self._simulator = simulator
        self._collection = IMPLICIT_PREFIX + msp_id

    def get(self, key: str) -> bytes:
        """Read a value; empty when there is none."""
        return self._simulator.get_private(LIFECYCLE, self._collection, key)

    def put(self, key: str, value: bytes) -> None:
        """Write a value; an empty one deletes."""
        self._simulator.put_private(LIFECYCLE, self._collection, key, value)

    def get_hash(self, key: str) -> bytes:
        """Read a value's hash; empty when there is none."""
        return self._simulator.get_private_hash(LIFECYCLE, self._collection, key)


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """What organisations agree on when they approve a definition.

    Attributes:
        policy: Serialised ApplicationPolicy: who must endorse.
        collections: collection_pb2.CollectionConfigPackage.
    """

    version: str
    endorsement_plugin: str
    validation_plugin: str
    policy: bytes
    init_required: bool
    collections: Any = field(default_factory=collection_pb2.CollectionConfigPackage)

    def fields(self) -> Fields:
        """Serialises each field."""
        info = chaincode_definition_pb2.ChaincodeEndorsementInfo(
            version=self.version, endorsement_plugin=self.endorsement_plugin, init_required=self.init_required
        )
        rules = chaincode_definition_pb2.ChaincodeValidationInfo(
            validation_plugin=self.validation_plugin, validation_parameter=self.policy
        )
        messages = {"EndorsementInfo": info, "ValidationInfo": rules, "Collections": self.collections}
        return {
            name: encode_data(Bytes=message.SerializeToString(deterministic=True)) for name, message in messages.items()
        }

    @classmethod
    def read(cls, name: str, state: StructurePlace) -> Parameters:
        """Reads the fields of a definition; missing ones are empty."""

        def message(kind: Any, field_name: str) -> Any:
            value = state.get(f"{NAMESPACES}/fields/{name}/{field_name}")
            return decode_stored(kind, decode_state_data(value).Bytes)

        info = message(chaincode_definition_pb2.ChaincodeEndorsementInfo, "EndorsementInfo")
        rules = message(chaincode_definition_pb2.ChaincodeValidationInfo, "ValidationInfo")
        return cls(
            version=info.version,
            endorsement_plugin=info.endorsement_plugin,
            init_required=info.init_required,
            validation_plugin=rules.validation_plugin,
            policy=rules.validation_parameter,
            collections=message(collection_pb2.CollectionConfigPackage, "Collections"),
        )

    def difference(self, other: Parameters) -> str:
        """Says in what another definition differs; empty when it does not."""
        for what, mine, its in (
            ("Version", self.version, other.version),
            ("EndorsementPlugin", self.endorsement_plugin, other.endorsement_plugin),
            ("InitRequired", self.init_required, other.init_required),
            ("ValidationPlugin", self.validation_plugin, other.validation_plugin),
            ("ValidationParameter", self.policy.hex(), other.policy.hex()),
        ):
            if mine != its:
                return f"expected {what} '{mine}' does not match passed {what} '{its}'"
        return "" if self.collections == other.collections else "Collections do not match"


def encode_data(**value: Any) -> bytes:
    """Serialises one field's value as StateData (`Int64`, `Bytes` or `String`)."""
    return bytes(db_pb2.StateData(**value).SerializeToString())


def encode_metadata(datatype: str, fields: Fields) -> bytes:
    """Serialises the key that says which fields a structure has."""
    return bytes(db_pb2.StateMetadata(datatype=datatype, fields=list(fields)).SerializeToString())


def read_metadata(namespace: str, name: str, state: StructurePlace) -> Any:
    """Reads the key that says which fields a structure has; None when there is no such structure."""
    value = state.get(f"{namespace}/metadata/{name}")
    return decode_stored(db_pb2.StateMetadata, value) if value else None


def read_integer(name: str, field_name: str, state: StructurePlace) -> int:
    """Reads an integer field; 0 when there is none."""
    return int(decode_state_data(state.get(f"{NAMESPACES}/fields/{name}/{field_name}")).Int64)


def write(namespace: str, name: str, datatype: str, fields: Fields, state: StructurePlace) -> None:
    """Lays a structure out, writing only what changes and deleting fields that it no longer has."""
    metadata = read_metadata(namespace, name, state)
    stored = list(metadata.fields) if metadata else []
    existing = {key: state.get(key) for key in (f"{namespace}/fields/{name}/{f}" for f in stored)}
    for field_name, value in fields.items():
        key = f"{namespace}/fields/{name}/{field_name}"
        if existing.pop(key, None) != value:
            state.put(key, value)
    if existing or metadata is None or metadata.datatype != datatype or len(stored) != len(fields):
        state.put(f"{namespace}/metadata/{name}", encode_metadata(datatype, fields))
    for key in existing:
        state.put(key, b"")


def find_mismatches(name: str, datatype: str, fields: Fields, state: OrganisationState) -> list[str]:
    """Compares a structure with what an organisation has stored, by hashes.

    Returns:
        The fields that differ, or the structure's type when the organisation has stored none.
    """
    metadata = state.get_hash(f"{NAMESPACES}/metadata/{name}")
    hashes = {f: state.get_hash(f"{NAMESPACES}/fields/{name}/{f}") for f in fields}
    if metadata != sha256(encode_metadata(datatype, fields)).digest():
        return [datatype]
    return [f for f, value in fields.items() if hashes[f] != sha256(value).digest()]

"""Chaincode and collection definitions as the simulation sees them: read from `_lifecycle` through the transaction.

Every lookup goes through the simulator's recorded reads, so that a transaction that was simulated under one
definition is invalid under the next: `Sequence` for each invocation, all five keys when a collection is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fabric_protos.peer import policy_pb2
from fabric_protos.peer.lifecycle import chaincode_definition_pb2, db_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.errors import BlockError, NodeError
from blockfl.fabric.transaction.collection import IMPLICIT_PREFIX, Collection, decode_collections, implicit_collection
from blockfl.fabric.validate import StateView

LIFECYCLE = "_lifecycle"
LEGACY_LIFECYCLE = "lscc"

GetState = Callable[[str, str], bytes]
"""Reads (namespace, key); an empty value when there is none."""


@dataclass(frozen=True, kw_only=True)
class StoredDefinition:
    """A committed chaincode definition.

    Attributes:
        policy: Serialised ApplicationPolicy: who must endorse.
    """

    name: str
    sequence: int
    version: str
    init_required: bool
    policy: bytes
    collections: Mapping[str, Collection]


def field_key(name: str, field: str) -> str:
    """Names the state key of one field of a definition."""
    return f"namespaces/fields/{name}/{field}"


def metadata_key(name: str) -> str:
    """Names the state key that says which fields a definition has."""
    return f"namespaces/metadata/{name}"


def read_sequence(get_state: GetState, name: str) -> int:
    """Reads a chaincode's sequence number; 0 when it is not defined."""
    value = get_state(LIFECYCLE, field_key(name, "Sequence"))
    return decode_state_data(value).Int64 if value else 0


def read_definition(get_state: GetState, name: str) -> StoredDefinition | None:
    """Reads a chaincode's whole definition: five keys."""
    if not get_state(LIFECYCLE, metadata_key(name)):
        return None
    fields = ("Sequence", "EndorsementInfo", "ValidationInfo", "Collections")
    return _decode_definition(name, *(get_state(LIFECYCLE, field_key(name, field)) for field in fields))


def read_collection(
    state: StateView, namespace: str, collection: str, organisations: frozenset[str]
) -> Collection | None:
    """Look a collection up in the definitions on the ledger, outside of any transaction.

    Args:
        state: the ledger's state.
        namespace: the chaincode.
        collection: explicit, or an organisation's implicit one.
        organisations: MSP ids of the channel's application organisations.

    Returns:
        None when there is no such collection.

    Raises:
        NodeError: What the ledger holds does not parse.
    """
    owner = collection.removeprefix(IMPLICIT_PREFIX)
    if owner != collection:
        defined = namespace == LIFECYCLE or state.get(LIFECYCLE, metadata_key(namespace)) is not None
        return implicit_collection(owner) if owner in organisations and defined else None
    field = state.get(LIFECYCLE, field_key(namespace, "Collections"))
    return None if field is None else _decode_collections(field.value).get(collection)


def decode_state_data(value: bytes) -> Any:
    """Decodes the wrapper in which the lifecycle stores each field.

    Raises:
        NodeError: It does not parse.
    """
    return decode_stored(db_pb2.StateData, value)


def decode_stored(kind: Any, value: bytes) -> Any:
    """Decodes what stands on the ledger about a definition.

    Raises:
        NodeError: It does not parse.
    """
    try:
        return kind.FromString(value)
    except DecodeError as error:
        raise NodeError(f"a chaincode's definition on the ledger is damaged: no {kind.DESCRIPTOR.name}") from error


@lru_cache(maxsize=64)
def _decode_definition(
    name: str, sequence: bytes, endorsement: bytes, validation: bytes, collections: bytes
) -> StoredDefinition:
    info = decode_stored(chaincode_definition_pb2.ChaincodeEndorsementInfo, decode_state_data(endorsement).Bytes)
    rules = decode_stored(chaincode_definition_pb2.ChaincodeValidationInfo, decode_state_data(validation).Bytes)
    return StoredDefinition(
        name=name,
        sequence=decode_state_data(sequence).Int64,
        version=info.version,
        init_required=info.init_required,
        policy=rules.validation_parameter,
        collections=_decode_collections(collections),
    )


def _decode_collections(field: bytes) -> Mapping[str, Collection]:
    try:
        return decode_collections(field)
    except BlockError as error:
        raise NodeError(f"a chaincode's definition on the ledger is damaged: {error}") from error


def channel_policy_reference(path: str) -> bytes:
    """Serialises an ApplicationPolicy that points into the channel's configuration."""
    return bytes(policy_pb2.ApplicationPolicy(channel_config_policy_reference=path).SerializeToString())

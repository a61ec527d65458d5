"""What the ledger says about a chaincode: who must endorse, and which collections it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from fabric_protos.peer import policy_pb2
from fabric_protos.peer.lifecycle import chaincode_definition_pb2, db_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.config import LIFECYCLE_ENDORSEMENT
from blockfl.fabric.encoding.protobuf import parse
from blockfl.fabric.errors import BlockError
from blockfl.fabric.identity.policy import signature_policy
from blockfl.fabric.transaction.collection import IMPLICIT_PREFIX, Collection, decode_collections, implicit_collection

if TYPE_CHECKING:
    from blockfl.fabric.channel.config import ChannelConfig
    from blockfl.fabric.validate.state import StateView

LIFECYCLE: Final = "_lifecycle"
_DEFINITION_TYPE: Final = "ChaincodeDefinition"
_PLUGIN: Final = "vscc"


@dataclass(frozen=True, kw_only=True, slots=True)
class Definition:
    """A chaincode's endorsement rules.

    Attributes:
        policy: the chaincode's own, a serialised `protos.ApplicationPolicy`.
        collections: the explicit collections by name.
    """

    policy: bytes
    collections: Mapping[str, Collection]


def read_definition(name: str, config: ChannelConfig, state: StateView) -> Definition | None:
    """Read a chaincode's definition from the ledger's state.

    Returns:
        None when the chaincode has none.

    Raises:
        BlockError: what is on the ledger is not a definition that can be used.
    """
    if name == LIFECYCLE:
        return Definition(policy=_lifecycle_policy(config), collections={})
    metadata = state.get(LIFECYCLE, f"namespaces/metadata/{name}")
    if metadata is None:
        return None
    fields = [state.get(LIFECYCLE, f"namespaces/fields/{name}/{field}") for field in ("ValidationInfo", "Collections")]
    validation, collections = (b"" if field is None else field.value for field in fields)
    try:
        return _decode(metadata.value, validation, collections)
    except (DecodeError, BlockError) as error:
        raise BlockError(f"the definition of chaincode {name!r} on the ledger is damaged: {error}") from error


def find_collection(definition: Definition, collection: str, config: ChannelConfig) -> Collection:
    """A collection of a chaincode: an explicit one, or the implicit one that every organisation has.

    Raises:
        BlockError: there is no such collection.
    """
    if collection.startswith(IMPLICIT_PREFIX):
        msp_id = collection.removeprefix(IMPLICIT_PREFIX)
        for organisation in config.application_organisations.values():
            if organisation.msp_id == msp_id:
                return implicit_collection(msp_id, _organisation_policy(organisation.name, msp_id, config))
        raise BlockError(f"there is no collection {collection!r}: {msp_id!r} is not on the channel")
    if collection not in definition.collections:
        raise BlockError(f"there is no collection {collection!r}")
    return definition.collections[collection]


@lru_cache(maxsize=64)
def _decode(metadata: bytes, validation: bytes, collections: bytes) -> Definition | None:
    datatype = parse(db_pb2.StateMetadata, metadata).datatype
    if datatype != _DEFINITION_TYPE:
        raise BlockError(f"expected type {_DEFINITION_TYPE}, got {datatype!r}")
    info = parse(chaincode_definition_pb2.ChaincodeValidationInfo, _field(validation))
    if not info.validation_plugin or not info.validation_parameter:
        return None
    if info.validation_plugin != _PLUGIN:
        raise BlockError(f"expected validation plugin {_PLUGIN!r}, got {info.validation_plugin!r}")
    return Definition(policy=info.validation_parameter, collections=decode_collections(collections))


def _field(encoded: bytes) -> bytes:
    return bytes(parse(db_pb2.StateData, encoded).Bytes)


def _lifecycle_policy(config: ChannelConfig) -> bytes:
    if LIFECYCLE_ENDORSEMENT in config.policies:
        return _reference(LIFECYCLE_ENDORSEMENT)
    msp_ids = config.application_msp_ids
    return _own(signature_policy(len(msp_ids) // 2 + 1, msp_ids, "member"))


def _organisation_policy(name: str, msp_id: str, config: ChannelConfig) -> bytes:
    path = f"/Channel/Application/{name}/Endorsement"
    return _reference(path) if path in config.policies else _own(signature_policy(1, [msp_id], "member"))


def _reference(path: str) -> bytes:
    return bytes(policy_pb2.ApplicationPolicy(channel_config_policy_reference=path).SerializeToString())


def _own(envelope: Any) -> bytes:
    return bytes(policy_pb2.ApplicationPolicy(signature_policy=envelope).SerializeToString())

"""Chaincode and collection definitions as the simulation sees them: read from `_lifecycle` through the transaction.

Every lookup goes through the simulator's recorded reads, so that a transaction that was simulated under one
definition is invalid under the next: `Sequence` for each invocation, all five keys when a collection is touched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fabric_protos.common import policies_pb2
from fabric_protos.msp import msp_principal_pb2
from fabric_protos.peer import collection_pb2, policy_pb2
from fabric_protos.peer.lifecycle import chaincode_definition_pb2, db_pb2

LIFECYCLE = "_lifecycle"
LEGACY_LIFECYCLE = "lscc"
IMPLICIT_PREFIX = "_implicit_org_"

GetState = Callable[[str, str], bytes]
"""Reads (namespace, key); an empty value when there is none."""


@dataclass(frozen=True, kw_only=True)
class CollectionDefinition:
    """A private data collection of a chaincode.

    Attributes:
        members: SignaturePolicyEnvelope that names the member organisations.
        endorsement_policy: Serialised ApplicationPolicy of its own, or empty.
        required_peers: How many other members' peers must have received the data.
    """

    name: str
    members: Any
    member_only_read: bool = False
    member_only_write: bool = False
    endorsement_policy: bytes = b""
    required_peers: int = 0


@dataclass(frozen=True, kw_only=True)
class ChaincodeDefinition:
    """A committed chaincode definition.

    Attributes:
        policy: Serialised ApplicationPolicy: who must endorse.
    """

    name: str
    sequence: int
    version: str
    init_required: bool
    policy: bytes
    collections: dict[str, CollectionDefinition]


def field_key(name: str, field: str) -> str:
    """Names the state key of one field of a definition."""
    return f"namespaces/fields/{name}/{field}"


def metadata_key(name: str) -> str:
    """Names the state key that says which fields a definition has."""
    return f"namespaces/metadata/{name}"


def implicit_collection(msp_id: str) -> CollectionDefinition:
    """Returns the collection that every organisation has in every chaincode without defining it."""
    return CollectionDefinition(name=IMPLICIT_PREFIX + msp_id, members=_member_policy(msp_id))


def read_sequence(get_state: GetState, name: str) -> int:
    """Reads a chaincode's sequence number; 0 when it is not defined."""
    value = get_state(LIFECYCLE, field_key(name, "Sequence"))
    return decode_state_data(value).Int64 if value else 0


def read_definition(get_state: GetState, name: str) -> ChaincodeDefinition | None:
    """Reads a chaincode's whole definition: five keys."""
    if not get_state(LIFECYCLE, metadata_key(name)):
        return None
    fields = ("Sequence", "EndorsementInfo", "ValidationInfo", "Collections")
    return _decode_definition(name, *(get_state(LIFECYCLE, field_key(name, field)) for field in fields))


def decode_state_data(value: bytes) -> Any:
    """Decodes the wrapper in which the lifecycle stores each field."""
    return db_pb2.StateData.FromString(value)


@lru_cache(maxsize=64)
def _decode_definition(
    name: str, sequence: bytes, endorsement: bytes, validation: bytes, collections: bytes
) -> ChaincodeDefinition:
    info = chaincode_definition_pb2.ChaincodeEndorsementInfo.FromString(decode_state_data(endorsement).Bytes)
    rules = chaincode_definition_pb2.ChaincodeValidationInfo.FromString(decode_state_data(validation).Bytes)
    package = collection_pb2.CollectionConfigPackage.FromString(decode_state_data(collections).Bytes)
    return ChaincodeDefinition(
        name=name,
        sequence=decode_state_data(sequence).Int64,
        version=info.version,
        init_required=info.init_required,
        policy=rules.validation_parameter,
        collections={c.name: c for c in map(_decode_collection, package.config)},
    )


def _decode_collection(config: Any) -> CollectionDefinition:
    static = config.static_collection_config
    own = static.endorsement_policy
    return CollectionDefinition(
        name=static.name,
        members=static.member_orgs_policy.signature_policy,
        member_only_read=static.member_only_read,
        member_only_write=static.member_only_write,
        endorsement_policy=own.SerializeToString() if own.WhichOneof("Type") else b"",
        required_peers=static.required_peer_count,
    )


@lru_cache(maxsize=256)
def _member_policy(msp_id: str) -> Any:
    role = msp_principal_pb2.MSPRole(msp_identifier=msp_id, role=msp_principal_pb2.MSPRole.MEMBER)
    principal = msp_principal_pb2.MSPPrincipal(
        principal_classification=msp_principal_pb2.MSPPrincipal.ROLE, principal=role.SerializeToString()
    )
    rule = policies_pb2.SignaturePolicy(
        n_out_of=policies_pb2.SignaturePolicy.NOutOf(n=1, rules=[policies_pb2.SignaturePolicy(signed_by=0)])
    )
    return policies_pb2.SignaturePolicyEnvelope(version=0, rule=rule, identities=[principal])


def channel_policy_reference(path: str) -> bytes:
    """Serialises an ApplicationPolicy that points into the channel's configuration."""
    return bytes(policy_pb2.ApplicationPolicy(channel_config_policy_reference=path).SerializeToString())

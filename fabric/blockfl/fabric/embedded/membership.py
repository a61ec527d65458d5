"""Which organisations keep the data of a private collection, and for how many blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from fabric_protos.msp import identities_pb2, msp_principal_pb2
from fabric_protos.peer import collection_pb2
from fabric_protos.peer.lifecycle import db_pb2

from ..validate import StateView

LIFECYCLE: Final = "_lifecycle"
_IMPLICIT: Final = "_implicit_org_"


@dataclass(frozen=True, kw_only=True)
class Membership:
    """A collection's members.

    Attributes:
        organisations: MSP ids.
        block_to_live: after so many further blocks the data vanish; 0 when they stay.
    """

    organisations: frozenset[str]
    block_to_live: int = 0

    def expires(self, number: int) -> int | None:
        """The number of the block that removes what block `number` wrote."""
        return number + self.block_to_live + 1 if self.block_to_live else None


def read_membership(
    state: StateView, namespace: str, collection: str, organisations: frozenset[str]
) -> Membership | None:
    """Look a collection up in the definitions on the ledger.

    Args:
        state: the ledger's state.
        namespace: the chaincode.
        collection: explicit, or an organisation's implicit one.
        organisations: MSP ids of the channel's application organisations.

    Returns:
        None when there is no such collection.
    """
    owner = collection.removeprefix(_IMPLICIT)
    if owner != collection:
        known = owner in organisations and (namespace == LIFECYCLE or _is_defined(state, namespace))
        return Membership(organisations=frozenset({owner})) if known else None
    field = state.get(LIFECYCLE, f"namespaces/fields/{namespace}/Collections")
    return None if field is None else _decode(field.value).get(collection)


def _is_defined(state: StateView, namespace: str) -> bool:
    return state.get(LIFECYCLE, f"namespaces/metadata/{namespace}") is not None


@lru_cache(maxsize=64)
def _decode(field: bytes) -> Mapping[str, Membership]:
    package = collection_pb2.CollectionConfigPackage.FromString(db_pb2.StateData.FromString(field).Bytes)
    found: dict[str, Membership] = {}
    for entry in package.config:
        static = entry.static_collection_config
        principals = static.member_orgs_policy.signature_policy.identities
        members = frozenset(_organisation(principal) for principal in principals)
        found.setdefault(static.name, Membership(organisations=members, block_to_live=static.block_to_live))
    return found


def _organisation(principal: Any) -> str:
    kinds = msp_principal_pb2.MSPPrincipal
    readers = {
        kinds.ROLE: lambda encoded: msp_principal_pb2.MSPRole.FromString(encoded).msp_identifier,
        kinds.ORGANIZATION_UNIT: lambda encoded: msp_principal_pb2.OrganizationUnit.FromString(encoded).msp_identifier,
        kinds.IDENTITY: lambda encoded: identities_pb2.SerializedIdentity.FromString(encoded).mspid,
    }
    read = readers.get(principal.principal_classification)
    return "" if read is None else str(read(principal.principal))

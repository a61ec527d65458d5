"""A private collection's rules, as a chaincode's definition on the ledger states them.

The one reading of them: validation, simulation and storage take from it what each needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, Final

from fabric_protos.msp import identities_pb2, msp_principal_pb2
from fabric_protos.peer import collection_pb2
from fabric_protos.peer.lifecycle import db_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.encoding.protobuf import encode_policy, parse
from blockfl.fabric.errors import BlockError
from blockfl.fabric.identity.policy import signature_policy

IMPLICIT_PREFIX: Final = "_implicit_org_"

_Principal = msp_principal_pb2.MSPPrincipal
_ORGANISATION: Final[dict[int, Callable[[bytes], str]]] = {
    _Principal.ROLE: lambda encoded: str(parse(msp_principal_pb2.MSPRole, encoded).msp_identifier),
    _Principal.ORGANIZATION_UNIT: lambda encoded: str(
        parse(msp_principal_pb2.OrganizationUnit, encoded).msp_identifier
    ),
    _Principal.IDENTITY: lambda encoded: str(parse(identities_pb2.SerializedIdentity, encoded).mspid),
}


@dataclass(frozen=True, kw_only=True)
class Collection:
    """A private data collection of a chaincode.

    Attributes:
        name: its name.
        members: whose data it is, a `common.SignaturePolicyEnvelope` that names organisations.
        policy: who must endorse writes, a serialised `protos.ApplicationPolicy`; empty when the chaincode's holds.
        block_to_live: for how many further blocks its keys stay; 0 means for ever.
        member_only_read: whether only members' clients may read.
        member_only_write: whether only members' clients may write.
        required_peers: how many other members' peers must have received the data.
    """

    name: str
    members: Any
    policy: bytes = b""
    block_to_live: int = 0
    member_only_read: bool = False
    member_only_write: bool = False
    required_peers: int = 0

    @cached_property
    def organisations(self) -> frozenset[str]:
        """MSP ids of the members; malformed principals are nobody."""
        return frozenset(
            msp_id for principal in self.members.identities if (msp_id := _read_organisation(principal)) is not None
        )

    def expires(self, number: int) -> int | None:
        """Number of the block whose commit removes what block `number` writes; None when it stays."""
        return number + self.block_to_live + 1 if self.block_to_live else None


@lru_cache(maxsize=64)
def decode_collections(field: bytes) -> Mapping[str, Collection]:
    """Read a definition's collections; of several with one name the first counts.

    Args:
        field: the state's `Collections` field of a chaincode, as the lifecycle stores it; empty when it has none.

    Returns:
        The explicit collections by name.

    Raises:
        BlockError: it does not parse.
    """
    try:
        package = parse(collection_pb2.CollectionConfigPackage, parse(db_pb2.StateData, field).Bytes)
    except DecodeError as error:
        raise BlockError(f"the collections of a chaincode's definition do not parse: {error}") from error
    found: dict[str, Collection] = {}
    for entry in package.config:
        if entry.HasField("static_collection_config"):
            static = entry.static_collection_config
            found.setdefault(static.name, _read_collection(static))
    return MappingProxyType(found)


@lru_cache(maxsize=256)
def implicit_collection(msp_id: str, policy: bytes = b"") -> Collection:
    """The collection that every organisation has in every chaincode without defining it."""
    members = signature_policy(1, [msp_id], "member")
    return Collection(name=IMPLICIT_PREFIX + msp_id, members=members, policy=policy)


def _read_organisation(principal: Any) -> str | None:
    read = _ORGANISATION.get(principal.principal_classification)
    try:
        return None if read is None else read(principal.principal)
    except DecodeError:
        return None


def _read_collection(static: Any) -> Collection:
    return Collection(
        name=static.name,
        members=static.member_orgs_policy.signature_policy,
        policy=encode_policy(static.endorsement_policy),
        block_to_live=static.block_to_live,
        member_only_read=static.member_only_read,
        member_only_write=static.member_only_write,
        required_peers=static.required_peer_count,
    )

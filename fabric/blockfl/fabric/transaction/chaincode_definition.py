"""What the organisations of a channel agree on about a chaincode: its definition and its private data collections.

Owns the checks that peers make, made before anything is sent, and the encoding: all organisations must arrive at the
same bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from fabric_protos.common import policies_pb2
from fabric_protos.peer import collection_pb2, policy_pb2
from google.protobuf.message import DecodeError, Message

from blockfl.fabric.errors import ConfigError
from blockfl.fabric.identity.policy import signature_policy

DEFAULT_POLICY: Final = "/Channel/Application/Endorsement"

_NAME: Final = re.compile(r"[a-zA-Z0-9]+([-_][a-zA-Z0-9]+)*")
_VERSION: Final = re.compile(r"[A-Za-z0-9_.+-]+")
_COLLECTION: Final = re.compile(r"[A-Za-z0-9-]+([A-Za-z0-9_-]+)*")

PolicySource = str | bytes | Message
"""The path of a policy in the channel's configuration, or a common.SignaturePolicyEnvelope, also serialised."""


@dataclass(frozen=True, kw_only=True)
class CollectionSpec:
    """A private data collection.

    Attributes:
        name: its name.
        members: MSP ids of the organisations that hold the data.
        required_peer_count: how many further peers must have received the data before a member endorses.
        maximum_peer_count: how many further peers a member sends the data to; 0: all members endorse instead.
        block_to_live: after how many blocks the data is deleted; 0: never.
        member_only_read: whether only clients of members may read.
        member_only_write: whether only clients of members may write.
        endorsement_policy: for writes to the collection; None: the chaincode's.
    """

    name: str
    members: tuple[str, ...]
    required_peer_count: int = 0
    maximum_peer_count: int = 0
    block_to_live: int = 0
    member_only_read: bool = True
    member_only_write: bool = False
    endorsement_policy: PolicySource | None = None

    def __post_init__(self) -> None:
        if not _COLLECTION.fullmatch(self.name):
            raise ConfigError(f"expected a collection name of letters, digits, - and _, got {self.name!r}")
        if not self.members or len(set(self.members)) != len(self.members):
            raise ConfigError(f"collection {self.name}: expected each member once, got {list(self.members)}")
        if not 0 <= self.required_peer_count <= self.maximum_peer_count:
            raise ConfigError(
                f"collection {self.name}: expected 0 <= required_peer_count <= maximum_peer_count, got "
                f"{self.required_peer_count} and {self.maximum_peer_count}"
            )

    def encode(self) -> Any:
        """The collection as the ledger keeps it (protos.CollectionConfig)."""
        static = collection_pb2.StaticCollectionConfig(
            name=self.name,
            member_orgs_policy=collection_pb2.CollectionPolicyConfig(
                signature_policy=signature_policy(1, self.members, "member")
            ),
            required_peer_count=self.required_peer_count,
            maximum_peer_count=self.maximum_peer_count,
            block_to_live=self.block_to_live,
            member_only_read=self.member_only_read,
            member_only_write=self.member_only_write,
        )
        if self.endorsement_policy is not None:
            static.endorsement_policy.CopyFrom(_application_policy(self.endorsement_policy))
        return collection_pb2.CollectionConfig(static_collection_config=static)


@dataclass(frozen=True, kw_only=True)
class ChaincodeDefinition:
    """What the organisations of a channel agree on about a chaincode; all must give exactly the same.

    Attributes:
        name: the chaincode's name.
        version: any text.
        sequence: 1 for the first definition, one more for each that follows.
        endorsement_policy: who must endorse.
        collections: its private data collections, in the order that everybody gives.
        init_required: whether it must be initialised before its first use.
    """

    name: str
    version: str
    sequence: int = 1
    endorsement_policy: PolicySource = DEFAULT_POLICY
    collections: tuple[CollectionSpec, ...] = ()
    init_required: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"expected a chaincode name of letters and digits, joined by - or _, got {self.name!r}")
        if not _VERSION.fullmatch(self.version):
            raise ConfigError(f"expected a version of letters, digits and _ . + -, got {self.version!r}")
        if self.sequence < 1:
            raise ConfigError(f"expected a sequence from 1 on, got {self.sequence}")
        names = [collection.name for collection in self.collections]
        if len(set(names)) != len(names):
            raise ConfigError(f"expected each collection once, got {', '.join(names)}")

    def encode(self) -> dict[str, Any]:
        """The fields that all of the lifecycle's requests and results share."""
        package = collection_pb2.CollectionConfigPackage(config=[one.encode() for one in self.collections])
        return {
            "sequence": self.sequence,
            "version": self.version,
            "endorsement_plugin": "escc",
            "validation_plugin": "vscc",
            "validation_parameter": _application_policy(self.endorsement_policy).SerializeToString(deterministic=True),
            "collections": package,
            "init_required": self.init_required,
        }

    def matches(self, result: Any) -> bool:
        """Whether a result of the lifecycle (committed or approved definition) says the same."""
        return all(getattr(result, name) == value for name, value in self.encode().items())


def _application_policy(source: PolicySource) -> Any:
    if isinstance(source, str):
        if not source.startswith("/Channel/"):
            raise ConfigError(f"expected the path of a policy like {DEFAULT_POLICY}, got {source!r}")
        return policy_pb2.ApplicationPolicy(channel_config_policy_reference=source)
    encoded = source if isinstance(source, bytes) else source.SerializeToString(deterministic=True)
    try:
        envelope = policies_pb2.SignaturePolicyEnvelope.FromString(encoded)
    except DecodeError as error:
        raise ConfigError("expected a serialised signature policy, got other bytes") from error
    if not envelope.identities:
        raise ConfigError("expected a signature policy that names somebody, got an empty one")
    return policy_pb2.ApplicationPolicy(signature_policy=envelope)

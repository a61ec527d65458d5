"""The chaincode lifecycle as one organisation's administrator goes through it, the same on every ledger.

Each step may be repeated: what is done already is left as it is.

    async with Gateway(endpoint, admin, "fed") as gateway, Lifecycle(gateway) as lifecycle:
        package_id = await lifecycle.install(package)
        await lifecycle.approve(definition, package_id)
        if all((await lifecycle.readiness(definition)).approvals.values()):
            await lifecycle.commit(definition, other_peers)
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final, Self

from fabric_protos.common import policies_pb2
from fabric_protos.peer import collection_pb2, policy_pb2
from fabric_protos.peer.lifecycle import lifecycle_pb2
from google.protobuf.message import DecodeError, Message

from .endorser import Endorser, collect_endorsements
from .endpoint import Endpoint
from .errors import BlockError, ConfigError, EndorseError
from .gateway import Committed, Endorsed, Gateway
from .package import package_contract, package_id
from .policy import signature_policy
from .transaction import assemble_transaction, build_proposal, sign_envelope

__all__ = [
    "ChaincodeDefinition",
    "CollectionSpec",
    "CommittedDefinition",
    "InstalledPackage",
    "Lifecycle",
    "Readiness",
    "package_contract",
    "package_id",
]

DEFAULT_POLICY: Final = "/Channel/Application/Endorsement"

_LIFECYCLE: Final = "_lifecycle"
_ATTEMPTS: Final = 10
_PAUSE_S: Final = 0.3
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


@dataclass(frozen=True, kw_only=True)
class InstalledPackage:
    """A package at a peer."""

    label: str
    package_id: str


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """Which organisations have approved exactly this definition, and what the others differ in."""

    approvals: Mapping[str, bool]
    mismatches: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class CommittedDefinition:
    """A definition on the ledger.

    Attributes:
        policy: serialised protos.ApplicationPolicy.
        collections: names of its collections.
        approvals: which organisations have approved it.
    """

    name: str
    version: str
    sequence: int
    policy: bytes
    collections: tuple[str, ...]
    init_required: bool
    approvals: Mapping[str, bool]


class Lifecycle:
    """The lifecycle as seen from one organisation's peer.

    Args:
        gateway: to the organisation's own peer, open, as one of its administrators; it orders what is endorsed.
        timeout_s: how long a peer may take for one step, in seconds; installing includes its builder's work.
    """

    def __init__(self, gateway: Gateway, *, timeout_s: float = 60.0) -> None:
        self._gateway = gateway
        self._timeout_s = timeout_s
        self._peer = Endorser(gateway.endpoint, gateway.signer, timeout_s=timeout_s)

    async def __aenter__(self) -> Self:
        """Open the channel to the peer."""
        await self._peer.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._peer.__aexit__()

    async def install(self, package: bytes) -> str:
        """Install a package at the organisation's peer and return its id.

        Raises:
            ConfigError: it is no package.
            EndorseError: the peer refuses it.
        """
        wanted = package_id(package)
        if any(one.package_id == wanted for one in await self.installed()):
            return wanted
        request = lifecycle_pb2.InstallChaincodeArgs(chaincode_install_package=package)
        result = await self._ask("InstallChaincode", request, lifecycle_pb2.InstallChaincodeResult, channel="")
        if result.package_id != wanted:
            raise ConfigError(f"expected the peer to install {wanted}, it installed {result.package_id}")
        return wanted

    async def installed(self) -> tuple[InstalledPackage, ...]:
        """List the packages at the organisation's peer.

        Raises:
            EndorseError: the peer refuses.
        """
        result = await self._ask(
            "QueryInstalledChaincodes",
            lifecycle_pb2.QueryInstalledChaincodesArgs(),
            lifecycle_pb2.QueryInstalledChaincodesResult,
            channel="",
        )
        return tuple(
            InstalledPackage(label=one.label, package_id=one.package_id) for one in result.installed_chaincodes
        )

    async def approve(self, definition: ChaincodeDefinition, package: str | None) -> Committed | None:
        """Approve a definition for the organisation.

        Args:
            definition: what to approve.
            package: id of the package that the organisation runs it with; None: it will not endorse.

        Returns:
            The transaction, or None if the organisation has approved exactly this already.

        Raises:
            EndorseError: the peer refuses, e.g. a wrong sequence.
            CommitError: the approval was overtaken by another one.
        """
        approved = await self._approved(definition)
        if approved is not None and definition.matches(approved):
            source = approved.source.local_package.package_id
            if source == (package or ""):
                return None
        source = (
            lifecycle_pb2.ChaincodeSource(local_package=lifecycle_pb2.ChaincodeSource.Local(package_id=package))
            if package
            else lifecycle_pb2.ChaincodeSource(unavailable=lifecycle_pb2.ChaincodeSource.Unavailable())
        )
        request = lifecycle_pb2.ApproveChaincodeDefinitionForMyOrgArgs(
            name=definition.name, source=source, **definition.encode()
        )
        return await self._submit("ApproveChaincodeDefinitionForMyOrg", request, [self._peer])

    async def readiness(self, definition: ChaincodeDefinition) -> Readiness:
        """Ask which organisations have approved a definition.

        Raises:
            EndorseError: the peer refuses, e.g. because the definition is not the next one.
        """
        result = await self._ask(
            "CheckCommitReadiness",
            lifecycle_pb2.CheckCommitReadinessArgs(name=definition.name, **definition.encode()),
            lifecycle_pb2.CheckCommitReadinessResult,
        )
        return Readiness(
            approvals=dict(sorted(result.approvals.items())),
            mismatches={msp_id: tuple(found.items) for msp_id, found in sorted(result.mismatches.items())},
        )

    async def commit(self, definition: ChaincodeDefinition, peers: Sequence[Endpoint] = ()) -> Committed | None:
        """Put a definition that enough organisations have approved into force.

        Args:
            definition: what they approved.
            peers: the other organisations' peers that endorse; with the own one they must be a majority.

        Returns:
            The transaction, or None if exactly this definition is in force already.

        Raises:
            EndorseError: a peer refuses, e.g. because its organisation has not approved.
            BlockError: the peers do not come to the same result.
            CommitError: the endorsers were not enough.
        """
        current = await self._definition(definition.name)
        if current is not None and definition.matches(current):
            return None
        request = lifecycle_pb2.CommitChaincodeDefinitionArgs(name=definition.name, **definition.encode())
        async with AsyncExitStack() as stack:
            others = [
                await stack.enter_async_context(Endorser(one, self._gateway.signer, timeout_s=self._timeout_s))
                for one in peers
                if one.address != self._gateway.endpoint.address
            ]
            return await self._submit("CommitChaincodeDefinition", request, [self._peer, *others])

    async def query(self, name: str) -> CommittedDefinition | None:
        """Read the definition in force, None if there is none.

        Raises:
            EndorseError: the peer refuses.
        """
        result = await self._definition(name)
        if result is None:
            return None
        return CommittedDefinition(
            name=name,
            version=result.version,
            sequence=result.sequence,
            policy=result.validation_parameter,
            collections=tuple(one.static_collection_config.name for one in result.collections.config),
            init_required=result.init_required,
            approvals=dict(sorted(result.approvals.items())),
        )

    async def _definition(self, name: str) -> Any:
        request = lifecycle_pb2.QueryChaincodeDefinitionArgs(name=name)
        try:
            return await self._ask("QueryChaincodeDefinition", request, lifecycle_pb2.QueryChaincodeDefinitionResult)
        except EndorseError as error:
            if f"namespace {name} is not defined" in str(error):
                return None
            raise

    async def _approved(self, definition: ChaincodeDefinition) -> Any:
        request = lifecycle_pb2.QueryApprovedChaincodeDefinitionArgs(name=definition.name, sequence=definition.sequence)
        try:
            return await self._ask(
                "QueryApprovedChaincodeDefinition", request, lifecycle_pb2.QueryApprovedChaincodeDefinitionResult
            )
        except EndorseError as error:
            if "could not fetch approved chaincode definition" in str(error):
                return None
            raise

    async def _ask(self, function: str, request: Any, result: Any, *, channel: str | None = None) -> Any:
        where = self._gateway.channel if channel is None else channel
        payload = await self._peer.query(where, _LIFECYCLE, function, request.SerializeToString(deterministic=True))
        try:
            return result.FromString(payload)
        except DecodeError as error:
            raise ConfigError(f"expected {result.DESCRIPTOR.full_name} from {function}, got other bytes") from error

    async def _submit(self, function: str, request: Any, endorsers: Sequence[Endorser]) -> Committed:
        args = [function.encode(), request.SerializeToString(deterministic=True)]
        signer = self._gateway.signer
        for attempt in range(_ATTEMPTS):
            proposal = build_proposal(self._gateway.channel, _LIFECYCLE, args, signer)
            try:
                payload = assemble_transaction(proposal, await collect_endorsements(proposal, endorsers))
                break
            except (BlockError, EndorseError) as error:
                # Peers that lag behind by a block do not know the last approval yet.
                is_behind = isinstance(error, BlockError) or "not agreed to by this org" in str(error)
                if not is_behind or attempt == _ATTEMPTS - 1:
                    raise
            await asyncio.sleep(_PAUSE_S)
        envelope = sign_envelope(payload, signer)
        return await self._gateway.commit(Endorsed(transaction_id=proposal.tx_id, payload=b"", envelope=envelope))


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

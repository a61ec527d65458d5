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
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final, Self

from fabric_protos.peer.lifecycle import lifecycle_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.client.endorser import Endorser, collect_endorsements
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.gateway import Committed, Endorsed, Gateway
from blockfl.fabric.errors import BlockError, ConfigError, EndorseError
from blockfl.fabric.transaction.chaincode_definition import DEFAULT_POLICY, ChaincodeDefinition, CollectionSpec
from blockfl.fabric.transaction.envelope import assemble_transaction, build_proposal, sign_envelope
from blockfl.fabric.transaction.package import package_contract, package_id

__all__ = [
    "DEFAULT_POLICY",
    "Approval",
    "ChaincodeDefinition",
    "CollectionSpec",
    "CommittedDefinition",
    "InstalledPackage",
    "Lifecycle",
    "Readiness",
    "package_contract",
    "package_id",
]

_LIFECYCLE: Final = "_lifecycle"
_LOST: Final = "private data matching public hash version is not available"
_ATTEMPTS: Final = 10
_PAUSE_S: Final = 0.3


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
class Approval:
    """What one organisation has approved.

    Attributes:
        version: of the definition.
        package_id: of the package with which the organisation runs it; None: it runs none.
    """

    version: str
    package_id: str | None


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

    async def fetch(self, identifier: str) -> bytes:
        """Return a package that is installed at the organisation's peer, by its id.

        Raises:
            EndorseError: there is none of this id, or the peer refuses.
        """
        request = lifecycle_pb2.GetInstalledChaincodePackageArgs(package_id=identifier)
        result = await self._ask(
            "GetInstalledChaincodePackage", request, lifecycle_pb2.GetInstalledChaincodePackageResult, channel=""
        )
        return bytes(result.chaincode_install_package)

    async def read_approval(self, name: str, sequence: int) -> Approval | None:
        """Return what the organisation has approved under a sequence number, None if nothing that is known any more.

        Raises:
            EndorseError: the peer refuses.
        """
        try:
            approved = await self._approved(name, sequence)
        except EndorseError as error:
            if _LOST in str(error):
                return None
            raise
        if approved is None:
            return None
        return Approval(version=approved.version, package_id=approved.source.local_package.package_id or None)

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
        approved = await self._approved(definition.name, definition.sequence)
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

    async def is_in_force(self, definition: ChaincodeDefinition) -> bool:
        """Whether exactly this definition is the one in force.

        Raises:
            EndorseError: the peer refuses.
        """
        current = await self._definition(definition.name)
        return current is not None and definition.matches(current)

    async def has_lost(self, definition: ChaincodeDefinition) -> bool:
        """Whether the organisation has approved a definition and its peer does not know any more what.

        That is so when the only peer of an organisation was set up anew: approvals are private to the organisation, so
        nobody else has them. It cannot approve the same again, only a definition with the next sequence number.

        Raises:
            EndorseError: the peer refuses.
        """
        try:
            await self._approved(definition.name, definition.sequence)
        except EndorseError as error:
            if _LOST in str(error):
                return True
            raise
        return False

    async def _definition(self, name: str) -> Any:
        request = lifecycle_pb2.QueryChaincodeDefinitionArgs(name=name)
        try:
            return await self._ask("QueryChaincodeDefinition", request, lifecycle_pb2.QueryChaincodeDefinitionResult)
        except EndorseError as error:
            if f"namespace {name} is not defined" in str(error):
                return None
            raise

    async def _approved(self, name: str, sequence: int) -> Any:
        request = lifecycle_pb2.QueryApprovedChaincodeDefinitionArgs(name=name, sequence=sequence)
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
